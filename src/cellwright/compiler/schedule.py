"""Scheduling: which nodes of a step are computed together, in a stage.

A stage computes values of one size. It begins with matrix products, whose operands
are in memory; so a product of a value of this step starts a later stage.
"""

from __future__ import annotations

from collections.abc import Sequence

from .step import Group, Lowered
from .verify import verify_groups


def schedule(step: Lowered) -> tuple[Group, ...]:
    """Put each node that a result needs into the earliest stage of its size."""
    found: list[Group] = []
    done: set[int] = set()
    for roots, when in ((step.roots, step.when), (step.late, "after_chunk")):
        pending = _needed(step, roots, done)
        while pending:
            found.append(_next(step, pending, done, when))
            done.update(found[-1].members)
            pending = [n for n in pending if n not in done]
    return verify_groups(step, tuple(found), after="schedule")


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
    step: Lowered, pending: list[int], done: set[int], axis: str, units: int
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
