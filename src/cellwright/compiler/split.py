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
    step = _Rewritten(graph, binding)
    fixed = before_steps(graph.nodes)
    for number, node in enumerate(graph.nodes):
        parts: list[list[int]] = []
        if node.op == AFFINE and of_child[number]:
            parts = _parts(node, of_child, fixed)
        new = step.sum_of(node, parts) if len(parts) > 1 else step.copy_of(node)
        step.new[number] = new
    return *step.finish(), list(step.new.values())


def _parts(
    node: Node, of_child: Sequence[bool], fixed: Sequence[bool]
) -> list[list[int]]:
    """The operands of each: per member at every step; at all steps; of the node."""
    kinds: tuple[list[int], ...] = [], [], []
    for operand, arg in enumerate(node.args):
        kinds[fixed[arg] if of_child[arg] else 2].append(operand)
    return [kind for kind in kinds if kind]


class _Rewritten:
    """The step that is being written.

    Attributes:
        new: for each old node that is done, the new one of the same value.
    """

    def __init__(self, graph: Graph, binding: Binding) -> None:
        self.graph, self.binding = graph, binding
        self.nodes: list[Node] = []
        self.new: dict[int, int] = {}
        self.weights = {w.name: w for w in graph.weights}
        self.matrices, self.biases = dict(binding.matrices), dict(binding.biases)
        self.heads = dict(binding.heads)

    def copy_of(self, node: Node) -> int:
        return self._append(node.on(tuple(self.new[a] for a in node.args)))

    def sum_of(self, node: Node, parts: Sequence[list[int]]) -> int:
        """The sum of an affine's parts."""
        has_bias = self.graph.weight(node["weight"]).bias
        first, *others = (
            self._part(node, operands, has_bias and operands is parts[-1])
            for operands in parts
        )
        for other in others:
            added = replace(node, op="add", args=(first, other), attrs=())
            first = self._append(added)
        return first

    def _part(self, node: Node, operands: list[int], bias: bool) -> int:
        whole = self.graph.weight(node["weight"])
        name = f"{whole.name}{operands}"
        sizes = tuple(whole.operands[o] for o in operands)
        self.weights[name] = replace(whole, name=name, operands=sizes, bias=bias)
        for place, operand in enumerate(operands):
            piece = self.binding.matrices[whole.name, operand]
            self.matrices[name, place] = piece
        self.heads[name] = whole.heads
        if bias:
            self.biases[name] = self.binding.biases[whole.name]
        args = tuple(self.new[node.args[o]] for o in operands)
        return self._append(replace(node, args=args, attrs=(("weight", name),)))

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def finish(self) -> tuple[Graph, Binding]:
        used = {n["weight"] for n in self.nodes if "weight" in n.options}
        kept = tuple(w for w in self.weights.values() if w.name in used)
        cut = self.graph.with_nodes(self.nodes, self.new, weights=kept)
        cut = verify(cut, after="split", internal=True)
        places = {"matrices": self.matrices, "biases": self.biases, "heads": self.heads}
        return cut, replace(self.binding, **places)
