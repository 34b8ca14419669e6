"""Learning curves of runs: as a picture, and in letters for the terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from ..files import write_output
from ..language.errors import ArgumentError
from ..text.comparison import Comparison, Row
from .plotting import STYLE, label, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "png", "pdf")
FIRST = 0.1  # of the steps: losses of earlier ones may lie above the picture
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def save_curves(comparisons: list[Comparison], path: Path) -> None:
    """Draw the learning curves into a file, a panel for each held-out text.

    A line is the mean over a row's runs, the band around it one standard deviation.

    Args:
        path: its ending is one of `FORMATS`.

    Raises:
        ArgumentError: another ending, or no run has a curve yet.
        MissingExtraError: matplotlib is not installed.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise ArgumentError(
            f"[plot] learning curves are drawn as a picture; received {path.name!r}, "
            f"expected a name that ends in {', '.join(f'.{f}' for f in FORMATS)}"
        )
    drawn = [c for c in comparisons if any(row.curve for row in c.rows)]
    if not drawn:
        raise ArgumentError(
            "[plot] no run has a learning curve yet; received runs without two logged "
            "steps, expected at least one that has trained"
        )
    require("learning curves", "lab", "matplotlib")
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": "cellwright"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.5, 4.4 * len(drawn)), layout="constrained")
        panels = figure.subplots(len(drawn), squeeze=False)[:, 0]
        for axes, comparison in zip(panels, drawn, strict=True):
            _draw(axes, comparison)
        picture = io.BytesIO()
        # No date and no version inside: the same runs give the same file.
        date = {"svg": "Date", "pdf": "CreationDate", "png": "Software"}[kind]
        figure.savefig(picture, format=kind, metadata={date: None})
    write_output(path, picture.getvalue())


def _draw(axes: Axes, comparison: Comparison) -> None:
    for number, row in enumerate(comparison.rows):
        curve = row.curve
        if curve is None:
            continue
        style = {**look(number), "marker": ""}
        axes.plot(curve.steps, curve.mean, label=_legend(row), **style)
        if len(row.seeds) > 1:
            low, high = (
                [m + sign * s for m, s in zip(curve.mean, curve.sd, strict=True)]
                for sign in (-1, 1)
            )
            band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
            axes.fill_between(curve.steps, low, high, **band)
    low, high = _range(comparison.rows)
    axes.set_ylim(low - 0.05 * (high - low), high)
    axes.set_xlim(left=0)
    axes.legend()
    label(axes, comparison.text, "step", f"{comparison.curves_of}, nats a token")


def _legend(row: Row) -> str:
    count = len(row.seeds)
    return f"{row.label}, {count} seeds" if count > 1 else row.label


def _range(rows: list[Row]) -> tuple[float, float]:
    """The lowest loss of all curves, and the highest after the first few steps."""
    curves = [row.curve for row in rows if row.curve]
    later = [
        loss
        for curve in curves
        for step, loss in zip(curve.steps, curve.mean, strict=True)
        if step >= FIRST * curve.steps[-1]
    ]
    low, high = min(later), max(later)
    return low, high if high > low else low + 1


def in_letters(rows: list[Row], width: int = 72, height: int = 14) -> list[str]:
    """Learning curves as lines of text: a letter a row, where the better row is on top.

    Args:
        rows: `Row.curve` of each is drawn, with `LETTERS` in their order.
        width, height: of all, in characters.

    Returns:
        No line where no row has a curve.
    """
    drawn = [(n, row.curve) for n, row in enumerate(rows) if row.curve]
    if not drawn:
        return []
    low, high = _range(rows)
    last = max(curve.steps[-1] for _, curve in drawn)
    scale = [f"{high:.2f}", *[""] * (height - 2), f"{low:.2f}"]
    margin = max(map(len, scale))
    columns = width - margin - 2
    canvas = [[" "] * columns for _ in range(height)]
    for number, curve in reversed(drawn):
        steps = np.linspace(0, last, columns)
        for column, loss in enumerate(
            np.interp(steps, curve.steps, curve.mean, left=np.nan, right=np.nan)
        ):
            if low <= loss <= high:
                line = round((high - loss) / (high - low) * (height - 1))
                canvas[line][column] = LETTERS[number % len(LETTERS)]
    lines = [
        f"{mark:>{margin}} ┤{''.join(row).rstrip()}"
        for mark, row in zip(scale, canvas, strict=True)
    ]
    end = f"step {last:,.0f}"
    return [*lines, f"{'':{margin}} └{'─' * columns}", f"{end:>{width}}"]
