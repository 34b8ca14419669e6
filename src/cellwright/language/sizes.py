"""Sizes of values: a count of units, the name of one, or a matrix of blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MatrixSize:
    """The size of a matrix, or of `heads` blocks on the diagonal of one.

    Its elements are flat wherever they are stored: one block after the other, each row
    by row. So a value of a matrix is (…, int(size)) as any other is, and
    `value.unflatten(-1, size.blocks)` is (…, heads, rows/heads, columns/heads).

    Attributes:
        rows: of all blocks together, numbers or names of sizes as everywhere.
        columns: the same.
        heads: how many blocks.
    """

    rows: int | str
    columns: int | str
    heads: int = 1

    @property
    def blocks(self) -> tuple[int, int, int]:
        """(heads, rows of a block, columns of a block); of a bound graph's sizes."""
        rows, columns = int(self.rows), int(self.columns)
        return self.heads, rows // self.heads, columns // self.heads

    def __int__(self) -> int:
        """How many elements it has; of a bound graph's sizes."""
        return int(self.rows) * int(self.columns) // self.heads

    def map(self, size: Callable[[int | str], int | str]) -> MatrixSize:
        """The same with other rows and columns."""
        return MatrixSize(size(self.rows), size(self.columns), self.heads)

    def __str__(self) -> str:
        blocks = f" in {self.heads} heads" if self.heads > 1 else ""
        return f"{self.rows} × {self.columns}{blocks}"


Size = int | str | MatrixSize  # the name of one: "input_size", "hidden_size", …


class Misfit(ValueError):
    """Sizes that an operation does not take: what it needs, received and expected."""


def names_of(size: Size) -> tuple[str, ...]:
    """The names of sizes in a size."""
    parts = (size.rows, size.columns) if isinstance(size, MatrixSize) else (size,)
    return tuple(part for part in parts if isinstance(part, str))


def fits(a: Size, b: Size) -> bool:
    """Whether two sizes can be equal: names may stand for any number."""
    if isinstance(a, MatrixSize) and isinstance(b, MatrixSize):
        parts = fits(a.rows, b.rows) and fits(a.columns, b.columns)
        return parts and a.heads == b.heads
    if isinstance(a, MatrixSize) or isinstance(b, MatrixSize):
        return False
    return a == b or isinstance(a, str) or isinstance(b, str)


def splits(size: Size, heads: int) -> bool:
    """Whether a size can be cut into so many equal parts."""
    if isinstance(size, MatrixSize):
        return size.heads == heads
    return isinstance(size, str) or size % heads == 0


def common(sizes: Sequence[Size], flexible: frozenset[str] = frozenset()) -> Size:
    """What sizes that fit one another stand for; a name that is fixed comes first.

    Args:
        flexible: names that follow from the data, as an input's: they come last.
    """
    matrices = [s for s in sizes if isinstance(s, MatrixSize)]
    if matrices:
        rows = common([m.rows for m in matrices], flexible)
        columns = common([m.columns for m in matrices], flexible)
        return MatrixSize(rows, columns, matrices[0].heads)  # type: ignore[arg-type]
    names = [s for s in sizes if isinstance(s, str)]
    rigid = [s for s in names if s not in flexible]
    numbers = [s for s in sizes if isinstance(s, int) and s != 1]
    return next(iter([*rigid, *numbers, *names]), 1)
