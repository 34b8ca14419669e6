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
from ..language.graph import (
    AFFINE,
    ATTENTION,
    CHILDREN,
    COTANGENT,
    EACH,
    TOTAL,
    TRANSPOSED,
    sets,
)
from ..language.sizes import MatrixSize
from .matrices import is_matrix, matrix_of, read
from .program import EVERY, Array, View

# Stores its first argument, once the others are computed; attrs `view`, and `adds`: to
# what is there.
PUT = "put"
PANEL = "panel"  # packs a gate's gradient beside its stage's others; attr `operands`
DOT = "dot"  # of a row's value and each item's: one number an item (see `contract`)
OUTER = "outer_items"  # adds a row's value times each item's number; attr `view`
ROW_LEAVES = ("constant", "weight")  # the same for every row
RECOMPUTED = 12  # operations that are done again rather than stored
RECOMPUTED_OF_MANY = 100  # the same of each item, or of a matrix: so much to store
# Of their stage's units, if of one too.
_SIZED = (AFFINE, TRANSPOSED, PANEL, COTANGENT, ATTENTION, OUTER)
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
    def matrices(self) -> list[MatrixSize | None]:
        """For each node, the matrix in whose stage it is computed, if it is in one."""
        return [
            matrix_of(self.nodes, node.on(node.args[:1]) if node.op == PUT else node)
            for node in self.nodes
        ]

    @cached_property
    def where(self) -> dict[int, View]:
        """The view of each value that is in memory before the step, or stored by it."""
        return {**self.stored, **self.places}

    @cached_property
    def panels(self) -> dict[int, int]:
        """For each cotangent that is packed in a panel, the node that does so."""
        return {n.args[0]: k for k, n in enumerate(self.nodes) if n.op == PANEL}

    @cached_property
    def axes(self) -> list[str]:
        """The rows that each value has: one, or one for each child or item."""
        axes = [axis_of(name) for name in sets(self.nodes, self.many)]
        pairs = zip(self.nodes, axes, strict=True)
        return ["matrix" if is_matrix(node) else axis for node, axis in pairs]

    @cached_property
    def kept(self) -> frozenset[int]:
        """The values that are in memory alone: totals over items, attention, dots; and
        vectors that are made of matrices.

        A total is summed by the stage of its items, a vector of a matrix made by the
        stage of its rows; the others are made by one of rows.
        """
        return frozenset(
            number
            for number, node in enumerate(self.nodes)
            if node.op == DOT
            or self._is_made_of_matrix(number)
            or (
                node.op in (TOTAL, ATTENTION)
                and len(node.args) == 1
                and self.axes[node.args[0]] == "item"
            )
        )

    def _is_made_of_matrix(self, number: int) -> bool:
        node = self.nodes[number]
        return bool(self.matrices[number]) and not is_matrix(node) and node.op != PUT

    def axis(self, number: int) -> str:
        """The rows of the stage that computes a value."""
        node = self.nodes[number]
        if self.matrices[number]:
            return "matrix"
        if number in self.kept:
            return "item" if node.op == TOTAL else "node"
        if node.op == OUTER:
            return "node"
        if node.op == PUT:
            view = node["view"]
            own = "child" if view.slot == EVERY else "node"
            return own if view.previous else self.arrays[view.array].axis
        return self.axes[number]

    def stored_before(self, number: int) -> list[int]:
        """What a node reads that an earlier stage has to store, not its own one."""
        before = self.before(number)
        node = self.nodes[number]
        if self.matrices[number] and node.op != PUT:
            return [a for a in before if not is_matrix(self.nodes[a])]
        weighted = node.op == TOTAL and len(node.args) == 2
        if weighted or node.op in (AFFINE, TRANSPOSED, ATTENTION):
            return before
        column = node.args[1:] if node.op == OUTER else ()
        return [a for a in before if a in self.kept or a in column]

    @cached_property
    def units(self) -> list[int | MatrixSize | None]:
        """For each node, the units of the stage that can compute it, or the matrix;
        `None`: any."""
        sizes = [int(node.size) for node in self.nodes]
        return [
            matrix
            if matrix
            else sizes[node.args[0]]
            if node.op in (*_REDUCING, DOT)
            else size
            if size > 1 or node.op in _SIZED
            else None
            for node, size, matrix in zip(self.nodes, sizes, self.matrices, strict=True)
        ]

    @cached_property
    def values(self) -> list[tuple[int, ...]]:
        """For each node, the arguments whose values it reads."""
        return [n.args[:1] if n.op in _COPYING else read(n) for n in self.nodes]

    @cached_property
    def _read(self) -> list[tuple[int, ...]]:
        """The arguments of each node, but for what gives a matrix's size alone."""
        return [
            read(node) if node.op == "spread" and is_matrix(node) else node.args
            for node in self.nodes
        ]

    @cached_property
    def read_once(self) -> set[int]:
        """The nodes that the step reads once, its forward nodes apart."""
        uses = Counter(a for args in self._read[self.first :] for a in args)
        return {number for number, count in uses.items() if count == 1}

    @cached_property
    def awaited(self) -> list[list[int]]:
        """For each node, the arguments that a stage has to compute first."""
        rows = {k for k, n in enumerate(self.nodes) if n.op in ROW_LEAVES}
        at_hand = self.places.keys() | range(self.first) | rows
        in_memory = at_hand - (rows - self.where.keys())
        found = []
        for node, values in zip(self.nodes, self.values, strict=True):
            there = in_memory if node.op in (AFFINE, ATTENTION) else at_hand
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
        units, axis, when, loop: as in `Stage`; of matrices, units is the matrix.
    """

    units: int | MatrixSize
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


def axis_of(name: str | None) -> str:
    """The rows of a value that varies over a set: of the core's enumeration."""
    return {None: "node", CHILDREN: "child"}.get(name, "item")


