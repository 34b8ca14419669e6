"""Lets the core run on the threads that torch already has.

torch's OpenMP workers spin for milliseconds after each parallel operation. A pool of
our own would wait for their cores, its jobs run on one thread meanwhile. So the core
asks torch's own runtime for threads, where it is one that has GNU's interface.
`CELLWRIGHT_POOL=own` keeps the core to its own pool.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import torch

_FUNCTIONS = (
    "GOMP_parallel",
    "omp_get_thread_num",
    "omp_get_num_threads",
    "omp_in_parallel",
)


def share_threads(core: Any) -> bool:
    """Hand the functions of torch's OpenMP runtime to the core.

    Returns:
        Whether there is such a runtime; else the core keeps to a pool of its own.
    """
    if os.environ.get("CELLWRIGHT_POOL") == "own":
        return False
    # The copy that torch brings along, which it has loaded itself: opening it again
    # gives the same one. Another copy would have threads of its own.
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            library = ctypes.CDLL(str(path))
            functions = [getattr(library, name) for name in _FUNCTIONS]
        except (OSError, AttributeError):
            continue
        addresses = [ctypes.cast(f, ctypes.c_void_p).value for f in functions]
        core.use_openmp(*addresses)
        return True
    return False
