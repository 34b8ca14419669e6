"""The names of a graph's values.

The rule: an activation takes the name of the first affine written in its argument,
reached through + and −, negation, scaling and layer_norm only, where that affine feeds
nothing else. Any other affine names its own value. `cellwright.name` names the rest,
and a state's name is its new value. The weights of `attend` are `attention`; of several
each has its scores' name too.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count

from .errors import CellError
from .graph import AFFINE, ATTENTION, Graph
from .ops import ACTIVATIONS

_SCALES = ("constant", "weight")


def name_values(graph: Graph) -> Graph:
    """`graph` with its names, which follow from its structure and the explicit ones.

    A weight used twice names two values, f and f.2, in the order of the nodes; the new
    value of a state comes first.
    """
    gates = {name: i for name, i in graph.names if name in set(graph.explicit)}
    taken, explicit = set(gates.values()), set(gates)
    states = {s.name: n for s, n in zip(graph.states, graph.updates, strict=True)}
    found = sorted(_automatic(graph), key=lambda item: states.get(item[1]) != item[0])
    for node, weight in found:
        if node not in taken and weight not in explicit:
            gates[_unused(weight, gates)] = node
    gates.update(_attentions(graph, {**states, **gates}))
    named = {**gates, **states, **gates}  # `check_names` refuses a state's for a gate
    order = sorted(named.items(), key=lambda item: item[1])
    return replace(graph, names=tuple(order))


def _attentions(graph: Graph, taken: dict[str, int]) -> dict[str, int]:
    """The names of the softmaxes over sets; `taken` are those of other values."""
    labels = {number: name for name, number in reversed(taken.items())}
    nodes = [n for n, node in enumerate(graph.nodes) if node.op == ATTENTION]
    found: dict[str, int] = {}
    for number in nodes:
        (scores,) = graph.nodes[number].args
        of = f".{labels[scores]}" if len(nodes) > 1 and scores in labels else ""
        found[_unused(f"attention{of}", {**taken, **found})] = number
    return found


def check_names(graph: Graph) -> None:
    """Refuse a value that has a state's name without being its new value.

    Raises:
        CellError: two values claim one name.
    """
    names = graph.values
    for state, update in zip(graph.states, graph.updates, strict=True):
        number, name = names[state.name], state.name
        if number != update:
            raise CellError(
                f"[{graph.nodes[number].source}, cell {graph.name!r}] the value named "
                f"{name!r} is not the new value of the state {name!r}; received two "
                f"values for one name. Rename the weight W.{name} (for a candidate, "
                "W.g is usual)"
            )


def _unused(name: str, taken: dict[str, int]) -> str:
    candidates = chain([name], (f"{name}.{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _automatic(graph: Graph) -> list[tuple[int, str]]:
    """(node, weight's name) of every value that an affine names, in order."""
    firsts = _first_affines(graph)
    named: dict[int, int] = {}  # affine -> the node it names
    for number, node in enumerate(graph.nodes):
        if node.op in ACTIVATIONS:
            affine, own = firsts[node.args[0]]
            if affine is not None and own:
                named[affine] = number
    affines = [(i, n["weight"]) for i, n in enumerate(graph.nodes) if n.op == AFFINE]
    return [(named.get(i, i), weight) for i, weight in affines]


def _first_affines(graph: Graph) -> list[tuple[int | None, bool]]:
    """For each node: the first affine written in it, and whether that feeds it alone.

    Arguments come before their readers, so one pass is enough.
    """
    uses = graph.uses()
    found: list[tuple[int | None, bool]] = []
    for number, node in enumerate(graph.nodes):
        affine, own = (number, True) if node.op == AFFINE else (None, False)
        for arg in _seen_through(graph, number):
            if affine is None:
                affine, own = found[arg]
        found.append((affine, own and uses[number] == 1))
    return found


def _seen_through(graph: Graph, number: int) -> tuple[int, ...]:
    node = graph.nodes[number]
    if node.op in ("add", "sub", "neg", "layer_norm"):
        return node.args
    if node.op == "mul":
        scaled = tuple(a for a in node.args if graph.nodes[a].op not in _SCALES)
        return scaled if len(scaled) < 2 else ()
    if node.op == "div" and graph.nodes[node.args[1]].op in _SCALES:
        return node.args[:1]
    return ()


def activation_arguments(graph: Graph) -> dict[str, int]:
    """`"f.pre"`: what the activation of each named value was applied to."""
    named = {name: graph.nodes[number] for name, number in graph.names}
    return {
        f"{name}.pre": n.args[0] for name, n in named.items() if n.op in ACTIVATIONS
    }


def recordable(graph: Graph) -> dict[str, int]:
    """Every value that can be recorded, by its key: the named ones, and `"f.pre"`."""
    return {**graph.values, **activation_arguments(graph)}
