from tunewright.chassis.main import main
from tunewright.chassis.settings import ServiceSettings
from tunewright.trainer.service import STAGES, register

if __name__ == "__main__":
    main("trainer", settings=ServiceSettings, stages=STAGES, register=register)
