"""Files of pairs: a line is an input, a tab, and its output, in UTF-8.

An input that occurs in several lines has alternative outputs: all are trained on, and
an answer is right if it is any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from ...language.errors import CellwrightError
from ..corpus import read_pieces


class PairError(CellwrightError, ValueError):
    """Pairs cannot be used: a line is none, there are too few, a text is too long."""


class Pair(NamedTuple):
    """An input and an output that belongs to it."""

    input: str
    output: str


@dataclass(frozen=True)
class Example:
    """An input and all its references, the outputs that count as right."""

    input: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """Pairs to train on, to validate on while training, and to evaluate at the end.

    No input is in two parts. Without pairs to validate on, those held out serve.
    """

    train: list[Pair]
    validation: list[Pair]
    held_out: list[Pair]
    note: str  # what they are, for people


def read_pairs(path: Path, longest: int) -> list[Pair]:
    """The pairs of a file, in its order.

    Args:
        longest: the most characters of an input or an output.

    Raises:
        CorpusError: it cannot be read, or is not UTF-8.
        PairError: a line is no pair, or longer; there is none.
    """
    lines = "".join(read_pieces(path)).split("\n")
    if lines[-1] == "":
        lines.pop()
    found = [
        _pair(line.removesuffix("\r"), f"{path}:{number}", longest)
        for number, line in enumerate(lines, 1)
    ]
    if not found:
        raise PairError(
            f"[{path}] has no pairs; received an empty file, expected lines of an "
            "input, a tab and its output"
        )
    return found


def _pair(line: str, where: str, longest: int) -> Pair:
    fields = line.split("\t")
    if not line.strip():
        raise PairError(
            f"[{where}] is an empty line; expected an input, a tab and its output. "
            "Remove the line"
        )
    if len(fields) != 2:
        tabs = "no tab" if len(fields) == 1 else f"{len(fields) - 1} tabs"
        raise PairError(
            f"[{where}] is no pair; received {tabs} in {line[:40]!r}, expected an "
            "input, one tab and its output"
        )
    for name, text in zip(Pair._fields, fields, strict=True):
        if not text.strip():
            raise PairError(
                f"[{where}] the {name} is empty; expected text on both sides of the tab"
            )
        check_longest(text, longest, f"{where}, {name}")
    return Pair(*fields)


def check_longest(text: str, longest: int, where: str) -> None:
    """Raise PairError for a text of more characters than a model of pairs takes."""
    if len(text) > longest:
        raise PairError(
            f"[{where}] is too long; received {len(text):,} characters, expected at "
            f"most {longest:,}. Shorten it, or train with a larger --longest"
        )


def write_pairs(pairs: Iterable[Pair]) -> bytes:
    """Pairs as the bytes of a file that `read_pairs` reads."""
    return "".join(f"{pair.input}\t{pair.output}\n" for pair in pairs).encode()


def examples(pairs: Iterable[Pair]) -> list[Example]:
    """The inputs in the order of their first pairs, each with its references."""
    found: dict[str, dict[str, None]] = {}  # a dict keeps its order, unlike a set
    for pair in pairs:
        found.setdefault(pair.input, {})[pair.output] = None
    return [Example(text, tuple(outputs)) for text, outputs in found.items()]


def split(pairs: list[Pair], *counts: int, seed: int = 0) -> list[list[Pair]]:
    """Divide pairs by their inputs, at random; each part keeps the pairs' order.

    Args:
        counts: inputs of every part but the last, which has the rest.
    """
    inputs = sorted({pair.input for pair in pairs})
    Random(seed).shuffle(inputs)
    part_of, start = dict.fromkeys(inputs, len(counts)), 0
    for part, count in enumerate(counts):
        part_of.update(dict.fromkeys(inputs[start : start + count], part))
        start += count
    parts: list[list[Pair]] = [[] for _ in range(len(counts) + 1)]
    for pair in pairs:
        parts[part_of[pair.input]].append(pair)
    return parts
