"""The command `export`: a trained run for another program."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..language.errors import CellwrightError
from .app import app


class Target(str, Enum):
    """What a run can be written as."""

    c = "c"
    onnx = "onnx"


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
    to: Annotated[
        Target,
        typer.Option(
            help="c: the model as NAME.h and NAME.c, and NAME_main.c, which generates "
            "text. onnx: its recurrent layer as NAME.onnx."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Of the files, and in C of all names. Default: RUN's."),
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="With c: NAME_test.c too, which compares the C with its model.",
        ),
    ] = False,
) -> None:
    """Write a run's model to run elsewhere.

    From C (an Arduino, a plugin, a phone), it is one source that includes no library:
    cellwright export runs/demo -o deploy --to c. From ONNX Runtime, in Python or
    another language: cellwright export runs/demo -o deploy --to onnx.
    """
    from ..export import export_c, export_onnx
    from ..text.run import Run

    run = Run(directory)
    name = name or _name_of(directory)
    if to is Target.c:
        files = export_c(run, out, name=name, self_test=self_test)
    elif self_test:
        raise CellwrightError(
            "[export] a test program is C's; received --self-test with --to onnx, "
            "expected it with --to c"
        )
    else:
        out.mkdir(parents=True, exist_ok=True)
        files = [out / f"{name}.onnx"]
        export_onnx(run.trained_model().rnn, files[0], initial_states=True)
    typer.echo("\n".join(map(str, files)))


def _name_of(directory: Path) -> str:
    """A run's name as one that C takes."""
    words = re.findall(r"[A-Za-z0-9]+", directory.resolve().name)
    name = "_".join(words)
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")
