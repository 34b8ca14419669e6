"""Short mathematical labels: a name and its subscript, as runs of styled text.

Widths are upper bounds over the usual serif fonts: a viewer may have any of them.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from ...language.latex import GREEK, is_index, split


class Run(NamedTuple):
    """A stretch of a label: upright or italic, on the base line or below it; a letter
    may have an accent, a key of `ACCENTS`."""

    text: str
    italic: bool = False
    sub: bool = False
    accent: str = ""


Label = tuple[Run, ...]

SUBSCRIPT = 0.7  # of the font's size
#: Each accent as Unicode combines it with a letter, and by itself.
ACCENTS = {"tilde": "\u0303˜", "hat": "\u0302ˆ", "bar": "\u0304¯"}


def plain(text: str) -> Label:
    return (Run(text),) if text else ()


def symbol(name: str, time: str = "") -> Label:
    """A value's name as lectures write it: f, p with subscript f, θ, share; at a time.

    A symbol has one subscript, so the time joins the name's own.
    """
    parts = split(name)
    below = [_greek(part) for part in parts.below]
    subscript = [Run(part, _is_variable(part), True) for part in below]
    if time:
        subscript += [Run(",", sub=True)] if subscript else []
        subscript.append(Run(time.replace("-", "−"), is_index(time), True))
    log = [Run("log ")] if parts.log else []
    return (*log, *_accented(_greek(parts.head), parts.accent), *subscript)


def subscripted(letter: str, name: str) -> Label:
    """W, or b, with a weight's name below it; alone where it has none."""
    return (Run(letter, True), *(run._replace(sub=True) for run in symbol(name)))


def _accented(letter: str, accent: str) -> list[Run]:
    italic = _is_variable(letter)
    if not letter:
        return []
    if accent == "prime":
        return [Run(letter, italic), Run("′")]
    return [Run(letter, italic, False, accent)]


def _greek(word: str) -> str:
    return GREEK.get(word, word)


def _is_variable(text: str) -> bool:
    """Whether it stands in italics: one letter, but no Greek capital."""
    return len(text) == 1 and text.isalpha() and not "Α" <= text <= "Ω"


def combined(run: Run) -> str:
    """A run's text with its accent, as Unicode has it."""
    accent = ACCENTS[run.accent][0] if run.accent else ""
    return unicodedata.normalize("NFC", run.text + accent)


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
        parts.append(combined(run))
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
    (0.4, " .,·'′|ijl:fI"),
    (0.565, "t()[]rszcJ⁻⁰¹²³⁴⁵⁶⁷⁸⁹?ε"),
    (0.64, "0123456789√"),
    (0.88, "−+×÷=<>≤≥≠~ABCDEGHKNOQRUVXYZωψ"),
    (1.04, "mwMW%∞"),
)
