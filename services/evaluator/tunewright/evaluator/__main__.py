from tunewright.chassis.main import main
from tunewright.evaluator.service import STAGES, register
from tunewright.evaluator.settings import EvaluatorSettings

if __name__ == "__main__":
    main("evaluator", settings=EvaluatorSettings, stages=STAGES, register=register)
