"""Karpathy's tiny Shakespeare: plays, as one text of characters."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .files import find_data

_SOURCE = (
    "https://github.com/karpathy/char-rnn/blob/master/data/tinyshakespeare/input.txt"
)


@cache
def load_shakespeare(directory: str | Path | None = None) -> str:
    """Read `tinyshakespeare.txt`: 1,115,394 characters, 65 different ones.

    Args:
        directory: where it lies; without it, what CELLWRIGHT_DATA says.

    Raises:
        DataMissing: the file is not there.
    """
    path = find_data("tinyshakespeare.txt", _SOURCE, directory)
    return path.read_text(encoding="utf-8")
