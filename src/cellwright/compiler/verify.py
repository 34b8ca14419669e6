"""Checks what each pass hands on; a failure names the pass, the node and its line.

A failure is a mistake of the compiler, never of the cell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn

from ..language import OPS
from ..language.errors import CellError
from ..language.graph import COTANGENT, TRANSPOSED, reachable
from ..language.linear import operands
from .loops import Loops
from .program import Stage, View
from .step import OUTER, PANEL, PUT, Group, Lowered, Stored, lacking

if TYPE_CHECKING:
    from .differentiate import VectorJacobian


def verify_linear(vjp: VectorJacobian, groups: Iterable[Collection[str]]) -> None:
    """Hold states that are said to be diagonal to their derivative: an old state's
    cotangent follows from the new one's by work of each unit alone, whose factors read
    no state of its group.

    Args:
        groups: of diagonal states, those together that read one another.
    """
    nodes = vjp.nodes
    for group in groups:
        linear, reading = set(), set()  # in the cotangents, in the old states
        for number, node in enumerate(nodes):
            of_group = node.options.get("name", "").removeprefix("d.") in group
            for op, found in ((COTANGENT, linear), ("state", reading)):
                read = operands(node)
                if (node.op == op and of_group) or not found.isdisjoint(read):
                    found.add(number)
        olds = [c for name, c in vjp.cotangents("state").items() if name in group]
        for number in sorted(linear & reachable(nodes, olds)):
            node = nodes[number]
            factors = () if node.op in ("add", "sub") else {*operands(node)} - linear
            mixes = node.op == TRANSPOSED or (node.op in OPS and OPS[node.op].reduces)
            if mixes or not reading.isdisjoint(factors):
                raise CellError(
                    f"[{node.source or '?'}, cell {vjp.forward.name!r}, after linear] "
                    f"node {number} ({node.op}): the gradient of {sorted(group)} "
                    f"{'mixes units' if mixes else 'depends on the states'}"
                )


def verify_step(step: Lowered, *, after: str) -> Lowered:
    """Every view is of an array, as wide as the value; every root is a result."""

    def check(number: int, view: View) -> None:
        if not 0 <= view.array < len(step.arrays):
            _fail(step, after, number, f"array {view.array} is not there")
        size, columns = step.size(number), step.arrays[view.array].columns
        if size != columns:
            problem = f"{size} units in array {view.array}, of {columns} columns"
            _fail(step, after, number, problem)

    for number, view in (*step.places.items(), *step.stored.items()):
        check(number, view)
    for number, views in step.cotangents.items():
        for view in views:
            check(number, view)
    for root in (*step.roots, *step.late):
        node = step.nodes[root]
        stored = root in step.kept and root in step.stored
        if not (stored or node.op in (PUT, PANEL, OUTER)) or max(node.args) >= root:
            _fail(step, after, root, "is not a result of nodes before it")
        if node.op == PUT:
            check(node.args[0], node["view"])
    return step


def verify_groups(
    step: Lowered, groups: tuple[Group, ...], *, after: str
) -> tuple[Group, ...]:
    """Every result has one stage, after what it reads, of its units and rows."""
    stage_of: dict[int, int] = {}
    for stage, group in enumerate(groups):
        for number in group.members:
            if step.units[number] not in (None, group.units):
                _fail(step, after, number, f"is in a stage of {group.units} units")
            if step.axis(number) != group.axis:
                _fail(step, after, number, f"is in a stage of every {group.axis}")
            stored = step.stored_before(number)
            for arg in step.before(number):
                if stage_of.get(arg, len(groups)) > stage - (arg in stored):
                    _fail(step, after, number, f"reads node {arg} before it is there")
            if number in stage_of:
                _fail(step, after, number, "is computed twice")
            stage_of[number] = stage
    for root in (*step.roots, *step.late):
        if root not in stage_of:
            _fail(step, after, root, "is computed in no stage")
    _verify_levels(step, groups, stage_of, after=after)
    return groups


def _verify_levels(
    step: Lowered,
    groups: tuple[Group, ...],
    stage_of: Mapping[int, int],
    *,
    after: str,
) -> None:
    """What reads the level before goes level by level with what stores there, or comes
    once that is stored for all levels."""
    loops = Loops(step)
    for number, stage in stage_of.items():
        before = (loops.stored.get(a, ()) for a in (number, *loops.arguments(number)))
        for put in set().union(*before):
            one, other = groups[stage], groups[stage_of[put]]
            together = one.when == other.when == "level" and one.loop == other.loop
            if not together and stage_of[put] >= stage:
                problem = f"reads the level before, which node {put} stores later"
                _fail(step, after, number, problem)


def verify_stored(stored: Stored, *, after: str) -> Stored:
    """Every value that a stage reads is in memory by then, or can be computed there."""
    step, nodes = stored.step, stored.step.nodes
    memory = set(step.places)
    columns: set[tuple[int, int]] = set()
    for group in stored.groups:
        known = memory.union(group.members)
        for number in group.members:
            node = nodes[number]
            if node.op in (TRANSPOSED, PANEL) and node.args[0] not in stored.panels:
                _fail(step, after, number, f"node {node.args[0]} is in no panel")
            for arg in lacking(step, number, memory, known):
                _fail(step, after, number, f"reads node {arg} before it is stored")
        for number in group.members:
            node = nodes[number]
            if number in step.kept:
                memory.add(number)
            if node.op == PUT and step.stored.get(node.args[0]) == node["view"]:
                memory.add(node.args[0])
            if node.op == PANEL:
                column = stored.panels[node.args[0]]
                if column in columns:
                    _fail(step, after, number, f"column {column[1]} is taken")
                columns.add(column)
    return stored


def verify_stages(
    stages: tuple[Stage, ...], stored: Stored, *, after: str
) -> tuple[Stage, ...]:
    """Every register is written before it is read."""
    for group, stage in zip(stored.groups, stages, strict=True):
        lines = [(i.registers, i.dst) for i in stage.prologue]
        lines += [((a.start,), a.tile) for a in stage.accumulators]
        lines += [(term.columns, term.columns[0]) for term in stage.terms]
        lines += [(i.registers, i.dst) for i in stage.code]
        written: set[int] = set()
        for registers, target in lines:
            for register in registers:
                if register not in written:
                    problem = f"register {register} of its stage is read before it is"
                    _fail(stored.step, after, group.members[0], f"{problem} written")
            written.add(target)
    return stages


def _fail(step: Lowered, after: str, number: int, problem: str) -> NoReturn:
    node = step.nodes[number]
    made_of = node if node.source or not node.args else step.nodes[node.args[0]]
    raise CellError(
        f"[{made_of.source or '?'}, cell {step.name!r}, after {after}] node {number} "
        f"({node.op}): {problem}"
    )
