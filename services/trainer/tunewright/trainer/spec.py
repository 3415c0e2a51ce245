"""What a training run is asked to do. Knows no model, no device and no library.

Field names are those of TRL, transformers and PEFT, and of `TrainingSpec` in protos/tunewright/v1/training.proto.
"""

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tunewright.chassis.spec import Spec

LLAMA_PROJECTIONS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
ALL_LINEAR = "all-linear"
Method = Literal["qlora", "lora", "full", "prompt_tuning"]
Objective = Literal["sft", "cpt", "dpo"]

# Where learning_rate is not given. LoRA: QLoRA's recipe for 7B; full and DPO: an order of magnitude apart each, as in
# TRL's own recipes (SFT 2e-5, DPO 1e-6, ten times that for adapters); prompt tuning: PEFT's example.
_LEARNING_RATES: dict[tuple[str, str], float] = {
    ("qlora", "cpt"): 5e-5,
    ("lora", "cpt"): 5e-5,
    ("qlora", "dpo"): 1e-5,
    ("lora", "dpo"): 1e-5,
    ("full", "sft"): 2e-5,
    ("full", "cpt"): 1e-5,
    ("full", "dpo"): 1e-6,
    ("prompt_tuning", "sft"): 3e-2,
    ("prompt_tuning", "cpt"): 3e-2,
}
_HIGHEST_RANK = 1024
_ADAPTER_FIELDS = (
    "lora_r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "use_rslora", "loraplus_lr_ratio",
    "modules_to_save",
)  # fmt: skip


BESIDE_IDENTITY = ("launcher", "processes", "fsdp", "max_restarts")
"""Fields that say where and how a run is done: they travel beside the job's identity, in its runtime."""


