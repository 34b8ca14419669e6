"""A step lowered to memory: what one level computes, where it reads and stores.

Frozen data between the passes: `lower` makes it of a graph, `schedule` its groups,
`store` completes both, and `emit` writes their code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..language import OPS, Node
from ..language.graph import AFFINE, COTANGENT, EACH, TOTAL, TRANSPOSED, per_child
from .program import EVERY, Array, View

PUT = "put"  # stores its first argument, once the others are computed; attr `view`
PANEL = "panel"  # packs a gate's gradient beside its stage's others; attr `operands`
RESULTS = (PUT, PANEL)
ROW_LEAVES = ("constant", "weight")  # the same for every row
RECOMPUTED = 12  # operations that are done again rather than stored
_SIZED = (AFFINE, TRANSPOSED, PANEL, COTANGENT)  # of their stage's units, if of one too
_REDUCING = frozenset(name for name, op in OPS.items() if op.reduces)
_COPYING = frozenset((PUT, PANEL, *(name for name, op in OPS.items() if op.copies)))


@dataclass(frozen=True)
class Lowered:
    """What one level computes, and where in memory it reads and stores.

    Attributes:
        name: what messages call it.
        nodes: arguments first; `PUT` and `PANEL` nodes are the results.
        arrays: those of the caller first, then scratch.
        places: node → where its value is before the step.
        stored: node → where its value is once the step has stored it.
        cotangents: node of a cotangent → the views whose sum it is.
        roots: the results.
        late: results that nothing waits for: one pass after each chunk of levels.
        sums: (cotangent, vector or number): its gradient is the sum over the rows.
        first: the first node that the step computes. Those before it, a backward step's
            forward nodes, are read from memory, or computed again where needed.
        when: the roots are computed, as in `Stage`.
        many: of a tree cell that sums over its children.
    """

    name: str
    nodes: tuple[Node, ...]
    arrays: tuple[Array, ...]
    places: Mapping[int, View]
    stored: Mapping[int, View] = field(default_factory=dict)
    cotangents: Mapping[int, tuple[View, ...]] = field(default_factory=dict)
    roots: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    sums: tuple[tuple[int, str], ...] = ()
    first: int = 0
    when: str = "level"
    many: bool = False

    def size(self, number: int) -> int:
        return int(self.nodes[number].size)

    @cached_property
    def where(self) -> dict[int, View]:
        """The view of each value that is in memory before the step, or stored by it."""
        return {**self.stored, **self.places}

    @cached_property
    def panels(self) -> dict[int, int]:
        """For each cotangent that is packed in a panel, the node that does so."""
        return {n.args[0]: k for k, n in enumerate(self.nodes) if n.op == PANEL}

    @cached_property
    def _per_child(self) -> list[bool]:
        return per_child(self.nodes, self.many)

    def axis(self, number: int) -> str:
        """The rows of a value: one for the node, or one for each of its children."""
        if not self.many:
            return "node"
        node = self.nodes[number]
        if node.op == PUT:
            view = node["view"]
            own = "child" if view.slot == EVERY else "node"
            return own if view.previous else self.arrays[view.array].axis
        return "child" if self._per_child[number] else "node"

    @cached_property
    def units(self) -> list[int | None]:
        """For each node, the units of the stage that can compute it; `None`: any."""
        sizes = [int(node.size) for node in self.nodes]
        return [
            sizes[node.args[0]]
            if node.op in _REDUCING
            else size
            if size > 1 or node.op in _SIZED
            else None
            for node, size in zip(self.nodes, sizes, strict=True)
        ]

    @cached_property
    def values(self) -> list[tuple[int, ...]]:
        """For each node, the arguments whose values it reads."""
        return [n.args[:1] if n.op in _COPYING else n.args for n in self.nodes]

    @cached_property
    def read_once(self) -> set[int]:
        """The nodes that the step reads once, its forward nodes apart."""
        uses = Counter(a for node in self.nodes[self.first :] for a in node.args)
        return {number for number, count in uses.items() if count == 1}

    @cached_property
    def awaited(self) -> list[list[int]]:
        """For each node, the arguments that a stage has to compute first."""
        rows = {k for k, n in enumerate(self.nodes) if n.op in ROW_LEAVES}
        at_hand = self.places.keys() | range(self.first) | rows
        in_memory = at_hand - (rows - self.where.keys())
        found = []
        for node, values in zip(self.nodes, self.values, strict=True):
            there = in_memory if node.op == AFFINE else at_hand
            args = node.args if node.op == PUT else values
            found.append([a for a in args if a not in there])
        return found

    def before(self, number: int) -> list[int]:
        """What has to be computed before a node: a transposed product reads a panel."""
        node = self.nodes[number]
        if node.op == TRANSPOSED:
            return [self.panels[node.args[0]]]
        return self.awaited[number]


@dataclass(frozen=True)
class Group:
    """The nodes of one stage, arguments first, before its code is written.

    Attributes:
        units, axis, when, loop: as in `Stage`.
    """

    units: int
    axis: str
    when: str
    members: tuple[int, ...]
    loop: int = 0


@dataclass(frozen=True)
class Stored:
    """A step whose values are all in memory where they are read.

    Attributes:
        step: with scratch arrays, and nodes that store into them.
        groups: its stages.
        panels: cotangent → (array, column).
    """

    step: Lowered
    groups: tuple[Group, ...]
    panels: Mapping[int, tuple[int, int]]


def summands(
    nodes: Sequence[Node], top: int, splits: Callable[[int], bool]
) -> list[int]:
    """What a value is the sum of, through the sums that `splits` admits."""
    found, stack = [], [top]
    while stack:
        number = stack.pop()
        if nodes[number].op == "add" and splits(number):
            stack.extend(reversed(nodes[number].args))
        else:
            found.append(number)
    return found


def obtainable(step: Lowered, number: int, known: Container[int]) -> bool:
    """Whether a stage that knows some values can have another without its being stored.

    It may load what it knows, and compute a little again: pointwise work alone.
    """
    if number in known:
        return True
    left = RECOMPUTED

    def reach(n: int) -> bool:
        nonlocal left
        op = step.nodes[n].op
        if n in known or op in ROW_LEAVES:
            return True
        left -= 1
        pointwise = op == EACH or (op in OPS and op not in _REDUCING)
        return pointwise and left >= 0 and all(map(reach, step.values[n]))

    return reach(number)


def lacking(
    step: Lowered, number: int, memory: Container[int], known: Container[int]
) -> list[int]:
    """The values that a node reads, and that its stage can neither load nor obtain."""
    op, values = step.nodes[number].op, step.values[number]
    if op == TRANSPOSED:  # it reads a panel
        return []
    if op in (AFFINE, TOTAL):  # they read memory alone
        return [a for a in values if a not in memory]
    return [a for a in values if not obtainable(step, a, known)]
