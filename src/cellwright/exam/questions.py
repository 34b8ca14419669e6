"""The questions of the exam: small TOML files, ours and the user's.

```toml
id = "my-question"                     # unique
question = "What is a leaky unit?"
experiment = "training-problems"       # optional: an experiment of the laboratory
figure = "unrolled"                    # optional: one of cellwright.look.figures
sketch = "What a good sketch shows."   # optional
[[points]]                             # most important first
lead = "Part of the old state stays"   # optional: at most eight words
text = "A leaky unit mixes its old state with the new one."
source = "Jaeger et al. 2007"
formula = "h_t = (1 − α) h_{t−1} + α u_t"         # optional: web/src/exam/formula.js
claim = "leaky units"                  # optional: how a claim of the experiment begins
finding = "Leaky units solve {:.0%} of the runs." # optional: the claim's number in it
experiment = "standout"                # optional: another one, whose claim it is
bonus = false                          # optional
```
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import lab
from ..language.errors import CellwrightError, did_you_mean
from ..look.figures import FIGURES

if sys.version_info >= (3, 11):
    import tomllib
else:  # tomllib is of Python 3.11
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

OURS = Path(__file__).parent / "questions"

#: Hints for the one who answers, most important first (design, section 7).
HINTS = (
    "Start with the most important points.",
    "Be concise and precise.",
    "Use sketches (be prepared to).",
    "Go from high level to details.",
    "Answer the question (ask back if necessary to make sure you understood it "
    "correctly).",
)
LEAD_WORDS = 8  # at most


class QuestionError(CellwrightError):
    """A question's file that does not say what it should."""


@dataclass(frozen=True)
class Point:
    """A key point of an answer.

    Attributes:
        text: what a good answer says.
        source: where it is from.
        lead: the same in at most eight words; "" for none.
        formula: in one line; "" for none.
        claim: the claim of the experiment that bears it out: the start of its
            sentence; "" for none in particular.
        finding: a sentence with a place for the claim's number, as `str.format` takes
            it; "" for the claim's own words.
        experiment: the one whose claim it is; "" for the question's.
        bonus: more than was asked.
    """

    text: str
    source: str
    lead: str = ""
    formula: str = ""
    claim: str = ""
    finding: str = ""
    experiment: str = ""
    bonus: bool = False


@dataclass(frozen=True)
class Question:
    """A question with its key points, most important first.

    Attributes:
        id: unique among the questions.
        question: as it is asked.
        points: the key points.
        experiment: the laboratory's experiment that backs them; "" for none.
        figure: the figure of `look.figures` that shows the answer; "" for none.
        sketch: what a good sketch shows; "" for nothing in particular.
    """

    id: str
    question: str
    points: tuple[Point, ...]
    experiment: str = ""
    figure: str = ""
    sketch: str = ""


def load(folders: Iterable[Path] = ()) -> list[Question]:
    """Our eight questions, then those of the user's folders or files.

    Raises:
        QuestionError: a file that is missing, unreadable or incomplete, a folder
            without questions, an id given twice.
    """
    files = sorted(OURS.glob("*.toml"))
    for given in folders:
        if not given.exists():
            raise QuestionError(f"[{given}] no such file or folder of questions")
        found = sorted(given.glob("*.toml")) if given.is_dir() else [given]
        if not found:
            raise QuestionError(
                f"[{given}] holds no questions; expected files that end in .toml"
            )
        files += found
    questions: dict[str, Question] = {}
    for file in files:
        question = read(file)
        if question.id in questions:
            raise QuestionError(
                f"[{file.name}] id is there already; received {question.id!r}, "
                "expected another"
            )
        questions[question.id] = question
    return list(questions.values())


def read(file: Path) -> Question:
    """The question of one file."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise QuestionError(f"[{file.name}] not TOML: {error}") from None
    where = file.name
    points = data.pop("points", [])
    _check(where, data, ("id", "question"), ("experiment", "figure", "sketch"))
    if not isinstance(points, list) or not points:
        raise QuestionError(
            f"[{where}] has no key points; expected [[points]] with text and source"
        )
    _check_known(where, "experiment", data.get("experiment"), lab.NAMES)
    _check_known(where, "figure", data.get("figure"), FIGURES)
    return Question(**data, points=tuple(_point(where, point) for point in points))


def _point(where: str, data: Any) -> Point:
    if not isinstance(data, dict):
        raise QuestionError(
            f"[{where}] a key point is a table; received {data!r}, expected [[points]]"
        )
    bonus = data.pop("bonus", False)
    if not isinstance(bonus, bool):
        raise QuestionError(
            f"[{where}] bonus is true or false; received {bonus!r}, expected a boolean"
        )
    optional = ("lead", "formula", "claim", "finding", "experiment")
    _check(f"{where}, points", data, ("text", "source"), optional)
    words = data.get("lead", "").split()
    if len(words) > LEAD_WORDS:
        raise QuestionError(
            f"[{where}] a lead is short; received {len(words)} words, expected at most "
            f"{LEAD_WORDS}: {data['lead']!r}"
        )
    _check_known(where, "experiment", data.get("experiment"), lab.NAMES)
    _check_finding(where, data.get("finding", ""), data.get("claim", ""))
    return Point(**data, bonus=bonus)


def _check_finding(where: str, finding: str, claim: str) -> None:
    """A finding has a place for one number, and a claim that gives it."""
    if not finding:
        return
    if not claim:
        raise QuestionError(
            f"[{where}] a finding says a claim's number; received no claim beside "
            f"{finding!r}"
        )
    try:
        places = finding.format(1.0) != finding.format(2.0)
    except (ValueError, IndexError, KeyError, AttributeError):
        places = False
    if not places:
        raise QuestionError(
            f"[{where}] a finding has one place for a number, such as {{:.2f}}; "
            f"received {finding!r}"
        )


def _check_known(where: str, key: str, name: str | None, known: Iterable[str]) -> None:
    if name and name not in known:
        hint = did_you_mean(name, list(known))
        raise QuestionError(
            f"[{where}] {key} is one of cellwright's; received {name!r}. {hint}"
        )


def _check(
    where: str,
    data: dict[str, Any],
    needed: tuple[str, ...],
    optional: tuple[str, ...],
) -> None:
    """Every entry is known and text, and none that is needed is missing."""
    for key in needed:
        if not data.get(key):
            raise QuestionError(
                f"[{where}] {key!r} is missing; received {', '.join(data) or 'nothing'}"
                f", expected {', '.join(needed)}"
            )
    for key, value in data.items():
        if key not in (*needed, *optional):
            hint = did_you_mean(key, [*needed, *optional, "points"])
            raise QuestionError(f"[{where}] unknown entry {key!r}. {hint}")
        if not isinstance(value, str):
            raise QuestionError(
                f"[{where}] {key!r} is text; received {value!r}, expected a string"
            )
