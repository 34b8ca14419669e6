"""Commands that read a run: `evaluate`, `generate` and `info`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from ..language.errors import CellwrightError
from .app import app
from .show import (
    check_finite,
    describe,
    perplexity_of,
    progress_bar,
    sentence,
    unknown_note,
    with_bar,
)

if TYPE_CHECKING:
    from ..text.corpus import Tokens
    from ..text.run import Run, StoredPlan
    from ..text.score import Score

Evaluated = Annotated[
    list[str] | None,
    Argument(
        help="Files, folders, '-' or 'stdlib'. Default: the run's test text, else "
        "its held-out text."
    ),
]
AsJson = Annotated[
    bool, Option("--json", help="Print one JSON object, and nothing else.")
]
FreeRunning = Annotated[
    bool, Option(help="Let the model read its own samples instead of the text.")
]
SeedOfSamples = Annotated[int, Option(help="Of the samples of --free-running.")]
CacheOf = Annotated[
    str | None,
    Option(
        metavar="N[,θ,λ]",
        help="Mix in a continuous cache of N tokens (Grave et al. 2017). θ and λ "
        "that are not given are tuned on the run's validation text.",
    ),
]
Learning = Annotated[
    bool,
    Option(
        "--dynamic",
        help="Let the weights learn from the text (Krause et al. 2018). What is "
        "not given is tuned on the run's validation text.",
    ),
]
Rate = Annotated[float | None, Option(help="η of --dynamic; 0.00005 in the paper.")]
Decay = Annotated[float | None, Option(help="λ of --dynamic; 0.002 in the paper.")]
Segment = Annotated[
    int | None, Option(help="Tokens to a step of --dynamic. Default: 5 words, else 20.")
]


@app.command()
def evaluate(
    directory: Annotated[Path, Argument(metavar="DIR", help="A run.")],
    text: Evaluated = None,
    json_: AsJson = False,
    free_running: FreeRunning = False,
    seed: SeedOfSamples = 0,
    cache: CacheOf = None,
    dynamic: Learning = False,
    rate: Rate = None,
    decay: Decay = None,
    segment: Segment = None,
) -> None:
    """Evaluate a run on a whole text, with the state carried from its start.

    N tokens have N − 1 targets, and every figure is divided by those.
    """
    import torch

    from ..text.adaptation import Adaptation
    from ..text.run import Run
    from ..text.score import check_reading, score
    from ..train.seeds import check_seed

    check_seed(seed)
    run = Run(directory)
    model = run.trained_model()
    torch.manual_seed(seed)
    adaptation = Adaptation(cache, dynamic, rate, decay, segment)
    with _tokens(run, text) as tokens:
        check_reading(tokens, free_running, adaptation.asked)
        validation = adaptation.tunes and _may_tune(run, tokens)
        if note := adaptation.note(validation):
            typer.echo(f"note: {note}", err=True)
        reader, how = adaptation.reader(run, model, validation, progress_bar)
        options: Any = {"free_running": free_running, "reader": reader}
        work = partial(score, model, tokens, run.tokenizer, **options)
        figures = with_bar(tokens.count, lambda advance: work(advance=advance))
    if json_:
        typer.echo(json.dumps({**figures.to_json(), **how}))
    if not figures.finite and how.get("cache", {}).get("lambda") == 1:
        raise CellwrightError(
            "[cache] a cache alone has tokens of probability 0, those that are not in "
            "it; received λ = 1, expected less"
        )
    check_finite(figures)
    if not json_:
        _tell(figures, how)


def _tell(figures: Score, how: dict[str, Any]) -> None:
    """The figures in sentences, and how the text was read."""
    typer.echo(sentence(figures))
    for name, settings in how.items():
        given = ", ".join(f"{key} {value:g}" for key, value in settings.items())
        typer.echo(f"{name}: {given}")
        if 0 in (settings.get("rate"), settings.get("lambda")):
            typer.echo(f"{name} changes nothing at 0; the figures are the model's own")
    if note := unknown_note(figures):
        typer.echo(note)


def _may_tune(run: Run, tokens: Tokens) -> bool:
    """Whether the run's held-out text has a target, and is not what is evaluated."""
    import numpy as np

    if run.held_out.count < 2:
        return False
    own = run.held_out.open(run.sizes.vocabulary)
    return not np.array_equal(own, tokens.open(run.sizes.vocabulary))


