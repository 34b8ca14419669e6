"""Writes a cell's picture or equations to files, in the format of their endings.

A run's cell is drawn as its layer runs it, with the values of one step of its reading.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..language.cell import Cell
from ..text.corpus import read_pieces
from ..text.run import Run
from .diagram import Diagram, DrawingError, Moment, Picture
from .formula import mathml, tex_document
from .reading import Reader

EQUATIONS = {".tex": tex_document, ".mathml": mathml}
ENDINGS = (".svg", ".png", *EQUATIONS)
TOKENS = 100  # of a text, that are read by default
CONTEXT = 24  # tokens up to the last one read, in the pictures' title


def draw(
    cell: Cell,
    path: str | Path,
    *,
    steps: bool = False,
    moment: Moment | None = None,
    unroll: int = 1,
    legend: bool = True,
    scale: float = 2.0,
) -> list[Path]:
    """Write a cell's picture (`.svg`, `.png`) or equations (`.tex`, `.mathml`).

    Args:
        cell: what to draw.
        path: the file.
        steps: a picture for each equation, into files numbered from 1: `lstm-1.svg`.
        moment: the step of a trained cell whose values those show.
        unroll: the cell over so many steps; of a tree cell, a tree of that height.
        legend: whether the picture explains its signs.
        scale: of a PNG: its pixels for one of the SVG.

    Returns:
        The files.

    Raises:
        DrawingError: another ending, or more pixels or cells than a picture can have.
        MissingExtraError: PNG without the extra `draw`.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise DrawingError(
            f"[draw] a cell is drawn as a picture or as equations; received "
            f"{path.name!r}, expected a name that ends in {', '.join(ENDINGS)}"
        )
    if path.suffix in EQUATIONS:
        path.write_text(EQUATIONS[path.suffix](cell), encoding="utf-8")
        return [path]
    diagram = Diagram(cell, legend=legend)
    pictures: dict[Path, Picture] = {path: diagram}
    if unroll > 1:
        pictures = {path: diagram.unrolled(unroll)}
    elif steps:
        pictures = {
            path.with_stem(f"{path.stem}-{number}"): step
            for number, step in enumerate(diagram.steps(moment), 1)
        }
    for file, picture in pictures.items():
        picture.save(file, scale)
    return list(pictures)


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
    return Cell.from_graph(reader.graphs[layer]), moment
