"""Outer products, scaled: `i * outer(v, k)` is `outer(i * v, k)`.

Written as a product of matrices, each of its elements is computed once more, forward
and backward. As one of vectors, it takes no time beside the matrix. So does a minus
sign.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..language import Graph, Node, verify
from ..language.sizes import MatrixSize
from .bindings import Binding


def scale_vectors(
    graph: Graph, binding: Binding
) -> tuple[Graph, Binding, Sequence[int]]:
    """The same step, in which factors of an outer product are its vectors'.

    Returns:
        The step, its binding, and for each old node the new one of the same value.
    """
    if not any(node.op == "outer" for node in graph.nodes):
        return graph, binding, range(len(graph.nodes))
    rewriter = _Rewriter(graph)
    for number, node in enumerate(graph.nodes):
        rewriter.new.append(rewriter.rewritten(number, node))
    new = dict(enumerate(rewriter.new))
    scaled = verify(
        graph.with_nodes(rewriter.nodes, new), after="scale_vectors", internal=True
    )
    return scaled, binding, rewriter.new


class _Rewriter:
    """The new nodes, and where each old one's value is among them."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.uses = graph, graph.uses()
        self.nodes: list[Node] = []
        self.new: list[int] = []

    def rewritten(self, number: int, node: Node) -> int:
        args = tuple(self.new[a] for a in node.args)
        for place, arg in enumerate(node.args):
            if self.nodes[args[place]].op == "outer" and self._is_read_once(arg):
                found = self._scaled(node, args, place)
                if found is not None:
                    return found
        return self._add(node.on(args))

    def _is_read_once(self, number: int) -> bool:
        """By operations: beside them, a number for each head reads its size alone."""
        readers = [
            node
            for node in self.graph.nodes
            if number in node.args
            and not (node.op == "spread" and node.args[1] == number)
        ]
        return len(readers) == 1 and number not in self.graph.returned

    def _scaled(self, node: Node, args: tuple[int, ...], place: int) -> int | None:
        """An operation of an outer product as an outer product, if it is one."""
        outer = self.nodes[args[place]]
        rows, columns = outer.args
        if node.op == "neg":
            return self._outer(outer, self._unary("neg", rows, node), columns)
        if node.op == "sub" and place == 1:
            negative = self._outer(outer, self._unary("neg", rows, node), columns)
            return self._add(
                Node("add", (args[0], negative), (), node.size, node.source)
            )
        if node.op == "scale_rows" and place == 0:
            return self._outer(outer, self._times(rows, args[1], node), columns)
        if node.op == "scale_columns" and place == 0:
            return self._outer(outer, rows, self._times(columns, args[1], node))
        if node.op != "mul" or args[0] == args[1]:
            return None
        scale = self.nodes[args[1 - place]]
        if scale.op == "spread":
            like = self.nodes[rows].size
            attrs = (("heads", scale["heads"]),)
            vector = self._add(
                Node("spread", (scale.args[0], rows), attrs, like, node.source)
            )
            return self._outer(outer, self._times(rows, vector, node), columns)
        if isinstance(scale.size, MatrixSize):
            return None
        return self._outer(outer, self._times(rows, args[1 - place], node), columns)

    def _outer(self, outer: Node, rows: int, columns: int) -> int:
        return self._add(outer.on((rows, columns)))

    def _times(self, vector: int, by: int, node: Node) -> int:
        size = self.nodes[vector].size
        return self._add(Node("mul", (by, vector), (), size, node.source))

    def _unary(self, op: str, vector: int, node: Node) -> int:
        return self._add(Node(op, (vector,), (), self.nodes[vector].size, node.source))

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1
