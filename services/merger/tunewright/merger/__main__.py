from tunewright.chassis.main import main
from tunewright.merger.service import STAGES, MergerSettings, register

if __name__ == "__main__":
    main("merger", settings=MergerSettings, stages=STAGES, register=register)
