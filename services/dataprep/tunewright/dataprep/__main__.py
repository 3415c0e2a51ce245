from tunewright.chassis.main import main
from tunewright.chassis.settings import ServiceSettings
from tunewright.dataprep.service import STAGES, register

if __name__ == "__main__":
    main("dataprep", settings=ServiceSettings, stages=STAGES, register=register)
