"""What a trial changes in a recipe, and what is tried first. Knows no study and no training."""

from typing import Any

from tunewright.trainer.spec import SearchSpec, TrainingSpec

TRIAL_SHARE = 4
"""A trial takes one part in so many of the run, where the recipe does not say."""
Settings = dict[str, Any]
"""Fields of the spec with a trial's values: lora_r, learning_rate, or both."""


def with_settings(spec: TrainingSpec, settings: Settings) -> TrainingSpec:
    """Return the spec of the run that a trial is the beginning of.

    The adapters' scale stays what the recipe says: lora_alpha / lora_r, or with rsLoRA lora_alpha itself, which is
    made to fit any rank.
    """
    changed = dict(settings)
    if "lora_r" in settings and not spec.use_rslora:
        changed["lora_alpha"] = spec.lora_alpha * settings["lora_r"] / spec.lora_r
    return spec.model_copy(update={**changed, "search": SearchSpec()})


def first_settings(spec: TrainingSpec) -> list[Settings]:
    """Return what is tried first: the recipe's own settings where they are searched; all ranks, if nothing else is."""
    search = spec.search
    ranks = sorted(search.lora_r, key=lambda rank: (rank != spec.lora_r, rank))
    if not search.learning_rate:
        return [{"lora_r": rank} for rank in ranks]
    low, high = search.learning_rate
    if not low <= spec.learning_rate <= high or (ranks and ranks[0] != spec.lora_r):
        return []
    return [{"learning_rate": spec.learning_rate, **({"lora_r": spec.lora_r} if ranks else {})}]


def number_of_trials(search: SearchSpec) -> int:
    """Return how many trials there are: no rank is tried twice at one rate."""
    return search.trials if search.learning_rate else min(search.trials, len(search.lora_r))


def words(settings: Settings) -> str:
    """Return settings for people."""
    return ", ".join(f"{name} {value:.3g}" for name, value in sorted(settings.items()))