def array_axis(axis: str) -> str:
    """The rows of an array: it has a matrix in one."""
    return "node" if axis == "matrix" else axis


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


def is_pointwise(op: str) -> bool:
    """Whether it computes a value unit by unit, from values of the same row."""
    return op == EACH or (op in OPS and op not in _REDUCING)


def obtainable(step: Lowered, number: int, known: Container[int]) -> bool:
    """Whether a stage that knows some values can have another without its being stored.

    It may load what it knows, and compute a little again: pointwise work alone.
    """
    if number in known:
        return True
    many = step.axes[number] in ("item", "matrix")
    left = RECOMPUTED_OF_MANY if many else RECOMPUTED

    def reach(n: int) -> bool:
        nonlocal left
        op = step.nodes[n].op
        if n in known or op in ROW_LEAVES:
            return True
        left -= 1
        if left < 0 or n in step.kept or not is_pointwise(op):
            return False
        vectors = set(_vectors(step, n))
        return all(a in known if a in vectors else reach(a) for a in step.values[n])

    return reach(number)


def _vectors(step: Lowered, number: int) -> list[int]:
    """The values that a stage of matrices reads from memory alone: of a node of one."""
    if not step.matrices[number] or step.nodes[number].op == PUT:
        return []
    nodes = step.nodes
    return [
        a
        for a in step.values[number]
        if nodes[a].op != "constant" and not is_matrix(nodes[a])
    ]


def lacking(
    step: Lowered, number: int, memory: Container[int], known: Container[int]
) -> list[int]:
    """The values that a node reads, and that its stage can neither load nor obtain."""
    op, values = step.nodes[number].op, step.values[number]
    if op == TRANSPOSED:  # it reads a panel
        return []
    vectors = _vectors(step, number)
    if vectors:
        values = tuple(a for a in values if a not in vectors)
        missing = [a for a in vectors if a not in memory]
        return missing + [a for a in values if not obtainable(step, a, known)]
    of_children = op == TOTAL and number not in step.kept
    if op == OUTER and values[1] not in memory:
        return [values[1]]
    if op in (OUTER, DOT):
        values = values[:1]
    if of_children or op in (AFFINE, ATTENTION):  # they read memory alone
        return [a for a in values if a not in memory]
    return [a for a in values if not obtainable(step, a, known)]
