"""Graphs built again: with numbers for sizes, with other operations, as a tree's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .arguments import plain
from .builder import Builder
from .errors import SizeError, did_you_mean
from .graph import ATTENTION, ITEM, TOTAL, Graph, Node
from .ops import OPS
from .sizes import MatrixSize, Size
from .trace import Traced, as_node


def bind(graph: Graph, /, **sizes: int) -> Graph:
    """The same graph with numbers for its symbolic sizes, every size checked.

    Raises:
        SizeError: a size is missing, unknown, not positive, or two that must
            agree do not; the message names the user's line.
    """
    known = graph.size_names
    sizes = {label: plain(value) for label, value in sizes.items()}
    for label, value in sizes.items():
        if label not in known:
            raise SizeError(
                f"[cell {graph.name!r}] no size of this cell is called {label!r}. "
                + did_you_mean(label, list(known))
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SizeError(
                f"[cell {graph.name!r}] {label} counts units; received {value!r}, "
                "expected a positive integer"
            )
    for label in known:
        if label not in sizes:
            raise SizeError(
                f"[cell {graph.name!r}] needs {label}; received "
                f"{', '.join(sizes) or 'no sizes'}, expected a number for {label}"
            )
    builder = Builder(graph.name)
    return replay(graph, builder, size=lambda s: _bound(s, sizes))


def _bound(size: Size, sizes: Mapping[str, int]) -> Size:
    if isinstance(size, MatrixSize):
        return size.map(lambda part: sizes.get(part, part))  # type: ignore[arg-type]
    return sizes[size] if isinstance(size, str) else size


def replay(
    graph: Graph,
    builder: Builder,
    *,
    size: Callable[[Size], Size] = lambda s: s,
    substitute: Mapping[int, Callable[[Traced], Any]] | None = None,
    children: Sequence[str] = (),
) -> Graph:
    """Build `graph` again, with other sizes or with some operations substituted.

    Args:
        size: maps each size of the old graph to the new one's.
        substitute: for a node's position, a function of its (first) argument that
            takes the operation's place.
        children: of a sequence's cell: make it a tree's with this one child.
    """
    new: dict[int, int] = {}
    for inp in graph.inputs:
        builder.add_input(inp.name, size(inp.size))
    for item in graph.items:
        builder.add_item(item.name, size(item.size), item.set)
    children = children or graph.children
    if children:
        states = {s.name: size(s.size) for s in graph.states}
        builder.add_children(children, graph.many, states)
        builder.close_states()
    else:
        for state in graph.states:
            builder.add_state(state.name, size(state.size), state.init)
    explicit = graph.explicit_names
    for number, node in enumerate(graph.nodes):
        builder.source = node.source
        args = tuple(new[a] for a in node.args)
        if substitute and number in substitute:
            value = substitute[number](Traced(builder, args[0]))
            new[number] = as_node(builder, value, None)
        else:
            new[number] = replay_node(graph, builder, node, args, size)
        for label in explicit.get(number, ()):
            builder.explicit[label] = new[number]
    return builder.finish(tuple(new[n] for n in graph.returned), graph.doc)


def replay_node(
    graph: Graph,
    builder: Builder,
    node: Node,
    args: tuple[int, ...],
    size: Callable[[Size], Size] = lambda s: s,
) -> int:
    """One node of `graph` built again, on `args` of the new graph."""
    if node.op == "constant":
        return builder.constant(node["value"])
    if node.op == "state" and builder.children:
        child = node.options.get("child", builder.children[0])
        return builder.child_state(child, node["name"])
    if node.op in ("input", "state"):
        return builder.leaf(node.op, size(node.size), name=node["name"])
    if node.op == ITEM:
        return builder.leaf(ITEM, size(node.size), **node.options)
    if node.op == TOTAL:
        return builder.total(args[0])
    if node.op == ATTENTION:
        return builder.attention(args[0])
    if node.op in OPS:
        return builder.apply(OPS[node.op], args, **node.options)
    weight = graph.weight(node["weight"])
    name, units = weight.name, size(weight.size)
    if node.op == "weight":
        return builder.parameter(name, weight.kind, units, weight.init)
    columns = OPS[weight.columns] if weight.columns else None
    options: dict[str, Any] = {"heads": weight.heads, "columns": columns}
    options |= {"bias": weight.bias_option, "antisymmetric": weight.antisymmetric}
    return builder.affine(name, args, size=units, **options)
