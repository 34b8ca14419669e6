"""Products of the items that read no state, made once a call instead of at every step.

`W.key(source)` is the same at every step. So a step with items is cut in two: what is
made of the items alone, before the first step, and a step that has it as items too.
Of `W.a(h, source)` that is a part, which `made_once_of_mixed` cuts off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..language import Graph, Node, verify
from ..language.graph import AFFINE, ITEM, Item, before_steps, reachable, select
from .bindings import Binding
from .split import split_affines


@dataclass(frozen=True)
class Once:
    """A cell's step with items, cut in two.

    Attributes:
        whole: the cell's own step.
        step: what is left to every step. Its items are those that it reads: of the
            cell, and of `made`.
        nodes: what is computed before the first step, from the cell's items.
        made: for each item of `step`, the node of `nodes` that it is.
        left: of each node of `whole` that is left to `step`, where it is there.
    """

    whole: Graph
    step: Graph
    nodes: tuple[Node, ...]
    made: Mapping[str, int]
    left: Mapping[int, int]


def made_once_of_mixed(graph: Graph, binding: Binding) -> tuple[Once, Binding] | None:
    """Cut a step once more: `W.a(h, source)` becomes the sum of a part that reads h and
    has the bias, and of one that is made of the items, both of the same parameters.

    Args:
        graph: a step that `made_once` has left.
        binding: of its weights.

    Returns:
        The two steps, whose weights are as the binding says; `None` where there is no
        such product.
    """
    if not graph.items:
        return None
    split, bound, new = split_affines(graph, binding)
    once = made_once(split)
    if all(once.nodes[number].op == ITEM for number in once.made.values()):
        return None
    left = {old: once.left[n] for old, n in enumerate(new) if n in once.left}
    return replace(once, left=left), bound


def made_once(graph: Graph) -> Once:
    """Cut a step in two; one without items stays what it is."""
    if not graph.items:
        return Once(graph, graph, (), {}, {n: n for n in range(len(graph.nodes))})
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
    return Once(graph, verify(step, after="once", internal=True), first, made, new)


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
        fallback = node["weight"] if node.op == AFFINE else f"{of}_{number}"
        name = labels.get(number, fallback)
        while name in taken:
            name += "_"
        taken.add(name)
        found[number] = Item(name, node.size, str(of))
    return found
