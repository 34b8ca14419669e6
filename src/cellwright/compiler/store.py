"""Storing: what one stage leaves to another in memory.

What a later stage needs, and cannot compute again by a little pointwise work, is stored
for it. The gates' gradients of a stage are packed side by side, in a panel, for the
products that weights' gradients are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from ..language import Node
from .program import Array, View
from .step import PANEL, PUT, RESULTS, Group, Lowered, Stored, lacking
from .verify import verify_stored

MOST_PERMUTED = 6  # columns whose every order is tried: 720


def store(
    step: Lowered, groups: Sequence[Group], scratch: str = "chunk", before: int = 0
) -> Stored:
    """Put into memory, in rows of the kind `scratch`, what crosses between stages.

    The program has `before` stages before these.
    """
    arrays, panels = list(step.arrays), {}
    for stage, group in enumerate(groups, before):
        columns = _panel_columns(step, group)
        if columns:
            name = f"panel.{sum(a.rows == 'panel' for a in arrays)}"
            rows = {"stage": stage, "scratch": True, "axis": group.axis}
            panels |= {c: (len(arrays), k) for k, c in enumerate(columns)}
            arrays.append(Array(name, "panel", len(columns), **rows))
    nodes, stored = list(step.nodes), dict(step.stored)
    members = [list(group.members) for group in groups]
    stage_of = {n: k for k, group in enumerate(groups) for n in group.members}
    for number in _crossing(step, groups):
        name, size = f"temporary.{len(arrays)}", step.size(number)
        view, axis = View(len(arrays)), step.axis(number)
        arrays.append(Array(name, scratch, size, scratch=True, axis=axis))
        members[stage_of[number]].append(len(nodes))
        nodes.append(Node(PUT, (number,), (("view", view),), size))
        stored[number] = view
    # What is computed again where it is read leaves a stage without a result.
    kept = [k for k, m in enumerate(members) if any(nodes[n].op in RESULTS for n in m)]
    moved = {before + old: before + new for new, old in enumerate(kept)}
    arrays = [replace(a, stage=moved.get(a.stage, a.stage)) for a in arrays]
    arranged = replace(step, nodes=tuple(nodes), arrays=tuple(arrays), stored=stored)
    stages = tuple(replace(groups[k], members=tuple(members[k])) for k in kept)
    return verify_stored(Stored(arranged, stages, panels), after="store")


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
