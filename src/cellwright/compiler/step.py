"""A step over memory: what is computed at one level, where it is read and stored.

`lower` makes one of a graph, `schedule` and `store` arrange it, `emit` writes its code.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ..language import OPS, Node
from ..language.graph import AFFINE, COTANGENT, EACH, TRANSPOSED, per_child
from ..language.ops import read_by
from .program import EVERY, Array, View

PUT = "put"  # stores its first argument, once the others are computed; attr `view`
PANEL = "panel"  # stores a gate's gradient in its stage's panel; attr `operands`
ROW_LEAVES = ("constant", "weight")  # the same for every row
RECOMPUTED = 12  # operations that are done again rather than stored


@dataclass(frozen=True)
class Step:
    """What is computed at one level, and where in memory it is read and stored.

    Attributes:
        name: what messages call it.
        nodes: arguments first; `PUT` and `PANEL` nodes are the results.
        arrays: those of the caller first, then scratch.
        places: node → where its value stands before the step.
        stored: node → where its value stands once the step has stored it.
        cotangents: node of a cotangent → the views whose sum it is.
        roots: the results.
        late: results that nothing waits for: one pass after each chunk of levels.
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
    first: int = 0
    when: str = "level"
    many: bool = False

    def size(self, number: int) -> int:
        return int(self.nodes[number].size)

    def place(self, number: int) -> View | None:
        """Where a value stands, before the step or once it is stored."""
        return self.places.get(number) or self.stored.get(number)

    @cached_property
    def panels(self) -> dict[int, int]:
        """cotangent → the node that puts it into a panel"""
        return {n.args[0]: k for k, n in enumerate(self.nodes) if n.op == PANEL}

    @cached_property
    def _per_child(self) -> list[bool]:
        return per_child(self.nodes, self.many)

    def axis(self, number: int) -> str:
        """The rows of a value: one for the node, or one for each of its children."""
        node = self.nodes[number]
        if not self.many:
            return "node"
        if node.op == PUT:
            view = node["view"]
            own = "child" if view.slot == EVERY else "node"
            return own if view.previous else self.arrays[view.array].axis
        return "child" if self._per_child[number] else "node"

    def units(self, number: int) -> int | None:
        """The units of the stage that can compute a node; `None`: any."""
        node = self.nodes[number]
        if node.op in OPS and OPS[node.op].reduces:
            return self.size(node.args[0])
        if node.op in (AFFINE, TRANSPOSED, PANEL, COTANGENT) or self.size(number) > 1:
            return self.size(number)
        return None

    def values(self, number: int) -> tuple[int, ...]:
        """The arguments whose values a node reads."""
        node = self.nodes[number]
        return node.args[:1] if node.op in (PUT, PANEL) else read_by(node)

    def awaited(self, number: int) -> list[int]:
        """The arguments that a stage has to compute first."""
        node = self.nodes[number]
        # A product reads memory, so a weight that it maps must be stored for it.
        stored = ROW_LEAVES if node.op == AFFINE else ()
        return [
            a
            for a in read_by(node)
            if not self._at_hand(a)
            or (self.nodes[a].op in stored and self.place(a) is None)
        ]

    def _at_hand(self, number: int) -> bool:
        """Whether no stage has to compute it: it is loaded, or computed on the spot."""
        at_hand = number < self.first or number in self.places
        return at_hand or self.nodes[number].op in ROW_LEAVES


def obtainable(step: Step, number: int, known: Container[int]) -> bool:
    """Whether a stage that knows some values can have another without its being stored.

    It may load what it knows, and compute a little again: pointwise work alone.
    """
    left = RECOMPUTED

    def reach(n: int) -> bool:
        nonlocal left
        op = step.nodes[n].op
        if n in known or op in ROW_LEAVES:
            return True
        left -= 1
        pointwise = op == EACH or (op in OPS and not OPS[op].reduces)
        return pointwise and left >= 0 and all(map(reach, step.values(n)))

    return reach(number)
