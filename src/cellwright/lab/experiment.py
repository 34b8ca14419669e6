"""What an experiment is made of: cases, rows of results, tables, claims.

An experiment asks one question. It lists its cases (settings as plain data, the seed
among them), runs each by itself, and computes everything that it says from the rows
that come out: tables, plot, claims, conclusion.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The settings of one case, or what it measured: plain data, as JSON has it.
Record = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The results of a run, one row a case: its settings and measurements together.

    Attributes:
        rows: one dict a case.
        quick: whether they are of the quick form.
    """

    rows: tuple[Record, ...]
    quick: bool = False

    def where(self, **settings: Any) -> Rows:
        """The rows with these settings."""
        found = [r for r in self.rows if settings.items() <= _hashable(r, settings)]
        return Rows(tuple(found), self.quick)

    def one(self, **settings: Any) -> Record:
        """The only row with these settings.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = self.where(**settings).rows
        if len(found) != 1:
            raise LookupError(
                f"[rows] one row was asked for; received {len(found)} with {settings}"
            )
        return found[0]

    def column(self, key: str) -> list[Any]:
        """That entry of every row."""
        return [row[key] for row in self.rows]

    def values(self, key: str) -> list[Any]:
        """The different entries of a column, in the order of their first row."""
        return list(dict.fromkeys(row[key] for row in self.rows if key in row))

    def median(self, key: str) -> float:
        """The median of a column of numbers: over seeds, as a rule."""
        return statistics.median(self.column(key))

    def spread(self, key: str, digits: int = 3) -> str:
        """`median (lowest–highest)` of a column, for a table."""
        numbers = self.column(key)
        middle = f"{statistics.median(numbers):.{digits}g}"
        if len(numbers) == 1:
            return middle
        return f"{middle} ({min(numbers):.{digits}g}–{max(numbers):.{digits}g})"

    def __iter__(self) -> Iterator[Record]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def _hashable(row: Record, settings: Record) -> Any:
    return {k: row[k] for k in settings if k in row}.items()


@dataclass(frozen=True)
class Table:
    """A table to print: on the terminal, in the documentation.

    Attributes:
        title: what it shows, with units.
        columns: their headings; one of figures from a paper says so.
        rows: a cell is a string or a number (printed to four digits).
        note: sources of published figures, and what differs from ours.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A sentence that a measurement bears out, or not.

    Attributes:
        name: the sentence.
        measured: the number that decides; None where there was nothing to measure.
        low: the least it is expected to be; None: no limit.
        high: the most it is expected to be; None: no limit.
    """

    name: str
    measured: float | None
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the measured number lies in the interval."""
        if self.measured is None or self.measured != self.measured:
            return False
        above = self.low is None or self.measured >= self.low
        return above and (self.high is None or self.measured <= self.high)

    @property
    def interval(self) -> str:
        """The interval in words, for people."""
        if self.low is None:
            return with_minus(f"at most {self.high:.4g}")
        if self.high is None:
            return with_minus(f"at least {self.low:.4g}")
        return with_minus(f"{self.low:.4g} to {self.high:.4g}")


def with_minus(words: str) -> str:
    """Words whose negative numbers have a minus sign, not a hyphen."""
    return re.sub(r"(?<![\w-])-(?=[\d.∞]|inf)", "−", words)


@dataclass(frozen=True)
class Keep:
    """What lets a case of a long experiment be stopped and gone on with.

    Attributes:
        directory: for its checkpoints. What is there when the case begins is its own,
            of a run that was stopped.
        report: `report(measured, done)`: what it has measured so far, and how much of
            its work is done, 0 to 1.
    """

    directory: Path
    report: Callable[[Record, float], None]


@dataclass(frozen=True)
class Experiment:
    """One question, and how it is answered.

    An experiment is long where it says how much `work` a case is: its full form takes
    hours or days. Then a run may be stopped inside a case; `run` takes a `Keep` beside
    the settings, but in the quick form; and tables, plot, claims and conclusion take
    whatever cases are there. A row of a case that is not finished has `done` below 1.

    Attributes:
        name: as on the command line; the file's name has `_` for `-`.
        question: what it asks.
        minutes: what the full form takes on one core, about.
        cases: `cases(quick, seed)`: the settings of every case, each different.
        run: `run(case)`: what one case measures, seeded by its settings alone.
        tables: the tables to print.
        draw: the plot, on an empty figure.
        claims: what is expected, with the measured numbers.
        conclude: a few sentences, worded after the numbers.
        needs: `needs()`: why it cannot run here ("the data …"); None if it can.
        work: `work(case)`: multiply-adds of a case; None of a usual experiment.
        missing: `missing()`: why some of its cases cannot run here and are left out.
    """

    name: str
    question: str
    minutes: float
    cases: Callable[[bool, int], list[Record]]
    run: Callable[..., Record]
    tables: Callable[[Rows], list[Table]]
    draw: Callable[[Rows, Figure], None]
    claims: Callable[[Rows], list[Claim]]
    conclude: Callable[[Rows], str]
    needs: Callable[[], str | None] = lambda: None
    work: Callable[[Record], float] | None = None
    missing: Callable[[], list[str]] = list

    @property
    def long(self) -> bool:
        """Whether its full form takes hours, and so goes on where it was stopped."""
        return self.work is not None
