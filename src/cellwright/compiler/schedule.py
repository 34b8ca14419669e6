"""Scheduling: which nodes of a step are computed together, in a stage.

A stage computes values of one size. It begins with matrix products, whose operands
are in memory; so a product of a value of this step starts a later stage. What waits for
no level before it is computed for a chunk of levels at once: see `loops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..language.sizes import MatrixSize
from .loops import split
from .program import MATRIX, Axis
from .step import Group, Lowered
from .verify import verify_groups


def schedule(step: Lowered, apart: bool = False) -> tuple[Group, ...]:
    """Put each node that a result needs into the earliest stage of its size.

    Args:
        apart: the step's loops apart from the rest, which goes for a chunk at once.
    """
    found: list[Group] = []
    done: set[int] = set()
    # What is made of a matrix is made where that is, for results that are late too.
    late = _needed(step, step.late, done)
    made = [n for n in late if step.axis(n) == MATRIX]
    pending = _needed(step, (*step.roots, *made), done)
    parts = split(step, pending) if apart else [(pending, step.when)]
    for loop, (part, when) in enumerate(parts):
        found += _stages(step, part, done, when, loop)
    late = _needed(step, step.late, done)
    found += _stages(step, late, done, "after_chunk")
    return verify_groups(step, tuple(found), after="schedule")


def _stages(
    step: Lowered, pending: list[int], done: set[int], when: str, loop: int = 0
) -> list[Group]:
    """The stages that compute some nodes, which are then done."""
    found: list[Group] = []
    while pending:
        group = _next(step, pending, done, when)
        found.append(replace(group, loop=loop))
        done.update(group.members)
        pending = [n for n in pending if n not in done]
    return found


def _needed(step: Lowered, roots: Sequence[int], done: set[int]) -> list[int]:
    """What is still to be computed for these results, arguments first."""
    found = set(done)
    order: list[int] = []
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        number, complete = stack.pop()
        if complete:
            order.append(number)
        elif number not in found:
            found.add(number)
            stack.append((number, True))
            stack += [(arg, False) for arg in reversed(step.awaited[number])]
    return order


def _next(step: Lowered, pending: list[int], done: set[int], when: str) -> Group:
    """The stage of the first node that can start, and all that fits into it."""
    ready = [n for n in pending if done.issuperset(step.before(n))]
    first = next((n for n in ready if step.units[n] is not None), ready[0])
    axis = step.axis(first)
    # Where numbers alone are ready: the stage of what waits for them only, if any does.
    waiting = [n for n in pending if step.axis(n) == axis]
    sizes = [step.units[n] for n in ([first] if step.units[first] else waiting)]
    for units in dict.fromkeys(filter(None, sizes)):
        members = _members(step, pending, done, axis, units)
        if any(step.units[member] == units for member in members):
            return Group(units, axis, when, members)
    return Group(1, axis, when, _members(step, pending, done, axis, 1))


def _members(
    step: Lowered,
    pending: list[int],
    done: set[int],
    axis: Axis,
    units: int | MatrixSize,
) -> tuple[int, ...]:
    """What a stage of so many units can compute of what is pending."""
    known = set(done)
    members = []
    for number in pending:
        fits = step.units[number] in (None, units) and step.axis(number) == axis
        stored = done.issuperset(step.stored_before(number))
        if fits and stored and known.issuperset(step.before(number)):
            members.append(number)
            known.add(number)
    return tuple(members)
