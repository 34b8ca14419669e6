"""Cells compared by their equations: which weight of one is which of another.

Names, the order of + and *, the order of operands and of statements may differ; for a
library whose layers take any activation, activations may too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from .errors import ArgumentError
from .evaluate import evaluate_nodes
from .graph import Graph, Node, Weight, reachable, select
from .ops import ACTIVATIONS, OPS

Activation = tuple[Node, ...]  # an input v, then what is computed from it


@dataclass(frozen=True)
class Match:
    """Which weights and activations of one graph are which of a template's.

    Attributes:
        names: the template's weight names → the graph's.
        activations: the template's nodes of activations → what the graph has there.
    """

    names: dict[str, str] = field(default_factory=dict)
    activations: dict[int, Activation] = field(default_factory=dict)

    def with_name(self, key: str, value: str) -> Match | None:
        taken = key not in self.names and value in self.names.values()
        if taken or self.names.get(key, value) != value:
            return None
        return replace(self, names={**self.names, key: value})

    def with_activation(self, place: int, found: Activation) -> Match | None:
        if self.activations.get(place, found) != found:
            return None
        return replace(self, activations={**self.activations, place: found})


def same_equations(template: Graph, graph: Graph) -> dict[str, str] | None:
    """The template's weight names in the graph's, if both compute the same step."""
    match = next(_matches(template, graph, any_activation=False), None)
    return match.names if match else None


def same_structure(template: Graph, graph: Graph) -> Match | None:
    """The same where activations may be others.

    An activation is any function of one value, written in operations and numbers.
    Where two gates could be swapped (i and g of an LSTM, which reads their product),
    the template's own activations decide, then one activation for each of its kinds,
    then the names.

    Raises:
        ArgumentError: none of these decides, and it would matter.
    """
    matches = [*_matches(template, graph, any_activation=True)]
    if not matches:
        return None
    likeness = partial(_likeness, template)
    best = max(matches, key=likeness)
    for other in matches:
        equal = likeness(other) == likeness(best)
        if equal and other.activations != best.activations:
            swapped = [n for k, n in best.names.items() if other.names[k] != n]
            names = [weight.name for weight in template.weights]
            raise ArgumentError(
                f"[convert] cell {graph.name!r} has the structure of "
                f"{template.name!r}, but its activations do not tell which of its "
                f"weights is which; received {', '.join(swapped)}, expected the names "
                f"of {template.name!r}: {', '.join(names)}"
            )
    return best


def complements(activation: Activation) -> bool:
    """Whether f(−v) = 1 − f(v), as of the logistic function."""
    v = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    both = [evaluate_nodes(activation, None, {"v": sign * v})[-1] for sign in (1, -1)]
    return torch.allclose(both[0] + both[1], torch.ones_like(v), rtol=0, atol=1e-12)


# -- matching --------------------------------------------------------------------


def _matches(template: Graph, graph: Graph, *, any_activation: bool) -> Iterator[Match]:
    states, own = ([(s.size, s.init) for s in g.states] for g in (template, graph))
    bare = len(graph.inputs) == 1 and not graph.items
    if states != own or not bare or not graph.output_is_state:
        return
    pairs = list(zip(template.updates, graph.updates, strict=True))
    for match in _unify(template, graph, pairs, Match(), any_activation):
        names = match.names.items()
        if all(_holds(template.weight(a), graph.weight(b)) for a, b in names):
            yield match


def _holds(packed: Weight, own: Weight) -> bool:
    """Whether a library's weight can hold this one: no heads, no bias that it lacks."""
    biased = packed.bias is not False or own.bias is False
    plain = own.heads == 1 and not own.made
    return plain and own.size == packed.size and biased


def _unify(
    a: Graph,
    b: Graph,
    pairs: list[tuple[int, int]],
    match: Match,
    any_activation: bool,
) -> Iterator[Match]:
    """Every way in which all pairs of nodes are equal."""
    if not pairs:
        yield match
        return
    (left, right), *rest = pairs
    node, other = a.nodes[left], b.nodes[right]
    known: Match | None = match
    if any_activation and node.op in ACTIVATIONS:
        for argument in _arguments(b, right):
            known = match.with_activation(left, _written(b, right, argument))
            if known:
                more = [(node.args[0], argument), *rest]
                yield from _unify(a, b, more, known, any_activation)
        return
    if node.op != other.op or len(node.args) != len(other.args):
        return
    if "weight" in node.options:
        known = match.with_name(node["weight"], other["weight"])
        if known is None:
            return
    elif node.op == "state":
        if _state(a, node) != _state(b, other):
            return
    elif node.attrs != other.attrs:
        return
    swaps = node.op in ("add", "mul", "affine") and len(other.args) == 2
    for args in (other.args, other.args[::-1]) if swaps else (other.args,):
        more = [*zip(node.args, args, strict=True), *rest]
        yield from _unify(a, b, more, known, any_activation)


def _state(graph: Graph, node: Node) -> int:
    return [s.name for s in graph.states].index(node["name"])


# -- activations -----------------------------------------------------------------


def _arguments(graph: Graph, number: int) -> Iterator[int]:
    """The values of which a node is a function through operations and numbers alone,
    itself among them: no activation at all.

    A complement, 1 − σ(v) or −v, belongs to the equations: it is none.
    """
    node = graph.nodes[number]
    if node.op == "neg" or (
        node.op == "sub" and graph.nodes[node.args[0]].op == "constant"
    ):
        return
    frontier = {number}  # whatever leads to the node passes through here
    while frontier:
        last = max(frontier)
        if len(frontier) == 1 and graph.nodes[last].size == node.size:
            yield last
        if graph.nodes[last].op not in OPS:
            return
        below = graph.nodes[last].args
        frontier = frontier - {last} | {
            a for a in below if graph.nodes[a].op != "constant"
        }


def _written(graph: Graph, number: int, argument: int) -> Activation:
    """A node as a function of another: numbered anew, so that equal ones are equal."""
    nodes = list(graph.nodes)
    nodes[argument] = Node("input", attrs=(("name", "v"),))
    below = reachable(nodes, [number]) - {argument}
    chosen, _ = select(nodes, [argument, *sorted(below)])
    return tuple(Node(n.op, n.args, n.attrs) for n in chosen)


def _likeness(template: Graph, match: Match) -> tuple[int, ...]:
    """How much a match resembles the template: more is more."""
    kinds: dict[str, set[Any]] = {}
    equal = 0
    for place, found in match.activations.items():
        node = template.nodes[place]
        kinds.setdefault(node.op, set()).add(found)
        equal += [(n.op, n.attrs) for n in found[1:]] == [(node.op, node.attrs)]
    several = sum(len(found) for found in kinds.values())
    return equal, -several, sum(a == b for a, b in match.names.items())
