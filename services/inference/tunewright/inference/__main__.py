from tunewright.chassis.main import main
from tunewright.inference.service import register
from tunewright.inference.settings import InferenceSettings

if __name__ == "__main__":
    main("inference", settings=InferenceSettings, stages={}, register=register)
