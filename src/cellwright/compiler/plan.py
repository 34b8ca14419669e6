"""The plan of a cell: its programs, and what the forward one saves for the backward.

The passes, each in the file of its name, frozen data in and out: `split` the affines
over children, `differentiate` the step, `lower` it to memory, `schedule` its stages,
`store` what crosses them, `emit` their code.

The derivative says which values of the forward step it reads. A state's sequence is
saved anyway; what follows from saved values by pointwise work is computed again; the
rest is saved, or computed again from the states for a whole chunk of steps at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from ..language import OPS, Graph, Node
from ..language.graph import ATTENTION
from ..language.linear import diagonal_groups
from . import lower
from .bindings import Binding
from .chunkwise import gates_are_bounded, in_steps
from .contract import contract
from .differentiate import VectorJacobian, differentiate
from .dots import dot_products
from .emit import emit, emit_gradients, emit_reductions
from .loops import Loops
from .matrices import flatten_affines, is_matrix, matrix_of, read, with_copies
from .outers import scale_vectors
from .program import Program, Stage
from .schedule import schedule
from .split import split_affines
from .step import Lowered, Stored
from .store import store
from .verify import verify_linear

MOST_NODES = 1_000  # a stage of so many reads and keeps no more than the core takes


class PlanError(ValueError):
    """The native engine has no program for this cell."""


@dataclass(frozen=True)
class Plan:
    """The programs of a bound cell.

    Attributes:
        graph: the cell, with concrete sizes; its affines over sets are cut in parts.
        binding: where its weights are.
        recompute: training saves nothing beside the states.
        constant: inputs that have one row for each row of the widest level, and no
            gradient.
        static: inputs that have such rows, and a gradient: the sum over the levels.
        recorded: forward nodes whose values are results too, for every row.
        tapped: the recorded values have cotangents of their own, and the backward scan
            gives each one's whole cotangent, through everything it feeds.
        may_split: loops over levels may stand apart from the rest: see `loops`. Not
            where a level has rows enough for its products.
        may_go_in_steps: matrices may go several levels at a time: see `chunkwise`.
        precision: of products: "full", "bf16", or "int8" for inference alone.
    """

    graph: Graph
    binding: Binding
    recompute: bool = False
    constant: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    recorded: tuple[int, ...] = ()
    tapped: bool = False
    may_split: bool = True
    may_go_in_steps: bool = True
    precision: str = "full"

    def __post_init__(self) -> None:
        graph, binding, recorded = self.graph, self.binding, self.recorded
        for cut in (flatten_affines, split_affines, dot_products, scale_vectors):
            graph, binding, new = cut(graph, binding)
            recorded = tuple(new[number] for number in recorded)
        object.__setattr__(self, "graph", graph)
        object.__setattr__(self, "binding", binding)
        object.__setattr__(self, "recorded", recorded)
        obstacle = _obstacle(graph)
        if obstacle:
            raise PlanError(obstacle)

    # -- programs

    @cached_property
    def inference(self) -> Program:
        # What follows a loop reads all levels of its states.
        keeps = "vectors" if self.is_split else "none"
        memory = lower.forward_memory(
            self.graph, self._once, keeps=keeps, rounds=self.rounds
        )
        return self._in_steps(self._forward("inference", memory))

    @cached_property
    def rounds(self) -> str:
        """What the calls may have in bf16: as in `forward_memory`.

        A tree, or what follows a loop, reads states of other levels than the last; they
        are rounded when the scan has ended.
        """
        has_matrices = any(map(is_matrix, (*self.graph.nodes, *self.graph.weights)))
        if self.precision != "bf16" or has_matrices:
            return ""
        return "values" if self.graph.children or self.is_split else "states"

    @cached_property
    def is_split(self) -> bool:
        """Whether loops over levels stand apart from the products, for many levels."""
        memory = lower.forward_memory(self.graph, self._once)
        step = lower.forward_step(self.graph, memory, (), self._weights)
        may = self.may_split and not self.graph.items
        loops = Loops(step)
        return may and loops.worth_splitting and loops.hold_matrices

    @cached_property
    def training(self) -> Program:
        memory = lower.forward_memory(
            self.graph, self._once, self.saved, rounds=self.rounds
        )
        return self._in_steps(self._forward("training", memory))

    def backward(self, wanted: tuple[str, ...]) -> Program:
        """The gradient's program; `wanted` are the inputs that need theirs."""
        return self._in_steps(self._backward(wanted))

    @cached_property
    def goes_in_steps(self) -> bool:
        """Whether its matrices go several levels at a time: see `chunkwise`."""
        if self.recompute or not self.may_go_in_steps:
            return False
        if not (gates_are_bounded(self.graph) and self.is_split):
            return False
        forward = self._forward("training", self._memory)
        inputs = tuple(source.name for source in self.graph.inputs)
        return bool(in_steps(forward) and in_steps(self._backward(inputs)))

    def _in_steps(self, program: Program) -> Program:
        return (in_steps(program) if self.goes_in_steps else None) or program

    def _backward(self, wanted: tuple[str, ...]) -> Program:
        vjp, places = self.vjp, self._memory.places
        memory = lower.cotangent_memory(vjp, self._memory.arrays, wanted, self.static)
        recomputed: tuple[Stage, ...] = ()
        if self.recompute:
            step = lower.recompute_step(
                self.graph, memory.arrays, places, self.needed, self._weights
            )
            stored = self._arrange(step, False)
            recomputed = emit(stored, self.binding)
            memory = replace(memory, arrays=stored.step.arrays)
            places = {**places, **step.stored}
        vjp = with_copies(vjp, places)
        step = lower.backward_step(vjp, memory, places, self._weights)
        stored = self._arrange(step, self.is_split, before=len(recomputed))
        return Program(
            f"{self.graph.name} backward",
            True,
            stored.step.arrays,
            self.binding.parameters,
            (*recomputed, *emit(stored, self.binding)),
            emit_gradients(vjp, stored, self.binding),
            emit_reductions(vjp, stored, self.binding),
            tree=bool(self.graph.children),
            precision=self.precision,
        )

    def _forward(self, kind: str, memory: lower.Memory) -> Program:
        step = lower.forward_step(self.graph, memory, self.recorded, self._weights)
        scratch = "chunk" if self.is_split else "rolling"
        stored = self._arrange(step, self.is_split, scratch)
        return Program(
            f"{self.graph.name} {kind}",
            False,
            stored.step.arrays,
            self.binding.parameters,
            emit(stored, self.binding),
            tree=bool(self.graph.children),
            precision=self.precision,
        )

    def _arrange(
        self, step: Lowered, apart: bool, scratch: str = "chunk", before: int = 0
    ) -> Stored:
        step = contract(step)
        return store(step, schedule(step, apart), scratch, before)

    # -- what forward and backward share

    @cached_property
    def vjp(self) -> VectorJacobian:
        vjp = differentiate(self.graph, self.recorded if self.tapped else ())
        verify_linear(vjp, diagonal_groups(self.graph))
        return vjp

    @property
    def _weights(self) -> dict[str, int]:
        """The numbers of the parameters of vectors and matrices, by name."""
        return {n: piece.parameter for n, piece in self.binding.vectors.items()}

    @property
    def _once(self) -> tuple[str, ...]:
        return *self.constant, *self.static

    @cached_property
    def _memory(self) -> lower.Memory:
        """The arrays of a scan in training, as the backward one reads them."""
        return lower.forward_memory(self.graph, self._once, self.saved)

    @cached_property
    def needed(self) -> tuple[int, ...]:
        """The forward nodes that the backward step has to find in memory."""
        return lower.needed(self.vjp, lower.forward_memory(self.graph))

    @property
    def saved(self) -> tuple[int, ...]:
        """The forward nodes that training saves beside the states."""
        return () if self.recompute else self.needed

    @property
    def saved_rounded(self) -> list[bool]:
        """Of each saved value, whether it may be in bf16."""
        return [
            bool(self.rounds) and lower.may_be_rounded(self.graph, n)
            for n in self.saved
        ]

    def saved_sizes(self) -> list[int]:
        return [int(self.graph.nodes[n].size) for n in self.saved]

    @cached_property
    def reached(self) -> tuple[frozenset[str], frozenset[int]]:
        """Where the step's gradient arrives: at these inputs and items, and at these
        parameters by number. Elsewhere it is zero whatever the values: behind `step`,
        in a value that nothing reads."""
        binding = self.binding
        pieces = [binding.vectors[name] for name in self.vjp.cotangents("weight")]
        for affine, _ in self.vjp.affines:
            node = self.graph.nodes[affine]
            name = node["weight"]
            pieces += [binding.matrices[name, k] for k in range(len(node.args))]
            pieces += binding.biases.get(name, ())
        cotangents = self.vjp.cotangents
        sources = frozenset((*cotangents("input"), *cotangents("item")))
        return sources, frozenset(piece.parameter for piece in pieces)


