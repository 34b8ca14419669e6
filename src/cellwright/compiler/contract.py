"""Contraction: sums, over items or units, of products whose factors are in memory.

A step that attends reads every item at every level: what it does with one should take
no more than the reading. Four forms have an instruction of their own, which goes from
item to item and keeps nothing of each:

    total(a · v)    a number a and a vector v for each item     a weighted total
    sum(q · v)      one vector q, a vector v for each item      a dot product for each
    v += q · a      one vector q, a number a for each item      an outer product, added
    a (g - total(a · g))    a = attend's weights, a number each    a softmax's gradient
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from ..language import OPS, Node
from ..language.graph import ATTENTION, EACH, TOTAL
from .program import NODE
from .step import DOT, OUTER, PUT, ROW_LEAVES, SOFTMAX_GRADIENT, Lowered, summands
from .verify import verify_step


def contract(step: Lowered) -> Lowered:
    """The same step with these forms as nodes; where there are no items, as it is."""
    if not step.item_sets:
        return step
    nodes = list(step.nodes)
    memory = {*step.where, *step.kept}
    for number in range(step.first, len(nodes)):
        node = _contracted(step, nodes, number, memory)
        if node is not None:
            nodes[number] = node
            if node.op in (DOT, SOFTMAX_GRADIENT):
                memory.add(number)
    roots: list[int] = []
    for root in step.roots:
        roots += _results(step, nodes, root)
    done = replace(step, nodes=tuple(nodes), roots=tuple(roots))
    return verify_step(done, after="contract")


def _contracted(
    step: Lowered, nodes: list[Node], number: int, memory: Container[int]
) -> Node | None:
    """A node as one of the forms, if it is."""
    node = nodes[number]
    if node.op == "mul":
        return _softmax_gradient(step, number, memory)
    product = nodes[node.args[0]] if node.op in (TOTAL, "sum") else node
    if product.op != "mul" or not step.of_items(node.args[0]):
        return None
    for one, vector in (product.args, product.args[::-1]):
        if vector not in memory or not step.of_items(vector):
            continue
        if node.op == TOTAL and _is_number(step, _bare(nodes, one)):
            return node.on((_bare(nodes, one), vector))
        row = _row(step, nodes, one)
        if node.op == "sum" and row is not None and step.size(row) == step.size(vector):
            return Node(DOT, (row, vector), (), 1, node.source)
    return None


def _softmax_gradient(
    step: Lowered, number: int, memory: Container[int]
) -> Node | None:
    """y · (g - Σ g · y) of an attention y, as `differentiate` writes it."""
    nodes, (y, rest) = step.nodes, step.nodes[number].args
    if nodes[y].op != ATTENTION or y not in memory or not _is_number(step, number):
        return None
    if nodes[rest].op != "sub":
        return None
    g, of_row = nodes[rest].args
    whole = _bare([*nodes], of_row)
    if nodes[whole].op != EACH:
        return None
    whole = nodes[whole].args[0]
    product = nodes[nodes[whole].args[0]] if nodes[whole].op == TOTAL else nodes[whole]
    if product.op != "mul" or product.args != (g, y):
        return None
    return Node(SOFTMAX_GRADIENT, (y, g), (), 1, nodes[number].source)


def _results(step: Lowered, nodes: list[Node], root: int) -> list[int]:
    """A result; of what is added to memory, its outer products apart."""
    put = nodes[root]
    value = put.args[0]
    if (
        put.op == PUT
        and nodes[value].op == DOT
        and step.stored.get(value) == put["view"]
    ):
        return [value]  # it stores itself
    if put.op == TOTAL and len(put.args) == 2:  # it is in a register now
        attrs = (("adds", False), ("view", step.stored[root]))
        nodes.append(Node(PUT, (root,), attrs, put.size))
        return [len(nodes) - 1]
    if put.op != PUT or not put["adds"] or not step.of_items(put.args[0]):
        return [root]
    found: list[int] = []
    for part in summands(nodes, put.args[0], step.read_once.__contains__):
        factors = _outer(step, nodes, part)
        if factors is None:
            nodes.append(replace(put, args=(part,)))
        else:
            attrs = (("view", put["view"]),)
            nodes.append(Node(OUTER, factors, attrs, put.size, put.source))
        found.append(len(nodes) - 1)
    return found


def _outer(step: Lowered, nodes: list[Node], number: int) -> tuple[int, int] | None:
    """The vector and the number of an outer product, if it is one."""
    node = nodes[number]
    if node.op != "mul":
        return None
    for one, other in (node.args, node.args[::-1]):
        row, column = _row(step, nodes, one), _bare(nodes, other)
        if row is not None and _is_number(step, column):
            return row, column
    return None


def _bare(nodes: list[Node], number: int) -> int:
    """A value without what only repeats it."""
    while nodes[number].op in OPS and OPS[nodes[number].op].copies:
        number = nodes[number].args[0]
    return number


def _is_number(step: Lowered, number: int) -> bool:
    """Whether it is one number for each item."""
    return step.of_items(number) and step.size(number) == 1


def _row(step: Lowered, nodes: list[Node], number: int) -> int | None:
    """The value that a row has once, for all of its items; of no row is a weight."""
    number = _bare(nodes, number)
    if nodes[number].op == EACH:
        number = nodes[number].args[0]
    own = step.axes[number] == NODE and nodes[number].op not in ROW_LEAVES
    return number if own else None
