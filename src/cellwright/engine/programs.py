"""`Programs`: what the compiler makes of one bound cell; calls find them by a key."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..compiler.bindings import Binding
from ..compiler.matrices import is_matrix
from ..compiler.once import Once, made_once_of_mixed
from ..compiler.plan import Plan
from ..compiler.program import Program
from ..language import ArgumentError, Graph
from ..language.sizes import MatrixSize
from .call import States

MANY_ROWS = 16  # of a level: benchmarks/linear.py --rows

_BF16 = "precision=bf16"  # in a key: no input has such a name

_alive: weakref.WeakSet[Programs] = weakref.WeakSet()
_traced: dict[str, Programs] = {}  # by key: programs that hold no more live on


def find_programs(key: str) -> Programs:
    """The programs that an op's text stands for; from now on they stay.

    Args:
        key: `Programs.key_with` has made it.

    Raises:
        ArgumentError: an exported program ran where its layer was never made.
    """
    key, *more = key.split("/")
    if key not in _traced:
        found = next((p for p in list(_alive) if p.key == key), None)
        if found is None:
            raise ArgumentError(
                f"[export] the program's cell is not known in this process; received "
                f"its key {key!r}, expected that of a layer that is there. Make a "
                "layer of the same cell, sizes and options, and keep it until the "
                "program runs"
            )
        _traced[key] = found
    found = _traced[key]
    if _BF16 in more:
        more.remove(_BF16)
        found = found.variant(precision="bf16")
    return found.given_once(more)


class Programs:
    """The programs of a bound cell, of sequences or of trees; made when first run.

    Args:
        graph: the cell with concrete sizes.
        binding: where its weights lie in the parameters that calls pass.
        isa: an instruction set by name; "" is the best of this machine.
        recompute: keep the states alone for the backward pass.
        constant: the named inputs that are the same at every step, such as a mask;
            they have no gradient.
        static: named inputs that are the same at every step, with a gradient: of a row
            of the batch, the sum over its steps.
        recorded: nodes of the graph whose values are results too.
        tapped: gradients flow into the recorded values, and theirs can be had.
        may_split: loops over levels may stand apart from products: as in `Plan`.
        may_go_in_steps: matrices may go several levels at a time: as in `Plan`.
        precision: of products: "full", "bf16" or "int8", as in `Plan`.
    """

    def __init__(
        self, graph: Graph, binding: Binding, isa: str = "", **options: Any
    ) -> None:
        self.graph, self.binding, self.isa = graph, binding, isa
        self.recompute: bool = options.pop("recompute", False)
        self.constant: tuple[str, ...] = options.pop("constant", ())
        self.static: tuple[str, ...] = options.pop("static", ())
        self.recorded: tuple[int, ...] = options.pop("recorded", ())
        self.tapped: bool = options.pop("tapped", False)
        self.may_split: bool = options.pop("may_split", True)
        self.may_go_in_steps: bool = options.pop("may_go_in_steps", True)
        self.precision: str = options.pop("precision", "full")
        assert not options, f"unknown options: {options}"
        self.inputs = tuple(i.name for i in graph.inputs)
        self.items = tuple(i.name for i in graph.items)
        self.sources = (*self.inputs, *self.items)  # what a call gives, in order
        self.sizes = tuple(int(s.size) for s in graph.states)
        self.output_size = int(graph.output_size)
        # States that are matrices, and the parameters of weights that are, by name.
        self.matrices = tuple(isinstance(s.size, MatrixSize) for s in graph.states)
        self.matrix_weights = {
            w.name: binding.vectors[w.name].parameter
            for w in graph.weights
            if w.is_matrix
        }
        self.has_matrices = any(map(is_matrix, (*graph.nodes, *graph.weights)))
        self.output_is_state = graph.output_is_state
        # Columns of the states that are not the output.
        self.hidden = self.sizes[1:] if self.output_is_state else self.sizes
        skip = int(self.output_is_state)
        self.hidden_matrices = self.matrices[skip:]
        self._compiled: dict[Any, Any] = {}
        self._variants: dict[Any, Programs] = {}
        # Ops take text, no objects: where torch traces, this key stands for the cell.
        # Not made when first asked for: torch.compile guards what it finds here, and
        # so tells cells apart.
        text = f"{graph}\n{graph.nodes}\n{binding}\n{self._options}"
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        _alive.add(self)

    @property
    def _options(self) -> dict[str, Any]:
        names = "isa", "recompute", "constant", "static", "recorded", "tapped"
        options = {name: getattr(self, name) for name in names}
        # Left out where they are as by default: keys are in exported programs.
        later = {"may_split": True, "may_go_in_steps": True, "precision": "full"}
        values = {name: getattr(self, name) for name in later}
        return {**options, **{n: v for n, v in values.items() if v != later[n]}}

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.graph, self.binding, self._options)

    def __deepcopy__(self, memo: Any) -> Programs:
        return self

    # -- the same cell otherwise

    def variant(self, **options: Any) -> Programs:
        """The same cell with other options; made once, and kept with it."""
        key = tuple(sorted(options.items()))
        if key not in self._variants:
            options = {**self._options, **options}
            self._variants[key] = Programs(self.graph, self.binding, **options)
        return self._variants[key]

    def given_once(self, static: Sequence[str]) -> Programs:
        """The same cell where these inputs are static, in any order."""
        if not static:
            return self
        return self.variant(static=tuple(n for n in self.inputs if n in static))

    def for_rows(self, rows: int, levels: int, training: bool = False) -> Programs:
        """The same cell for levels of so many rows: where there are many, products of
        one level are as fast as those of many levels."""
        if training and self.plan.goes_in_steps:  # what it keeps depends on that
            return self
        few = (rows < MANY_ROWS or any(self.matrices)) and levels > 1
        return self if few or not self.plan.is_split else self.variant(may_split=False)

    @property
    def level_by_level(self) -> Programs:
        """The same cell, whose matrices go one level at a time."""
        return self.variant(may_go_in_steps=False) if self.has_matrices else self

    @cached_property
    def ahead(self) -> tuple[Programs, Once] | None:
        """Where products mix items with values of the step: the same cell without the
        items' parts of them, and what makes those before the first step."""
        found = made_once_of_mixed(self.graph, self.binding)
        if found is None:
            return None
        once, binding = found
        recorded = tuple(once.left[number] for number in self.recorded)
        options = {**self._options, "recorded": recorded}
        return Programs(once.step, binding, **options), once

    def key_with(self, static: Iterable[str], bf16: bool = False) -> str:
        """The text that stands for the cell, and for what it is given once; with
        products in bf16, or in its own precision."""
        return "/".join([self.key, *static, *([_BF16] if bf16 else [])])

    def filled(
        self,
        states: States,
        like: Tensor,
        batch: int,
        dtype: torch.dtype | None = None,
    ) -> list[Tensor]:
        """The initial states, with zeros (1, batch, size) for those that are `None`."""
        return [
            like.new_zeros(1, batch, size, dtype=dtype) if state is None else state
            for state, size in zip(states, self.sizes, strict=True)
        ]

    # -- the compiler's results

    @cached_property
    def plan(self) -> Plan:
        return Plan(
            self.graph,
            self.binding,
            recompute=self.recompute,
            constant=self.constant,
            static=self.static,
            recorded=self.recorded,
            tapped=self.tapped,
            may_split=self.may_split,
            may_go_in_steps=self.may_go_in_steps,
            precision=self.precision,
        )

    @cached_property
    def saved_sizes(self) -> tuple[int, ...]:
        """Columns of what training saves beside the output: states, then values."""
        return (*self.hidden, *self.plan.saved_sizes())

    @cached_property
    def spaced(self) -> tuple[bool, ...]:
        """The states but the output of which training keeps every `STEPS`-th level."""
        return tuple(m and self.plan.goes_in_steps for m in self.hidden_matrices)

    @cached_property
    def saved_values(self) -> list[tuple[int, str | None]]:
        """Columns of what training saves beside the states, and the set that it varies
        over, if any."""
        plan = self.plan
        sets = plan.graph.sets  # of its graph: the passes renumber nodes
        sizes = zip(plan.saved, plan.saved_sizes(), strict=True)
        return [(size, sets[number]) for number, size in sizes]

    @cached_property
    def saved_types(self) -> list[torch.dtype | None]:
        """Of each of them its type; `None`: as x."""
        rounded = self.plan.saved_rounded
        return [self.kept_as if may else self.number for may in rounded]

    @cached_property
    def recorded_values(self) -> list[tuple[int, str | None]]:
        """The same of the recorded values."""
        graph, numbers = self.plan.graph, self.plan.recorded
        sets = graph.sets
        return [(int(graph.nodes[n].size), sets[n]) for n in numbers]

    @cached_property
    def number(self) -> torch.dtype | None:
        """The type of the core's own numbers, and of states; `None`: that of x."""
        return torch.float32 if self.precision == "bf16" else None

    @cached_property
    def kept_as(self) -> torch.dtype | None:
        """The type of the output and of what training keeps; x and what follows the
        steps may be of it too. `None`: as x."""
        return torch.bfloat16 if self.number and not self.has_matrices else self.number

    def compiled(self, kind: str, wanted: tuple[str, ...] = ()) -> Any:
        """The core's program: "inference", "training" or "backward"."""
        try:
            return self._compiled[kind, wanted]
        except KeyError:
            compiled = self.program(kind, wanted).compile()
            self._compiled[kind, wanted] = compiled
            return compiled

    def program(self, kind: str, wanted: tuple[str, ...] = ()) -> Program:
        """The plan's program: "inference", "training" or "backward"."""
        plan = self.plan
        return plan.backward(wanted) if kind == "backward" else getattr(plan, kind)

    def made(self, key: Any, make: Callable[[], Any]) -> Any:
        """What an engine makes of the programs, once."""
        if key not in self._compiled:
            self._compiled[key] = make()
        return self._compiled[key]

    def arriving(
        self, of_inputs: Sequence[Any], of_parameters: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Gradients as autograd has them: `None` where none arrives, as it is for a
        weight that nothing reads; an optimiser leaves that alone."""
        inputs, parameters = self.plan.reached
        named = zip(self.sources, of_inputs, strict=True)
        return (
            [g if name in inputs else None for name, g in named],
            [g if k in parameters else None for k, g in enumerate(of_parameters)],
        )


def _make(graph: Graph, binding: Binding, options: dict[str, Any]) -> Programs:
    return Programs(graph, binding, **options)
