"""Writes a cell's picture or equations to files, in the format of their endings.

A run's cell is drawn as its layer runs it, with the values of one step of its reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..language.cell import Cell
from ..text.corpus import read_pieces
from ..text.run import Run
from .diagram import Diagram, DrawingError, Moment, Picture, Style
from .formula import mathml, tex_document
from .reading import Reader

EQUATIONS = {".tex": tex_document, ".mathml": mathml}
PICTURES = (".svg", ".png", ".pdf")
ENDINGS = (*PICTURES, ".html", *EQUATIONS)
TOKENS = 100  # of a text, that are read by default
CONTEXT = 24  # tokens up to the last one read, in the pictures' title


@dataclass(frozen=True)
class Drawing:
    """What is drawn of a cell, and how.

    Attributes:
        steps: a picture for each equation, into files numbered from 1: `lstm-1.svg`.
        unroll: the cell over so many steps; of a tree cell, a tree of that height.
        legend: whether the picture explains its signs.
        names: what values are called, as in `Cell.latex`.
        style: the picture's colours.
        scale: of a PNG: its pixels for one of the SVG.
    """

    steps: bool = False
    unroll: int = 1
    legend: bool = True
    names: Mapping[str, str] = field(default_factory=dict)
    style: Style = field(default_factory=Style)
    scale: float = 2.0


def draw(
    cell: Cell,
    path: str | Path,
    how: Drawing | None = None,
    moment: Moment | None = None,
) -> list[Path]:
    """Write a cell's picture, its steps, or its equations.

    Args:
        cell: what to draw.
        path: the file: `.svg`, `.png` or `.pdf`, a picture; `.html`, a page of the
            steps; `.tex` or `.mathml`, the equations.
        how: what of it, and in which form.
        moment: the step of a trained cell whose values the steps show.

    Returns:
        The files.

    Raises:
        DrawingError: another ending, or more pixels or cells than a picture can have.
        CellError: names that do not fit the cell.
        MissingExtraError: PNG without the extra `draw`, PDF without `pdf`.
    """
    path, how = Path(path), how or Drawing()
    if path.suffix not in ENDINGS:
        raise DrawingError(
            f"[draw] a cell is drawn as a picture or as equations; received "
            f"{path.name!r}, expected a name that ends in {', '.join(ENDINGS)}"
        )
    if path.suffix in EQUATIONS:
        text = EQUATIONS[path.suffix](cell, how.names)
        path.write_text(text, encoding="utf-8")
        return [path]
    if path.suffix == ".html" and how.unroll > 1:
        raise DrawingError(
            f"[draw] a page shows a cell's steps; received {path.name!r} and unroll "
            f"{how.unroll}, expected a picture of the unrolled cell: .svg, .png or .pdf"
        )
    diagram = Diagram(cell, legend=how.legend, names=how.names, style=how.style)
    if path.suffix == ".html":
        diagram.steps(moment).save(path)
        return [path]
    pictures: dict[Path, Picture] = {path: diagram}
    if how.unroll > 1:
        pictures = {path: diagram.unrolled(how.unroll)}
    elif how.steps:
        pictures = {
            path.with_stem(f"{path.stem}-{number}"): step
            for number, step in enumerate(diagram.steps(moment), 1)
        }
    for file, picture in pictures.items():
        picture.save(file, how.scale)
    return list(pictures)


def read_names(text: str) -> dict[str, str]:
    """Names of values as a command has them: `c=C,g=C_tilde`.

    Raises:
        DrawingError: a part without a sign of equality.
    """
    found = {}
    for part in filter(None, text.split(",")):
        key, equals, name = (piece.strip() for piece in part.partition("="))
        if not (key and equals):
            raise DrawingError(
                f"[draw] names are pairs; received {part!r}, expected such as "
                "c=C,g=C_tilde"
            )
        found[key] = name
    return found


def read_run(
    run: Run,
    *,
    text: Path | None = None,
    prompt: str | None = None,
    layer: int = 0,
    at: int | None = None,
) -> tuple[Cell, Moment]:
    """A run's cell, as one of its layers runs it, and its step at a token.

    Args:
        run: a trained run.
        text: a file to read. Without it or a prompt: the run's held-out text.
        prompt: a text to read.
        layer: which.
        at: the token, from 0. Default: the prompt's last; of a text, the 100th.

    Raises:
        ArgumentError: no such token or layer.
        DrawingError: a text and a prompt.
    """
    if text and prompt is not None:
        raise DrawingError(
            "[draw] a run reads one text; received --text and --prompt, expected one"
        )
    needed = TOKENS if at is None else at + 1
    given = "".join(read_pieces(text)) if text else prompt
    tokens = run.read(given, needed if given is None else None)
    if at is not None and not 0 <= at < len(tokens):
        raise DrawingError(
            f"[draw] no token {at} in a text of {len(tokens)}; expected 0 to "
            f"{len(tokens) - 1}"
        )
    tokens = tokens[: len(tokens) if prompt is not None and at is None else needed]
    reader = Reader(run.trained_model().eval())
    moment = reader.moment(tokens, layer)
    *before, last = (run.tokenizer.decode([int(t)]) for t in tokens[-CONTEXT:])
    title = f"{run.directory.name}, layer {layer}, token {len(tokens) - 1}: "
    title += f"{''.join(before)!r}, then {last!r}" if before else repr(last)
    moment = replace(moment, place=f"after {last!r}", title=title)
    return Cell.from_graph(reader.graphs[layer], run.cell.notation), moment
