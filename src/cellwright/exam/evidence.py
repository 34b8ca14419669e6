"""What the laboratory says on a question: the last result of its experiment.

The results that come with cellwright are of the full forms. A run from the exam is of
the quick form, and takes their place on the page until a full form is newer; a key
point that it does not measure keeps the full form's evidence.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import lab
from ..lab import Claim, Result
from .questions import Point, Question


@dataclass
class Evidence:
    """Results and runs of experiments, below a directory of the exam.

    Attributes:
        directory: where runs from the exam are written, one folder an experiment.
    """

    directory: Path
    _running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def of(self, question: Question) -> dict[str, Any] | None:
        """The experiment's result as the page shows it; None without an experiment."""
        name = question.experiment
        if not name:
            return None
        running, failure = self._state(name)
        shown = {"experiment": name, "running": running, "failure": failure}
        try:
            folder = self._folder(name)
            result = lab.load_result(name, folder)
        except lab.LabError as error:
            return {**shown, "result": None, "failure": failure or str(error)}
        backs = [_backing(p, self._results(p, result)) for p in question.points]
        shown["result"] = {
            "quick": result.quick,
            "seed": result.seed,
            "date": result.date,
            "seconds": result.seconds,
            "command": result.command,
            "conclusion": result.conclusion,
            "holds": result.holds and all(back["holds"] for back in backs if back),
            "claims": [_shown(claim) for claim in result.claims],
            "backs": backs,
        }
        return shown

    def plot(self, name: str) -> Path:
        """The PNG of the last result.

        Raises:
            LabError: there is none.
        """
        return lab.plot_path(name, self._folder(name))

    def run(self, name: str) -> None:
        """Start the quick form in a process of its own, unless it runs already.

        Raises:
            LabError: no such experiment.
        """
        lab.get(name)
        if self._state(name)[0]:
            return
        out = self.directory / name
        out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cellwright", "lab", name, "--quick"]
        with (out / "log.txt").open("w") as log:
            self._running[name] = subprocess.Popen(
                [*command, "--out", str(self.directory)],  # into NAME below it
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def stop(self) -> None:
        """End what still runs."""
        for process in self._running.values():
            process.terminate()

    def _state(self, name: str) -> tuple[bool, str | None]:
        """Whether a run goes on, and why the last one failed."""
        process = self._running.get(name)
        if process is None or process.poll() == 0:
            return False, None
        if process.returncode is None:
            return True, None
        log = (self.directory / name / "log.txt").read_text(errors="replace")
        return False, log.strip()[-2000:] or f"it ended with {process.returncode}"

    def _results(self, point: Point, result: Result) -> Iterator[Result]:
        """A result, then the full form's, which may measure what a quick one leaves.

        Args:
            point: of the question.
            result: of the question's experiment; not of the point's, if it has its own.
        """
        if point.experiment:
            with suppress(lab.LabError):
                yield lab.load_result(point.experiment)
            return
        yield result
        if result.quick:
            with suppress(lab.LabError):
                yield lab.load_result(result.experiment)

    def _folder(self, name: str) -> Path:
        """Where the newer of the two results lies."""
        own = self.directory / name
        if not (own / f"{name}.json").exists():
            return lab.SHIPPED
        try:
            shipped = lab.load_result(name).date
        except lab.LabError:
            return own
        return own if lab.load_result(name, own).date >= shipped else lab.SHIPPED


def _shown(claim: Claim) -> dict[str, Any]:
    return {
        "name": claim.name,
        "measured": claim.measured,
        "interval": claim.interval,
        "holds": claim.holds,
    }


def _backing(point: Point, results: Iterable[Result]) -> dict[str, Any] | None:
    """A point's claim in the first result that has it, with the run's date and seed."""
    for result in results:
        for claim in result.claims:
            if point.claim and claim.name.startswith(point.claim):
                when = {key: getattr(result, key) for key in ("quick", "seed", "date")}
                return {**_shown(claim), **when, "sentence": _sentence(point, claim)}
    return None


def _sentence(point: Point, claim: Claim) -> str:
    """What was measured, in a sentence; powers of ten as lectures write them."""
    if claim.measured is None:
        return f"{claim.name}: nothing was measured."
    said = point.finding.format(claim.measured)
    if not said:
        said = f"{claim.name}: {claim.measured:.3g}."
    said = re.sub(r"(?<=\d)e\+?(-?)0*(\d+)", r"·10^{\1\2}", said)
    return re.sub(r"(?<!\w)-(?=\d)", "−", said)
