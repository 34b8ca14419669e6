"""The values of a cell's equations at one step, and what they mean in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...language.graph import Graph
from ..saturation import HIGH, LOW
from .captions import CaptionWriter, say
from .moment import Moment, Values, is_share
from .plan import Plan
from .text import Label, number, plain, width

ROWS = 10  # of a step, at most; an equation's operands and its result come first
LONGEST = 130.0  # a row's label, in pixels at its size
LABEL = 14.0
MOSTLY, HARDLY = 0.7, 0.3  # of a gate's mean

# What a gate does to its thing where it is open, half open and closed.
VERDICTS = {
    "keep": ("mostly kept", "partly kept", "mostly deleted"),
    "delete": ("mostly deleted", "partly kept", "mostly kept"),
    "reset": ("mostly seen", "partly seen", "hardly seen"),
    "store": ("mostly stored", "partly stored", "hardly stored"),
    "output": ("mostly shown", "partly shown", "mostly hidden"),
}


@dataclass(frozen=True)
class Row:
    """A value of the step.

    Attributes:
        element: of the picture, whose value it is.
        label: what the equations call it.
        values: one for each unit.
        share: whether it lies between 0 and 1 by its making: a gate.
        limit: where the colours end, above and, for a value with a sign, below.
    """

    element: int
    label: Label
    values: Values
    share: bool
    limit: float


@dataclass(frozen=True)
class StepValues:
    """What a picture shows of one equation's values.

    Attributes:
        rows: the equation's operands, what is made on the way, and its result.
        title: whose step it is.
    """

    rows: list[Row]
    title: str


class Live:
    """The values of every part of a picture at one step.

    Attributes:
        moment: where they come from.
    """

    def __init__(
        self, graph: Graph, plan: Plan, captions: CaptionWriter, moment: Moment
    ) -> None:
        self.graph, self.plan, self.captions = graph, plan, captions
        self.moment = moment
        self.values = moment.values(graph)

    def limit(self, element: int) -> float:
        """Where the colours of a value with a sign end: a round number.

        It is the same for all values of a state line. At most one unit in a hundred is
        beyond it.
        """
        alike = self.plan.line_through(element) or (element,)
        sizes = np.concatenate([np.abs(self.of(e)) for e in alike])
        if sizes.max() <= 1:
            return 1.0
        end = float(np.quantile(sizes, 0.99))
        power = 10.0 ** np.floor(np.log10(end))
        return float(next(m * power for m in (1, 2, 5, 10) if m * power > 0.999 * end))

    def of(self, element: int) -> Values:
        return self.values[self.plan.elements[element].value]

    def shown(self, own: Iterable[int]) -> StepValues:
        """The values of an equation whose elements are `own`."""
        own = sorted(own, key=lambda e: self.plan.elements[e].value)
        read = [o for e in own for o in self.captions.operands(e) if o not in own]
        first = [self._row(e) for e in dict.fromkeys(read)]
        made = [self._row(e) for e in own[:-1] if self.plan.elements[e].inputs]
        made = [r for r in made if width(r.label, LABEL) <= LONGEST]
        room = max(0, ROWS - 1 - len(first))
        rows = [*first[: ROWS - 1], *made[:room], self._row(own[-1])]
        return StepValues(rows, self.moment.title)

    def _row(self, element: int) -> Row:
        share = is_share(self.graph, self.plan.elements[element].value)
        limit = 1.0 if share else self.limit(element)
        return Row(element, self.captions.name(element), self.of(element), share, limit)

    # -- in words ----------------------------------------------------------------------

    def sentence(self, top: int) -> Label:
        """What the value of an equation is at this step."""
        begin = f" {_capital(self.moment.place)}, " if self.moment.place else " Here "
        line = self.plan.line_made_by(top)
        if line is not None:
            said = self._along(line)
        elif is_share(self.graph, self.plan.elements[top].value):
            said = self._gate(top)
        else:
            said = self._signed(top)
        return (*plain(begin), *said, *plain("."))

    def _gate(self, top: int) -> Label:
        name, gate = self.captions.name(top), self.of(top)
        said = say(
            f"{{}} is {short(gate.mean())} in the mean, above {HIGH:g} in "
            f"{percent(gate > HIGH)} and below {LOW:g} in {percent(gate < LOW)} of the "
            "units",
            name,
        )
        verdicts = [
            say(f"{{}} is {verdict(role, gate.mean())}", thing)
            for role, thing in self.captions.roles(top).items()
            if role in VERDICTS
        ]
        for place, one in enumerate(verdicts):
            said += (*plain(", " if place else ": "), *one)
        return said

    def _signed(self, top: int) -> Label:
        name, value = self.captions.name(top), self.of(top)
        return say(
            f"{{}} lies between {short(value.min())} and {short(value.max())}; its "
            f"size |{{}}| is {short(np.abs(value).mean())} in the mean of the units",
            name,
            name,
        )

    def _along(self, line: tuple[int, ...]) -> Label:
        """How large the state is, on the mean of its units, operation by operation."""
        size = [short(np.abs(self.of(e)).mean()) for e in line]
        said = say(
            f"the mean size of a unit is {size[0]} in {{}}", self.captions.name(line[0])
        )
        for place, (before, here) in enumerate(pairwise(line[:-1]), 1):
            others = [o for o in self.captions.operands(here) if o != before]
            sign = (*self.plan.elements[here].label, *plain(" "))
            what = (*sign, *self.captions.name(others[0])) if others else sign[:-1]
            said += say(f", {size[place]} after {{}}", what)
        return said


def verdict(role: str, mean: float) -> str:
    """In words, what a gate of this mean does."""
    return VERDICTS[role][0 if mean >= MOSTLY else 2 if mean <= HARDLY else 1]


def percent(which: np.ndarray) -> str:
    return f"{100 * which.mean():.0f}\u00a0%"


def short(value: float) -> str:
    """Two decimals, or three digits, whichever says more."""
    text = f"{value:.2f}"
    if abs(value) >= 100 or (value and abs(value) < 0.01):
        return number(float(f"{value:.3g}"))
    return text.replace("-", "−")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
