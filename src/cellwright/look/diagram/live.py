"""The values of a walk's equations at one moment, and what they mean in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...language.graph import Graph
from ..saturation import HIGH, LOW
from .captions import Teller, say
from .lanes import Plan
from .moment import Moment, Values, is_share
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


class Live:
    """The values of every part of a picture at one moment.

    Attributes:
        moment: where they come from.
    """

    def __init__(
        self, graph: Graph, plan: Plan, teller: Teller, moment: Moment
    ) -> None:
        self.graph, self.plan, self.teller = graph, plan, teller
        self.moment = moment
        self.values = moment.values(graph)

    def limit(self, element: int) -> float:
        """Where the colours of a value with a sign end: a round number, one for a lane.

        Beyond it is one unit in a hundred at most.
        """
        lane = next((lane for lane in self.plan.lanes if element in lane), (element,))
        sizes = np.concatenate([np.abs(self.of(e)) for e in lane])
        if sizes.max() <= 1:
            return 1.0
        end = float(np.quantile(sizes, 0.99))
        power = 10.0 ** np.floor(np.log10(end))
        return float(next(m * power for m in (1, 2, 5, 10) if m * power > 0.999 * end))

    def of(self, element: int) -> Values:
        return self.values[self.plan.elements[element].value]

    def rows(self, own: Iterable[int]) -> list[Row]:
        """What an equation reads, then what it makes on the way, then its result."""
        own = sorted(own, key=lambda e: self.plan.elements[e].value)
        read = [o for e in own for o in self.teller.operands(e) if o not in own]
        first = [self._row(e) for e in dict.fromkeys(read)]
        made = [self._row(e) for e in own[:-1] if self.plan.elements[e].inputs]
        made = [r for r in made if width(r.label, LABEL) <= LONGEST]
        room = max(0, ROWS - 1 - len(first))
        return [*first[: ROWS - 1], *made[:room], self._row(own[-1])]

    def _row(self, element: int) -> Row:
        share = is_share(self.graph, self.plan.elements[element].value)
        limit = 1.0 if share else self.limit(element)
        return Row(element, self.teller.name(element), self.of(element), share, limit)

    # -- in words ----------------------------------------------------------------------

    def sentence(self, top: int) -> Label:
        """What the value of an equation is at this moment."""
        begin = f" {_capital(self.moment.place)}, " if self.moment.place else " Here "
        lane = next((lane for lane in self.plan.lanes if lane[-2] == top), None)
        if lane is not None:
            said = self._along(lane)
        elif is_share(self.graph, self.plan.elements[top].value):
            said = self._gate(top)
        else:
            said = self._signed(top)
        return (*plain(begin), *said, *plain("."))

    def _gate(self, top: int) -> Label:
        name, gate = self.teller.name(top), self.of(top)
        said = say(
            f"{{}} is {short(gate.mean())} in the mean, above {HIGH:g} in "
            f"{percent(gate > HIGH)} and below {LOW:g} in {percent(gate < LOW)} of the "
            "units",
            name,
        )
        verdicts = [
            say(f"{{}} is {verdict(role, gate.mean())}", thing)
            for role, thing in self.teller.roles(top).items()
            if role in VERDICTS
        ]
        for place, told in enumerate(verdicts):
            said += (*plain(", " if place else ": "), *told)
        return said

    def _signed(self, top: int) -> Label:
        name, value = self.teller.name(top), self.of(top)
        return say(
            f"{{}} lies between {short(value.min())} and {short(value.max())}; its "
            f"size |{{}}| is {short(np.abs(value).mean())} in the mean of the units",
            name, name,
        )  # fmt: skip

    def _along(self, lane: tuple[int, ...]) -> Label:
        """How large the state is, on the mean of its units, as it goes on its lane."""
        size = [short(np.abs(self.of(e)).mean()) for e in lane]
        said = say(
            f"the mean size of a unit is {size[0]} in {{}}", self.teller.name(lane[0])
        )
        for place, (before, here) in enumerate(pairwise(lane[:-1]), 1):
            others = [o for o in self.teller.operands(here) if o != before]
            sign = (*self.plan.elements[here].label, *plain(" "))
            what = (*sign, *self.teller.name(others[0])) if others else sign[:-1]
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
