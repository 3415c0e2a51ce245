"""`python -m demo`: the main job. See `run.py`."""

import sys

from demo.run import main

if __name__ == "__main__":
    sys.exit(main())
