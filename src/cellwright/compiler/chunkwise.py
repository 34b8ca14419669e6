"""Linear recurrences of matrices, several steps at once: the chunkwise form.

Where a state is C' = f C + v kᵀ, what is read of it is C' q, and neither f nor the
vectors depend on C, some steps together are products of small matrices (Yang, Wang,
Shen, Panda & Kim 2024, "Gated Linear Attention Transformers", section 2.2). The core
then does them `STEPS` at a time, forward and backward, and training keeps the matrix
before each such group of steps alone.

The gates' products over steps must not overflow: f has to be known to be in [−1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..language import OPS, Graph, Node
from .matrices import is_matrix
from .program import MATRIX, Instruction, Program, Recurrence, Stage

STEPS = 16  # the core's kRecurrenceSteps

Bounds = tuple[float, float]
ANY = (-math.inf, math.inf)


def gates_are_bounded(graph: Graph) -> bool:
    """Whether what multiplies a state that is a matrix is a number of −1 … 1."""
    nodes, bounds = graph.nodes, bounds_of(graph.nodes)
    for node in nodes:
        states = [a for a in node.args if _is_old_matrix(nodes[a])]
        if node.op == "mul" and states:
            factors = [a for a in node.args if a not in states]
            if not all(-1 <= bounds[a][0] <= bounds[a][1] <= 1 for a in factors):
                return False
    return any(map(is_matrix, graph.states))


def _is_old_matrix(node: Node) -> bool:
    return node.op == "state" and is_matrix(node)


def bounds_of(nodes: Sequence[Node]) -> list[Bounds]:
    """For each node, numbers between which its elements are, as far as that follows
    from the operations."""
    found: list[Bounds] = []
    for node in nodes:
        found.append(_bounds(nodes, node, [found[a] for a in node.args]))
    return found


def _bounds(nodes: Sequence[Node], node: Node, args: Sequence[Bounds]) -> Bounds:
    if node.op == "constant":
        return node["value"], node["value"]
    if node.op == "sub":
        # a − maximum(a, b) and minimum(a, b) − a are at most 0.
        first, second = node.args
        (low, high), (least, most) = args
        largest = nodes[second].op == "maximum" and first in nodes[second].args
        smallest = nodes[first].op == "minimum" and second in nodes[first].args
        return low - most, 0.0 if largest or smallest else high - least
    if node.op in _OF_BOUNDS:
        return _OF_BOUNDS[node.op](*args)
    return OPS[node.op].range if node.op in OPS else ANY


def _product(a: Bounds, b: Bounds) -> Bounds:
    # 0 times an end that is infinite is 0: that end is not attained.
    ends = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return min(ends), max(ends)


def _quotient(a: Bounds, b: Bounds) -> Bounds:
    return _product(a, (1 / b[0], 1 / b[1])) if b[0] > 0 and b[1] < math.inf else ANY


def _exp(a: Bounds) -> Bounds:
    return tuple(math.exp(v) if v < 700 else math.inf for v in a)  # type: ignore


_OF_BOUNDS = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "neg": lambda a: (-a[1], -a[0]),
    "mul": _product,
    "div": _quotient,
    "exp": _exp,
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "where": lambda c, a, b: (min(a[0], b[0]), max(a[1], b[1])),
    "spread": lambda a, b: a,
    "identity": lambda a: a,
}


def in_steps(program: Program) -> Program | None:
    """The same program, its matrices `STEPS` levels at a time; `None`: some matrix does
    something else.

    A stage keeps its code: the core runs it where there are few levels.
    """
    stages, states = [], set()
    for number, stage in enumerate(program.stages):
        if stage.axis == MATRIX and stage.when == "level":
            stage = _in_steps(stage, program.backward)
            if stage is None or not _is_alone(program, number):
                return None
            states.add(stage.views[stage.recurrence.before].array)
        stages.append(stage)
    if not states or any(_sees(program, stages, array) for array in states):
        return None
    arrays = [
        replace(array, rows="spaced", depth=STEPS)
        if number in states and array.rows == "sequence"
        else array
        for number, array in enumerate(program.arrays)
    ]
    return replace(program, arrays=tuple(arrays), stages=tuple(stages))


def _is_alone(program: Program, number: int) -> bool:
    stage = program.stages[number]
    return not any(
        other.when == "level" and other.loop == stage.loop
        for k, other in enumerate(program.stages)
        if k != number
    )


def _sees(program: Program, stages: Sequence[Stage], array: int) -> bool:
    """Whether something else than recurrences reads a state."""
    views = [v for s in stages if not s.recurrence.steps for v in s.views]
    views += [g.source for g in program.gradients]
    return any(view.array == array for view in views)


def _in_steps(stage: Stage, backward: bool) -> Stage | None:
    """A stage of matrices as a recurrence, if it is one."""
    reader = _Backward(stage) if backward else _Forward(stage)
    if not all(map(reader.reads, stage.code)):
        return None
    fields, views = reader.fields, stage.views
    if backward and "before" not in fields and "after" in fields:
        fields["before"] = len(views)
        views = (*views, replace(views[fields["after"]], previous=True))
    if not fields.keys() >= reader.needed:
        return None
    recurrence = Recurrence(STEPS, reader.decay, **fields)
    return replace(stage, views=views, recurrence=recurrence)


class _Reader:
    """Follows a stage's code: which matrix each register has.

    Attributes:
        values: register → what it has: "old" (a matrix from before), "kept" (the gate
            times it), "new", or "gate".
        fields: those of `Recurrence` that are known.
    """

    needed = frozenset[str]()
    scaled = ""  # what the gate is multiplied by

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.values: dict[int, str] = {}
        self.fields: dict[str, int] = {}
        self.decay = 1.0
        self.constants = {
            i.dst: i.immediate for i in stage.prologue if i.op == "constant"
        }

    def reads(self, i: Instruction) -> bool:
        """Takes note of an instruction; whether it is one of a recurrence's."""
        method = getattr(self, f"_{i.op}", None)
        return method is not None and method(i.dst, *i.args)

    def _is(self, register: int, *values: str) -> bool:
        return self.values.get(register) in values

    def _note(self, field: str, view: int) -> bool:
        """Whether a field's view is this one, as far as is known."""
        return self.fields.setdefault(field, view) == view

    def _note_gate(self, view: int) -> bool:
        form = self.stage.views[view].form
        one = form == "number" and self.stage.heads == 1
        return (form == "heads" or one) and self._note("gate", view)

    def _mul(self, dst: int, a: int, b: int) -> bool:
        """The gate, or a constant, times the matrix from which another follows."""
        matrix, gate = (a, b) if self._is(a, self.scaled) else (b, a)
        if not self._is(matrix, self.scaled):
            return False
        if gate in self.constants:
            self.decay = self.constants[gate]
        elif not self._is(gate, "gate"):
            return False
        self.values[dst] = "kept"
        return True


