"""Affines over children or items, cut in parts: `W.f(child.h, x)` maps x once a node.

Written as one affine, the part of x would be computed again for every child. As a sum
of two, with the same weights in the same parameters, it is a value of the node. So is
the part of `W.a(h, source)` that reads the items alone: the same at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..language import Graph, Node, verify
from ..language.graph import AFFINE, before_steps
from .bindings import Binding
from .program import Piece


def split_affines(
    graph: Graph, binding: Binding
) -> tuple[Graph, Binding, Sequence[int]]:
    """The same step, in which no affine reads both a child's values and its node's.

    A part is named after its operands: `f[0]`, `f[1]`; the last has the bias: the
    node's, if there is one. Items are as children here; those that are the same at
    every step have a part of their own.

    Returns:
        The step, its binding, and for each old node the new one of the same value.
    """
    of_child = [name is not None for name in graph.sets]
    if not any(of_child):
        return graph, binding, range(len(graph.nodes))
    fixed = before_steps(graph.nodes)
    nodes: list[Node] = []
    new: dict[int, int] = {}
    weights = {w.name: w for w in graph.weights}
    matrices, biases = dict(binding.matrices), dict(binding.biases)
    heads = dict(binding.heads)

    def part(node: Node, operands: list[int], bias: bool) -> int:
        whole = graph.weight(node["weight"])
        name = f"{whole.name}{operands}"
        sizes = tuple(whole.operands[o] for o in operands)
        weights[name] = replace(whole, name=name, operands=sizes, bias=bias)
        pieces: list[Piece] = [binding.matrices[whole.name, o] for o in operands]
        matrices.update({(name, k): piece for k, piece in enumerate(pieces)})
        heads[name] = whole.heads
        if bias:
            biases[name] = binding.biases[whole.name]
        args = tuple(new[node.args[o]] for o in operands)
        nodes.append(replace(node, args=args, attrs=(("weight", name),)))
        return len(nodes) - 1

    def operands(node: Node) -> list[list[int]]:
        """Those of each part: per member at every step; at all steps; of the node."""
        kinds: tuple[list[int], ...] = [], [], []
        for operand, arg in enumerate(node.args):
            kinds[fixed[arg] if of_child[arg] else 2].append(operand)
        return [kind for kind in kinds if kind]

    for number, node in enumerate(graph.nodes):
        parts = operands(node) if node.op == AFFINE and of_child[number] else []
        if len(parts) > 1:
            has_bias = graph.weight(node["weight"]).bias
            terms = [part(node, own, has_bias and own is parts[-1]) for own in parts]
            while len(terms) > 1:
                added = (terms.pop(0), terms.pop(0))
                nodes.append(replace(node, op="add", args=added, attrs=()))
                terms.insert(0, len(nodes) - 1)
        else:
            nodes.append(node.on(tuple(new[a] for a in node.args)))
        new[number] = len(nodes) - 1
    used = {n["weight"] for n in nodes if "weight" in n.options}
    kept = tuple(w for w in weights.values() if w.name in used)
    cut = verify(
        graph.with_nodes(nodes, new, weights=kept), after="split", internal=True
    )
    bound = replace(binding, matrices=matrices, biases=biases, heads=heads)
    return cut, bound, list(new.values())
