"""Scheduling: which nodes of a step are computed together, in a stage.

A stage computes values of one size. It begins with matrix products, whose operands
stand in memory; so a product of a value of this step starts a later stage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..language.graph import AFFINE, TRANSPOSED
from .step import Group, Step
from .verify import verify_groups


def schedule(step: Step) -> tuple[Group, ...]:
    """Put each node that a result needs into the earliest stage of its size."""
    return verify_groups(step, _Scheduler(step).groups(), after="schedule")


class _Scheduler:
    def __init__(self, step: Step) -> None:
        self.step = step
        self.done: set[int] = set()

    def groups(self) -> tuple[Group, ...]:
        found: list[Group] = []
        for roots, when in (
            (self.step.roots, self.step.when),
            (self.step.late, "after_chunk"),
        ):
            pending = self._needed(roots)
            while pending:
                group = self._next(pending, when)
                found.append(group)
                pending = [n for n in pending if n not in self.done]
        return tuple(found)

    def _needed(self, roots: Iterable[int]) -> list[int]:
        """What is still to be computed for these results, arguments first."""
        found = set(self.done)
        order: list[int] = []
        stack = [(root, False) for root in reversed([*roots])]
        while stack:
            number, complete = stack.pop()
            if complete:
                order.append(number)
            elif number not in found:
                found.add(number)
                stack.append((number, True))
                awaited = reversed(self.step.awaited[number])
                stack += [(arg, False) for arg in awaited]
        return order

    def _next(self, pending: list[int], when: str) -> Group:
        """The stage of the first node that can start, and all that fits into it."""
        step, here = self.step, set()
        ready = [n for n in pending if self._can_start(n, here)]
        first = next((n for n in ready if step.units[n] is not None), ready[0])
        units, axis = step.units[first] or 1, step.axis(first)
        members = []
        for number in pending:
            fits = step.units[number] in (None, units) and step.axis(number) == axis
            if fits and self._can_start(number, here):
                members.append(number)
                here.add(number)
                self.done.add(number)
        return Group(units, axis, when, tuple(members))

    def _can_start(self, number: int, here: Collection[int]) -> bool:
        """Whether all it reads is done; by a product, in a stage before this one."""
        product = self.step.nodes[number].op in (AFFINE, TRANSPOSED)
        return all(
            a in self.done and not (product and a in here)
            for a in self.step.before(number)
        )
