"""The inspector in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import require

if TYPE_CHECKING:
    from ..text.run import Run
    from .web.notebook import InspectorWidget


def inspect(
    run: Run | Path | str,
    text: str | None = None,
    *,
    steps: int = 2000,
    beside: Run | Path | str | None = None,
) -> InspectorWidget:
    """The seven views of `cellwright inspect` as a widget, in Jupyter and its like::

        cw.look.inspect("runs/mine", "def f(x):")

    It holds what a report holds, so that it goes on where there is no kernel any more;
    typing, writing and intervening run in the browser, up to a million weights.

    Args:
        run: a trained run, or its directory.
        text: what is read; None: the run's held-out text.
        steps: at most so many tokens of it.
        beside: a second run, to compare saturation with.

    Raises:
        MissingExtraError: the extra `widget` is not installed.
    """
    require("look.inspect", "widget")
    from ..text.run import Run
    from .inspection import Inspection
    from .web.notebook import InspectorWidget

    runs = [r if isinstance(r, Run) else Run(r) for r in (run, beside) if r is not None]
    found = [Inspection(runs[0], text, steps=steps)]
    for other in runs[1:]:
        read = found[0].text_for(other) if text is None else text
        found.append(Inspection(other, read, steps=steps))
    return InspectorWidget(*found)