@contextmanager
def _tokens(run: Run, text: list[str] | None) -> Iterator[Tokens]:
    """A text as a run reads it, or its test text, or what it holds out."""
    if not text:
        yield run.test or run.held_out
        return
    import tempfile

    from ..text.corpus import open_text, write_tokens
    from ..text.tokenizer import KINDS

    with tempfile.TemporaryDirectory() as folder:
        by_line = KINDS[run.settings.tokenizer].by_line
        found = open_text(text, Path(folder) / "stdin.txt", by_line)
        yield write_tokens(found.pieces(), run.tokenizer, Path(folder) / "text.tokens")


@app.command()
def generate(
    directory: Annotated[Path, Argument(metavar="DIR", help="A run.")],
    prompt: Annotated[str, Option(help="What to continue.")] = "",
    length: Annotated[int, Option(help="Tokens to generate.")] = 500,
    temperature: Annotated[
        float, Option(help="Below 1 safer, above 1 bolder; 0: the likeliest.")
    ] = 1.0,
    top_k: Annotated[
        int | None, Option(help="Sample among the K likeliest tokens only.")
    ] = None,
    top_p: Annotated[
        float | None, Option(help="Sample among the likeliest tokens that sum to P.")
    ] = None,
    seed: Annotated[
        int | None, Option(help="Of the samples. Default: others every time.")
    ] = None,
) -> None:
    """Continue a prompt, streaming to the terminal as it goes."""
    from ..text.generate import generate as pieces_of
    from ..text.run import Run

    run = Run(directory)
    pieces = pieces_of(
        run.trained_model(),
        run.tokenizer,
        prompt,
        length,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    typer.echo(prompt, nl=False)
    for piece in pieces:
        typer.echo(piece, nl=False)
        sys.stdout.flush()
    typer.echo()


@app.command()
def info(
    directory: Annotated[
        Path | None, Argument(metavar="[DIR]", help="A run. Default: this system.")
    ] = None,
) -> None:
    """Show what a run is and how far it has come, or what this system offers."""
    if directory is None:
        _show_system()
        return
    from ..text.run import Run

    run = Run(directory)
    typer.echo(describe(run))
    for line in run.cell.equations:
        typer.echo(f"    {line}")
    plan, result = run.plan(), run.result()
    typer.echo(f"steps: {_how_far(run, plan)}" if plan else "steps: none planned yet")
    for name, figures in (("held-out", result), ("test", run.test_result())):
        if figures is None:
            continue
        values = (figures.nats_per_char, figures.bits_per_char)
        nats, bits = (math.nan if v is None else v for v in values)
        typer.echo(
            f"{name} text: {nats:.4f} nats per character, {bits:.4f} bits, "
            f"perplexity {perplexity_of(figures)}"
        )


def _how_far(run: Run, plan: StoredPlan) -> str:
    from ..train.plan import Progress
    from ..train.session import progress_of

    done = Progress()
    if run.store.has():
        done = progress_of(run.store, run.store.load().training)
    if plan.seconds is None:
        return f"{done.step} of {plan.steps}"
    return f"{done.step}, in {done.seconds:.1f} of {plan.seconds:.1f} s"


def _show_system() -> None:
    import platform

    import torch

    from ..version import __version__

    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    typer.echo(f"cellwright {__version__}, {versions}, {platform.machine()}")
    typer.echo(f"threads: {torch.get_num_threads()}")
    typer.echo(f"vector instructions: {torch.backends.cpu.get_cpu_capability()}")
    from ..engine import native

    core = native.info()
    typer.echo(
        f"native engine: {core['isa']} (of {', '.join(core['isas'])}), "
        f"{core['threads']} threads"
        if core["native"]
        else f"native engine: none ({core['reason']})"
    )
    for isa in core.get("refused", ()):
        typer.echo(f"refused: {isa}, whose products differ from those in float32")
    typer.echo(f"GPUs: {torch.cuda.device_count()}")
