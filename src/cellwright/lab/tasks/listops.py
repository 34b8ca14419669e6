"""ListOps: nested lists of digits under operators, with a digit for answer.

Nangia & Bowman, "ListOps: A Diagnostic Dataset for Latent Tree Learning" (NAACL Student
Research Workshop 2018), section 2: `[MAX 2 9 [MIN 4 7 ] 0 ]` is 9. Each position is a
list with probability ¼, else a digit; a list has two to five arguments; the tree has at
most twenty levels; no expression comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ...language import ArgumentError

TOKENS = (*"0123456789", "[MAX", "[MIN", "[MED", "[SM", "]")


def _median(values: list[int]) -> int:
    """The middle; of an even number, the mean of the two in the middle, cut."""
    ordered, middle = sorted(values), len(values) // 2
    return (ordered[middle] + ordered[~middle]) // 2


OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "MAX": max,
    "MIN": min,
    "MED": _median,
    "SM": lambda values: sum(values) % 10,
}


@dataclass(frozen=True)
class Expression:
    """An operator over arguments, each a digit or an expression."""

    operator: str
    arguments: tuple[Expression | int, ...]

    @property
    def value(self) -> int:
        """The answer, 0 to 9."""
        values = [a if isinstance(a, int) else a.value for a in self.arguments]
        return OPERATORS[self.operator](values)

    @property
    def depth(self) -> int:
        """Levels of the tree: 2 where every argument is a digit."""
        return 1 + max(1 if isinstance(a, int) else a.depth for a in self.arguments)

    def tokens(self) -> Iterator[str]:
        """The words as they are written, each of `TOKENS`."""
        yield f"[{self.operator}"
        for argument in self.arguments:
            if isinstance(argument, int):
                yield str(argument)
            else:
                yield from argument.tokens()
        yield "]"

    def __str__(self) -> str:
        return " ".join(self.tokens())


def listops(
    count: int,
    generator: torch.Generator,
    *,
    depths: tuple[int, int] = (2, 20),
    longest: int | None = None,
    arguments: int = 5,
    nesting: float = 0.25,
) -> list[Expression]:
    """Different expressions by the paper's grammar.

    Args:
        count: how many.
        generator: of the draws.
        depths: the least and the most levels of a tree. Others are thrown away, so a
            least depth far above the usual takes its time.
        longest: the most tokens of an expression; None for no limit.
        arguments: the most arguments of a list; the least is two.
        nesting: the probability that an argument is a list.

    Raises:
        ArgumentError: the settings give fewer different expressions than asked for.
    """
    draw = _draws(generator)
    found: dict[Expression, None] = {}
    misses = 0
    while len(found) < count:
        new = _random(draw, depths[1], arguments, nesting)
        fits = longest is None or sum(1 for _ in new.tokens()) <= longest
        if fits and new.depth >= depths[0] and new not in found:
            found[new] = None
            misses = 0
        elif (misses := misses + 1) > 100_000:
            raise ArgumentError(
                f"[listops] found {len(found)} expressions and no other in 100,000 "
                f"draws; received count={count}, depths={depths}, longest={longest}, "
                "expected looser limits or fewer expressions"
            )
    return list(found)


def _random(
    draw: Iterator[float], levels: int, arguments: int, nesting: float
) -> Expression:
    """A list of at most that many levels."""
    operator = list(OPERATORS)[int(next(draw) * len(OPERATORS))]
    parts = []
    for _ in range(2 + int(next(draw) * (arguments - 1))):
        if levels > 2 and next(draw) < nesting:
            parts.append(_random(draw, levels - 1, arguments, nesting))
        else:
            parts.append(int(next(draw) * 10))
    return Expression(operator, tuple(parts))


def _draws(generator: torch.Generator) -> Iterator[float]:
    """Uniform numbers of [0, 1), drawn by the thousand: one by one would be slow."""
    while True:
        yield from torch.rand(8192, generator=generator, dtype=torch.float64).tolist()
