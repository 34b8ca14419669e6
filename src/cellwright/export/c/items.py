"""What a step makes of sets of items: one graph for each item, and one around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

from ...compiler.once import Once
from ...language.graph import ATTENTION, ITEM, TOTAL, Graph, Input, Node, select

MADE = "made"  # a value that each item has, stored before the first step

OVER_ITEMS = frozenset({TOTAL, ATTENTION, MADE})


@dataclass(frozen=True)
class Each:
    """What each item has, of a value that is made of all items of a set.

    Attributes:
        graph: of one item, without states.
        set: whose items.
        given: what the graph's inputs are, in order: an item by its name, or a node of
            the graph around it, of which an attention has a value for each item.
        name: of what is made, where that is stored.
    """

    graph: Graph
    set: str
    given: tuple[str | int, ...]
    name: str = ""


@dataclass(frozen=True)
class Around:
    """A step without what varies over items.

    Attributes:
        graph: its totals and attentions read the values of the row that items need.
        each: of every total and attention.
    """

    graph: Graph
    each: Mapping[int, Each]


def around_items(graph: Graph) -> Around:
    """Part a step, in operations that C has: what rows have, and what items have."""
    nodes, each = list(graph.nodes), {}
    for number, node in enumerate(graph.nodes):
        if node.op in (TOTAL, ATTENTION):
            each[number] = _each(graph, node.args[0])
        elif node.op == MADE:
            each[number] = replace(_each(graph, node.args[0]), name=node["name"])
    for number, own in each.items():
        nodes[number] = nodes[number].on(tuple(a for a in own.given if _is_node(a)))
    sets = graph.sets
    kept = [n for n, over in enumerate(sets) if n in each or over is None]
    chosen, new = select(nodes, kept)
    found = {
        new[number]: replace(
            own, given=tuple(new[a] if _is_node(a) else a for a in own.given)
        )
        for number, own in each.items()
    }
    names = [(name, n) for name, n in graph.names if n in new]
    row = replace(graph, names=tuple(names)).with_nodes(chosen, new, items=())
    return Around(row, found)


def made_before(once: Once) -> Graph | None:
    """What is made of the items before the first step, one node for each.

    It has the cell's items and no states. `None`: the steps read the items as they are.
    """
    nodes, results = list(once.nodes), []
    for name, number in once.made.items():
        if nodes[number].op != ITEM:
            results.append(len(nodes))
            attrs = (("name", name),)
            nodes.append(Node(MADE, (number,), attrs, nodes[number].size))
    if not results:
        return None
    return replace(
        once.whole,
        nodes=tuple(nodes),
        inputs=(),
        states=(),
        updates=tuple(results),
        output=results[-1],
        names=(),
        explicit=(),
    )


def _each(graph: Graph, result: int) -> Each:
    """One item's share in a node that varies over a set."""
    sets, given, inner = graph.sets, {}, set()
    stack = [result]
    while stack:
        number = stack.pop()
        node = graph.nodes[number]
        if number in inner or number in given:
            continue
        if node.op == ITEM:
            given[number] = node["name"]
        elif node.op == ATTENTION or _is_of_row(node, sets[number]):
            given[number] = number
        else:
            inner.add(number)
            stack.extend(node.args)
    order = sorted({*inner, *given})
    inputs = tuple(Input(f"given_{n}", graph.nodes[n].size) for n in given)
    leaves = {
        n: Node("input", (), (("name", own.name),), own.size)
        for n, own in zip(given, inputs, strict=True)
    }
    nodes, new = select([leaves.get(n, v) for n, v in enumerate(graph.nodes)], order)
    own = Graph(nodes, inputs, (), graph.weights, (), new[result], name=graph.name)
    return Each(own, str(sets[result]), tuple(given.values()))


def _is_node(given: str | int) -> TypeGuard[int]:
    return isinstance(given, int)


def _is_of_row(node: Node, over: str | None) -> bool:
    """Whether it has one value, which a step makes: no weight, and no number."""
    return over is None and node.op not in ("constant", "weight")
