from tunewright.v1 import artifact_pb2 as _artifact_pb2
from tunewright.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainingSpec(_message.Message):
    __slots__ = ("method", "lora_r", "lora_alpha", "lora_dropout", "target_modules", "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "max_length", "packing", "gradient_checkpointing", "optim", "weight_decay", "max_grad_norm", "logging_steps", "eval_steps", "save_steps", "save_total_limit", "early_stopping_patience", "early_stopping_threshold", "seed", "bnb_4bit_compute_dtype", "bnb_4bit_use_double_quant", "objective", "use_dora", "use_rslora", "loraplus_lr_ratio", "modules_to_save", "num_virtual_tokens", "beta", "max_length_floor", "fast_path", "vram_budget_gb", "processes", "max_restarts", "launcher", "fsdp", "search")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    LORA_R_FIELD_NUMBER: _ClassVar[int]
    LORA_ALPHA_FIELD_NUMBER: _ClassVar[int]
    LORA_DROPOUT_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    LR_SCHEDULER_TYPE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_TRAIN_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    PER_DEVICE_TRAIN_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PER_DEVICE_EVAL_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_CHECKPOINTING_FIELD_NUMBER: _ClassVar[int]
    OPTIM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    MAX_GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    LOGGING_STEPS_FIELD_NUMBER: _ClassVar[int]
    EVAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAVE_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAVE_TOTAL_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_PATIENCE_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BNB_4BIT_COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    BNB_4BIT_USE_DOUBLE_QUANT_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    USE_DORA_FIELD_NUMBER: _ClassVar[int]
    USE_RSLORA_FIELD_NUMBER: _ClassVar[int]
    LORAPLUS_LR_RATIO_FIELD_NUMBER: _ClassVar[int]
    MODULES_TO_SAVE_FIELD_NUMBER: _ClassVar[int]
    NUM_VIRTUAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FLOOR_FIELD_NUMBER: _ClassVar[int]
    FAST_PATH_FIELD_NUMBER: _ClassVar[int]
    VRAM_BUDGET_GB_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    MAX_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    FSDP_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    method: str
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    num_train_epochs: float
    max_steps: int
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    gradient_accumulation_steps: int
    max_length: int
    packing: bool
    gradient_checkpointing: bool
    optim: str
    weight_decay: float
    max_grad_norm: float
    logging_steps: int
    eval_steps: int
    save_steps: int
    save_total_limit: int
    early_stopping_patience: int
    early_stopping_threshold: float
    seed: int
    bnb_4bit_compute_dtype: str
    bnb_4bit_use_double_quant: bool
    objective: str
    use_dora: bool
    use_rslora: bool
    loraplus_lr_ratio: float
    modules_to_save: _containers.RepeatedScalarFieldContainer[str]
    num_virtual_tokens: int
    beta: float
    max_length_floor: int
    fast_path: str
    vram_budget_gb: float
    processes: int
    max_restarts: int
    launcher: str
    fsdp: str
    search: SearchSpec
    def __init__(self, method: _Optional[str] = ..., lora_r: _Optional[int] = ..., lora_alpha: _Optional[float] = ..., lora_dropout: _Optional[float] = ..., target_modules: _Optional[_Iterable[str]] = ..., learning_rate: _Optional[float] = ..., lr_scheduler_type: _Optional[str] = ..., warmup_steps: _Optional[float] = ..., num_train_epochs: _Optional[float] = ..., max_steps: _Optional[int] = ..., per_device_train_batch_size: _Optional[int] = ..., per_device_eval_batch_size: _Optional[int] = ..., gradient_accumulation_steps: _Optional[int] = ..., max_length: _Optional[int] = ..., packing: _Optional[bool] = ..., gradient_checkpointing: _Optional[bool] = ..., optim: _Optional[str] = ..., weight_decay: _Optional[float] = ..., max_grad_norm: _Optional[float] = ..., logging_steps: _Optional[int] = ..., eval_steps: _Optional[int] = ..., save_steps: _Optional[int] = ..., save_total_limit: _Optional[int] = ..., early_stopping_patience: _Optional[int] = ..., early_stopping_threshold: _Optional[float] = ..., seed: _Optional[int] = ..., bnb_4bit_compute_dtype: _Optional[str] = ..., bnb_4bit_use_double_quant: _Optional[bool] = ..., objective: _Optional[str] = ..., use_dora: _Optional[bool] = ..., use_rslora: _Optional[bool] = ..., loraplus_lr_ratio: _Optional[float] = ..., modules_to_save: _Optional[_Iterable[str]] = ..., num_virtual_tokens: _Optional[int] = ..., beta: _Optional[float] = ..., max_length_floor: _Optional[int] = ..., fast_path: _Optional[str] = ..., vram_budget_gb: _Optional[float] = ..., processes: _Optional[int] = ..., max_restarts: _Optional[int] = ..., launcher: _Optional[str] = ..., fsdp: _Optional[str] = ..., search: _Optional[_Union[SearchSpec, _Mapping]] = ...) -> None: ...

class SearchSpec(_message.Message):
    __slots__ = ("trials", "lora_r", "learning_rate", "max_steps", "startup_trials")
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    LORA_R_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    STARTUP_TRIALS_FIELD_NUMBER: _ClassVar[int]
    trials: int
    lora_r: _containers.RepeatedScalarFieldContainer[int]
    learning_rate: _containers.RepeatedScalarFieldContainer[float]
    max_steps: int
    startup_trials: int
    def __init__(self, trials: _Optional[int] = ..., lora_r: _Optional[_Iterable[int]] = ..., learning_rate: _Optional[_Iterable[float]] = ..., max_steps: _Optional[int] = ..., startup_trials: _Optional[int] = ...) -> None: ...

class SubmitTrainingRequest(_message.Message):
    __slots__ = ("spec", "dataset", "base", "validate_only", "adapter")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    spec: TrainingSpec
    dataset: _artifact_pb2.ArtifactRef
    base: _artifact_pb2.ArtifactRef
    validate_only: bool
    adapter: _artifact_pb2.ArtifactRef
    def __init__(self, spec: _Optional[_Union[TrainingSpec, _Mapping]] = ..., dataset: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., base: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., validate_only: _Optional[bool] = ..., adapter: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ...) -> None: ...

class SubmitTrainingResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...