def unsupported(graph: Graph) -> str | None:
    """Why there is no program for a cell's graph, or `None`."""
    for node in graph.nodes:
        if node.op in OPS and OPS[node.op].kind == "internal":
            return f"{node.op} is for derivatives"
    if len(graph.nodes) > MOST_NODES:
        return (
            f"the step has {len(graph.nodes):,} operations, a program takes "
            f"{MOST_NODES:,}"
        )
    return _obstacle(graph)


def _obstacle(graph: Graph) -> str | None:
    """What the programs cannot express."""
    for state, update in zip(graph.states, graph.updates, strict=True):
        if graph.nodes[update].size != state.size:
            return (
                f"the new value of state {state.name!r} is one number, the state has "
                f"{state.size}"
            )
    if graph.many and any(node.op == ATTENTION for node in graph.nodes):
        return "it has no attention over children"
    for node in graph.nodes:
        if any(is_matrix(graph.nodes[a]) for a in read(node)) and _spans_matrix(node):
            return f"it computes no {node.op} of a matrix"
        if graph.children and matrix_of(graph.nodes, node):
            return "it has no matrices in trees"
        if graph.items and matrix_of(graph.nodes, node):
            return "it has no matrices beside sets of items"
    return None if graph.states else "the cell has no state"


def _spans_matrix(node: Node) -> bool:
    """Whether an operation of a matrix looks at all of it, and is none of matrices."""
    of_matrices = ("sum", "matvec", "vecmat", "to_vector", "row_dots", "column_dots")
    return node.op in OPS and OPS[node.op].reduces and node.op not in of_matrices
