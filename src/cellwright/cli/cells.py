"""Commands on a cell alone: `cells`, `draw`, `explain` and `check`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from ..language.errors import CellwrightError
from .app import app

if TYPE_CHECKING:
    from ..language import Cell
    from ..look.check import Check


@app.command()
def cells(
    name: Annotated[
        str | None, Argument(help="A cell of the zoo, or FILE.py:NAME. Default: all.")
    ] = None,
    latex: Annotated[
        bool, Option("--latex", help="Print LaTeX instead of equations.")
    ] = False,
    names: Annotated[
        bool, Option("--names", help="Print the names alone, one a line.")
    ] = False,
) -> None:
    """List the cells of the zoo with their equations and sources."""
    from .. import cells as zoo

    rooms = (
        zoo.all(),
        zoo.all_with_matrices(),
        zoo.all_with_items(),
        zoo.all_of_trees(),
    )
    whole = [cell for room in rooms for cell in room.values()]
    for cell in whole if name is None else [zoo.get(name)]:
        if names:
            typer.echo(cell.name)
            continue
        typer.secho(cell.name, bold=True)
        doc = (cell.__doc__ or "").strip()
        for line in doc.splitlines():
            typer.secho(f"    {line}" if line else "", dim=True)
        for line in cell.latex().splitlines() if latex else cell.equations:
            typer.echo(f"    {line}")
        typer.echo()


# What `draw` asks of a run whose values it writes into the pictures.
Text = Annotated[
    Path | None, Option(help="With a run: what it reads. Default: its held-out text.")
]
Prompt = Annotated[str | None, Option(help="With a run: the same, written here.")]
Layer = Annotated[int, Option(min=0, help="With a run: which layer.")]
At = Annotated[
    int | None,
    Option(
        min=0,
        help="With a run: which token, from 0. Default: the last of the prompt, or "
        "the 100th of a text.",
    ),
]
Steps = Annotated[
    bool,
    Option(
        "--steps",
        help="A picture an equation, with what it decides: CELL-1.svg, …; of a run "
        "with the values of one step of its reading a text.",
    ),
]


Names = Annotated[
    str,
    Option(
        help="What values and weights are called: c=C,g=C_tilde,W.g=C. _tilde, _hat, "
        "_bar and _prime are accents, Gamma a Greek capital."
    ),
]
Theme = Annotated[
    str,
    Option(help="light, dark, or auto: as the viewer of an SVG or HTML; else light."),
]
Transparent = Annotated[
    bool, Option("--transparent", help="Without a page behind the cell.")
]


@app.command()
def draw(
    cell: Annotated[
        str, Argument(help="A cell of the zoo, FILE.py:NAME, or a run's directory.")
    ],
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            help="The file: .svg, .png or .pdf, a picture; .html, a page of the steps, "
            "walked by arrow keys; .tex or .mathml, the equations. Default: CELL.svg.",
        ),
    ] = None,
    steps: Steps = False,
    text: Text = None,
    prompt: Prompt = None,
    layer: Layer = 0,
    at: At = None,
    unroll: Annotated[
        int,
        Option(min=1, help="Draw it so often over time; a tree cell: a tree so high."),
    ] = 1,
    legend: Annotated[bool, Option(help="Explain the picture's signs.")] = True,
    names: Names = "",
    theme: Theme = "auto",
    transparent: Transparent = False,
    scale: Annotated[
        float, Option(min=0.1, help="Pixels of a PNG for one of the SVG.")
    ] = 2.0,
) -> None:
    """Draw a cell, or write its equations, to a file."""
    from ..look.diagram import Style
    from ..look.draw import Drawing, draw, read_names

    named, style = read_names(names), Style(theme, transparent)
    how = Drawing(steps, unroll, legend, named, style, scale)
    steps = steps or (out is not None and out.suffix == ".html")
    reading = {"text": text, "prompt": prompt, "layer": layer, "at": at}
    drawn, moment = _drawn(cell, steps, reading)
    written = draw(drawn, out or Path(f"{drawn.name}.svg"), how, moment)
    typer.echo("\n".join(map(str, written)))


def _drawn(cell: str, steps: bool, reading: dict[str, Any]) -> tuple[Any, Any]:
    """A cell by its name, or a run's; with the values of one step where it reads."""
    from .. import cells as zoo
    from ..look.draw import DrawingError, read_run
    from ..text.run import Run

    if Path(cell).is_dir() and cell not in (
        *zoo.all(),
        *zoo.all_with_matrices(),
        *zoo.all_with_items(),
        *zoo.all_of_trees(),
    ):
        run = Run(Path(cell))
        if steps:
            return read_run(run, **reading)
        drawn = run.cell
    else:
        drawn = zoo.get(cell)
    if reading != {"text": None, "prompt": None, "layer": 0, "at": None}:
        raise DrawingError(
            f"[draw] only the steps of a run have values; received {cell!r}, "
            "expected a run's directory and --steps: cellwright draw runs/demo --steps "
            '--prompt "def "'
        )
    return drawn, None


