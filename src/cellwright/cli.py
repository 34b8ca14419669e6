"""The command line: one function a command, each thin over the library.

Heavy imports stay inside the commands, so that `--help` is quick. Every error that
cellwright raises on purpose becomes one message on standard error and status 1.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .language.errors import CellwrightError

if TYPE_CHECKING:
    from .lab import Experiment
    from .text.run import Run, Settings
    from .text.score import Score


UsageError: Any = typer.BadParameter.__mro__[1]  # which typer does not name
BROKEN_PIPE = 141  # the status of a process that SIGPIPE ended, as shells have it


class Commands(TyperGroup):
    """Turns expected errors into a message and a status, for every command."""

    def invoke(self, ctx: Any) -> Any:
        from .engine import native

        status = 1
        try:
            native.check_environment()
            return super().invoke(ctx)
        except CellwrightError as error:
            typer.echo(f"error: {error}", err=True)
        except UsageError as error:
            message = error.format_message().replace("\n", " ")
            hint = f"cellwright {ctx.invoked_subcommand or ''}".strip()
            typer.echo(f"error: {message} Try '{hint} --help'", err=True)
            status = 2
        except BrokenPipeError:
            status = BROKEN_PIPE  # the reader has enough: `… | head` is no error
        except OSError as error:
            where = f"[{error.filename}] " if error.filename else "[disk] "
            typer.echo(f"error: {where}{error.strerror or error}", err=True)
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            status = 130
        raise typer.Exit(status)


app = typer.Typer(
    cls=Commands,
    help="Write the step of a recurrent cell as its equations; train it on text.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Tokenizers(str, Enum):
    char = "char"
    word = "word"
    bpe = "bpe"


class Optimisers(str, Enum):
    adamw = "adamw"
    adam = "adam"
    sgd = "sgd"


class Schedules(str, Enum):
    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    plateau = "plateau"


class Precisions(str, Enum):
    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


def _option(help: str, panel: str, **options: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, **options)


MODEL, TEXT, LENGTH, OPTIMISING, RUNNING = (
    "The model", "The text", "How long", "Optimising", "The run",
)  # fmt: skip


# What every command that serves a page takes.
Host = Annotated[
    str, typer.Option(help="Address to listen on; others may reach 0.0.0.0.")
]
Port = Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)]
Browser = Annotated[bool, typer.Option(help="Open the page.")]


@app.command()
def train(
    ctx: typer.Context,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, '-' for standard input, or 'stdlib' for the source "
            "of Python's standard library. Not needed with --resume."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        _option("Directory of the run. Default: a new one, runs/TEXT.", RUNNING),
    ] = None,
    resume: Annotated[
        bool,
        _option("Continue the run in --out from its last checkpoint.", RUNNING),
    ] = False,
    cell: Annotated[
        str, _option("A cell of the zoo, or FILE.py:NAME.", MODEL)
    ] = "lstm",
    hidden: Annotated[int, _option("Units of a layer.", MODEL)] = 256,
    layers: Annotated[int, _option("Stacked layers.", MODEL)] = 1,
    embedding: Annotated[
        int | None,
        _option("Width of a token's vector. Default: 64; --hidden with --tie.", MODEL),
    ] = None,
    dropout: Annotated[
        float, _option("Dropout of embedding, between layers, and output.", MODEL)
    ] = 0.0,
    locked: Annotated[
        bool, _option("One dropout mask a window, not one a step.", MODEL)
    ] = False,
    recurrent_dropout: Annotated[
        float, _option("Dropout of h where matrices read it, a mask a window.", MODEL)
    ] = 0.0,
    update_dropout: Annotated[
        str, _option("Dropout of the candidate; or by value, 'g=0.2'.", MODEL)
    ] = "0",
    zoneout: Annotated[
        str, _option("Chance that a unit stays; or by state, 'h=0.05,c=0.5'.", MODEL)
    ] = "0",
    weight_drop: Annotated[
        float, _option("Dropout of elements of recurrent matrices.", MODEL)
    ] = 0.0,
    ar: Annotated[
        float, _option("Penalty on the squares of outputs (Merity: 2).", MODEL)
    ] = 0.0,
    tar: Annotated[
        float, _option("Penalty on their differences (Merity: 1).", MODEL)
    ] = 0.0,
    tie: Annotated[
        bool, _option("Use the embedding as the output matrix, too.", MODEL)
    ] = False,
    engine: Annotated[
        str, _option("What runs the cell: auto, torch, reference, native.", MODEL)
    ] = "auto",
    tokenizer: Annotated[
        Tokenizers, _option("What a token is.", TEXT)
    ] = Tokenizers.char,
    vocab: Annotated[
        int | None,
        _option("At most so many tokens. Default: all, 10000 words, 1024 bpe.", TEXT),
    ] = None,
    val_fraction: Annotated[
        float,
        _option("The last part of the text, held out and never trained on.", TEXT),
    ] = 0.1,
    window: Annotated[
        int | None,
        _option("Tokens per window of truncated BPTT. Default: 64.", TEXT),
    ] = None,
    batch: Annotated[
        int | None,
        _option("Lanes read side by side, over all processes. Default: 32.", TEXT),
    ] = None,
    minutes: Annotated[
        float | None,
        _option("Plan the steps for so many minutes on this machine.", LENGTH),
    ] = None,
    epochs: Annotated[
        float | None, _option("Passes over the text. Default: 10.", LENGTH)
    ] = None,
    steps: Annotated[int | None, _option("Optimiser steps.", LENGTH)] = None,
    patience: Annotated[
        int | None,
        _option("Stop after so many validations without gain.", LENGTH),
    ] = None,
    optimiser: Annotated[
        Optimisers, _option("The optimiser.", OPTIMISING)
    ] = Optimisers.adamw,
    lr: Annotated[float, _option("Peak learning rate.", OPTIMISING)] = 8e-3,
    schedule: Annotated[
        Schedules,
        _option("How the rate falls. plateau needs --validate-every.", OPTIMISING),
    ] = Schedules.cosine,
    warm_up: Annotated[
        int,
        _option("Steps of rising rate, at most a tenth of all.", OPTIMISING),
    ] = 50,
    weight_decay: Annotated[
        float, _option("Weight decay of matrices.", OPTIMISING)
    ] = 0.1,
    beta2: Annotated[float, _option("Second-moment decay of Adam.", OPTIMISING)] = 0.99,
    momentum: Annotated[float, _option("Momentum of SGD.", OPTIMISING)] = 0.9,
    clip: Annotated[
        float, _option("Limit of the gradient's norm; 0 for none.", OPTIMISING)
    ] = 1.0,
    clip_value: Annotated[
        float | None, _option("Limit of every gradient element.", OPTIMISING)
    ] = None,
    accumulate: Annotated[
        int, _option("Batches whose gradients make one step.", OPTIMISING)
    ] = 1,
    forcing: Annotated[
        str,
        _option(
            "Teacher forcing: a ratio, or linear[:END], exponential[:K], sigmoid[:K] "
            "for scheduled sampling.",
            OPTIMISING,
        ),
    ] = "1",
    restart: Annotated[
        float,
        _option("Share of windows that start from a zero state.", OPTIMISING),
    ] = 0.03,
    validate_every: Annotated[
        int | None,
        _option("Validate, and keep the best model, every so many steps.", RUNNING),
    ] = None,
    checkpoint_every: Annotated[
        int, _option("Steps between two checkpoints.", RUNNING)
    ] = 500,
    log_every: Annotated[
        int, _option("Steps between two lines of metrics.jsonl.", RUNNING)
    ] = 10,
    precision: Annotated[
        Precisions, _option("Mixed precision, where the device has it.", RUNNING)
    ] = Precisions.no,
    seed: Annotated[int, _option("Of weights, dropout and samples.", RUNNING)] = 0,
    tensorboard: Annotated[
        bool, _option("Write TensorBoard events to OUT/tensorboard.", RUNNING)
    ] = False,
) -> None:
    """Train a language model on text.

    Start it with `torchrun --nproc_per_node N -m cellwright train …` for N processes.
    """
    from .text.job import evaluate_held_out, make_reporter, train_run
    from .text.run import Run, Settings
    from .train import lock
    from .train.devices import make_accelerator

    values = {n: v for n, v in ctx.params.items() if n in Settings.__dataclass_fields__}
    values = {n: v.value if isinstance(v, Enum) else v for n, v in values.items()}
    settings = Settings(**{**values, "clip": clip or None})
    settings.check()
    if resume and out is None:
        raise CellwrightError("[--resume] which run? Give its directory: --out DIR")
    # Before the processes meet, which they do in the next line but one: so none of them
    # can have made the directory that another looks for.
    directory = out or _free_directory(text or [])
    kept = Run(directory).settings if _is_run(directory) and resume else settings
    accelerator = make_accelerator(kept.precision, directory if tensorboard else None)
    with _quiet_unless(accelerator.is_main_process), ExitStack() as held:

        def begin() -> None:
            _open_or_create(directory, text or [], settings, resume)
            held.enter_context(lock.locked(directory))

        _on_main_first(accelerator, begin)
        run = Run(directory)
        if resume:
            _check_same(run, settings, text or [], _given(ctx))
        say = typer.echo if accelerator.is_main_process else lambda line: None
        say(f"run: {directory}")
        say(_describe(run))
        reporter = make_reporter(run, accelerator, tensorboard)
        try:
            _, progress = train_run(run, accelerator, resume=resume, reporter=reporter)
        except KeyboardInterrupt:
            how = "Nothing was kept yet."
            if run.store.has():
                how = f"Continue with: cellwright train --resume --out {directory}"
            say(f"\nstopped. {how}")
            raise typer.Exit(130) from None
        plan = run.plan()
        early = ", stopped early" if progress.stopped else ""
        seconds = progress.seconds + (plan.planning_seconds if plan else 0.0)
        say(f"trained {progress.step} steps in {seconds:.1f} s{early}")
        if accelerator.is_main_process:
            figures = _with_bar(run.held_out.count, evaluate_held_out, run)
            if figures is not None:
                _check_finite(figures)
                say(f"held-out text, {_sentence(figures)}")
            say(f'next: cellwright generate {directory} --prompt "…"')
    if accelerator.num_processes > 1:
        accelerator.end_training()


@app.command()
def exam(
    questions: Annotated[
        list[Path] | None,
        typer.Option(help="Further questions: a TOML file, or a folder of them."),
    ] = None,
    answer: Annotated[float, typer.Option(help="Minutes of the answer.")] = 1.0,
    feedback: Annotated[float, typer.Option(help="Minutes of the feedback.")] = 1.0,
    discussion: Annotated[float, typer.Option(help="Minutes of the discussion.")] = 1.0,
    out: Annotated[
        Path, typer.Option(help="Keeps the exam, and what the laboratory runs for it.")
    ] = Path("runs/exam"),
    host: Host = "127.0.0.1",
    port: Port = 0,
    browser: Browser = True,
) -> None:
    """Examine each other on recurrent nets: two people, one screen, in the browser."""
    from .exam.questions import load
    from .look.web import needs

    needs("cellwright exam")
    from .exam.server import ExamServer
    from .look.web.serve import serve

    server = ExamServer(load(questions or []), out, (answer, feedback, discussion))
    try:
        serve(server.routes(), host=host, port=port, browse=browser, say=typer.echo)
    finally:
        server.evidence.stop()


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run.")],
    text: Annotated[
        Path | None,
        typer.Option(help="What it reads. Default: the run's held-out text."),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(help="A second run, to compare saturation with."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Tokens to read, at most.", min=2)] = 2000,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the page as one HTML file instead of serving it."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    browser: Browser = True,
) -> None:
    """Look inside a run: units, gates, gradients, predictions; type to it."""
    from .look.inspection import Inspection
    from .look.web import needs
    from .text.corpus import read_pieces
    from .text.run import Run

    needs("cellwright inspect")
    from .look.web.inspect import InspectServer
    from .look.web.report import write_report
    from .look.web.serve import serve

    read = "".join(read_pieces(text)) if text else None
    found: list[Inspection] = []
    for run in [Run(directory), *([Run(beside)] if beside else [])]:
        if found and read is None:
            read = found[0].text_for(run)
        look = partial(Inspection, run, read, steps=steps)
        found.append(_with_bar(steps, lambda step, look=look: look(advance=step)))
    if report:
        write_report(found[0], report, *found[1:])
        typer.echo(f"{report}: {report.stat().st_size / 2**20:.1f} MiB")
        return
    routes = InspectServer(*found).routes()
    serve(routes, host=host, port=port, browse=browser, say=typer.echo)


@app.command()
def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run.")],
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, '-' or 'stdlib'. Default: the run's held-out text."
        ),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, and nothing else.")
    ] = False,
    free_running: Annotated[
        bool,
        typer.Option(help="Let the model read its own samples instead of the text."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the samples of --free-running.")] = 0,
) -> None:
    """Evaluate a run on a whole text, with the state carried from its start.

    N tokens have N − 1 targets, and every figure is divided by those.
    """
    import tempfile

    import torch

    from .text.corpus import open_text, write_tokens
    from .text.run import Run
    from .text.score import score
    from .train.seeds import check_seed

    check_seed(seed)
    run = Run(directory)
    model = run.trained_model()
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        tokens = run.held_out
        if text:
            found = open_text(text, Path(folder) / "stdin.txt")
            tokens = write_tokens(
                found.pieces(), run.tokenizer, Path(folder) / "text.tokens"
            )
        figures = _with_bar(
            tokens.count,
            lambda advance: score(
                model,
                tokens,
                run.tokenizer,
                free_running=free_running,
                advance=advance,
            ),
        )
    if json_:
        typer.echo(json.dumps(figures.to_json()))
    _check_finite(figures)
    if json_:
        return
    typer.echo(_sentence(figures))
    if figures.unknown:
        share = figures.unknown / figures.tokens
        typer.echo(
            f"{figures.unknown:,} tokens ({share:.2%}) are not in the vocabulary; they "
            "count as the one unknown token"
        )


@app.command()
def generate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run.")],
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "",
    length: Annotated[int, typer.Option(help="Tokens to generate.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1 safer, above 1 bolder; 0: the likeliest.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(help="Sample among the K likeliest tokens only.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample among the likeliest tokens that sum to P."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the samples. Default: others every time.")
    ] = None,
) -> None:
    """Continue a prompt, streaming to the terminal as it goes."""
    from .text.generate import generate as pieces_of
    from .text.run import Run

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
        Path | None,
        typer.Argument(metavar="[DIR]", help="A run. Default: this system."),
    ] = None,
) -> None:
    """Show what a run is and how far it has come, or what this system offers."""
    if directory is None:
        _show_system()
        return
    from .text.run import Run

    run = Run(directory)
    typer.echo(_describe(run))
    for line in run.cell.equations:
        typer.echo(f"    {line}")
    plan, result = run.plan(), run.result()
    done = run.store.load().step if run.store.has() else 0
    typer.echo(f"steps: {done} of {plan.steps}" if plan else "steps: none planned yet")
    if result:
        told = (result.nats_per_char, result.bits_per_char, result.perplexity)
        nats, bits, perplexity = (math.nan if v is None else v for v in told)
        typer.echo(
            f"held-out text: {nats:.4f} nats per character, {bits:.4f} bits, "
            f"perplexity {perplexity:.3f}"
        )


@app.command()
def cells(
    name: Annotated[
        str | None,
        typer.Argument(help="A cell of the zoo, or FILE.py:NAME. Default: all."),
    ] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Print LaTeX instead of equations.")
    ] = False,
    names: Annotated[
        bool, typer.Option("--names", help="Print the names alone, one a line.")
    ] = False,
) -> None:
    """List the cells of the zoo with their equations and sources."""
    from . import cells as zoo

    whole = [*zoo.all().values(), *zoo.all_of_trees().values()]
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


@app.command()
def draw(
    cell: Annotated[
        str,
        typer.Argument(help="A cell of the zoo, FILE.py:NAME, or a run's directory."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The file: .svg or .png, a picture; .tex or .mathml, the equations. "
            "Default: CELL.svg.",
        ),
    ] = None,
    steps: Annotated[
        bool,
        typer.Option(
            "--steps",
            help="A picture an equation, with what it decides: CELL-1.svg, …; of a run "
            "with the values of one step of its reading a text.",
        ),
    ] = False,
    text: Annotated[
        Path | None,
        typer.Option(help="With a run: what it reads. Default: its held-out text."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="With a run: the same, written here.")
    ] = None,
    layer: Annotated[int, typer.Option(min=0, help="With a run: which layer.")] = 0,
    at: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With a run: which token, from 0. Default: the last of the prompt, or "
            "the 100th of a text.",
        ),
    ] = None,
    unroll: Annotated[
        int,
        typer.Option(
            min=1, help="Draw it so often over time; a tree cell: a tree so high."
        ),
    ] = 1,
    legend: Annotated[bool, typer.Option(help="Explain the picture's signs.")] = True,
    scale: Annotated[
        float, typer.Option(min=0.1, help="Pixels of a PNG for one of the SVG.")
    ] = 2.0,
) -> None:
    """Draw a cell, or write its equations, to a file."""
    from . import cells as zoo
    from .look.draw import DrawingError, draw, read_run
    from .text.run import Run

    moment = None
    reading = text is not None or prompt is not None or at is not None or layer > 0
    if Path(cell).is_dir() and cell not in (*zoo.all(), *zoo.all_of_trees()):
        run = Run(Path(cell))
        drawn = run.cell
        if steps:
            drawn, moment = read_run(run, text=text, prompt=prompt, layer=layer, at=at)
    else:
        drawn = zoo.get(cell)
    if reading and moment is None:
        raise DrawingError(
            f"[draw] only the walk through a run has values; received {cell!r}, "
            "expected a run's directory and --steps: cellwright draw runs/demo --steps "
            '--prompt "def "'
        )
    path = out or Path(f"{drawn.name}.svg")
    written = draw(
        drawn, path, steps=steps, moment=moment, unroll=unroll, legend=legend,
        scale=scale,
    )  # fmt: skip
    typer.echo("\n".join(map(str, written)))


@app.command()
def explain(
    cell: Annotated[str, typer.Argument(help="A cell of the zoo, or FILE.py:NAME.")],
    input_size: Annotated[int, typer.Option("--input", min=1, help="Units of x.")] = 64,
    hidden_size: Annotated[
        int, typer.Option("--hidden", min=1, help="Units of a state.")
    ] = 128,
) -> None:
    """Show what the native engine runs for a cell: stages, programs, cost."""
    from . import cells as zoo
    from .compiler.explain import explain

    typer.echo(explain(zoo.get(cell), input_size, hidden_size))


@app.command()
def check(
    cell: Annotated[str, typer.Argument(help="FILE.py:NAME, or a cell of the zoo.")],
    input_size: Annotated[int, typer.Option("--input", help="Units of x.")] = 8,
    hidden_size: Annotated[int, typer.Option("--hidden", help="Units.")] = 16,
    steps: Annotated[
        int, typer.Option(help="Steps through time to follow the gradient.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of weights and inputs.")] = 0,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, and nothing else.")
    ] = False,
) -> None:
    """Tell whether a cell is sound: its equations, weights, gradients, gradient flow.

    Ends with status 1 if it is not.
    """
    from . import cells as zoo
    from .look.check import check_cell

    found = check_cell(zoo.get(cell), input_size, hidden_size, steps=steps, seed=seed)
    typer.echo(json.dumps(found.to_dict()) if json_ else str(found))
    if not found.sound:
        raise typer.Exit(1)


@app.command()
def lab(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="An experiment. Default: list them."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Run every experiment.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The short form, under a minute each.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The first seed.", min=0, max=2**31)] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Where results go. Default: runs/lab, or runs/lab-quick."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep what a stopped run has finished."),
    ] = False,
) -> None:
    """Answer the subject's questions by experiment.

    Prints tables and a conclusion; writes JSON and a plot. Ends with status 1 if a
    claim does not hold.
    """
    from . import lab as laboratory
    from .lab.show import list_experiments

    if name is None and not all_:
        list_experiments()
        return
    if name is not None and all_:
        raise CellwrightError(
            f"[lab] received both {name!r} and --all, expected one of them"
        )
    names = laboratory.NAMES if name is None else (name,)
    experiments = [laboratory.get(n) for n in names]
    base = out or Path("runs") / ("lab-quick" if quick else "lab")
    options = f"{' --quick' if quick else ''}{f' --seed {seed}' if seed else ''}"
    ran = [_experiment(e, base, quick, seed, resume, options) for e in experiments]
    if not all(ran):
        raise typer.Exit(1)


# ── helpers of the commands ───────────────────────────────────────────────────────────


def _free_directory(text: list[str]) -> Path:
    """runs/NAME, or runs/NAME-2 and so on: the first that is free."""
    stem = Path(text[0]).stem if text and text[0] != "-" else "text"
    base = Path("runs") / (stem or "text")
    candidate, number = base, 1
    while candidate.exists():
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return candidate


def _is_run(directory: Path) -> bool:
    return os.path.lexists(directory / "config.json")  # a broken link is one, damaged


def _open_or_create(
    directory: Path, text: list[str], settings: Settings, resume: bool
) -> None:
    from . import cells
    from .text.run import create_run

    if resume and _is_run(directory):
        return
    if not text:
        raise CellwrightError(
            "[train] there is nothing to train on; expected TEXT: files, folders, "
            "'-' or 'stdlib'"
        )
    create_run(directory, text, cells.get(settings.cell), settings, say=typer.echo)


def _on_main_first(accelerator: Any, action: Any) -> None:
    """Run `action` on the main process; if it fails, all processes end."""
    from accelerate.utils import broadcast_object_list

    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except (CellwrightError, OSError) as error:
            failure = error
    outcome = [failure is None]
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if not outcome[0]:
        raise typer.Exit(1)  # the main process says why


@contextmanager
def _quiet_unless(main: bool) -> Iterator[None]:
    """Errors that every process meets are told by the main one only."""
    try:
        yield
    except CellwrightError:
        if main:
            raise
        raise typer.Exit(1) from None


def _given(ctx: typer.Context) -> set[str]:
    """The options that were written on the command line."""
    names = ctx.params
    sources = {name: ctx.get_parameter_source(name) for name in names}
    return {n for n, s in sources.items() if s is not None and s.name == "COMMANDLINE"}


def _check_same(run: Run, settings: Settings, text: list[str], given: set[str]) -> None:
    """A resumed run keeps its settings: refuse to pretend otherwise."""
    for name in sorted(given & set(vars(settings))):
        kept, received = getattr(run.settings, name), getattr(settings, name)
        if kept != received:
            raise CellwrightError(
                f"[--resume] the run in {run.directory} was started with {name} = "
                f"{kept}; received {received}. A resumed run keeps its settings: leave "
                "the option out, or start a new run"
            )
    if text and text != run.sources:
        raise CellwrightError(
            f"[--resume] the run in {run.directory} trains on {' '.join(run.sources)}; "
            f"received {' '.join(text)}. Leave TEXT out, or start a new run"
        )


def _describe(run: Run) -> str:
    """The run in a few lines."""
    model = run.new_model()
    count = sum(p.numel() for p in model.parameters())
    sizes, settings = run.sizes, run.settings
    layers = f"{sizes.layers} layers" if sizes.layers > 1 else "1 layer"
    return (
        f"model: {run.cell.name}, {layers} of {sizes.hidden} units, embedding "
        f"{sizes.embedding}, {count:,} parameters\n"
        f"engine: {model.rnn.engine} ({model.rnn.engine_reason})\n"
        f"text: {run.text.characters:,} characters in {run.text.files} files; "
        f"{run.train_tokens.count:,} {settings.tokenizer} tokens to train on, "
        f"{run.held_out.count:,} held out; vocabulary {sizes.vocabulary:,}"
    )


def _check_finite(figures: Score) -> None:
    if not figures.finite:
        raise CellwrightError(
            "[evaluate] the model's predictions are not finite numbers, and so no "
            "figure is; its weights are too large for the precision"
        )


def _sentence(figures: Score) -> str:
    values = figures.to_json()
    return (
        f"{figures.characters:,} characters: {values['nats_per_char']:.4f} nats "
        f"({values['bits_per_char']:.4f} bits) per character, "
        f"{values['nats_per_token']:.4f} nats ({values['bits_per_token']:.4f} bits) "
        f"per token, perplexity {values['perplexity']:.3f}"
    )


def _with_bar(total: int, work: Any, *arguments: Any) -> Any:
    """Call `work(*arguments, advance)` under a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("evaluating", total=total)
        return work(*arguments, lambda count: bar.update(task, advance=count))


