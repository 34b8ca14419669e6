"""Derived operations written out, for targets that know the primitives alone."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from .builder import Builder
from .graph import Graph, Node
from .ops import OPS
from .trace import Traced, as_node
from .verify import verify

PRIMITIVES = frozenset(name for name, op in OPS.items() if op.primitive)


@lru_cache(maxsize=256)
def definition(
    name: str, options: tuple[tuple[str, Any], ...] = ()
) -> tuple[tuple[Node, ...], int]:
    """A derived operation in other ones: nodes, and which of them is the result.

    Its arguments are inputs named by their number, "0", "1", …; sizes are not said,
    since they follow from the arguments'.
    """
    op = OPS[name]
    assert op.expand is not None, f"{name} is a primitive"
    builder = Builder(name)
    builder.source = ""
    args = [Traced(builder, builder.add_input(str(n), "size")) for n in range(op.arity)]
    result = as_node(builder, op.expand(*args, **dict(options)), args[0])
    return tuple(builder.nodes), result


def expanded(graph: Graph, known: Collection[str] = PRIMITIVES) -> Graph:
    """The same step in the operations that a target knows, under the same names."""
    nodes: list[Node] = []
    new: dict[int, int] = {}  # the position of each old node's value
    for number, node in enumerate(graph.nodes):
        node = node.on(tuple(new[a] for a in node.args))
        new[number] = _write(nodes, node, known)
    return verify(graph.with_nodes(nodes, new), after="expand", internal=True)


def _write(nodes: list[Node], node: Node, known: Collection[str]) -> int:
    """Append a node, or what defines it; the position of its value."""
    if node.op not in OPS or node.op in known:
        nodes.append(node)
        return len(nodes) - 1
    inner, result = definition(node.op, node.attrs)
    values: list[int] = []
    for part in inner:
        if part.op == "input":
            values.append(node.args[int(part["name"])])
            continue
        args, size = tuple(values[a] for a in part.args), part.size
        if part.op != "constant":
            size = OPS[part.op].result_size([nodes[a].size for a in args], part.options)
        part = Node(part.op, args, part.attrs, size, node.source)
        values.append(_write(nodes, part, known))
    return values[result]
