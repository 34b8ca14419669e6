"""The command `train`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from ..language.errors import CellwrightError
from ..train.recipes import with_recipe
from ..train.settings import Settings
from .app import app
from .options import with_settings
from .show import (
    check_finite,
    describe,
    on_device,
    sentence,
    unknown_note,
    with_bar,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..text.run import Run
    from ..text.trials import Trials


def _run(help: str) -> Any:
    return Option(help=help, rich_help_panel="The run")


def _trials(help: str, **limits: Any) -> Any:
    return Option(help=help, rich_help_panel="Several cells, several seeds", **limits)


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
    cells: Annotated[
        str | None,
        _trials("Train each: lstm,gru,FILE.py:NAME, in runs OUT/CELL-SEED; compare."),
    ] = None,
    seeds: Annotated[
        int | None, _trials("So many runs of each cell, from --seed on.", min=1)
    ] = None,
    same_parameters: Annotated[
        bool,
        _trials(
            "Choose the units of the others such that each model has about as many "
            "parameters as the first."
        ),
    ] = False,
    **settings: Any,
) -> None:
    """Train a language model on text, or several cells on the same text.

    Start it with `torchrun --nproc_per_node N -m cellwright train …` for N processes.
    """
    from ..text.run import Run

    asked = Settings(**{**settings, "clip": settings["clip"] or None})
    asked.check()
    if asked.valid is not None and _is_written(ctx, "val_fraction"):
        raise CellwrightError(
            "[val_fraction] --valid is all that is held out; received a val_fraction "
            f"of {asked.val_fraction:g} too, expected one of them"
        )
    asked = with_recipe(asked, {n for n in settings if _is_written(ctx, n)})
    asked = replace(asked, cell=asked.cell or _usual_cell(asked))
    what = Training("train", Run, _create, describe, _finish, asked, text or [])
    given = cells is not None or seeds is not None or same_parameters
    if resume and out is not None and _has_trials(out):
        _refuse_settings(ctx, out)
        _train_trials(what, out, tensorboard)
    elif given:
        trials = _asked_trials(what, cells, seeds, same_parameters, ctx, resume)
        _train_trials(what, out or _free_directory(what.sources), tensorboard, trials)
    else:
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
        trials: the folder of the trials that it is one of, or None.
    """

    command: str
    open: Callable[[Path], Any]
    create: Callable[[Path, list[str], Any], Any]
    describe: Callable[[Any], str]
    finish: Callable[[Any, Callable[[str], Any]], None]
    asked: Any
    sources: list[str]
    trials: Path | None = None


def train_in(
    what: Training,
    out: Path | None,
    resume: bool,
    tensorboard: bool,
    ctx: typer.Context,
) -> None:
    """Make a run, or open the one that is resumed, and train it to its end."""
    accelerator = _make_and_train(what, out, resume, tensorboard, ctx)
    if accelerator.num_processes > 1:
        accelerator.end_training()


def _make_and_train(
    what: Training,
    out: Path | None,
    resume: bool,
    tensorboard: bool,
    ctx: typer.Context | None,
) -> Accelerator:
    from ..train.devices import make_accelerator
    from ..train.lock import locked

    what.asked.check()
    if resume and out is None:
        raise CellwrightError("[--resume] which run? Give its directory: --out DIR")
    if resume and out is not None and not (what.sources or _has_run(out)):
        raise CellwrightError(
            f"[--resume] there is no run in {out}; expected the directory of one, or "
            "what a new one is to train on"
        )
    # Look for the directory before make_accelerator, where the processes wait for each
    # other: after that the main one may have made it already.
    directory = out or _free_directory(what.sources)
    exists = resume and _has_run(directory)
    settings = what.open(directory).settings if exists else what.asked
    written = ctx is not None and _is_written(ctx, "device")
    device = (what.asked if written else settings).device
    events = directory if tensorboard else None
    accelerator = make_accelerator(settings.precision, events, device)
    with _quiet_unless(accelerator.is_main_process), ExitStack() as held:

        def begin() -> None:
            if not exists:
                what.create(directory, what.sources, what.asked)
            held.enter_context(locked(directory))

        _on_main_first(accelerator, begin)
        run = what.open(directory)
        if resume and ctx is not None:
            _check_same(run, what.asked, what.sources, ctx)
        _train(what, run, accelerator, resume, tensorboard)
    return accelerator


def _has_run(directory: Path) -> bool:
    """Whether a run was begun there, damaged or not."""
    return os.path.lexists(directory / "config.json")


def _usual_cell(asked: Settings) -> str:
    """The cell of a run that names none: what is fast where it will run."""
    import torch

    on_gpu = asked.device != "cpu" and torch.accelerator.is_available()
    by_torch = asked.engine == "torch" or on_gpu
    return "lstm" if by_torch else "coupled"


def _train(
    what: Training, run: Any, accelerator: Accelerator, resume: bool, tensorboard: bool
) -> None:
    """Train a run to its end and evaluate it; the main process says how it goes."""
    from ..text.job import make_reporter, train_run

    say = typer.echo if accelerator.is_main_process else lambda line: None
    say(f"run: {run.directory}")
    say(what.describe(run))
    if accelerator.device.type != "cpu":
        say("\n".join(on_device(run.new_model(), accelerator.device)))
    every, steps = run.settings.validate_every, run.settings.steps
    if every and steps and every > steps:
        say(_late_validation(every, steps))
    reporter = make_reporter(run, accelerator, tensorboard)
    try:
        _, progress = train_run(run, accelerator, resume=resume, reporter=reporter)
    except KeyboardInterrupt:
        how = "Nothing was kept yet."
        if run.store.has() or what.trials:
            directory = what.trials or run.directory
            command = f"cellwright {what.command} --resume --out {directory}"
            how = f"Continue with: {command}"
        say(f"\nstopped. {how}")
        raise typer.Exit(130) from None
    plan = run.plan()
    early = ", stopped early" if progress.stopped else ""
    seconds = progress.seconds + (plan.planning_seconds if plan else 0.0)
    say(f"trained {progress.step} steps in {seconds:.1f} s{early}")
    if every and not steps and every > progress.step:
        say(_late_validation(every, progress.step))
    if accelerator.is_main_process:
        what.finish(run, say)


