"""The step's vector-Jacobian product, as nodes: reverse mode by the table's rules.

What BPTT does at one step: from the cotangents of the new states (and of the output,
where that is no state) to those of the old states, the inputs and every weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..language import OPS, CellError, Graph, Node
from ..language.builder import Builder
from ..language.graph import (
    AFFINE,
    ATTENTION,
    CHILDREN,
    COTANGENT,
    EACH,
    ITEM,
    TOTAL,
    TRANSPOSED,
    reachable,
    select,
)
from ..language.ops import sum_
from ..language.trace import Traced
from ..language.verify import verify_nodes

OUTPUT = "(output)"  # the cotangent of an output that is no state: no state's name
_WANTED = ("input", "state", "weight", ITEM, AFFINE)  # whose cotangents are wanted


@dataclass(frozen=True)
class VectorJacobian:
    """The step's vector-Jacobian product.

    Attributes:
        forward: the step itself; its nodes are the first of `nodes`, same positions.
        nodes: the forward nodes, then the derivative's. Its leaves `cotangent` are
            named `d.<state>`, and `d.(output)` where the output is no state.
        cotangent_of: forward node → the node of its cotangent, in the step's order: of
            inputs, items, old states, vectors and numbers (a row's contribution),
            affines, and the recorded nodes. Absent is zero. It varies over the set
            that the forward node varies over.
        recorded: the forward nodes that are results too.
    """

    forward: Graph
    nodes: tuple[Node, ...]
    cotangent_of: Mapping[int, int]
    recorded: tuple[int, ...] = ()

    @cached_property
    def affines(self) -> list[tuple[int, int]]:
        """(affine node, cotangent of its value); a weight's gradient is the sum over
        rows of that cotangent times the operands."""
        pairs = self.cotangent_of.items()
        return [(n, c) for n, c in pairs if self.nodes[n].op == AFFINE]

    def cotangents(self, kind: str) -> dict[str, int]:
        """The cotangents of the leaves of a kind ("input", "item", …) by name.

        A state and a weight may have one name: so there is one kind a call.
        """
        leaves = [(self.nodes[n], c) for n, c in self.cotangent_of.items()]
        return {
            leaf["weight"] if kind == "weight" else leaf.label: cotangent
            for leaf, cotangent in leaves
            if leaf.op == kind
        }


def recorded_name(number: int) -> str:
    """A recorded node in the name of its cotangent; no state has such a name."""
    return f"(recorded {number})"


def differentiate(graph: Graph, recorded: Sequence[int] = ()) -> VectorJacobian:
    """Differentiate a cell's step.

    Args:
        graph: of a cell; bound, if any size broadcasts by its number alone.
        recorded: nodes that are results too, with cotangents of their own, named
            `d.(recorded N)`.

    Returns:
        The product, without the nodes that no result needs.
    """
    builder = Builder(graph.name)
    builder.children, builder.many = graph.children, graph.many
    builder.items = list(graph.items)
    builder.weights = {weight.name: weight for weight in graph.weights}
    builder.nodes = list(graph.nodes)
    builder.most = math.inf  # the bound is on what a user writes
    found: dict[int, int] = {}  # node -> its cotangent
    for name, number in _results(graph, recorded):
        attrs, node = (("name", f"d.{name}"),), graph.nodes[number]
        attrs += _set_attrs(builder.set_of(number))
        seed = builder.append(Node(COTANGENT, (), attrs, node.size, node.source))
        _accumulate(builder, found, number, seed)
    count = len(graph.nodes)
    for number in reversed(range(count)):
        if number in found:
            _pull_back(builder, found, number)
    wanted = {n for n, node in enumerate(graph.nodes) if node.op in _WANTED}
    wanted = sorted(found.keys() & wanted | {*recorded})
    live = reachable(builder.nodes, (found[n] for n in wanted))
    order = [*range(count), *sorted(n for n in live if n >= count)]
    nodes, new = select(builder.nodes, order)
    cotangent_of = {number: new[found[number]] for number in wanted}
    product = VectorJacobian(graph, nodes, cotangent_of, tuple(recorded))
    return verified(product, after="differentiate")


def verified(vjp: VectorJacobian, *, after: str) -> VectorJacobian:
    """The product itself, its nodes checked, and every cotangent its value's size.

    Raises:
        CellError: names the pass, the node and the user's source line.
    """
    nodes, count = vjp.nodes, len(vjp.forward.nodes)
    known = verify_nodes(vjp.forward, nodes, after=after, internal=True, first=count)
    for value, cotangent in vjp.cotangent_of.items():
        shapes = [(nodes[n].size, known.sets[n]) for n in (value, cotangent)]
        if shapes[0] != shapes[1]:
            (size, over), (of_cotangent, its_set) = shapes
            raise CellError(
                f"[{nodes[value].source}, cell {vjp.forward.name!r}, after {after}] "
                f"node {cotangent} ({nodes[cotangent].op}): the cotangent of node "
                f"{value} has {of_cotangent} units, the value {size}; they vary over "
                f"the sets {its_set} and {over}"
            )
    return vjp


def _results(graph: Graph, recorded: Sequence[int]) -> list[tuple[str, int]]:
    """The name and the node of everything that has a cotangent of the caller's."""
    states = [s.name for s in graph.states]
    output = [] if graph.output_is_state else [(OUTPUT, graph.output)]
    records = [(recorded_name(number), number) for number in recorded]
    return [*zip(states, graph.updates, strict=True), *output, *records]


def _pull_back(builder: Builder, found: dict[int, int], number: int) -> None:
    """Add what a node's cotangent gives to those of its arguments."""
    node = builder.nodes[number]
    builder.source = line = node.source
    if node.op == AFFINE:
        for operand, arg in enumerate(node.args):
            attrs = (("operand", operand), ("weight", node["weight"]))
            size = builder.nodes[arg].size
            pulled = Node(TRANSPOSED, (found[number],), attrs, size, line)
            _accumulate(builder, found, arg, builder.append(pulled))
    elif node.op == TOTAL:  # every member of the set has the whole of it
        (arg,) = node.args
        _accumulate(builder, found, arg, _each(builder, found[number], arg))
    elif node.op == ATTENTION:  # y · (g − Σ g · y)
        (arg,), g, y = (
            node.args,
            Traced(builder, found[number]),
            Traced(builder, number),
        )
        total = _each(builder, builder.total((g * y).node), arg)
        _accumulate(builder, found, arg, (y * (g - Traced(builder, total))).node)
    elif node.op in OPS:
        g, y, *args = [Traced(builder, n) for n in (found[number], number, *node.args)]
        for arg, cotangent in zip(
            node.args, OPS[node.op].derivative(g, y, *args, **node.options), strict=True
        ):
            if cotangent is not None and builder.nodes[arg].op != "constant":
                _accumulate(builder, found, arg, cotangent.node)


def _each(builder: Builder, value: int, like: int) -> int:
    """One value, for each member of the set that another varies over."""
    node, name = builder.nodes[value], builder.set_of(like)
    attrs = _set_attrs(None if name == CHILDREN else name)
    return builder.append(Node(EACH, (value,), attrs, node.size, builder.source or ""))


def _set_attrs(name: str | None) -> tuple[tuple[str, str], ...]:
    return () if name is None else (("set", name),)


def _accumulate(
    builder: Builder, found: dict[int, int], number: int, cotangent: int
) -> None:
    """Add to a node's cotangent, summed over the units, or the set, that it went to."""
    if builder.nodes[number].size == 1 and builder.nodes[cotangent].size != 1:
        cotangent = builder.apply(sum_, (cotangent,))
    if builder.set_of(cotangent) and not builder.set_of(number):
        cotangent = builder.total(cotangent)
    if number in found:
        cotangent = builder.apply(OPS["add"], (found[number], cotangent))
    found[number] = cotangent