def _experiment(
    experiment: Experiment,
    base: Path,
    quick: bool,
    seed: int,
    resume: bool,
    options: str,
) -> bool:
    """Run one experiment under a progress line; whether every claim holds."""
    from rich.console import Console

    from .lab import run_experiment
    from .lab.plotting import check_installed
    from .lab.show import show

    check_installed()
    reason = experiment.needs()
    if reason is not None:
        typer.echo(f"{experiment.name}: skipped: {reason}")
        return True
    directory, console = base / experiment.name, Console(stderr=True)
    try:
        with console.status(experiment.name) as status:
            result = run_experiment(
                experiment,
                directory,
                quick=quick,
                seed=seed,
                resume=resume,
                command=f"cellwright lab {experiment.name}{options}",
                tell=lambda number, count, settings: status.update(
                    f"{experiment.name} {number}/{count}: "
                    + ", ".join(f"{k} {v}" for k, v in settings.items())
                ),
            )
    except KeyboardInterrupt:
        again = f"cellwright lab {experiment.name}{options} --resume --out {base}"
        typer.echo(f"\nstopped. Continue with: {again}")
        raise typer.Exit(130) from None
    show(result, experiment, Console())
    typer.echo(
        f"{result.seconds:.0f} s of a core; {directory / experiment.name}.json, .png\n"
    )
    return result.holds


