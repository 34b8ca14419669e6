"""Runs an experiment: case by case, resumable, into one directory."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from . import machine
from .experiment import Experiment, Record
from .plotting import save_plot
from .result import CaseResult, Cases, LabError, Result, rows_of

#: `tell(number, count, settings)` before a case; the number counts from 1.
Tell = Callable[[int, int, Record], None]


def run_experiment(
    experiment: Experiment,
    directory: Path,
    *,
    quick: bool = False,
    seed: int = 0,
    resume: bool = False,
    command: str = "",
    tell: Tell = lambda number, count, settings: None,
) -> Result:
    """Run an experiment and save its result, plot and cases.

    Args:
        experiment: what to run.
        directory: where NAME.json, NAME.png and cases/ go.
        quick: the short form.
        seed: the first seed; every case says in its settings which one it has.
        resume: take the cases that `directory` holds with the very same settings.
        command: what was typed, for the result.
        tell: called before every case that is run.

    Raises:
        LabError: the experiment cannot run here.
    """
    reason = experiment.needs()
    if reason is not None:
        raise LabError(f"[lab {experiment.name}] {reason}")
    saved, done = Cases(directory / "cases"), []
    cases = experiment.cases(quick, seed)
    for number, settings in enumerate(cases, start=1):
        case = saved.find(settings) if resume else None
        if case is None:
            tell(number, len(cases), settings)
            case = run_case(experiment, settings)
            saved.save(case)
        done.append(case)
    return conclude(
        experiment, directory, done, quick=quick, seed=seed, command=command
    )


def conclude(
    experiment: Experiment,
    directory: Path,
    done: Sequence[CaseResult],
    *,
    quick: bool,
    **options: Any,
) -> Result:
    """The result of some cases, written to a directory with its plot.

    Args:
        done: the cases that are there.
        **options: of the run: seed and command.
    """
    rows = rows_of(done, quick)
    result = Result(
        experiment=experiment.name,
        question=experiment.question,
        quick=quick,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        seconds=round(sum(case.seconds for case in done), 1),
        conclusion=experiment.conclude(rows),
        claims=tuple(experiment.claims(rows)),
        cases=tuple(done),
        machine=machine.facts(),
        versions=machine.versions(),
        **options,
    )
    result.save(directory)
    save_plot(experiment, rows, directory / f"{experiment.name}.png")
    return result


def run_case(
    experiment: Experiment, settings: Record, *keep: Any, before: float = 0.0
) -> CaseResult:
    """One case, from its own seed, without touching the caller's random numbers.

    Args:
        *keep: the `Keep` of a long experiment.
        before: processor seconds that a stopped run has taken.

    Raises:
        LabError: it measured one of its settings.
    """
    began = time.process_time()
    with torch.random.fork_rng():
        torch.manual_seed(settings.get("seed", 0))
        measured = experiment.run(dict(settings), *keep)
    clash = sorted(settings.keys() & measured.keys())
    if clash:
        raise LabError(
            f"[lab {experiment.name}] a case may not measure one of its settings; "
            f"received both a setting and a measurement called {', '.join(clash)}"
        )
    seconds = before + time.process_time() - began
    return CaseResult(settings, measured, round(seconds, 2))
