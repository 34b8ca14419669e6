"""The errors of cellwright, and where in the user's code they happened.

Every message reads `[where] fact; received X, expected Y`, and ends with the remedy
where the misuse is predictable.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_written: set[str] = set()  # files whose functions are cells: user code, also in here


class CellwrightError(Exception):
    """Base of every error that cellwright raises on purpose."""


class CellError(CellwrightError, ValueError):
    """A cell's definition, or what it is asked to bind to, does not make sense."""


class TraceError(CellError, TypeError):
    """A traced value was used in a way that cannot be recorded."""


class SizeError(CellError):
    """Sizes that must agree do not."""


class ArgumentError(CellwrightError, ValueError):
    """A layer received an argument it cannot take."""


def holds_equations(filename: str) -> None:
    """Errors name the lines of this file, though it may be one of cellwright's."""
    _written.add(filename)


def user_location() -> str:
    """`file:line` of the innermost frame that is not cellwright's own machinery."""
    frame = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        own = filename.startswith(_PACKAGE) and filename not in _written
        if not own and "<frozen" not in filename and "functools.py" not in filename:
            return f"{filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "<unknown>"


def did_you_mean(word: str, known: list[str]) -> str:
    """A closing sentence naming the nearest known words, or listing them all."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=3)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    return f"Known: {', '.join(known)}."
