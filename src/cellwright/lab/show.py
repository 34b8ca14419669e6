"""An experiment and its result on the terminal, and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import NAMES, get
from .experiment import Claim, Experiment, Table, with_minus
from .result import Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid


def list_experiments() -> None:
    """Print every experiment with its question and time."""
    from rich.console import Console

    rows = tuple((e.name, e.question, e.minutes) for e in map(get, NAMES))
    columns = ("experiment", "question", "minutes")
    _print(Table("cellwright lab NAME [--quick]", columns, rows), Console())


def show(result: Result, experiment: Experiment, console: Console) -> None:
    """Print question, tables, claims and conclusion."""
    from rich.markup import escape

    console.print(f"[bold]{experiment.name}[/bold]: {escape(experiment.question)}")
    for table in experiment.tables(result.rows):
        _print(table, console)
    _print(claims_table(result.claims), console)
    console.print(escape(with_minus(result.conclusion)))


def claims_table(claims: tuple[Claim, ...]) -> Table:
    """What was expected, what was measured, and whether it holds."""
    rows = [
        (c.name, c.measured, c.interval, "holds" if c.holds else "does not hold")
        for c in claims
    ]
    return Table("Claims", ("claim", "measured", "expected", ""), tuple(rows))


def markdown(table: Table) -> str:
    """A table for the documentation."""
    lines = [
        f"**{table.title}**",
        "",
        "| " + " | ".join(table.columns) + " |",
        "|" + "---|" * len(table.columns),
    ]
    lines += ["| " + " | ".join(map(text, row)) + " |" for row in table.rows]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines)


def report(result: Result, experiment: Experiment, plot: str) -> str:
    """A result as a section of the documentation.

    Args:
        result: of the experiment.
        experiment: words the tables.
        plot: where the picture is, from the document.
    """
    versions = ", ".join(f"{k} {result.versions[k]}" for k in ("cellwright", "torch"))
    facts = (
        f"`{result.command}`, {result.date}, seed {result.seed}: "
        f"{result.seconds:.0f} s of one core ({result.machine['processor']}, "
        f"{versions})."
    )
    tables = [*experiment.tables(result.rows), claims_table(result.claims)]
    parts = [
        f"## {experiment.name}",
        experiment.question,
        with_minus(result.conclusion),
        f"![{experiment.name}]({plot})",
        *map(markdown, tables),
        facts,
    ]
    return "\n\n".join(parts)


def text(cell: Any) -> str:
    """A table's cell in print: four digits of a number, a dash for none."""
    if cell is None:
        return "–"
    return with_minus(f"{cell:.4g}" if isinstance(cell, float) else str(cell))


def _print(table: Table, console: Console) -> None:
    """A table no wider than the terminal, its lines broken between words alone; where
    that is not enough, its columns one part below the other."""
    from rich.markup import escape

    for columns, widths in _side_by_side(table, console.width):
        console.print(_grid(table, columns, widths))
    if table.note:
        console.print(escape(table.note), style="dim")


def _grid(table: Table, columns: list[int], widths: list[int]) -> Grid:
    from rich import box
    from rich.markup import escape
    from rich.table import Table as Grid

    title = escape(table.title)
    grid = Grid(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, width in zip(columns, widths, strict=True):
        numeric = all(isinstance(r[number], (int, float)) for r in table.rows)
        side = "right" if numeric else "left"
        header = escape(table.columns[number])
        grid.add_column(header, justify=side, width=width, overflow="fold")
    for row in table.rows:
        grid.add_row(*(escape(text(row[number])) for number in columns))
    return grid


PADDING = 3  # between two columns; the ends of a line have as much together


def _side_by_side(table: Table, room: int) -> list[tuple[list[int], list[int]]]:
    """Which columns stand side by side in so many characters, and how wide each is.

    The first column is there again in every part.
    """
    cells = [
        [name, *(text(row[number]) for row in table.rows)]
        for number, name in enumerate(table.columns)
    ]
    least = [
        max((len(w) for c in some for w in c.split()), default=1) for some in cells
    ]
    parts = [[0]]
    for number in range(1, len(cells)):
        wider = [*parts[-1], number]
        if _used(wider, least) > room and len(parts[-1]) > 1:
            parts.append([0, number])
        else:
            parts[-1] = wider
    return [(part, _widths(part, cells, least, room)) for part in parts]


def _used(columns: list[int], widths: list[int]) -> int:
    return sum(widths[number] + PADDING for number in columns) + 1


def _widths(
    columns: list[int], cells: list[list[str]], least: list[int], room: int
) -> list[int]:
    """Each column as wide as its longest word; what is left goes where most is cut."""
    widths = [least[number] for number in columns]
    longest = [max(map(len, cells[number])) for number in columns]
    for _ in range(room - _used(columns, least)):
        lines = [long / wide for long, wide in zip(longest, widths, strict=True)]
        fullest = max(range(len(columns)), key=lines.__getitem__)
        if lines[fullest] <= 1:
            break
        widths[fullest] += 1
    return widths
