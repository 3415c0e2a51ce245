"""One base for all trials: loaded once, its adapter taken off before the next is put on. Knows no rows and no study."""

from collections.abc import Callable
from typing import Any

from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper

from tunewright.trainer import adapters
from tunewright.trainer.spec import TrainingSpec


class SharedBase:
    """A frozen base that adapters are put on, one after the other.

    Args:
        load: returns the base; called once.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._adapted: PeftModel | None = None

    def trainable(self, spec: TrainingSpec) -> Any:  # noqa: ANN401 - PEFT ships no types
        """Return the base with a fresh adapter; the one before is gone.

        After an adapter that could not be made whole, as memory ran out, the base is loaded anew: nobody knows what is
        left of that adapter in it.
        """
        base = self._load() if self._adapted is None else bare(self._adapted)
        self._adapted = None
        self._adapted = adapters.make_trainable(base, spec)
        return self._adapted


def bare(adapted: PeftModel) -> Any:  # noqa: ANN401 - likewise
    """Return the base as it was before an adapter was put on it.

    PEFT's `unload` leaves the trained copies of `modules_to_save` in the base, so the originals are put back here.
    """
    inner: Any = adapted.get_base_model()
    originals = {
        name: module.original_module
        for name, module in inner.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
    base: Any = adapted.unload()
    for name, module in originals.items():
        parent, _, last = name.rpartition(".")
        setattr(base.get_submodule(parent), last, module)
    # Each trainer asks for it anew; a hook that stays would be a second one.
    base.disable_input_require_grads()
    base.requires_grad_(requires_grad=False)
    return base
