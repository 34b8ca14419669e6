"""The command `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from .app import app

if TYPE_CHECKING:
    from ..text.comparison import Comparison, Figure, Row


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        Argument(metavar="RUN…", help="Runs, and folders of runs (train --cells)."),
    ],
    plot: Annotated[
        Path | None,
        Option(metavar="FILE", help="Draw the learning curves: .svg, .png or .pdf."),
    ] = None,
    curves: Annotated[
        bool, Option(help="Print the learning curves in the terminal.")
    ] = True,
    json_: Annotated[
        bool, Option("--json", help="Print one JSON object, and nothing else.")
    ] = False,
) -> None:
    """Compare runs: what their cells reach on the same held-out text, and how fast.

    Runs of one cell that differ in the seed alone are one row, with the mean and the
    standard deviation over the seeds. Runs of different held-out texts or tokens are
    put into tables of their own: their losses cannot be compared.
    """
    from ..look.curves import save_curves
    from ..text.comparison import compare

    found = compare(runs)
    if plot:
        save_curves(found, plot)
    if json_:
        typer.echo(json.dumps({"comparisons": [c.to_dict() for c in found]}))
        return
    show(found, curves)
    if plot:
        typer.echo(f"{plot}: learning curves")


def show(comparisons: list[Comparison], curves: bool = True) -> None:
    """Print a table for each held-out text, its curves, and its notes."""
    from ..look.curves import in_letters

    for number, comparison in enumerate(comparisons):
        if number:
            typer.echo("")
        typer.echo(f"{comparison.text} ({comparison.tokenizer})")
        _show_table(comparison)
        lines = in_letters(comparison.rows) if curves else []
        if lines:
            typer.echo(f"\n{comparison.curves_of}, nats a token")
            typer.echo("\n".join(lines))
        for note in comparison.notes:
            typer.echo(f"note: {note}")
    if len(comparisons) > 1:
        typer.echo(
            "\nThe tables are apart because the held-out texts, or the tokens that "
            "they are read in, differ: a loss on one says nothing beside a loss on "
            "another."
        )


def _show_table(comparison: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..look.curves import LETTERS

    by_token = not comparison.tokenizer.startswith("char")
    measures = ["nats/char", *(["nats/token"] if by_token else [])]
    columns = ["units", "parameters", "seeds", "steps", "tokens/s", *measures]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("cell", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    for number, row in enumerate(comparison.rows):
        values = [row.nats_per_char, *([row.nats_per_token] if by_token else [])]
        table.add_row(
            LETTERS[number % len(LETTERS)],
            escape(row.label),
            f"{row.units}" if row.layers == 1 else f"{row.layers} × {row.units}",
            f"{row.parameters:,}",
            str(len(row.seeds)),
            _steps(row),
            f"{row.tokens_per_second.mean:,.0f}" if row.tokens_per_second else "–",
            *map(_mean_and_deviation, values),
        )
    Console().print(table)


def _steps(row: Row) -> str:
    """What all runs did; of unequal ones from the fewest to the most."""
    low, high = min(row.steps), max(row.steps)
    done = f"{low:,}" if low == high else f"{low:,}–{high:,}"
    planned = {p for p, s in zip(row.planned, row.steps, strict=True) if p and p > s}
    return f"{done} of {max(planned):,}" if planned else done


def _mean_and_deviation(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    return f"{figure.mean:.4f}" + (f" ± {figure.sd:.4f}" if figure.sd else "")
