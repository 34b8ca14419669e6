"""The command `lab`: the laboratory's experiments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from ..extras import require
from ..language.errors import CellwrightError
from .app import app

if TYPE_CHECKING:
    from ..lab import Experiment, Record, Result


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
    full: Annotated[
        bool, Option("--full", help="The full form, from where it was stopped.")
    ] = False,
    only: Annotated[
        str,
        Option(
            metavar="SETTINGS",
            help="Of a long experiment the cases with these, as task=jsb,net=LSTM.",
        ),
    ] = "",
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
    claim does not hold. The full form of a long experiment takes hours: it needs
    --full, and tells the time left.
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
    if quick and full:
        raise CellwrightError("[lab] received both --quick and --full, expected one")
    names = laboratory.NAMES if name is None else (name,)
    experiments = [laboratory.get(n) for n in names]
    if not all_:
        _check_length(experiments[0], quick, full, only)
    elif only:
        raise CellwrightError("[--only] received --all too, expected one experiment")
    elif not (quick or full):
        experiments = [e for e in experiments if not e.long]
    base = out or Path("runs") / ("lab-quick" if quick else "lab")
    run = _Options(base, quick, seed, resume or full, only)
    ran = [run.experiment(e) for e in experiments]
    if not all(ran):
        raise typer.Exit(1)


def _check_length(experiment: Experiment, quick: bool, full: bool, only: str) -> None:
    """Raise CellwrightError for options that this experiment does not take."""
    command = f"cellwright lab {experiment.name}"
    if experiment.long and not (quick or full):
        raise CellwrightError(
            f"[lab {experiment.name}] its full form takes about "
            f"{experiment.minutes / 60:.0f} hours; expected --quick, or --full, which "
            f"goes on where it was stopped: {command} --full"
        )
    if only and (quick or not experiment.long):
        raise CellwrightError(
            f"[--only] is for the full form of a long experiment; received {command}"
            f"{' --quick' if quick else ''}, whose tables need every case"
        )


@dataclass(frozen=True)
class _Options:
    """What was asked for, but the experiments."""

    base: Path
    quick: bool
    seed: int
    resume: bool
    only: str

    def command(self, experiment: Experiment) -> str:
        """What runs it like this again, but for --resume and --out."""
        return (
            f"cellwright lab {experiment.name}"
            f"{' --full' if self.is_long(experiment) else ''}"
            f"{' --quick' if self.quick else ''}"
            f"{f' --only {self.only}' if self.only else ''}"
            f"{f' --seed {self.seed}' if self.seed else ''}"
        )

    def is_long(self, experiment: Experiment) -> bool:
        """Whether it takes hours: the full form of a long experiment."""
        return experiment.long and not self.quick

    def experiment(self, experiment: Experiment) -> bool:
        """Run one experiment under a progress line; whether every claim holds."""
        from rich.console import Console

        from ..lab.show import show

        require("cellwright lab", "lab")  # before hours of computing, not after
        reason = experiment.needs()
        if reason is not None:
            typer.echo(f"{experiment.name}: skipped: {reason}")
            return True
        for reason in experiment.missing():
            typer.echo(f"{experiment.name}: left out: {reason}")
        try:
            result = self.run(experiment)
        except KeyboardInterrupt:
            resume = "" if self.is_long(experiment) else " --resume"
            again = f"{self.command(experiment)}{resume} --out {self.base}"
            typer.echo(f"\nstopped. Continue with: {again}")
            raise typer.Exit(130) from None
        show(result, experiment, Console())
        path = self.base / experiment.name / experiment.name
        typer.echo(f"{result.seconds:.0f} s of a core; {path}.json, .png\n")
        return result.holds

    def run(self, experiment: Experiment) -> Result:
        """The result, while a line says which case runs."""
        from rich.console import Console

        from ..lab import run_experiment, run_long

        directory, console = self.base / experiment.name, Console(stderr=True)
        command = self.command(experiment)
        with console.status(experiment.name) as status:

            def tell(
                number: int, count: int, settings: Record, left: float | None = None
            ) -> None:
                told = ", ".join(f"{k} {v}" for k, v in settings.items())
                if left is not None:
                    told = f"{_duration(left)} left"
                line = f"{experiment.name} {number}/{count}: {told}"
                if console.is_terminal or not self.is_long(experiment):
                    status.update(line)
                else:
                    typer.echo(line, err=True)

            if self.is_long(experiment):
                return run_long(
                    experiment,
                    directory,
                    seed=self.seed,
                    only=self.only,
                    command=command,
                    watch=tell,
                )
            return run_experiment(
                experiment,
                directory,
                quick=self.quick,
                seed=self.seed,
                resume=self.resume,
                command=command,
                tell=tell,
            )


def _duration(seconds: float) -> str:
    """ "2 h 05 min", "3 min", "40 s"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
