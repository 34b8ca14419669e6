"""What to write instead of a name that cellwright does not have."""

from __future__ import annotations

import dis
import sys
from difflib import get_close_matches

from . import ops

#: Functions that many know and few cells need, written in operations of the table.
WRITTEN = {
    "clamp": "minimum(maximum(v, low), high)",
    "clip": "minimum(maximum(v, low), high)",
    "elu": "where(v > 0, v, exp(minimum(v, 0)) - 1)",
    "gelu": "0.5 * v * (1 + tanh(0.7978846 * (v + 0.044715 * v * v * v)))",
    "leaky_relu": "maximum(v, 0.01 * v)",
    "log_sigmoid": "-softplus(-v)",
    "logsigmoid": "-softplus(-v)",
    "mish": "v * tanh(softplus(v))",
    "silu": "v * sigmoid(v)",
    "square": "v * v",
    "swish": "v * sigmoid(v)",
}


def operations() -> list[str]:
    """The operations by the names that a cell's file imports."""
    return sorted({*ops.__all__, "abs", "sum"})


def no_such_name(name: str) -> str:
    """The message for a name that `cellwright` does not have."""
    known = operations()
    if name in WRITTEN:
        advice = f"Write it in these: def {name}(v): return {WRITTEN[name]}."
    elif near := get_close_matches(name, known, n=3, cutoff=0.7):
        advice = f"Did you mean {' or '.join(repr(n) for n in near)}?"
    else:
        advice = "What is not among them is a function of your own, written in them."
    return (
        f"cellwright has no {name!r}; expected one of its names. Its operations: "
        f"{', '.join(known)}. {advice}"
    )


def no_attribute(name: str) -> Exception:
    """The error of the package's `__getattr__`, for a name that it does not have.

    `from cellwright import gelu` takes an AttributeError for its own, wordless error;
    there it is an ImportError.
    """
    frame = sys._getframe(2)  # of who asks
    asked = frame.f_code.co_code[frame.f_lasti] if frame.f_lasti >= 0 else None
    imports = asked == dis.opmap["IMPORT_FROM"]
    message = no_such_name(name)
    return ImportError(message, name=name) if imports else AttributeError(message)
