"""The command `export`: a trained run for another program."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..language.errors import CellwrightError
from .app import app

if TYPE_CHECKING:
    from ..text.run import Run


class Target(str, Enum):
    """What a run can be written as."""

    c = "c"
    onnx = "onnx"


class Weights(str, Enum):
    """How a C file stores matrices."""

    float32 = "float32"
    int8 = "int8"


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
    to: Annotated[
        Target,
        typer.Option(
            help="c: the model as NAME.h and NAME.c, and NAME_main.c, which generates "
            "text. onnx: the model, its states and its tokenizer as NAME.onnx; of a "
            "run of pairs NAME_encoder.onnx and NAME_decoder.onnx."
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
    weights: Annotated[
        Weights,
        typer.Option(
            help="With c: int8 stores matrices in 8 bits, a quarter of the bytes.",
        ),
    ] = Weights.float32,
    step: Annotated[
        bool,
        typer.Option(
            "--step",
            help="With onnx: one token a call, and no loop in the file, for runtimes "
            "without ONNX's Scan. (Without it, any number of tokens; one will do.)",
        ),
    ] = False,
) -> None:
    """Write a run's model to run elsewhere: three ways, each in full in docs/deploy.md.

    ONNX Runtime, in Python or another language:

    - cellwright export runs/demo -o deploy --to onnx

    - onnxruntime.InferenceSession("deploy/demo.onnx")

    A C program, which needs no library:

    - cellwright export runs/demo -o deploy --to c

    - cc -O3 deploy/demo.c deploy/demo_main.c -lm -o generate

    A board as an Arduino: put demo.h and demo.c into the sketch's folder, and call

    - demo_init(&state); demo_step(&state, token, logits);
    """
    from ..text.run import Run

    name = name or _name_of(directory)
    if to is Target.c:
        _only_with("--step", step, Target.onnx)
    else:
        _only_with("--weights int8", weights is Weights.int8, Target.c)
        _only_with("--self-test", self_test, Target.c)
    if _has_pairs(directory):
        files = _pairs_to_onnx(directory, out, name, to, step)
    elif to is Target.c:
        files = _to_c(Run(directory), out, name, self_test, weights)
    else:
        files = _to_onnx(Run(directory), out, name, step)
    typer.echo("\n".join(map(str, files)))


def _has_pairs(directory: Path) -> bool:
    from ..text.directory import format_of
    from ..text.pairs.run import PairRun

    return format_of(directory) == PairRun.format


def _pairs_to_onnx(
    directory: Path, out: Path, name: str, to: Target, step: bool
) -> list[Path]:
    from ..export import export_pairs
    from ..text.pairs.run import PairRun

    if to is not Target.onnx or step:
        given = f"--to {to.value}" + " --step" * step
        raise CellwrightError(
            "[export] a run of pairs, an encoder and a decoder, is written as two ONNX "
            f"files, of which the decoder's is a step in any case; received {given}, "
            "expected --to onnx alone"
        )
    return export_pairs(PairRun(directory), out, name)


def _to_c(
    run: Run, out: Path, name: str, self_test: bool, weights: Weights
) -> list[Path]:
    from ..export import export_c

    return export_c(run, out, name=name, self_test=self_test, weights=weights.value)


def _to_onnx(run: Run, out: Path, name: str, step: bool) -> list[Path]:
    from ..export import export_onnx

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.onnx"
    export_onnx(run, path, step=step)
    return [path]


def _only_with(option: str, given: bool, target: Target) -> None:
    if given:
        other = Target.c if target is Target.onnx else Target.onnx
        raise CellwrightError(
            f"[export] {option} is of --to {target.value}; received it with --to "
            f"{other.value}, expected --to {target.value}, or no {option}"
        )


def _name_of(directory: Path) -> str:
    """A run's name as one that C takes."""
    words = re.findall(r"[A-Za-z0-9]+", directory.resolve().name)
    name = "_".join(words)
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")
