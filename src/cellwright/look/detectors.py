"""Detectors of text, and which units follow them.

A detector gives every character a small class (inside quotes or not, bracket depth, …).
A unit follows it as far as its value predicts the class: their mutual information.
Karpathy, Johnson & Li (2015) looked for such units by eye.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extras import require
from ..language.errors import ArgumentError

Classes = NDArray[np.int64]

DEEPEST = 4  # deeper brackets and indentation count as this
_OPEN, _CLOSE = "([{", ")]}"


def inside_quotes(text: str) -> Classes:
    """1 from an opening double quote up to the closing one, which may not be there."""
    quotes = np.array([c == '"' for c in text], dtype=np.int64)
    opened = np.cumsum(quotes) % 2
    return np.maximum(opened, quotes)


def bracket_depth(text: str) -> Classes:
    """How many brackets are open, up to 4; unmatched closing ones count as none."""
    depth, depths = 0, []
    for c in text:
        depth += c in _OPEN
        depths.append(depth)
        depth = max(0, depth - (c in _CLOSE))
    return np.minimum(depths, DEEPEST).astype(np.int64)


def position_in_line(text: str) -> Classes:
    """Characters since the line began, in eight classes that double in width."""
    position, positions = 0, []
    for c in text:
        positions.append(position)
        position = 0 if c == "\n" else position + 1
    return np.minimum(np.log2(np.add(positions, 1)).astype(np.int64), 7)


def indentation(text: str) -> Classes:
    """Blanks at the beginning of the character's line, in fours, up to 4."""
    lines = text.splitlines(keepends=True)
    widths = [len(line) - len(line.lstrip(" ")) for line in lines]
    levels = [min(width // 4, DEEPEST) for width in widths]
    return np.repeat(levels, [len(line) for line in lines]).astype(np.int64)


def matches(pattern: str) -> Callable[[str], Classes]:
    """A detector that is 1 inside every match of a regular expression.

    Anyone may send one to a page, so RE2 runs it: its time grows with the text's length
    and not exponentially, which costs references back and looking around (`(?=…)`).
    Its \\w, \\d and \\b know ASCII alone; `[\\pL_]` is any letter.

    Raises:
        ArgumentError: it is none.
        MissingExtraError: re2, of the extra `web`, is not installed.
    """
    expression = _compiled(pattern)

    def detect(text: str) -> Classes:
        inside = np.zeros(len(text), dtype=np.int64)
        for match in expression.finditer(text):
            inside[match.start() : match.end()] = 1
        return inside

    return detect


def _compiled(pattern: str) -> Any:
    require("detector", "web", "re2")
    import re2  # pyright: ignore[reportMissingImports]

    settings = re2.Options()
    settings.never_capture = True  # the matches' ends are all that is asked for
    settings.log_errors = False
    try:
        return re2.compile(f"(?m){pattern}", settings)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0]
        reason = (
            reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        )
        raise ArgumentError(
            f"[detector] received {pattern!r}, expected a regular expression as RE2 "
            f"reads it: {reason}"
        ) from None


DETECTORS: dict[str, Callable[[str], Classes]] = {
    "inside quotes": inside_quotes,
    "bracket depth": bracket_depth,
    "position in line": position_in_line,
    "indentation": indentation,
}


def quantile_bins(values: NDArray[np.floating], bins: int = 8) -> NDArray[np.uint8]:
    """Each unit's values (T, H) cut at their own quantiles: numbers of bins, (H, T)."""
    units = np.ascontiguousarray(values.T)
    ordered = np.sort(units, axis=1)
    places = np.linspace(0, units.shape[1] - 1, bins + 1)[1:-1]
    below = places.astype(np.int64)
    low, high = ordered[:, below], ordered[:, below + 1]
    binned = np.zeros(units.shape, np.uint8)
    for cut in (low + (high - low) * (places - below)).T:
        binned += units > cut[:, None]
    return binned


def mutual_information(
    binned: NDArray[np.uint8], classes: Classes, bins: int = 8
) -> NDArray[np.float64]:
    """How much each unit's value says about the class, in bits.

    Args:
        binned: (H, T), the units' values as `quantile_bins` cuts them.
        classes: (T,), from 0 on.
        bins: how many there are.

    Returns:
        (H,): the plug-in estimate minus its bias for independent variables
        ((bins − 1)(classes − 1) / 2T ln 2; Miller 1955), not below 0. A single class
        leaves nothing to tell: 0.
    """
    steps = len(classes)
    if len(np.unique(classes)) < 2:
        return np.zeros(len(binned))
    members = np.eye(int(classes.max()) + 1, dtype=np.float32)[classes]  # (T, classes)
    counts = [(binned == n).astype(np.float32) @ members for n in range(bins)]
    joint = np.stack(counts, 1).astype(np.float64) / steps  # (H, bins, classes)
    product = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 0, joint * np.log2(joint / product), 0.0)
    bias = (bins - 1) * (len(np.unique(classes)) - 1) / (2 * steps * np.log(2))
    return np.maximum(terms.sum((1, 2)) - bias, 0.0)


def entropy(classes: Classes) -> float:
    """In bits: what a unit could say about the class, at most."""
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no −0