def _show_system() -> None:
    import platform

    import torch

    from . import __version__

    typer.echo(f"cellwright {__version__}, torch {torch.__version__}, ", nl=False)
    typer.echo(f"Python {platform.python_version()}, {platform.machine()}")
    typer.echo(f"threads: {torch.get_num_threads()}")
    capability = torch.backends.cpu.get_cpu_capability()
    typer.echo(f"vector instructions: {capability}")
    from .engine import native

    core = native.info()
    typer.echo(
        f"native engine: {core['isa']} (of {', '.join(core['isas'])}), "
        f"{core['threads']} threads"
        if core["native"]
        else f"native engine: none ({core['reason']})"
    )
    gpus = torch.cuda.device_count()
    typer.echo(f"GPUs: {gpus}")


def _open_streams() -> None:
    """Give every standard stream that was closed to the null device.

    Else the next file that is opened would be what libraries write their messages to.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # a text need not fit the terminal
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed(status: int) -> int:
    """Write out what is left; the status, which is another where that fails."""
    try:
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        status = BROKEN_PIPE
    except OSError as error:
        typer.echo(f"error: [standard output] {error.strerror}", err=True)
        status = 1
    # Python flushes once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def main() -> None:
    """The entry point of `cellwright` and of `python -m cellwright`."""
    from .train import interrupt

    try:
        _open_streams()
        interrupt.end_on_interrupt()
        app()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        status = interrupt.STATUS
    except BrokenPipeError:
        status = BROKEN_PIPE
    interrupt.leave(_flushed(status))
