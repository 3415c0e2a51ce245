from tunewright.chassis.main import main
from tunewright.dataprep.service import STAGES, register
from tunewright.dataprep.settings import DataprepSettings

if __name__ == "__main__":
    main("dataprep", settings=DataprepSettings, stages=STAGES, register=register)
