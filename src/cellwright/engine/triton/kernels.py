"""Kernels' source, made functions that Triton compiles."""

from __future__ import annotations

import hashlib
import linecache
from typing import Any

from .source import Kernel

VARYING = ("here", "before", "block", "before_block", "rows", "levels")


def function_of(kernel: Kernel) -> Any:
    """A Triton function of a kernel; `inspect` finds its source."""
    import triton

    from . import functions

    digest = hashlib.sha256(kernel.source.encode()).hexdigest()[:12]
    file = f"<cellwright {kernel.name} {digest}>"
    lines = kernel.source.splitlines(keepends=True)
    linecache.cache[file] = len(kernel.source), None, lines, file
    names: dict[str, Any] = {"__name__": __name__, "tl": triton.language}
    names |= {name: getattr(functions, name) for name in functions.__all__}
    exec(compile(kernel.source, file, "exec"), names)
    varying = [name for name in VARYING if f"{name}," in kernel.source]
    return triton.jit(do_not_specialize=varying)(names[kernel.name])
