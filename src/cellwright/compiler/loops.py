"""Loops over levels: what has to go level by level, and what need not.

A loop is what a level computes between reading what the level before has stored and
storing that again. Where a state's loop has no product in it, the step is split (loop
distribution): work outside of loops is done for all rows of a chunk of levels at once,
its products as large ones; a loop alone goes level by level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from ..language.graph import AFFINE, TRANSPOSED
from .matrices import is_matrix
from .step import PANEL, PUT, Lowered


def split(step: Lowered, pending: list[int]) -> Iterator[tuple[list[int], str]]:
    """A step's nodes in parts, and when each is computed: "chunk" or "level".

    Args:
        pending: the nodes to compute, arguments first.
    """
    loops = Loops(step)
    loops.add_results(pending)
    done: set[int] = set()
    while pending:
        part, when = loops.at_once(pending, done), "chunk"
        if not part:
            part, when = loops.next_loop(pending, done), "level"
        yield part, when
        done.update(part)
        pending = [n for n in pending if n not in done]


class Loops:
    """The loops of a step.

    Attributes:
        stored: for each node that reads what the level before has stored: what stores
            it.
        of: for each node of a loop, that loop.
    """

    def __init__(self, step: Lowered) -> None:
        self.step = step
        self.stored = self._stored()
        self.of: dict[int, frozenset[int]] = {}
        for reader, puts in self.stored.items():
            loop = _reached([reader], self._after) & _reached(puts, self._before)
            self.of.update(dict.fromkeys(loop, frozenset(loop)))
        for loop in [*dict.fromkeys(self.of.values())]:
            self._join_matrices(loop)

    def _join_matrices(self, loop: frozenset[int]) -> None:
        """What reads the matrices of a loop, or others of their size, goes with it, if
        it waits for nothing else that the loop makes: it finds them in the cache, and
        none is stored for it."""
        step = self.step
        sizes = {step.matrices[n] for n in loop} - {None}
        if not sizes:
            return
        after, joined = _reached(loop, self._after), set(loop)
        for number in range(step.first, len(step.nodes)):
            read = {*self.arguments(number), *self.stored.get(number, ())} & after
            in_registers = all(a in joined and is_matrix(step.nodes[a]) for a in read)
            if (
                step.matrices[number] in sizes
                and number not in self.of
                and in_registers
            ):
                joined.add(number)
        self.of.update(dict.fromkeys(joined, frozenset(joined)))

    @property
    def hold_matrices(self) -> bool:
        """Whether all that reads a state that is a matrix is in the state's loop."""
        nodes, matrices = self.step.nodes, self.step.matrices
        readers = [{n for n in after if matrices[n]} for after in self._after]
        return all(
            self.of.get(reader) == self.of.get(state)
            for state in self.stored
            if is_matrix(nodes[state])
            for reader in _reached([state], readers)
            if nodes[reader].op != PUT
        )

    def _stored(self) -> dict[int, set[int]]:
        stores: dict[int, set[int]] = {}  # by array
        for number, node in enumerate(self.step.nodes):
            if node.op == PUT:
                stores.setdefault(node["view"].array, set()).add(number)
        for number in self.step.kept & self.step.stored.keys():  # they store themselves
            stores.setdefault(self.step.stored[number].array, set()).add(number)
        found = {
            number: set().union(*(stores.get(view.array, ()) for view in views))
            for number, views in self._reads.items()
        }
        return {number: puts for number, puts in found.items() if puts}

    @property
    def _reads(self) -> dict[int, Sequence]:
        """For each node that is in memory before the step, where."""
        places = {number: (view,) for number, view in self.step.places.items()}
        return {**places, **self.step.cotangents}

    # -- the graph with its edges from level to level

    @cached_property
    def _before(self) -> list[set[int]]:
        count = len(self.step.nodes)
        return [{*self.arguments(n), *self.stored.get(n, ())} for n in range(count)]

    @cached_property
    def _after(self) -> list[set[int]]:
        found: list[set[int]] = [set() for _ in self._before]
        for number, before in enumerate(self._before):
            for other in before:
                found[other].add(number)
        return found

    def arguments(self, number: int) -> Sequence[int]:
        """What a node reads of its own level, in memory or not."""
        node = self.step.nodes[number]
        if node.op == TRANSPOSED:
            return self.step.before(number)
        return node.args if node.op == PUT else self.step.values[number]

    def _has_product(self, loop: Iterable[int]) -> bool:
        return any(self.step.nodes[n].op in (AFFINE, TRANSPOSED) for n in loop)

    def _has_matrix(self, loop: Iterable[int]) -> bool:
        return any(self.step.matrices[n] for n in loop)

    @property
    def worth_splitting(self) -> bool:
        """Whether some state's loop goes without the step's products."""
        arrays = self.step.arrays
        states = (  # they alone have initial rows
            reader
            for reader in self.stored
            if any(arrays[view.array].initial >= 0 for view in self._reads[reader])
        )
        loops = (self.of.get(reader, ()) for reader in states)
        rest = set(range(len(self.step.nodes))) - self.of.keys()
        return self._has_product(rest) and not all(map(self._has_product, loops))

    # -- parts of the step

    def add_results(self, pending: Iterable[int]) -> None:
        """Results that store a loop's values are of that loop too; not where those are
        in memory alone, as vectors that are made of a matrix."""
        for number in pending:
            node = self.step.nodes[number]
            kept = bool(node.args) and node.args[0] in self.step.kept
            if node.op in (PUT, PANEL) and node.args[0] in self.of and not kept:
                self.of.setdefault(number, self.of[node.args[0]])

    def at_once(self, pending: Iterable[int], done: set[int]) -> list[int]:
        """The nodes of no loop that can be computed now, one after the other."""
        found: dict[int, None] = {}
        for number in pending:
            levels = done.issuperset(self._levels(number))
            there = all(a in done or a in found for a in self.step.before(number))
            if number not in self.of and levels and there:
                found[number] = None
        return [*found]

    def next_loop(self, pending: Sequence[int], done: set[int]) -> list[int]:
        """The nodes of what can go now level by level: the loops without products, or
        one with some."""
        ready = []
        for loop in dict.fromkeys(self.of[n] for n in pending if n in self.of):
            outside = (
                a
                for n in pending
                if self.of.get(n) == loop
                for a in (*self.step.before(n), *self._levels(n))
                if self.of.get(a) != loop
            )
            if done.issuperset(outside):
                ready.append(loop)
        light = [loop for loop in ready if not self._has_product(loop)]
        # One of matrices has a stage of its own; vectors go first.
        matrices = [loop for loop in light if self._has_matrix(loop)]
        vectors = [loop for loop in light if loop not in matrices]
        chosen = vectors or (light or ready)[:1]
        return [n for n in pending if self.of.get(n) in chosen]

    def _levels(self, number: int) -> set[int]:
        """What has to be stored for all levels, for a node to read the level before:
        not what its own loop stores."""
        own = self.of.get(number)
        others = (a for a in self.arguments(number) if own is None or a not in own)
        return set().union(*(self.stored.get(a, ()) for a in others))


def _reached(start: Iterable[int], edges: Sequence[Iterable[int]]) -> set[int]:
    found: set[int] = set()
    stack = [*start]
    while stack:
        number = stack.pop()
        if number not in found:
            found.add(number)
            stack.extend(edges[number])
    return found
