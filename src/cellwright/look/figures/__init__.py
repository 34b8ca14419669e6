"""Figures of nets to learn from, in the colours of the cells' pictures.

    from cellwright.look.figures import figure
    figure("gradients").save("bptt.svg")

`canvas` has what they are drawn with; `chains`, `layers` and `plots` draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

from ... import cells
from ...language.errors import did_you_mean
from ..diagram import Diagram, DrawingError, Picture
from .chains import gradients, teacher_forcing, unrolled
from .layers import convolution, trees
from .plots import forget_gates, gradient_norms

#: What draws each figure.
FIGURES: Mapping[str, Callable[[], Picture]] = MappingProxyType(
    {
        "convolution": convolution,
        "forget-gates": forget_gates,
        "gradient-norms": gradient_norms,
        "gradients": gradients,
        "lstm": lambda: Diagram(cells.lstm),
        "teacher-forcing": teacher_forcing,
        "trees": trees,
        "unrolled": unrolled,
    }
)


@cache
def figure(name: str) -> Picture:
    """The figure of that name.

    Raises:
        DrawingError: there is none.
    """
    if name not in FIGURES:
        hint = did_you_mean(name, list(FIGURES))
        raise DrawingError(f"[figure] there is no {name!r}. {hint}")
    return FIGURES[name]()


__all__ = ["FIGURES", "figure"]
