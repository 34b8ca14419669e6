"""How much of its old value a state keeps: new state = factor * old state + rest.

The factor is derived from the graph, not from the cell's name: f in an LSTM, 1 − z in a
GRU, a number in leaky units. What reaches the new state through a matrix or an
activation belongs to the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..language import OPS, Graph

Polynomial = Mapping[
    tuple[int, ...], float
]  # products of nodes, and their coefficients

_MOST_TERMS = 16  # of a factor; a longer one says nothing to a reader


@dataclass(frozen=True)
class Retention:
    """The factor `constant + slope * gate` of one state.

    Attributes:
        state: its name.
        gate: the name of the value that the factor follows; `None`: a number alone.
        constant, slope: 0 and 1 where the gate keeps, 1 and −1 where it replaces.
    """

    state: str
    gate: str | None
    constant: float
    slope: float = 0.0

    @property
    def factor(self) -> str:
        """The factor as it is written: `f`, `1 − z`, `0.9`."""
        if self.gate is None:
            return f"{self.constant:g}"
        size = abs(self.slope)
        gate = self.gate if size == 1 else f"{size:g} {self.gate}"
        if not self.constant:
            return gate if self.slope > 0 else f"−{gate}"
        return f"{self.constant:g} {'+' if self.slope > 0 else '−'} {gate}"


def retentions(graph: Graph) -> list[Retention]:
    """The factor of every state that has one: a number, or a function of a named value.

    A state without its old value, or under a factor of several values, is left out.
    """
    found = []
    for state, update in zip(graph.states, graph.updates, strict=True):
        factor = _factor(graph, state.name, update)
        one = _of_one_value(graph, factor) if factor else None
        if one:
            found.append(Retention(state.name, *one))
    return found


def _factor(graph: Graph, state: str, update: int) -> Polynomial | None:
    """What multiplies the old state in its new value; `None`: that is not linear."""
    shares: list[Polynomial | None] = []
    values = _Values(graph)
    for node in graph.nodes[: update + 1]:
        args = [shares[a] for a in node.args]
        share: Polynomial | None = {}
        match node.op:
            case "state":
                share = {(): 1.0} if node.label == state else {}
            case "add" | "sub":
                share = _sum(args[0], args[1], 1.0 if node.op == "add" else -1.0)
            case "neg":
                share = _sum({}, args[0], -1.0)
            case "identity":
                share = args[0]
            case "mul" if all(args):
                share = None
            case "mul":
                a, b = node.args
                share = _product(args[0], values.of(b)) if args[0] else {}
                share = _product(args[1], values.of(a)) if args[1] else share
                share = None if None in args else share
            case "div" if args[0] != {}:
                divisor = graph.nodes[node.args[1]]
                number = divisor.op == "constant" and divisor["value"]
                share = _product(args[0], {(): 1 / number}) if number else None
            case op if (
                op in OPS
                and OPS[op].kind == "arithmetic"
                and any(a != {} for a in args)
            ):  # maximum, where: kept or not, by the values
                share = None
        shares.append(share)
    return shares[update]


class _Values:
    """Values as polynomials of named ones and of what no arithmetic takes apart."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        named = set(graph.values.values())
        self.found: list[Polynomial] = []
        for number, node in enumerate(graph.nodes):
            args = [self.found[a] for a in node.args]
            made: Polynomial | None = None
            if number not in named:
                match node.op:
                    case "constant":
                        made = {(): node["value"]}
                    case "add" | "sub":
                        sign = 1.0 if node.op == "add" else -1.0
                        made = _sum(args[0], args[1], sign)
                    case "neg":
                        made = _sum({}, args[0], -1.0)
                    case "mul":
                        made = _product(*args)
            self.found.append({(number,): 1.0} if made is None else made)

    def of(self, number: int) -> Polynomial:
        return self.found[number]


def _sum(a: Polynomial | None, b: Polynomial | None, sign: float) -> Polynomial | None:
    if a is None or b is None:
        return None
    total = dict(a)
    for key, value in b.items():
        total[key] = total.get(key, 0.0) + sign * value
    return _short({k: v for k, v in total.items() if v})


def _product(a: Polynomial | None, b: Polynomial | None) -> Polynomial | None:
    if a is None or b is None:
        return None
    total: dict[tuple[int, ...], float] = {}
    for one, x in a.items():
        for other, y in b.items():
            key = tuple(sorted((*one, *other)))
            total[key] = total.get(key, 0.0) + x * y
    return _short({k: v for k, v in total.items() if v})


def _short(polynomial: Polynomial) -> Polynomial | None:
    size = sum(len(key) for key in polynomial)
    return polynomial if len(polynomial) + size <= _MOST_TERMS else None


def _of_one_value(
    graph: Graph, factor: Polynomial
) -> tuple[str | None, float, float] | None:
    """(name, constant, slope) of a factor that follows one named value, or none."""
    names: dict[tuple[int, ...], str] = {
        (number,): name for name, number in reversed(graph.names)
    }
    constant = factor.get((), 0.0)
    match [(key, slope) for key, slope in factor.items() if key]:
        case []:
            return None, constant, 0.0
        case [(key, slope)] if key in names:
            return names[key], constant, slope
    return None
