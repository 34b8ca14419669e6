"""Affines of one unit over items, as sums: `W.e(v, size=1)` is Σ w · v + b.

A score is one number for each item. As an affine, the product would read v from memory:
it would have to be kept, for every item at every step. As a sum over units it is
computed where v is, and again in the backward step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from ..language import Graph, Node, Weight, verify
from ..language.graph import AFFINE, CHILDREN
from .bindings import Binding
from .program import Piece


def dot_products(
    graph: Graph, binding: Binding
) -> tuple[Graph, Binding, Sequence[int]]:
    """The same step; the weights of such an affine are vectors in the same parameters.

    They are named after their operands: `e[0]`, `e[1]`; a bias is `e[bias 0]`.

    Returns:
        The step, its binding, and for each old node the new one of the same value.
    """
    chosen = {
        number
        for number, (node, items) in enumerate(
            zip(graph.nodes, graph.sets, strict=True)
        )
        if node.op == AFFINE and node.size == 1 and items not in (None, CHILDREN)
    }
    if not chosen:
        return graph, binding, range(len(graph.nodes))
    nodes: list[Node] = []
    new: dict[int, int] = {}
    pieces = {graph.nodes[n]["weight"]: _vectors(graph, binding, n) for n in chosen}
    for number, node in enumerate(graph.nodes):
        if number in chosen:
            operands = [new[a] for a in node.args]
            new[number] = _dot(nodes, node, operands, pieces[node["weight"]])
        else:
            nodes.append(node.on(tuple(new[a] for a in node.args)))
            new[number] = len(nodes) - 1
    found = {weight: piece for part in pieces.values() for weight, piece in part}
    used = {n["weight"] for n in nodes if "weight" in n.options}
    kept = tuple(w for w in (*graph.weights, *found) if w.name in used)
    vectors = {w.name: piece for w, piece in found.items()}
    cut = verify(
        graph.with_nodes(nodes, new, weights=kept), after="dots", internal=True
    )
    bound = replace(binding, vectors={**binding.vectors, **vectors})
    return cut, bound, list(new.values())


def _vectors(graph: Graph, binding: Binding, number: int) -> list[tuple[Weight, Piece]]:
    """The vectors of an affine, one for each operand, and its bias's numbers."""
    node = graph.nodes[number]
    whole = graph.weight(node["weight"])

    def of_operands() -> Iterator[tuple[str, int, Piece]]:
        for operand, arg in enumerate(node.args):
            piece = binding.matrices[whole.name, operand]
            yield f"[{operand}]", int(graph.nodes[arg].size), piece
        for k, piece in enumerate(binding.biases.get(whole.name, ())):
            yield f"[bias {k}]", 1, piece

    return [
        (
            Weight(whole.name + part, "vector", size, source=whole.source),
            replace(piece, stride=1 if size > 1 else 0),
        )
        for part, size, piece in of_operands()
    ]


def _dot(
    nodes: list[Node],
    node: Node,
    operands: Sequence[int],
    vectors: Sequence[tuple[Weight, Piece]],
) -> int:
    """Add the nodes of Σ w · v + b."""

    def add(op: str, args: tuple[int, ...], size: int, **attrs: Any) -> int:
        nodes.append(Node(op, args, tuple(attrs.items()), size, node.source))
        return len(nodes) - 1

    terms: list[int] = []
    for k, (weight, _) in enumerate(vectors):
        size = int(weight.size)
        term = add("weight", (), size, weight=weight.name)
        if k < len(operands):
            product = add("mul", (term, operands[k]), size)
            term = add("sum", (product,), 1, heads=1)
        terms.append(term)
    return reduce(lambda a, b: add("add", (a, b), 1), terms)