def _late_validation(every: int, steps: int) -> str:
    return (
        f"note: validate-every {every:,} is more than the run's {steps:,} steps; it "
        "validates once, at its end"
    )


def _finish(run: Run, say: Callable[[str], Any]) -> None:
    _evaluate(run, say)
    say(f'next: cellwright generate {run.directory} --prompt "…"')


def _evaluate(run: Run, say: Callable[[str], Any]) -> None:
    from ..text.job import evaluate_held_out, evaluate_test

    texts = (
        ("held-out", run.held_out, evaluate_held_out),
        ("test", run.test, evaluate_test),
    )
    for name, tokens, evaluate in texts:
        figures = with_bar(tokens.count if tokens else 0, evaluate, run)
        if figures is not None:
            check_finite(figures)
            say(f"{name} text, {sentence(figures)}")
            if note := unknown_note(figures):
                say(note)


def _asked_trials(
    what: Training,
    cells: str | None,
    seeds: int | None,
    same_parameters: bool,
    ctx: typer.Context,
    resume: bool,
) -> Trials:
    """What the options of several cells and seeds ask for."""
    from .. import cells as zoo
    from ..text.trials import Trials

    if resume:
        raise CellwrightError(
            "[--resume] goes on with runs that are there; received it with --cells, "
            "--seeds or --same-parameters, expected --resume --out OUT alone"
        )
    if cells is not None and _is_written(ctx, "cell"):
        raise CellwrightError(
            f"[--cells] received both --cell {what.asked.cell} and --cells {cells}, "
            "expected one of them"
        )
    names = [n for n in (cells or what.asked.cell).split(",") if n.strip()]
    found = {name.strip(): zoo.get(name.strip()) for name in names}
    return Trials(found, what.asked, seeds or 1, same_parameters)


def _has_trials(directory: Path) -> bool:
    from ..text.trials import runs_in

    return not os.path.lexists(directory / "config.json") and bool(runs_in(directory))


def _refuse_settings(ctx: typer.Context, directory: Path) -> None:
    own = {"out", "resume", "tensorboard"}
    written = [n for n in ctx.params if n not in own and _is_written(ctx, n)]
    if written:
        raise CellwrightError(
            f"[--resume] the runs in {directory} keep their text and settings; "
            f"received {', '.join(written)}, expected --resume --out {directory} alone"
        )


def _train_trials(
    what: Training, directory: Path, tensorboard: bool, trials: Trials | None = None
) -> None:
    """Train runs of several cells and seeds one after the other, and compare them.

    Args:
        trials: what to make first; None: the runs are there, and those that have not
            ended are resumed.
    """
    from ..text.comparison import MINUTES, compare
    from ..text.run import Run
    from ..text.trials import create_trials, runs_in
    from ..train.devices import make_accelerator
    from .compare import show

    settings = trials.settings if trials else Run(runs_in(directory)[0]).settings
    accelerator = make_accelerator(settings.precision, device=settings.device)
    say = typer.echo if accelerator.is_main_process else lambda line: None
    if trials is not None:
        create = partial(create_trials, directory, what.sources, trials, typer.echo)
        with _quiet_unless(accelerator.is_main_process):
            _on_main_first(accelerator, create)
    if settings.minutes:
        say(f"note: {MINUTES}")
    what = replace(what, finish=_evaluate, trials=directory)
    diverged = _train_each(what, runs_in(directory), tensorboard, say)
    if accelerator.is_main_process:
        typer.echo("")
        show(compare([directory]))
        typer.echo(f"next: cellwright compare {directory} --plot curves.png")
    if accelerator.num_processes > 1:
        accelerator.end_training()
    if diverged:
        raise typer.Exit(1)


def _train_each(
    what: Training, paths: list[Path], tensorboard: bool, say: Callable[[str], Any]
) -> bool:
    """Train those of the runs that have not ended; whether the loss of one diverged."""
    from ..text.run import Run
    from ..train.divergence import Diverged

    diverged = False
    for number, path in enumerate(paths, 1):
        run = Run(path)
        say(f"\nrun {number} of {len(paths)}")
        if run.has_ended():
            say(f"run: {path} has ended already")
            continue
        try:
            asked = replace(what, asked=run.settings)
            _make_and_train(asked, path, True, tensorboard, None)
        except Diverged as error:  # the others may still go well
            typer.echo(f"error: {error}", err=True)
            diverged = True
    return diverged


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
    assert settings.cell is not None
    create_run(directory, text, cells.get(settings.cell), settings, say=typer.echo)


def _on_main_first(accelerator: Accelerator, action: Callable[[], Any]) -> None:
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


def _is_written(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_same(run: Any, settings: Any, text: list[str], ctx: typer.Context) -> None:
    """A resumed run keeps its settings: refuse to pretend otherwise."""
    for name, received in sorted(vars(settings).items()):
        if name == "device":  # it may go on elsewhere
            continue
        kept = getattr(run.settings, name)
        if _is_written(ctx, name) and kept != received:
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