@app.command()
def explain(
    cell: Annotated[str, Argument(help="A cell of the zoo, or FILE.py:NAME.")],
    input_size: Annotated[int, Option("--input", min=1, help="Units of x.")] = 64,
    hidden_size: Annotated[
        int, Option("--hidden", min=1, help="Units of a state.")
    ] = 128,
    triton: Annotated[
        bool, Option("--triton", help="The Triton kernels of a GPU instead.")
    ] = False,
    bf16: Annotated[
        bool, Option("--bf16", help="With --triton: of a layer in bfloat16.")
    ] = False,
) -> None:
    """Show what the native engine runs for a cell: stages, programs, cost."""
    from .. import cells as zoo
    from ..compiler.explain import explain
    from ..engine.triton.explain import explain_triton

    if bf16 and not triton:
        raise typer.BadParameter(
            "the native engine's program is the same in bfloat16; add --triton",
            param_hint="--bf16",
        )
    sizes = zoo.get(cell), input_size, hidden_size
    typer.echo(explain_triton(*sizes, bf16=bf16) if triton else explain(*sizes))


@app.command()
def check(
    cell: Annotated[
        str,
        Argument(help="FILE.py:NAME, FILE.py for all of its cells, or one of the zoo."),
    ],
    input_size: Annotated[int, Option("--input", help="Units of x.")] = 8,
    hidden_size: Annotated[int, Option("--hidden", help="Units.")] = 16,
    steps: Annotated[
        int, Option(help="Steps through time to follow the gradient.")
    ] = 100,
    seed: Annotated[int, Option(help="Of weights and inputs.")] = 0,
    json_: Annotated[
        bool, Option("--json", help="Print one JSON object, and nothing else.")
    ] = False,
) -> None:
    """Tell whether a cell is sound: its equations, weights, gradients, gradient flow.

    Ends with status 1 if it is not.
    """
    from ..look.check import check_cell

    sizes = {"input_size": input_size, "hidden_size": hidden_size}
    work = partial(check_cell, **sizes, steps=steps, seed=seed)
    cells = _cells_of(cell)
    if len(cells) > 1:
        _check_all(cells, work, json_)
        return
    found = work(cell)
    typer.echo(json.dumps(found.to_dict()) if json_ else str(found))
    if not found.sound:
        raise typer.Exit(1)


def _cells_of(reference: str) -> dict[str, Cell | CellwrightError]:
    """The cells of a file, where one is given without a cell's name."""
    from ..language.load import load_cells

    return load_cells(reference) if reference.endswith(".py") else {}


def _check_all(
    cells: dict[str, Cell | CellwrightError],
    work: Callable[[Cell], Check],
    as_json: bool,
) -> None:
    """Check the cells of a file; a faulty one is told, and the others are checked."""
    found, faults = [], {}
    for name, cell in cells.items():
        try:
            if isinstance(cell, CellwrightError):
                raise cell
            found.append(work(cell))
        except CellwrightError as error:
            faults[name] = error
    if as_json:
        reports = [check.to_dict() for check in found]
        errors = {name: str(error) for name, error in faults.items()}
        typer.echo(json.dumps({"cells": reports, "errors": errors}))
    else:
        typer.echo("\n\n".join(map(str, found)))
    for name, error in faults.items():
        typer.echo(f"error: {name}: {error}", err=True)
    if faults or not all(check.sound for check in found):
        raise typer.Exit(1)
