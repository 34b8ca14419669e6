"""The command `train`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from ..language.errors import CellwrightError
from ..train.settings import Settings
from .app import app
from .options import with_settings
from .show import check_finite, describe, sentence, with_bar

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..text.run import Run


def _run(help: str) -> Any:
    return Option(help=help, rich_help_panel="The run")


Text = Annotated[
    list[str] | None,
    Argument(
        help="Files, folders, '-' for standard input, or 'stdlib' for the source of "
        "Python's standard library. Not needed with --resume."
    ),
]


@app.command()
@with_settings
def train(
    ctx: typer.Context,
    text: Text = None,
    out: Annotated[
        Path | None, _run("Directory of the run. Default: a new one, runs/TEXT.")
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
    """Train a language model on text.

    Start it with `torchrun --nproc_per_node N -m cellwright train …` for N processes.
    """
    from ..text.run import Run

    asked = Settings(**{**settings, "clip": settings["clip"] or None})
    what = Training("train", Run, _create, describe, _finish, asked, text or [])
    train_in(what, out, resume, tensorboard, ctx)


@dataclass(frozen=True)
class Training:
    """What a command that trains was asked for, and how its kind of model does it.

    Attributes:
        command: its words after `cellwright`.
        open: a directory as a run of this kind.
        create: `create(directory, sources, settings)` makes a new one.
        describe: a run in a few lines.
        finish: `finish(run, say)` evaluates a trained run and says what comes next.
        asked: the settings, with defaults where none were given.
        sources: what it trains on; empty to take those of the run that is resumed.
    """

    command: str
    open: Callable[[Path], Any]
    create: Callable[[Path, list[str], Any], Any]
    describe: Callable[[Any], str]
    finish: Callable[[Any, Callable[[str], Any]], None]
    asked: Any
    sources: list[str]


def train_in(
    what: Training,
    out: Path | None,
    resume: bool,
    tensorboard: bool,
    ctx: typer.Context,
) -> None:
    """Make a run, or open the one that is resumed, and train it to its end."""
    from ..train.devices import make_accelerator
    from ..train.lock import locked

    what.asked.check()
    if resume and out is None:
        raise CellwrightError("[--resume] which run? Give its directory: --out DIR")
    # Look for the directory before make_accelerator, where the processes wait for each
    # other: after that the main one may have made it already.
    directory = out or _free_directory(what.sources)
    exists = resume and os.path.lexists(directory / "config.json")  # damaged or not
    precision = (what.open(directory).settings if exists else what.asked).precision
    accelerator = make_accelerator(precision, directory if tensorboard else None)
    with _quiet_unless(accelerator.is_main_process), ExitStack() as held:

        def begin() -> None:
            if not exists:
                what.create(directory, what.sources, what.asked)
            held.enter_context(locked(directory))

        _on_main_first(accelerator, begin)
        run = what.open(directory)
        if resume:
            _check_same(run, what.asked, what.sources, ctx)
        _train(what, run, accelerator, resume, tensorboard)
    if accelerator.num_processes > 1:
        accelerator.end_training()


def _train(
    what: Training, run: Any, accelerator: Accelerator, resume: bool, tensorboard: bool
) -> None:
    """Train a run to its end and evaluate it; the main process says how it goes."""
    from ..text.job import make_reporter, train_run

    say = typer.echo if accelerator.is_main_process else lambda line: None
    say(f"run: {run.directory}")
    say(what.describe(run))
    reporter = make_reporter(run, accelerator, tensorboard)
    try:
        _, progress = train_run(run, accelerator, resume=resume, reporter=reporter)
    except KeyboardInterrupt:
        how = "Nothing was kept yet."
        if run.store.has():
            command = f"cellwright {what.command} --resume --out {run.directory}"
            how = f"Continue with: {command}"
        say(f"\nstopped. {how}")
        raise typer.Exit(130) from None
    plan = run.plan()
    early = ", stopped early" if progress.stopped else ""
    seconds = progress.seconds + (plan.planning_seconds if plan else 0.0)
    say(f"trained {progress.step} steps in {seconds:.1f} s{early}")
    if accelerator.is_main_process:
        what.finish(run, say)


def _finish(run: Run, say: Callable[[str], Any]) -> None:
    from ..text.job import evaluate_held_out

    figures = with_bar(run.held_out.count, evaluate_held_out, run)
    if figures is not None:
        check_finite(figures)
        say(f"held-out text, {sentence(figures)}")
    say(f'next: cellwright generate {run.directory} --prompt "…"')


def _free_directory(text: list[str]) -> Path:
    """runs/NAME, or runs/NAME-2 and so on: the first that is free."""
    stem = Path(text[0]).stem if text and text[0] != "-" else "text"
    name = stem or "text"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(path for path in map(Path("runs").joinpath, names) if not path.exists())


def _create(directory: Path, text: list[str], settings: Settings) -> None:
    from .. import cells
    from ..text.run import create_run

    if not text:
        raise CellwrightError(
            "[train] there is nothing to train on; expected TEXT: files, folders, "
            "'-' or 'stdlib'"
        )
    create_run(directory, text, cells.get(settings.cell), settings, say=typer.echo)


def _on_main_first(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Run `action` on the main process; if it fails, all processes end."""
    from ..train.devices import from_main

    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except (CellwrightError, OSError) as error:
            failure = error
    failed = from_main(failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise typer.Exit(1)  # the main process says why


@contextmanager
def _quiet_unless(main: bool) -> Iterator[None]:
    """Of an error that every process meets, only the main one prints the message."""
    try:
        yield
    except CellwrightError:
        if main:
            raise
        raise typer.Exit(1) from None


def _check_same(run: Any, settings: Any, text: list[str], ctx: typer.Context) -> None:
    """A resumed run keeps its settings: refuse to pretend otherwise."""
    for name, received in sorted(vars(settings).items()):
        kept, source = getattr(run.settings, name), ctx.get_parameter_source(name)
        written = source is not None and source.name == "COMMANDLINE"
        if written and kept != received:
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
