"""`python -m tunewright.cli`: the same as the `tunewright` command."""

from tunewright.cli.app import main

if __name__ == "__main__":
    main()
