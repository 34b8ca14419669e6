"""Products of the items that read no state, made once a call instead of at every step.

`W.key(source)` is the same at every step. So a step with items is cut in two: what is
made of the items alone, before the first step, and a step that has it as items too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..language import Graph, Node, verify
from ..language.graph import ITEM, Item, before_steps, reachable, select


@dataclass(frozen=True)
class Once:
    """A cell's step with items, cut in two.

    Attributes:
        whole: the cell's own step.
        step: what is left to every step. Its items are those that it reads: of the
            cell, and of `made`.
        nodes: what is computed before the first step, from the cell's items.
        made: for each item of `step`, the node of `nodes` that it is.
    """

    whole: Graph
    step: Graph
    nodes: tuple[Node, ...]
    made: Mapping[str, int]


def made_once(graph: Graph) -> Once:
    """Cut a step in two; one without items stays what it is."""
    if not graph.items:
        return Once(graph, graph, (), {})
    sets, fixed = graph.sets, before_steps(graph.nodes)
    before = {n for n, name in enumerate(sets) if name is not None and fixed[n]}
    roots = {n for n in range(len(fixed)) if not fixed[n]} | {*graph.returned}
    cut = [v.on(()) if n in before else v for n, v in enumerate(graph.nodes)]
    kept = sorted(reachable(cut, roots))
    items = _items(graph, [n for n in kept if n in before])
    for number, item in items.items():
        node = graph.nodes[number]
        of = (("set", item.set),) if item.set != item.name else ()
        attrs = (("name", item.name), *of)
        cut[number] = Node(ITEM, (), attrs, item.size, node.source)
    nodes, new = select(cut, kept)
    used = {n["weight"] for n in nodes if "weight" in n.options}
    names = [(name, n) for name, n in graph.names if n in new and n not in before]
    step = replace(graph, names=tuple(names)).with_nodes(
        nodes,
        new,
        items=tuple(items.values()),
        weights=tuple(w for w in graph.weights if w.name in used),
    )
    first, place = select(graph.nodes, sorted(reachable(graph.nodes, items)))
    made = {item.name: place[number] for number, item in items.items()}
    return Once(graph, verify(step, after="once", internal=True), first, made)


def _items(graph: Graph, numbers: list[int]) -> dict[int, Item]:
    """The items of the step, by the node that each is of the cell."""
    labels = {number: name for name, number in reversed(graph.names)}
    own = {i.name: i for i in graph.items}
    sets = graph.sets
    taken = {*own, *(v.name for v in (*graph.inputs, *graph.states))}
    found: dict[int, Item] = {}
    for number in numbers:
        node, of = graph.nodes[number], sets[number]
        if node.op == ITEM:
            found[number] = own[node["name"]]
            continue
        name = labels.get(number, f"{of}_{number}")
        while name in taken:
            name += "_"
        taken.add(name)
        found[number] = Item(name, node.size, str(of))
    return found
