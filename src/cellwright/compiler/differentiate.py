"""The step's vector-Jacobian product, as nodes: reverse mode by the table's rules.

What BPTT does at one step: from the cotangents of the new states (and of the output,
where that is no state) to those of the old states, the inputs and every weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..language import OPS, CellError, Graph, Node
from ..language.builder import Builder
from ..language.graph import AFFINE, COTANGENT, EACH, TOTAL, TRANSPOSED
from ..language.ops import sum_
from ..language.trace import Traced
from ..language.verify import verify_nodes

OUTPUT = "(output)"  # the cotangent of an output that is no state: no state's name


@dataclass(frozen=True)
class VectorJacobian:
    """The step's vector-Jacobian product.

    Attributes:
        forward: the step itself; its nodes are the first of `nodes`, same positions.
        nodes: the forward nodes, then the derivative's. Its leaves `cotangent` are
            named `d.<state>`, and `d.(output)` where the output is no state.
        leaves: (forward leaf, node): the cotangent of each input and old state, and
            of each weight vector or scalar, a row's contribution. Absent is zero.
        affines: (affine node, cotangent of its value); a weight's gradient is the sum
            over rows of that cotangent times the operands.
        recorded: (recorded node, cotangent of its value, through everything).
    """

    forward: Graph
    nodes: tuple[Node, ...]
    leaves: tuple[tuple[int, int], ...]
    affines: tuple[tuple[int, int], ...]
    recorded: tuple[tuple[int, int], ...] = ()

    def cotangents(self, kind: str) -> dict[str, int]:
        """The cotangents of all leaves of a kind ("input", "state", "weight") by name.

        One name may stand for a state and for a weight: so there is one kind a call.
        """
        leaves = [(self.forward.nodes[leaf], node) for leaf, node in self.leaves]
        return {
            leaf["weight"] if kind == "weight" else leaf.label: node
            for leaf, node in leaves
            if leaf.op == kind
        }


def recorded_name(number: int) -> str:
    """What stands for a recorded node in the name of its cotangent: no state's name."""
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
    builder.nodes = list(graph.nodes)
    builder.most = math.inf  # the bound is on what a user writes
    found: dict[int, int] = {}  # node -> its cotangent
    extra = [(recorded_name(number), number) for number in recorded]
    for name, number in [*_seeds(graph), *extra]:
        attrs, node = (("name", f"d.{name}"),), graph.nodes[number]
        seed = builder.append(Node(COTANGENT, (), attrs, node.size, node.source))
        _accumulate(builder, found, number, seed)
    for number in reversed(range(len(graph.nodes))):
        if number in found:
            _pull_back(builder, found, number)
    leaves = tuple(
        (number, found[number])
        for number, node in enumerate(graph.nodes)
        if node.op in ("input", "state", "weight") and number in found
    )
    affines = tuple(
        (number, found[number])
        for number, node in enumerate(graph.nodes)
        if node.op == AFFINE and number in found
    )
    totals = tuple((number, found[number]) for number in recorded)
    nodes = tuple(builder.nodes)
    vjp = VectorJacobian(graph, nodes, leaves, affines, totals)
    return verified(_without_dead(vjp), after="differentiate")


def verified(vjp: VectorJacobian, *, after: str) -> VectorJacobian:
    """The product itself, its nodes checked, and every cotangent its value's size.

    Raises:
        CellError: names the pass, the node and the user's source line.
    """
    nodes, count = vjp.nodes, len(vjp.forward.nodes)
    verify_nodes(vjp.forward, nodes, after=after, internal=True, first=count)
    for value, cotangent in (*vjp.leaves, *vjp.affines, *vjp.recorded):
        if nodes[value].size != nodes[cotangent].size:
            raise CellError(
                f"[{nodes[value].source}, cell {vjp.forward.name!r}, after {after}] "
                f"node {cotangent} ({nodes[cotangent].op}): the cotangent of node "
                f"{value} has {nodes[cotangent].size} units, the value "
                f"{nodes[value].size}"
            )
    return vjp


def _seeds(graph: Graph) -> list[tuple[str, int]]:
    names = [s.name for s in graph.states]
    seeds = list(zip(names, graph.updates, strict=True))
    return seeds if graph.output_is_state else [*seeds, (OUTPUT, graph.output)]


def _pull_back(builder: Builder, found: dict[int, int], number: int) -> None:
    """Hand a node's cotangent on to its arguments."""
    node = builder.nodes[number]
    builder.source = line = node.source
    if node.op == AFFINE:
        for operand, arg in enumerate(node.args):
            attrs = (("operand", operand), ("weight", node["weight"]))
            size = builder.nodes[arg].size
            pulled = Node(TRANSPOSED, (found[number],), attrs, size, line)
            _accumulate(builder, found, arg, builder.append(pulled))
    elif node.op == TOTAL:  # every child has the whole of it
        (arg,) = node.args
        shared = Node(EACH, (found[number],), (), node.size, line)
        _accumulate(builder, found, arg, builder.append(shared))
    elif node.op in OPS:
        g, y, *args = [Traced(builder, n) for n in (found[number], number, *node.args)]
        for arg, cotangent in zip(
            node.args, OPS[node.op].derivative(g, y, *args, **node.options), strict=True
        ):
            if cotangent is not None and builder.nodes[arg].op != "constant":
                _accumulate(builder, found, arg, cotangent.node)


def _accumulate(
    builder: Builder, found: dict[int, int], number: int, cotangent: int
) -> None:
    """Add to a node's cotangent, summed over the units, or children, it went to."""
    if builder.nodes[number].size == 1 and builder.nodes[cotangent].size != 1:
        cotangent = builder.apply(sum_, (cotangent,))
    if builder.per_child(cotangent) and not builder.per_child(number):
        cotangent = builder.total(cotangent)
    if number in found:
        cotangent = builder.apply(OPS["add"], (found[number], cotangent))
    found[number] = cotangent


def _without_dead(vjp: VectorJacobian) -> VectorJacobian:
    """Drop the derivative's nodes that no result needs; keep the forward ones."""
    count = len(vjp.forward.nodes)
    live = set(range(count))
    stack = [node for _, node in (*vjp.leaves, *vjp.affines, *vjp.recorded)]
    while stack:
        number = stack.pop()
        if number not in live:
            live.add(number)
            stack.extend(vjp.nodes[number].args)
    new = {old: position for position, old in enumerate(sorted(live))}
    derivative = (vjp.nodes[old] for old in list(new)[count:])
    return VectorJacobian(
        vjp.forward,
        (
            *vjp.forward.nodes,
            *(replace(n, args=tuple(new[a] for a in n.args)) for n in derivative),
        ),
        tuple((leaf, new[node]) for leaf, node in vjp.leaves),
        tuple((affine, new[node]) for affine, node in vjp.affines),
        tuple((number, new[node]) for number, node in vjp.recorded),
    )
