"""Short mathematical labels: a name and its subscript, as runs of styled text.

Widths are upper bounds over the usual serif fonts: a viewer may have any of them.
"""

from __future__ import annotations

from typing import NamedTuple

from ...language.latex import GREEK, is_index, split


class Run(NamedTuple):
    """A stretch of a label: upright or italic, on the base line or below it."""

    text: str
    italic: bool = False
    sub: bool = False


Label = tuple[Run, ...]

SUBSCRIPT = 0.7  # of the font's size


def plain(text: str) -> Label:
    return (Run(text),) if text else ()


def symbol(name: str, time: str = "") -> Label:
    """A value's name as lectures write it: f, p with subscript f, θ, share; at a time.

    A symbol has one subscript, so the time joins the name's own.
    """
    head, tail = split(name)
    parts = [_greek(part) for part in tail]
    subscript = [Run(part, _is_letter(part), True) for part in parts]
    if time:
        subscript += [Run(",", sub=True)] if subscript else []
        subscript.append(Run(time.replace("-", "−"), is_index(time), True))
    return (Run(_greek(head), _is_letter(_greek(head))), *subscript)


def _greek(word: str) -> str:
    return GREEK.get(word, word)


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isalpha()


def number(value: float) -> str:
    """A number with a true minus sign, and ten's powers as fonts have them."""
    text = f"{value:g}".replace("inf", "∞")
    mantissa, _, exponent = text.partition("e")
    if exponent:
        digits = str(int(exponent)).translate(
            str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
        )
        power = f"10{digits}"
        text = power if mantissa == "1" else f"{mantissa}·{power}"
    return text.replace("-", "−")


def as_text(label: Label) -> str:
    """A label in one line of plain text: f_t, c_t−1."""
    parts, below = [], False
    for run in label:
        parts.append("_" if run.sub and not below else "")
        parts.append(run.text)
        below = run.sub
    return "".join(parts)


def width(label: Label, size: float) -> float:
    """At most so many pixels wide, whatever serif font is at hand."""
    return sum(
        _em(c) * size * (SUBSCRIPT if run.sub else 1) for run in label for c in run.text
    )


def _em(character: str) -> float:
    for ems, characters in _EMS:
        if character in characters:
            return ems
    return 0.72


_EMS = (
    (0.4, " .,·'|ijl:fI"),
    (0.565, "t()[]rszcJ⁻⁰¹²³⁴⁵⁶⁷⁸⁹?ε"),
    (0.64, "0123456789√"),
    (0.88, "−+×÷=<>≤≥≠~ABCDEGHKNOQRUVXYZωψ"),
    (1.04, "mwMW%∞"),
)
