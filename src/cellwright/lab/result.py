"""What a run of an experiment leaves: one JSON file, one plot, and its cases.

In the directory of a run:

    NAME.json       settings, command, seed, versions, machine, seconds, rows, claims
    NAME.png        the plot
    cases/*.json    every finished case, so that a stopped run can go on; of a long
                    experiment also what the others have measured so far
    checkpoints/*   of a long experiment, where the case of that name was stopped

Every file is written aside and renamed, so what is there is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..language.errors import CellwrightError
from .experiment import Claim, Record, Rows

FORMAT = "cellwright-lab"
VERSION = 1

#: The results of the full forms that come with cellwright.
SHIPPED = Path(__file__).parent / "results"


class LabError(CellwrightError):
    """An experiment is unknown, cannot run here, or has no result."""


@dataclass(frozen=True)
class CaseResult:
    """One case: its settings, what it measured, how long it took.

    Attributes:
        settings: of the case.
        measured: by it; of a case that was stopped, so far.
        seconds: of processor time, which other work on the machine does not lengthen.
        done: how much of its work is done; 1 of a finished case.
    """

    settings: Record
    measured: Record
    seconds: float
    done: float = 1.0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done >= 1


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run of an experiment.

    Attributes:
        experiment: its name.
        question: what it asks.
        quick: whether it is the quick form.
        seed: the first seed of its cases.
        command: what was typed.
        date: the day it ended (ISO 8601, UTC).
        seconds: processor time, the sum over its cases.
        conclusion: in plain words.
        claims: what was expected and measured.
        cases: every case.
        machine: the processor, its cores and threads.
        versions: of cellwright, Python and what they stand on.
    """

    experiment: str
    question: str
    quick: bool
    seed: int
    command: str
    date: str
    seconds: float
    conclusion: str
    claims: tuple[Claim, ...]
    cases: tuple[CaseResult, ...]
    machine: Record
    versions: dict[str, str]

    @property
    def rows(self) -> Rows:
        """The cases as rows: settings and measurements together."""
        return rows_of(self.cases, self.quick)

    def __repr__(self) -> str:
        held = sum(claim.holds for claim in self.claims)
        form = ", quick form" if self.quick else ""
        return (
            f"<result of {self.experiment}, {self.date}, seed {self.seed}{form}: "
            f"{held} of {len(self.claims)} claims hold>"
        )

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    def save(self, directory: Path) -> Path:
        """Write NAME.json into a directory."""
        content: dict[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(self)}
        for record, claim in zip(content["claims"], self.claims, strict=True):
            record["holds"] = claim.holds
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.experiment}.json"
        write_json(path, content)
        return path

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what `save` wrote.

        Raises:
            LabError: the file is no result, or a newer version's.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise LabError(
                f"[{path}] is no result that this version reads; received format "
                f"{content.get('format')!r} {content.get('version')!r}, expected "
                f"{FORMAT!r} {VERSION}"
            )
        claims = tuple(
            Claim(c["name"], c["measured"], c["low"], c["high"])
            for c in content["claims"]
        )
        cases = tuple(CaseResult(**case) for case in content["cases"])
        plain = {f.name: content[f.name] for f in fields(cls)}
        return cls(**{**plain, "claims": claims, "cases": cases})


def rows_of(cases: Iterable[CaseResult], quick: bool) -> Rows:
    """One row a case: its settings, what it measured, and how much of it is done."""
    rows = ({**c.settings, **c.measured, "done": c.done} for c in cases)
    return Rows(tuple(rows), quick)


@dataclass(frozen=True)
class Cases:
    """The cases of a run, one file each, found by their settings."""

    directory: Path

    def find(self, settings: Record) -> CaseResult | None:
        """What a case with these very settings has given."""
        path = self._path(settings)
        if not path.exists():
            return None
        case = CaseResult(**json.loads(path.read_text(encoding="utf-8")))
        return case if case.settings == settings else None

    def save(self, case: CaseResult) -> None:
        """Write one case."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self._path(case.settings), asdict(case))

    def _path(self, settings: Record) -> Path:
        return self.directory / f"{name_of(settings)}.json"


def name_of(settings: Record) -> str:
    """The name of a case's file: 16 hexadecimal digits that its settings hash to."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, content: Record) -> None:
    """Write strict JSON, an entry a line: a number that is not finite is an error."""
    entries = [f"{_line(key)}: {_value(value)}" for key, value in content.items()]
    write_atomically(path, ("{\n" + ",\n".join(entries) + "\n}\n").encode())


def _value(value: Any) -> str:
    """A list of records has a line for each: two versions compare well."""
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(map(_line, value)) + "\n]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
