"""Storing: what one stage leaves to another in memory.

What a later stage needs, and cannot compute again by a little pointwise work, is stored
for it. The gates' gradients of a stage are packed side by side, in a panel, for the
products that weights' gradients are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import permutations

from ..language import Node
from .program import Array, View
from .step import PANEL, PUT, Group, Lowered, Stored, array_axis, lacking
from .verify import verify_stored

MOST_PERMUTED = 6  # columns whose every order is tried: 720


def store(
    step: Lowered, groups: Sequence[Group], scratch: str = "chunk", before: int = 0
) -> Stored:
    """Put into memory, in rows of the kind `scratch`, what crosses between stages.

    The program has `before` stages before these.
    """
    crossing = _crossing(step, groups)
    groups = [g for g in groups if _is_read(step, g, crossing)]
    arrays, panels = list(step.arrays), {}
    for stage, group in enumerate(groups, before):
        columns = _panel_columns(step, group)
        if columns:
            name = f"panel.{sum(a.rows == 'panel' for a in arrays)}"
            rows = {"stage": stage, "scratch": True, "axis": array_axis(group.axis)}
            panels |= {c: (len(arrays), k) for k, c in enumerate(columns)}
            arrays.append(Array(name, "panel", len(columns), **rows))
    nodes, stored = list(step.nodes), dict(step.stored)
    members = [list(group.members) for group in groups]
    parts = {(g.when, g.loop) for g in groups if g.when != "after_chunk"}
    by_levels = step.when == "level" and len(parts) == 1
    stage_of = {n: k for k, group in enumerate(groups) for n in group.members}
    for number in crossing:
        name, size = f"temporary.{len(arrays)}", step.size(number)
        view, axis = View(len(arrays)), step.axes[number]
        # What there is of each item is read by the same level; so is a matrix.
        many = axis.kind in ("item", "matrix") and by_levels
        rows, axis = "rolling" if many else scratch, array_axis(axis)
        arrays.append(Array(name, rows, size, scratch=True, axis=axis))
        stored[number] = view
        if number not in step.kept:  # those are stored by what computes them
            members[stage_of[number]].append(len(nodes))
            nodes.append(Node(PUT, (number,), (("adds", False), ("view", view)), size))
    arranged = replace(step, nodes=tuple(nodes), arrays=tuple(arrays), stored=stored)
    pairs = zip(groups, members, strict=True)
    stages = tuple(replace(g, members=tuple(m)) for g, m in pairs)
    return verify_stored(Stored(arranged, stages, panels), after="store")


def _is_read(step: Lowered, group: Group, crossing: Collection[int]) -> bool:
    """Whether a stage leaves anything behind: what it does may be done again later."""
    results = {*step.roots, *step.late, *step.kept, *step.panels.values(), *crossing}
    return not results.isdisjoint(group.members)


def _crossing(step: Lowered, groups: Sequence[Group]) -> list[int]:
    """The values that a later stage needs and cannot obtain."""
    memory = set(step.where)
    found = []
    for group in groups:
        known = memory.union(group.members)
        for member in group.members:
            for arg in dict.fromkeys(lacking(step, member, memory, known)):
                found.append(arg)
                memory.add(arg)
                known.add(arg)
    return found


def _panel_columns(step: Lowered, group: Group) -> list[int]:
    """The gates' gradients of a stage, in the order of its panel's columns.

    What one product reads is in neighbouring columns, where that can be.
    """
    nodes = step.nodes
    columns = [nodes[m].args[0] for m in group.members if nodes[m].op == PANEL]
    if not 1 < len(columns) <= MOST_PERMUTED:
        return columns
    together: dict[int, set[int]] = {}  # operand → the cotangents that meet it
    for number in step.panels.values():
        for operand in nodes[number]["operands"]:
            together.setdefault(operand, set()).add(nodes[number].args[0])

    def runs(order: Sequence[int]) -> int:
        return sum(
            now in members and before not in members
            for members in together.values()
            for before, now in zip((None, *order), order, strict=False)
        )

    return list(min(permutations(columns), key=runs))
