"""Runs the full form of a long experiment, which goes on where it was stopped.

A case that is finished is kept; one that was stopped goes on from its checkpoint. What
there is so far, of every case, makes the tables, the plot and the claims.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..train.interrupt import Interrupt
from ..train.lock import locked
from .experiment import Experiment, Keep, Record
from .result import CaseResult, Cases, LabError, Result, name_of
from .runner import conclude, run_case

WRITE_EVERY = 60.0  # seconds between two results: drawing one takes a second

#: `watch(number, count, settings, left)`: case `number` of `count` runs, and all of
#: them take so many seconds more; None before that is known.
Watch = Callable[[int, int, Record, float | None], None]


def run_long(
    experiment: Experiment,
    directory: Path,
    *,
    seed: int = 0,
    only: str = "",
    command: str = "",
    watch: Watch = lambda number, count, settings, left: None,
) -> Result:
    """Run what is left of the full form of a long experiment.

    Args:
        experiment: what to run.
        directory: where NAME.json, NAME.png, cases/ and checkpoints/ go and are.
        seed: the first seed.
        only: the cases to run, by their settings (see `select`); empty: all of them.
        command: what was typed, for the result.
        watch: called when a case begins and whenever it has measured something.

    Returns:
        The result of every case that is there, also of those that `only` leaves out.

    Raises:
        LabError: the experiment cannot run here, or `only` names no case.
        LockedError: another process runs one of the cases.
        KeyboardInterrupt: Ctrl+C; the result of what is there is written before.
    """
    reason = experiment.needs()
    if reason is not None:
        raise LabError(f"[lab {experiment.name}] {reason}")
    run = _Run(experiment, directory, experiment.cases(False, seed), watch)
    finish = partial(_conclude, run, seed=seed, command=command)
    chosen = select(run.cases, only)
    written = time.monotonic()
    for number in range(1, len(chosen) + 1):
        try:
            ran = run.case(number, chosen)
        except KeyboardInterrupt:
            with Interrupt():  # the process may not end before it is written
                finish()
            raise
        if ran and number < len(chosen) and time.monotonic() - written > WRITE_EVERY:
            finish()  # a kill leaves a result that is a minute old; cases are all kept
            written = time.monotonic()
    return finish()


def _conclude(run: _Run, **options: Any) -> Result:
    found = [case for case in map(run.saved.find, run.cases) if case is not None]
    return conclude(run.experiment, run.directory, found, quick=False, **options)


def select(cases: Sequence[Record], only: str) -> list[Record]:
    """The cases with all of some settings, "task=jsb,net=LSTM".

    Raises:
        LabError: a setting that no case has, or no case with all of these values; the
            message lists what there is.
    """
    found = list(cases)
    for name, value in _pairs(only):
        names = list(dict.fromkeys(key for case in cases for key in case))
        if name not in names:
            raise LabError(
                f"[--only] no case has a setting {name!r}; expected some of "
                f"{', '.join(names)}"
            )
        values = dict.fromkeys(str(case[name]) for case in found if name in case)
        if value not in values:
            raise LabError(
                f"[--only] no case has {name}={value}; received {only!r}, expected "
                f"{name} to be one of {', '.join(values)}"
            )
        found = [case for case in found if str(case.get(name)) == value]
    return found


def _pairs(only: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, only.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise LabError(
                f"[--only] received {part!r}, expected settings such as "
                "task=jsb,net=LSTM"
            )
        yield name.strip(), value.strip()


@dataclass(frozen=True)
class _Run:
    """A run of an experiment: all of its cases, and where they are kept."""

    experiment: Experiment
    directory: Path
    cases: list[Record]
    watch: Watch

    @property
    def saved(self) -> Cases:
        return Cases(self.directory / "cases")

    def case(self, number: int, chosen: Sequence[Record]) -> bool:
        """Run case `number` of those chosen, unless it is finished; whether it ran."""
        settings = chosen[number - 1]
        earlier = self.saved.find(settings)
        if earlier is not None and earlier.finished:
            return False
        earlier = earlier or CaseResult(settings, {}, 0.0, done=0.0)
        tell = partial(self.watch, number, len(chosen), settings)
        tell(None)
        place = self.directory / "checkpoints" / name_of(settings)
        place.mkdir(parents=True, exist_ok=True)
        rest = self._rest(chosen[number:])
        began, wall = time.process_time(), time.monotonic()

        def report(measured: Record, done: float) -> None:
            seconds = earlier.seconds + time.process_time() - began
            below = min(done, 0.9999)  # 1 is of a case that has returned
            self.saved.save(CaseResult(settings, measured, round(seconds, 2), below))
            share = (done - earlier.done) / (time.monotonic() - wall)
            if share > 0:
                own = self._work(settings)
                tell(((1 - done) * own + rest) / (share * own))

        with locked(place):
            case = run_case(
                self.experiment, settings, Keep(place, report), before=earlier.seconds
            )
        self.saved.save(replace(case, done=1.0))
        shutil.rmtree(place)
        return True

    def _work(self, settings: Record) -> float:
        """Multiply-adds of a case."""
        assert self.experiment.work is not None
        return self.experiment.work(settings)

    def _rest(self, cases: Sequence[Record]) -> float:
        """Multiply-adds that are left to do of some cases."""
        found = ((settings, self.saved.find(settings)) for settings in cases)
        return sum(self._work(s) * (1 - (c.done if c else 0.0)) for s, c in found)
