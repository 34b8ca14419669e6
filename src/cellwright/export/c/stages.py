"""When a step's values are made: products and reductions, and the loops between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...compiler.matrices import read
from ...language.graph import AFFINE, LEAVES, Graph
from ...language.ops import OPS
from .items import OVER_ITEMS
from .operations import REDUCTIONS

INSIDE, WHOLE, LEAF, ELEMENTWISE = "inside", "whole", "leaf", "elementwise"


@dataclass(frozen=True)
class Stages:
    """A graph's nodes by stage.

    A stage first makes what reads all units of a value (`whole`: affines, reductions,
    what is made of all items), then all that is made unit by unit, in one loop a size.

    Attributes:
        kinds: of each node: "leaf", "whole", "elementwise", or "inside" where it is
            written into what reads it (a comparison).
        stage: of each node that is used; others have `None`.
        count: of stages.
    """

    graph: Graph
    kinds: tuple[str, ...]
    stage: tuple[int | None, ...]
    count: int

    def nodes(self, stage: int, kind: str) -> list[int]:
        """Those of a kind that a stage makes, in order."""
        return [
            n for n, s in enumerate(self.stage) if s == stage and self.kinds[n] == kind
        ]

    def reads(self, number: int) -> Iterator[int]:
        """The values that a node reads, those of a comparison inside it too."""
        return _reads(self.graph, self.kinds, number)

    def read_elsewhere(self, number: int) -> bool:
        """Whether anything but the loop that makes a value reads it."""
        stage = self.stage[number]
        if number in _results(self.graph) and stage != self.count - 1:
            return True  # results are stored last
        return any(
            number in self.reads(n)
            for n, s in enumerate(self.stage)
            if s is not None and (s != stage or self.kinds[n] == WHOLE)
        )


def stages_of(graph: Graph) -> Stages:
    """Products as early as possible, the rest as late: so the fewest values wait."""
    kinds = tuple(_kind(node.op) for node in graph.nodes)
    early: list[int] = []
    for number, kind in enumerate(kinds):
        before = [early[a] for a in _reads(graph, kinds, number)]
        early.append(max(before, default=0) + (kind == WHOLE))
    last = max((early[n] for n in _results(graph)), default=0)
    late: list[int | None] = [None] * len(kinds)
    for number in _results(graph):
        late[number] = last
    for number in reversed(range(len(kinds))):
        stage = late[number]
        if stage is None:
            continue
        if kinds[number] == WHOLE:
            late[number] = early[number]
            stage = early[number] - 1
        for arg in _reads(graph, kinds, number):
            known = late[arg]
            late[arg] = stage if known is None else min(stage, known)
    return Stages(graph, kinds, tuple(late), last + 1)


def _results(graph: Graph) -> tuple[int, ...]:
    return (*graph.updates, graph.output)


def _kind(op: str) -> str:
    if op in LEAVES:
        return LEAF
    if op == AFFINE or op in REDUCTIONS or op in OVER_ITEMS:
        return WHOLE
    return INSIDE if OPS[op].kind == "comparison" else ELEMENTWISE


def _reads(graph: Graph, kinds: tuple[str, ...], number: int) -> Iterator[int]:
    for arg in read(graph.nodes[number]):
        if kinds[arg] == INSIDE:
            yield from _reads(graph, kinds, arg)
        else:
            yield arg
