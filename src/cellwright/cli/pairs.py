"""The commands `pairs train`, `pairs evaluate` and `pairs apply`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from ..language.errors import CellwrightError
from ..train.settings import PairSettings
from .app import app
from .options import with_settings
from .show import with_bar
from .train import Training, train_in

if TYPE_CHECKING:
    from ..text.pairs.run import PairRun
    from ..text.pairs.score import PairScore

pairs = typer.Typer(
    help="Train an encoder-decoder on pairs of texts, evaluate it, and apply it.",
    no_args_is_help=True,
)
app.add_typer(pairs, name="pairs")


def _run(help: str) -> Any:
    return Option(help=help, rich_help_panel="The run")


Beam = Annotated[
    int | None, Option(min=1, help="Hypotheses that are kept. Default: the run's.")
]


@pairs.command()
@partial(with_settings, kind=PairSettings)
def train(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        Argument(
            metavar="FILE.tsv|dates|cmudict",
            help="Lines of an input, a tab and its output; or a task that needs no "
            "file: dates as people write them, or English words and their phonemes. "
            "Not needed with --resume.",
        ),
    ] = None,
    out: Annotated[
        Path | None, _run("Directory of the run. Default: a new one, runs/FILE.")
    ] = None,
    resume: Annotated[
        bool, _run("Continue the run in --out from its last checkpoint.")
    ] = False,
    *,
    tensorboard: Annotated[
        bool, _run("Write TensorBoard events to OUT/tensorboard.")
    ] = False,
    **settings: Any,
) -> None:
    """Train an encoder-decoder on pairs: an input text, and the output it asks for.

    Several lines with the same input are alternatives, and any of them is right.
    """
    from ..text.pairs.run import PairRun

    asked = PairSettings(**{**settings, "clip": settings["clip"] or None})
    sources = [] if source is None else [source]
    how = PairRun, _create, _describe, _finish
    train_in(
        Training("pairs train", *how, asked, sources), out, resume, tensorboard, ctx
    )


@pairs.command()
def evaluate(
    directory: Annotated[Path, Argument(metavar="RUN", help="A run of pairs.")],
    file: Annotated[
        Path | None,
        Argument(metavar="[FILE.tsv]", help="Default: the run's held-out pairs."),
    ] = None,
    beam: Beam = None,
    json_: Annotated[
        bool, Option("--json", help="Print one JSON object, and nothing else.")
    ] = False,
) -> None:
    """Evaluate a run on pairs: exact matches, and the error rate over output tokens."""
    from ..text.pairs.files import examples, read_pairs
    from ..text.pairs.run import PairRun
    from ..text.pairs.score import score

    run = PairRun(directory)
    given = examples(read_pairs(file, run.settings.longest)) if file else run.held_out
    if not given:
        raise CellwrightError(
            f"[{directory}] this run holds no pairs out; give a file of your own"
        )
    work = run.trained_model(), run.tokenizer, given, beam or run.settings.beam
    figures = with_bar(len(given), score, *work)
    typer.echo(json.dumps(figures.to_json()) if json_ else _sentence(figures))


@pairs.command()
def apply(
    directory: Annotated[Path, Argument(metavar="RUN", help="A run of pairs.")],
    text: Annotated[
        list[str], Argument(help="Inputs; '-' reads them from standard input, by line.")
    ],
    beam: Beam = None,
    best: Annotated[
        int,
        Option(min=1, help="Print so many outputs of each input, with their scores."),
    ] = 1,
) -> None:
    """Write the output of each input, one a line.

    With --best, a line is the input, an output and its log-probability a token.
    """
    from ..text.pairs.run import PairRun
    from ..text.pairs.score import check_inputs, search

    run = PairRun(directory)
    inputs = sys.stdin.read().splitlines() if text == ["-"] else text
    check_inputs(inputs, run.settings.longest)
    options = {"beam": max(best, beam or run.settings.beam), "n_best": best}
    model, tokenizer = run.trained_model(), run.tokenizer
    found = dict(search(model, tokenizer, inputs, **options))
    for number, line in enumerate(inputs):
        for hypothesis in found[number]:
            output = tokenizer.decode_output(hypothesis.tokens)
            more = f"{line}\t{output}\t{hypothesis.score:.4f}"
            typer.echo(output if best == 1 else more)


def _create(directory: Path, sources: list[str], settings: PairSettings) -> None:
    from .. import cells
    from ..text.pairs.run import create_pair_run

    if not sources:
        raise CellwrightError(
            "[pairs train] there is nothing to train on; expected a file of pairs, "
            "'dates' or 'cmudict'"
        )
    both = cells.get(settings.encoder), cells.get(settings.decoder)
    create_pair_run(directory, sources, both, settings, say=typer.echo)


def _describe(run: PairRun) -> str:
    model, sizes, counts = run.new_model(), run.sizes, run.counts
    count = sum(p.numel() for p in model.parameters())
    layers = f"{sizes.layers} layers" if sizes.layers > 1 else "1 layer"
    kinds = run.settings.input_tokens or "char", run.settings.output_tokens or "char"
    return (
        f"model: {run.encoder.name} read by {run.decoder.name}, {layers} of "
        f"{sizes.hidden} units, embedding {sizes.embedding}, {count:,} parameters\n"
        f"engine: encoder {model.encoder.engine} ({model.encoder.engine_reason}), "
        f"decoder {model.decoder.engine} ({model.decoder.engine_reason})\n"
        f"pairs: {counts.train:,} to train on, {counts.validation:,} to validate on, "
        f"{counts.held_out:,} held out; {sizes.input_vocabulary:,} {kinds[0]} and "
        f"{sizes.output_vocabulary:,} {kinds[1]} tokens"
    )


def _finish(run: PairRun, say: Callable[[str], Any]) -> None:
    figures = with_bar(run.counts.held_out, run.evaluate_held_out)
    if figures is not None:
        say(f"held out: {_sentence(figures)}")
    say(f'next: cellwright pairs apply {run.directory} "…"')


def _sentence(figures: PairScore) -> str:
    text = (
        f"{figures.pairs:,} inputs: {figures.exact_match:.2%} exact, error rate "
        f"{figures.error_rate:.2%} over {figures.tokens:,} output tokens"
    )
    if figures.unknown:
        text += f"; {figures.unknown:,} input tokens are not in the vocabulary"
    return text