class SearchSpec(Spec):
    """Short trials with other ranks and learning rates before the run itself, which goes on from the best of them.

    A trial is the beginning of a run with its settings, and is judged by its held-out loss. The recipe's own rank and
    rate are the first trial where they lie within what is searched; with another rank, lora_alpha changes so that
    lora_alpha / lora_r stays (with use_rslora it stays itself).
    """

    trials: int = Field(default=0, ge=0, le=1000)
    """Trials at most; 0: no search. Where only ranks are searched, each is tried once."""
    lora_r: tuple[int, ...] = ()
    """Ranks to choose from; empty: that of the recipe."""
    learning_rate: tuple[float, ...] = ()
    """Lowest and highest rate, between which rates are drawn by their logarithm; empty: that of the recipe."""
    max_steps: int = Field(default=0, ge=0, le=10_000_000)
    """Optimizer steps of a trial, rounded up to an evaluation; 0 stands for a quarter of the run."""
    startup_trials: int = Field(default=3, ge=1, le=1000)
    """Trials that must have come to their end before one may be ended early: at an evaluation where its best loss so
    far is above the median of the finished ones' best at the same step."""

    @field_validator("lora_r", "learning_rate")
    @classmethod
    def _is_ordered(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        """Sort: the same set in another order is the same job."""
        return tuple(sorted(set(value)))

    @field_validator("lora_r")
    @classmethod
    def _ranks_are_ranks(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) == 1 or any(not 1 <= rank <= _HIGHEST_RANK for rank in value):
            raise ValueError(f"two or more different ranks from 1 to {_HIGHEST_RANK} are expected, found {list(value)}")
        return value

    @field_validator("learning_rate")
    @classmethod
    def _rates_are_bounds(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (len(value) != 2 or value[0] <= 0 or value[1] > 1):  # noqa: PLR2004 - lowest and highest
            raise ValueError(f"the lowest and the highest rate are expected, above 0 and up to 1, found {list(value)}")
        return value

    @model_validator(mode="after")
    def _searches_something(self) -> Self:
        if self.trials and not (self.lora_r or self.learning_rate):
            raise ValueError("name what is searched: lora_r (ranks), learning_rate (lowest and highest), or both")
        if not self.trials and self != SearchSpec.model_construct():
            raise ValueError("say how many trials there are: trials")
        return self


class TrainingSpec(Spec):
    """How a base becomes the tuned one: what is trained (`method`), and towards what (`objective`)."""

    method: Method = "qlora"
    """qlora: adapters on a base in NF4. lora: adapters on the base in bf16. full: every weight, in float32, which gives
    a model instead of an adapter. prompt_tuning: a few vectors before each prompt; nothing is merged, so only PEFT
    serves it."""
    objective: Objective = "sft"
    """sft: the answers of conversations. cpt: every token of raw `text`. dpo: `chosen` above `rejected` answers."""
    lora_r: int = Field(default=16, ge=1, le=_HIGHEST_RANK)
    """Rank of the adapters."""
    lora_alpha: float = Field(default=32.0, gt=0, le=4096)
    """Adapters count lora_alpha / lora_r times."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of the adapters' inputs that is dropped in training."""
    target_modules: tuple[str, ...] = Field(default=LLAMA_PROJECTIONS, min_length=1)
    """Last parts of the names of the linear layers that get adapters, or `all-linear` alone."""
    use_dora: bool = False
    """Train direction and length of each weight apart (DoRA); a step takes 1.3 to 2.4 times as long."""
    use_rslora: bool = False
    """Scale adapters by lora_alpha / sqrt(lora_r), so that high ranks learn as well as low ones (rsLoRA)."""
    loraplus_lr_ratio: float = Field(default=1.0, ge=1, le=1024)
    """Learning rate of the adapters' B over that of A (LoRA+; its authors take 16); 1: one rate."""
    modules_to_save: tuple[str, ...] = ()
    """Ends of the names of modules that are trained as a whole beside the adapters; PEFT takes every module whose name
    ends so: `norm` is each layer's `input_layernorm` too, and on a Qwen3 `q_norm`."""
    num_virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """Vectors that prompt tuning puts before each row."""
    beta: float = Field(default=0.1, gt=0, le=100)
    """DPO: the higher, the closer the model is held to the base."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Peak, reached after the warm-up. Not given, it fits the method: 2e-4 (adapters), 2e-5 (full), 3e-2 (prompt
    tuning); for cpt 5e-5 and 1e-5 (full); for dpo 1e-5 and 1e-6 (full)."""
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: float = Field(default=0.03, ge=0, le=1_000_000)
    """Optimizer steps if 1 or more, share of all steps if below 1."""
    num_train_epochs: float = Field(default=3.0, gt=0, le=1000)
    """Passes over the training rows; parts of a pass are possible."""
    max_steps: int = Field(default=0, ge=0, le=10_000_000)
    """Optimizer steps in all; 0 leaves it to num_train_epochs."""
    per_device_train_batch_size: int = Field(default=2, ge=1, le=4096)
    """Rows in one forward pass."""
    per_device_eval_batch_size: int = Field(default=8, ge=1, le=4096)
    """Rows in one forward pass of an evaluation; costs memory but never changes the result's meaning."""
    gradient_accumulation_steps: int = Field(default=8, ge=1, le=4096)
    """Forward passes of one optimizer step, of all processes together; the effective batch is this ×
    per_device_train_batch_size, however many processes share it."""
    max_length: int = Field(default=1024, ge=8, le=1_048_576)
    """Tokens a row may have; what is longer is cut at its end and reported."""
    max_length_floor: int = Field(default=0, ge=0, le=1_048_576)
    """Tokens down to which rows may be cut when nothing else saves a run from running out of memory; 0: never."""
    packing: bool = False
    """Put several rows into one sequence of max_length tokens, each attending to itself only."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: about a third slower, memory of one layer instead of all."""
    fast_path: Literal["auto", "on", "off"] = "auto"
    """on: QLoRA of Llama-shaped bases (llama, mistral, qwen2, qwen3) goes through a hand-written forward and backward
    pass without padding; what it does not know takes the plain path, which is told. Rows, batch and result stay the
    same, up to rounding. auto: on GPUs only, as it gains nothing on a CPU. off: the plain path always."""
    vram_budget_gb: float = Field(default=0.0, ge=0, le=100_000)
    """GB (10^9 bytes) of GPU memory that the fast path may plan with, weights included; 0: what is free. It decides how
    many tokens go through at once, what is computed twice and what lies in host memory; only speed depends on it."""
    optim: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch"] = "adamw_8bit"
    """adamw_8bit keeps 2 bytes of state a trained parameter. Its paged form moves that state to host memory under
    pressure, by CUDA managed memory, which evicts badly on a GPU that others share; for adapters the state is small
    (80 MB for a 7B model at rank 16), so paging is a choice and not the default."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, gt=0, le=1000)
    """Gradients are scaled down to this norm."""
    logging_steps: int = Field(default=1, ge=1, le=1_000_000)
    """Optimizer steps between two progress events."""
    eval_steps: int = Field(default=0, ge=0, le=1_000_000)
    """Optimizer steps between two evaluations; 0 stands for a tenth of the run."""
    save_steps: int = Field(default=0, ge=0, le=1_000_000)
    """Optimizer steps between two checkpoints; 0 stands for eval_steps."""
    save_total_limit: int = Field(default=2, ge=1, le=1000)
    """Checkpoints kept on the trainer's own disk."""
    early_stopping_patience: int = Field(default=3, ge=0, le=1000)
    """Evaluations without improvement after which training stops; 0 turns it off."""
    early_stopping_threshold: float = Field(default=0.0, ge=0, le=100)
    """Nats per token by which an evaluation must beat the best one to count as improvement."""
    seed: int = Field(default=0, ge=0, le=4_294_967_295)
    """Of the adapters' first values, the order of rows and dropout."""
    bnb_4bit_compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Compute type of every method. auto: bfloat16 where the device computes in it, else float16 on a GPU and float32
    on a CPU."""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the quantisation constants too: 0.37 bits a parameter less (QLoRA, section 3)."""
    search: SearchSpec = SearchSpec()
    """Ranks and learning rates that are tried before the run itself."""
    launcher: Literal["local", "ray"] = Field(default="local", exclude=True)
    """Where the processes run: on the service's machine (`local`), or as workers of the Ray cluster that the service
    was told of (`ray`). Does not count for the adapter's identity."""
    processes: int = Field(default=0, ge=0, le=4096, exclude=True)
    """Processes that share each step's rows, one a GPU; 0: one for each GPU of the machine or the cluster, as far as
    they divide the effective batch (1 on a CPU). The effective batch, its rows and their order stay the same, whatever
    the number, so this does not count for the adapter's identity; a run may go on with another number."""
    fsdp: Literal["off", "full_shard"] = Field(default="off", exclude=True)
    """full_shard: of qlora's or lora's frozen base each process keeps its part only (FSDP2; 4-bit weights stay in 4
    bits), for bases that leave a GPU no room beside them; slower, as each layer is gathered for each pass. The adapter
    is the same. While it is loaded, a GPU still holds the whole base."""
    max_restarts: int = Field(default=3, ge=0, le=100, exclude=True)
    """Times that all processes are started again from the newest checkpoint after one of them was killed; then, or at
    once if 0, the run ends with an error that names it. Of a run in one process the service itself takes care."""

    @model_validator(mode="before")
    @classmethod
    def _rate_fits_the_method(cls, values: Any) -> Any:  # noqa: ANN401 - pydantic's own
        if not isinstance(values, dict) or "learning_rate" in values:
            return values
        kind = (values.get("method", "qlora"), values.get("objective", "sft"))
        return {**values, "learning_rate": _LEARNING_RATES.get(kind, 2e-4)}

    @field_validator("target_modules", "modules_to_save", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("target_modules", "modules_to_save")
    @classmethod
    def _names_are_plain_and_ordered(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Sort: the same set in another order is the same job."""
        if any(not name.strip() for name in value):
            raise ValueError("an empty name is no module")
        if ALL_LINEAR in value and len(value) > 1:
            raise ValueError(f"{ALL_LINEAR!r} already names every linear layer; give it alone")
        return tuple(sorted(set(value)))

    @field_validator(*_ADAPTER_FIELDS, "num_virtual_tokens", "beta", "objective", "packing")
    @classmethod
    def _belongs_to_the_method(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what would be ignored: a setting that changes nothing is a mistake."""
        name, method, objective = str(info.field_name), info.data.get("method"), info.data.get("objective")
        if value == cls.model_fields[name].default:
            return value
        if name in _ADAPTER_FIELDS and method not in {"qlora", "lora"}:
            raise ValueError(f"only method qlora and lora have adapters, this is {method}; leave it out")
        if name == "num_virtual_tokens" and method != "prompt_tuning":
            raise ValueError(f"only method prompt_tuning has virtual tokens, this is {method}; leave it out")
        if name == "beta" and objective != "dpo":
            raise ValueError(f"only objective dpo is held to the base by it, this is {objective}; leave it out")
        if value == "dpo" and method == "prompt_tuning":
            raise ValueError("dpo trains by qlora, lora or full; a prompt alone changes too little")
        if name == "packing" and (method == "prompt_tuning" or objective == "dpo"):
            raise ValueError("rows of dpo and of prompt_tuning stand alone; leave it out")
        return value

    @field_validator("search")
    @classmethod
    def _trials_share_a_base(cls, value: SearchSpec, info: ValidationInfo) -> SearchSpec:
        if value.trials and info.data.get("method") not in {"qlora", "lora"}:
            raise ValueError(
                f"trials are fresh adapters on one base: method qlora or lora, this is {info.data.get('method')}"
            )
        return value

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if self.max_steps and self.warmup_steps >= self.max_steps and self.warmup_steps >= 1:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps:g}) must be below max_steps ({self.max_steps}), "
                "or the learning rate never reaches its peak"
            )
        return self

    @property
    def heaviest(self) -> Self:
        """The trial that takes the most memory, or the run itself where nothing is searched."""
        return self.model_copy(update={"lora_r": max((self.lora_r, *self.search.lora_r))})

    @model_validator(mode="after")
    def _processes_fit_the_method(self) -> Self:
        if self.search.trials and self.processes > 1:
            raise ValueError(f"a search runs in one process, not in {self.processes}; leave processes or search out")
        if self.fsdp != "off" and (not self.has_adapters or self.use_dora):
            kind = "use_dora" if self.use_dora else f"method {self.method}"
            raise ValueError(
                f"fsdp shards a base that is frozen and only multiplied with, which {kind} is not; leave it out"
            )
        if self.search.trials and self.launcher == "ray":
            raise ValueError("a search runs on the service's machine, not on a Ray cluster; leave launcher out")
        return self

    @property
    def has_adapters(self) -> bool:
        """True if LoRA adapters are trained."""
        return self.method in {"qlora", "lora"}

    @property
    def batch_rows(self) -> int:
        """Rows of one optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps
