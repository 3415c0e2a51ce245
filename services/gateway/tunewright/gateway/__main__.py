import sys

from tunewright.chassis.errors import TunewrightError
from tunewright.gateway.commands import main

if __name__ == "__main__":
    try:
        main()
    except TunewrightError as error:
        sys.exit(f"gateway: {error.message}\ngateway: {error.remedy}")