class _Forward(_Reader):
    """C' = f C + v kᵀ, y = C' q."""

    needed = frozenset({"v", "k", "q", "y", "before", "after"})
    scaled = "old"

    def _load(self, dst: int, view: int, *_: int) -> bool:
        seen = self.stage.views[view]
        if seen.form == "matrix":
            self.values[dst] = "old"
            return seen.previous and self._note("before", view)
        self.values[dst] = "gate"
        return self._note_gate(view)

    def _load_scaled(self, dst: int, view: int, by: int) -> bool:
        self.values[dst] = "kept"
        previous = self.stage.views[view].previous
        return previous and self._note("before", view) and self._note_gate(by)

    def _add_outer(self, dst: int, a: int, v: int, k: int) -> bool:
        old = self._is(a, "old", "kept") and "v" not in self.fields
        self.values[dst] = "new"
        return old and self._note("v", v) and self._note("k", k)

    def _dot_columns(self, _: int, a: int, y: int, q: int) -> bool:
        first = "y" not in self.fields
        return (
            first and self._is(a, "new") and self._note("y", y) and self._note("q", q)
        )

    def _store(self, _: int, a: int, view: int) -> bool:
        own = self.stage.views[view].form == "matrix"
        return own and self._is(a, "new") and self._note("after", view)


class _Backward(_Reader):
    """Its derivative: "old" is the cotangent that comes from the level after, "new"
    that of C', "state" C' itself."""

    needed = _Forward.needed | {"d_before", "d_after"}
    scaled = "new"

    def _load(self, dst: int, view: int, *_: int) -> bool:
        seen = self.stage.views[view]
        if seen.form != "matrix":
            self.values[dst] = "gate"
            return self._note_gate(view)
        if seen.previous:
            return False
        # The cotangent's array is the one that the stage stores to.
        stored = {
            self.stage.views[i.args[1]].array
            for i in self.stage.code
            if i.op == "store"
        }
        cotangent = seen.array in stored
        self.values[dst] = "old" if cotangent else "state"
        return self._note("d_after" if cotangent else "after", view)

    def _add_outer(self, dst: int, a: int, y: int, q: int) -> bool:
        old = self._is(a, "old")
        self.values[dst] = "new"
        return old and self._note("y", y) and self._note("q", q)

    def _dot_rows(self, _: int, a: int, into: int, by: int) -> bool:
        if self._is(a, "state"):
            return self._note("d_q", into) and self._note("y", by)
        return self._is(a, "new") and self._note("d_k", into) and self._note("v", by)

    def _dot_columns(self, _: int, a: int, into: int, by: int) -> bool:
        return self._is(a, "new") and self._note("d_v", into) and self._note("k", by)

    def _dot_block(self, _: int, a: int, into: int, matrix: int) -> bool:
        previous = self.stage.views[matrix].previous
        is_state = previous and self._note("before", matrix)
        return is_state and self._is(a, "new") and self._note("d_gate", into)

    def _store(self, _: int, a: int, view: int) -> bool:
        seen = self.stage.views[view]
        carried = seen.form == "matrix" and seen.previous
        return carried and self._is(a, "new", "kept") and self._note("d_before", view)
