"""The command `lab`: the laboratory's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from ..extras import require
from ..language.errors import CellwrightError
from .app import app

if TYPE_CHECKING:
    from ..lab import Experiment


@app.command()
def lab(
    name: Annotated[
        str | None,
        Argument(metavar="[NAME]", help="An experiment. Default: list them."),
    ] = None,
    all_: Annotated[bool, Option("--all", help="Run every experiment.")] = False,
    quick: Annotated[
        bool, Option("--quick", help="The short form, under a minute each.")
    ] = False,
    seed: Annotated[int, Option(help="The first seed.", min=0, max=2**31)] = 0,
    out: Annotated[
        Path | None,
        Option(help="Where results go. Default: runs/lab, or runs/lab-quick."),
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Keep what a stopped run has finished.")
    ] = False,
) -> None:
    """Answer the subject's questions by experiment.

    Prints tables and a conclusion; writes JSON and a plot. Ends with status 1 if a
    claim does not hold.
    """
    from .. import lab as laboratory
    from ..lab.show import list_experiments

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

    from ..lab import run_experiment
    from ..lab.show import show

    require("cellwright lab", "lab")  # before hours of computing, not after
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
