"""How this room's inner loops are compiled: by Numba, without the GIL, kept on disk between processes.

The compiled code is kept beside the source, else in the user's cache folder, or in the folder that NUMBA_CACHE_DIR
names. Where none of them can be written (a container with a read-only root and no home), each process that does not
inherit the code from its parent compiles it anew. A compiled function that calls one of another file is not compiled
anew when only that other file changes, nor one whose constants stand in another: such calls go to `utf8.py` and
`hashing.py` alone, and of tables `scanning.TABLES` tells. Knows none of the loops.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba
import numpy as np

_P = ParamSpec("_P")
_R = TypeVar("_R")

nth = np.uint64
"""Around an index in a hot loop that is never below 0: of a signed one Numba asks whether it counts from the end, which
takes a quarter of the time of a loop over bytes."""


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return the function compiled at its first call; it takes and returns arrays and numbers only."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        made: Callable[_P, _R] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # Numba's way to say that no folder for its cache can be written
        made = numba.njit(cache=False, **options)(function)
    return made
