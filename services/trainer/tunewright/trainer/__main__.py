from tunewright.chassis.main import main
from tunewright.trainer.service import STAGES, register
from tunewright.trainer.settings import TrainerSettings

if __name__ == "__main__":
    main("trainer", settings=TrainerSettings, stages=STAGES, register=register)
