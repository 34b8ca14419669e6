"""The native engine: a cell's programs on the compiled core.

`NativeCell` holds the programs of one layer in one direction, forward and backward.
`native_op.walk` is what torch sees of it.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..compiler.bindings import Binding
from ..compiler.plan import Plan, unsupported
from ..language import ArgumentError, Graph
from . import reference
from .openmp import share_threads
from .schedule import Schedule
from .tracing import NO_MEMORY, readable

_core: Any
try:
    # `from .. import` would blame a circular import where the file is missing.
    import cellwright._core as _core
except ImportError as error:  # a pure Python build, or a broken one
    _core = None
    _MISSING = str(error)
_SHARES_THREADS = _core is not None and share_threads(_core)

DTYPES = (torch.float32, torch.float64)
Memory = tuple[int, int] | None  # address, elements; or left to the core
States = Sequence[Tensor | None]

_alive: weakref.WeakSet[NativeCell] = weakref.WeakSet()
_traced: dict[str, NativeCell] = {}  # by key: programs that hold no more live on


def find_cell(key: str) -> NativeCell:
    """The cell that an op's text stands for; from now on it stays.

    Args:
        key: of the cell; and, each after a "/", the inputs that are given once.

    Raises:
        ArgumentError: an exported program ran where its layer was never made.
    """
    key, *static = key.split("/")
    if key not in _traced:
        found = next((cell for cell in list(_alive) if cell.key == key), None)
        if found is None:
            raise ArgumentError(
                f"[export] the program's cell is not known in this process; received "
                f"its key {key!r}, expected that of a layer that is there. Make a "
                "layer of the same cell, sizes and options, and keep it until the "
                "program runs"
            )
        _traced[key] = found
    return _traced[key].given_once(tuple(static))


def unavailable(graph: Graph, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the native engine cannot run a cell here, or `None` if it can."""
    if _core is None:
        return (
            "this installation has no compiled core (built with CELLWRIGHT_NO_NATIVE, "
            f"or for another Python): {_MISSING}"
        )
    if device.type != "cpu":
        return f"it runs on the CPU, the parameters are on {device.type!r}"
    if dtype not in DTYPES:
        return f"it computes in float32 and float64, the parameters are {dtype}"
    return unsupported(graph)


def info() -> dict[str, Any]:
    """What runs here: instruction sets, the one chosen, threads."""
    if _core is None:
        return {"native": False, "reason": _MISSING}
    return {
        "native": True,
        "isas": _core.isas(),
        "isa": _core.isa(),
        "threads": _core.threads(torch.get_num_threads()),
        "pool": "torch's" if _SHARES_THREADS else "own",
    }


def check_environment() -> None:
    """Raise ArgumentError where CELLWRIGHT_ISA or CELLWRIGHT_THREADS make no sense."""
    if _core is not None:
        _core.isa()
        _core.threads(1)


class NativeCell:
    """The programs of a bound cell, compiled when they are first run.

    Args:
        graph: the cell with concrete sizes.
        binding: where its weights lie in the parameters that calls pass.
        isa: an instruction set by name; "" is the best of this machine.
        recompute: keep the states alone for the backward walk.
        constant: the named inputs that are the same at every step, such as a mask;
            they have no gradient.
        recorded: nodes of the graph whose values are results too.
        probed: gradients flow into the recorded values, and theirs can be had.
        static: named inputs that are the same at every step, with a gradient: of a row
            of the batch, the sum over its steps.
    """

    def __init__(
        self,
        graph: Graph,
        binding: Binding,
        isa: str = "",
        recompute: bool = False,
        constant: tuple[str, ...] = (),
        recorded: tuple[int, ...] = (),
        probed: bool = False,
        static: tuple[str, ...] = (),
    ) -> None:
        self.graph, self.binding, self.isa = graph, binding, isa
        self.recompute, self.constant, self.static = recompute, constant, static
        self.recorded, self.probed = recorded, probed
        self.inputs = tuple(i.name for i in graph.inputs)
        self.sizes = tuple(int(s.size) for s in graph.states)
        self.output_size = int(graph.output_size)
        self.output_is_state = graph.output_is_state
        # Columns of the states that are not the output.
        self.hidden = self.sizes[1:] if self.output_is_state else self.sizes
        self._compiled: dict[Any, Any] = {}
        # Ops take text, no objects: where torch traces, this key stands for the cell.
        # Not made when first asked for: torch.compile guards what it finds here, and
        # so tells cells apart.
        options = isa, recompute, constant, recorded, probed, static
        text = f"{graph}\n{graph.nodes}\n{binding}\n{options}"
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        _alive.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        options = self.isa, self.recompute, self.constant
        more = self.recorded, self.probed, self.static
        return NativeCell, (self.graph, self.binding, *options, *more)

    def __deepcopy__(self, memo: Any) -> NativeCell:
        return self

    @cached_property
    def plan(self) -> Plan:
        return Plan(
            self.graph,
            self.binding,
            recompute=self.recompute,
            constant=self.constant,
            static=self.static,
            recorded=self.recorded,
            probed=self.probed,
        )

    def recording(self, recorded: tuple[int, ...], probed: bool) -> NativeCell:
        """The same cell with recorded values."""
        return self._variant(recorded=recorded, probed=probed)

    def given_once(self, static: tuple[str, ...]) -> NativeCell:
        """The same cell where these inputs are static, in any order."""
        if not static:
            return self
        return self._variant(static=tuple(n for n in self.inputs if n in static))

    def _variant(self, **options: Any) -> NativeCell:
        """The same cell with other options; made once, and kept with it."""
        key = "variant", *sorted(options.items())
        if key not in self._compiled:
            names = "isa", "recompute", "constant", "static", "recorded", "probed"
            own = {name: getattr(self, name) for name in names}
            self._compiled[key] = NativeCell(
                self.graph, self.binding, **{**own, **options}
            )
        return self._compiled[key]

    def arriving(
        self, of_inputs: Sequence[Any], of_parameters: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Gradients as autograd has them: `None` where none arrives, as it is for a
        weight that nothing reads; an optimiser leaves that alone."""
        inputs, parameters = self.plan.reached
        named = zip(self.inputs, of_inputs, strict=True)
        return (
            [g if name in inputs else None for name, g in named],
            [g if k in parameters else None for k, g in enumerate(of_parameters)],
        )

    @cached_property
    def planes(self) -> tuple[int, ...]:
        """Columns of what training keeps beside the output: states, saved values."""
        return (*self.hidden, *self.plan.saved_sizes())

    def program(self, kind: str, wanted: tuple[str, ...] = ()) -> Any:
        """The core's program: "inference", "training" or "backward"."""
        try:
            return self._compiled[kind, wanted]
        except KeyError:
            plan = self.plan
            source = (
                plan.backward(wanted) if kind == "backward" else getattr(plan, kind)
            )
            compiled = self._compiled[kind, wanted] = source.compile()
            return compiled

    # -- one walk

    def forward(
        self,
        inputs: Sequence[Tensor],
        states: States,
        fresh: Sequence[Tensor],
        parameters: Sequence[Tensor],
        walk: Schedule,
        training: bool,
    ) -> tuple[list[Tensor], Tensor | None]:
        """The outputs, the final states and the recorded values; and what the backward
        walk will read.

        Args:
            inputs: x and the named inputs, one row (…, size) for each of the walk, or
                of the batch where an input is constant or static.
            states: the initial states, (B, size) or (1, B, size) each; the final ones
                have the same shape. `None` is zeros (1, B, size), in a whole walk.
            fresh: what a reset starts from, (size,) each; none, if there are no resets.
            parameters: as the binding lists them.
            walk: the order of the rows.
            training: keep what the backward walk reads.
        """
        keep = _arrays(inputs, states, fresh, parameters, walk)
        x = keep[0]
        y = _new(walk, x, *x.shape[:-1], self.output_size)
        records = self._records(x, walk) if self.recorded else []
        finals = [
            x.new_empty((1, walk.batch, size) if state is None else state.shape)
            for state, size in zip(states, self.sizes, strict=True)
        ]
        if training:
            kind, rows, planes, last = "training", walk.rows, self.planes, walk.last
        else:  # a state needs its last two levels alone
            kind, rows, planes = "inference", 2 * walk.batch, self.hidden
            last = walk.last_rolling
        # Where all rows end at one step, the core copies them.
        together = isinstance(last, int)
        copies = self._copies(finals, last, walk) if together else ()
        saved = x.new_empty(rows * sum(planes)) if training or not together else None
        split = _split(saved, rows, planes)
        self._run(kind, (), keep, y, split, memory(records), [], walk, copies)
        if not together:
            self._gather(finals, y, saved, rows, last, walk)
        if walk.empty is not None:
            for final, state in zip(finals, states, strict=True):
                final[..., walk.empty, :] = state[..., walk.empty, :]  # type: ignore[index]
        return [y, *finals, *records], saved

    def filled(self, states: States, like: Tensor, batch: int) -> list[Tensor]:
        """The states, with zeros (1, B, size) for those that are `None`."""
        return [
            like.new_zeros(1, batch, size) if state is None else state
            for state, size in zip(states, self.sizes, strict=True)
        ]

    def _copies(
        self, finals: Sequence[Tensor], last: Any, walk: Schedule
    ) -> list[tuple[int, int, int, int]]:
        """The final states as the core copies them: all rows of a state's last step."""
        first, batch, copies = len(self.inputs), walk.batch, []
        for number, final in enumerate(finals):
            of_y = number == 0 and self.output_is_state
            row = (walk.last if of_y else last) * batch
            copies.append((first + 2 * number, row, final.data_ptr(), final.numel()))
        return copies

    def _gather(
        self,
        finals: Sequence[Tensor],
        y: Tensor,
        saved: Any,
        rows: int,
        last: Any,
        walk: Schedule,
    ) -> None:
        """The final states where each row has its own last step."""
        at = 0
        for number, final in enumerate(finals):
            size, where = final.shape[-1], last
            if number == 0 and self.output_is_state:
                plane, where = y.view(-1, size), walk.last  # y keeps every level
            else:
                plane = saved[at : at + rows * size].view(rows, size)
                at += rows * size
            torch.index_select(plane, 0, where, out=final.view(-1, size))  # type: ignore[arg-type]

    def _records(self, x: Tensor, walk: Schedule) -> list[Tensor]:
        """New arrays, one for each recorded value."""
        sizes = self.plan.recorded_sizes()
        return [_new(walk, x, *x.shape[:-1], size) for size in sizes]

    def backward(
        self,
        inputs: Sequence[Tensor],
        states: States,
        fresh: Sequence[Tensor],
        parameters: Sequence[Tensor],
        y: Tensor,
        saved: Tensor,
        grads: Sequence[Tensor | None],
        walk: Schedule,
        wanted: tuple[str, ...],
        states_wanted: bool = True,
    ) -> tuple[list[Any], ...]:
        """Gradients of the wanted inputs, the initial states, the fresh ones, the
        parameters, and of the recorded values if they are probed.

        `grads` are those of the outputs, the final states and the recorded values.
        Where nobody wants those of the initial states, they may be `None`.
        """
        grad_y, *rest = grads
        grad_finals, grad_records = rest[: len(states)], rest[len(states) :]
        keep = _arrays(inputs, states, fresh, parameters, walk)
        grad_y = torch.zeros_like(y) if grad_y is None else readable([grad_y])[0]
        states_wanted = states_wanted or not walk.whole
        carried, initial, pairs = self._carry(grad_finals, states_wanted, y, walk)
        make = torch.empty_like if walk.lanes is None else torch.zeros_like
        grad_inputs = [
            torch.zeros_like(t) if name in self.static else make(t)
            for name, t in zip(self.inputs, keep, strict=False)
            if name in wanted
        ]
        gradients = [torch.empty_like(p) for p in keep[len(inputs) + len(states) :]]
        probes = totals = []
        if self.probed:
            totals = self._records(keep[0], walk)
            probes = [
                torch.zeros_like(t) if grad is None else readable([grad])[0]
                for t, grad in zip(totals, grad_records, strict=True)
            ]
        own = [*memory([grad_y]), *pairs, *memory([*grad_inputs, *probes, *totals])]
        planes = _split(saved, walk.rows, self.planes)
        self._run("backward", wanted, keep, y, planes, own, gradients, walk)
        of_states: list[Any] = [None] * len(states)
        if states_wanted:
            of_states = [
                None if s is None else v[: walk.batch].view(s.shape)
                for v, s in zip(initial, states, strict=True)
            ]
        if walk.whole:
            none = [torch.zeros_like(f) for f in fresh]  # nothing starts anew
            return grad_inputs, of_states, none, gradients, totals
        if walk.empty is not None:  # a row without a step ends where it started
            for found, final in zip(of_states, carried, strict=True):
                found[..., walk.empty, :] = final[..., walk.empty, :]
        of_fresh = [
            v[walk.batch :].sum(0) if walk.starts is not None else torch.zeros_like(f)
            for v, f in zip(initial, fresh, strict=False)
        ]
        return grad_inputs, of_states, of_fresh, gradients, totals

    def _carry(
        self, grads: Sequence[Tensor | None], wanted: bool, like: Tensor, walk: Schedule
    ) -> tuple[list[Tensor], list[Tensor], list[Memory]]:
        """The cotangents that are carried from each final state to the initial one.

        Returns:
            Those of the final states, which the core changes; those of the initial
            ones, for the core to fill; the memory of both, state by state. Where nobody
            gives and nobody wants them, they are one piece of memory, the first list.
        """
        batch, sizes = walk.batch, self.sizes
        if not wanted and all(grad is None for grad in grads):
            room = like.new_zeros(2 * batch * sum(sizes))
            pairs = _split(room, batch, [size for size in sizes for _ in range(2)])
            return [room], [], pairs
        carried = [
            like.new_zeros(batch, size)
            if grad is None
            else grad.clone(memory_format=torch.contiguous_format)
            for grad, size in zip(grads, sizes, strict=True)
        ]
        make = like.new_empty if walk.whole else like.new_zeros
        rows = walk.gradient_rows or batch
        initial = [make(rows, size) for size in sizes]
        both = zip(carried, initial, strict=True)
        return carried, initial, memory([t for pair in both for t in pair])

    def _run(
        self,
        kind: str,
        wanted: tuple[str, ...],
        keep: Sequence[Tensor | None],
        y: Tensor,
        planes: list[Memory],
        more: list[Memory],
        gradients: list[Tensor],
        walk: Schedule,
        finals: Sequence[tuple[int, int, int, int]] = (),
    ) -> None:
        """Hand everything to the core, in the order of the program's arrays."""
        first, last = len(self.inputs), len(self.inputs) + len(self.sizes)
        given = memory(keep)
        output = memory([y])
        sequences = output + planes if self.output_is_state else planes
        arrays = given[:first]
        for state, initial in enumerate(given[first:last]):
            arrays += (sequences[state], initial)
        if not self.output_is_state:
            arrays += output
        arrays += sequences[last - first :]
        arrays += more
        assert _core is not None  # `unavailable` has said so
        try:
            _core.run(
                self.program(kind, wanted),
                walk.core,
                y.element_size(),
                arrays,
                given[last:],
                memory(gradients),
                torch.get_num_threads(),
                self.isa,
                finals,
            )
        except ValueError:
            check_memory(keep)
            raise

    def reference(
        self,
        inputs: Sequence[Tensor],
        states: States,
        fresh: Sequence[Tensor],
        parameters: Sequence[Tensor],
        walk: Schedule,
        probes: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """The same walk stepped in torch: outputs, final states, recorded values."""
        begin = self.filled(states, inputs[0], walk.batch)
        W = BoundWeights(self.graph, self.binding, parameters)
        rows = [s.reshape(-1, s.shape[-1]) for s in begin]
        y, finals, records = reference.run_graph(
            self.graph, W, inputs, rows, fresh, walk, self.recorded, probes,
            static={*self.constant, *self.static},
        )  # fmt: skip
        finals = [f.reshape(s.shape) for f, s in zip(finals, begin, strict=True)]
        return [y, *finals, *records]


def _arrays(
    inputs: Sequence[Tensor],
    states: States,
    fresh: Sequence[Tensor],
    parameters: Sequence[Tensor],
    walk: Schedule,
) -> list[Any]:
    """What a walk reads, in order; the fresh states are the initial ones' last row."""
    if walk.starts is not None:
        states = [
            torch.cat([s.reshape(-1, s.shape[-1]), f[None]])  # type: ignore[union-attr]
            for s, f in zip(states, fresh, strict=True)
        ]
    return readable((*inputs, *states, *parameters))


def memory(tensors: Sequence[Tensor | None]) -> list[Memory]:
    """Where contiguous tensors are, as the core takes them; `None` is left to it."""
    return [None if t is None else (t.data_ptr(), t.numel()) for t in tensors]


def check_memory(tensors: Sequence[Tensor | None]) -> None:
    """Say why the core refused tensors, if it is that they have no memory.

    Raises:
        ArgumentError: a tensor that stands for others, such as a DTensor.
    """
    for tensor in tensors:
        if tensor is not None and tensor.numel() and not tensor.data_ptr():
            raise ArgumentError(NO_MEMORY.format(received=type(tensor).__name__))


def _split(whole: Tensor | None, rows: int, sizes: Sequence[int]) -> list[Memory]:
    """A matrix (rows, size) for each size, one after the other."""
    if whole is None:
        return [None] * len(sizes)
    address, element = whole.data_ptr(), whole.element_size()
    parts: list[Memory] = []
    for size in sizes:
        parts.append((address, rows * size))
        address += rows * size * element
    return parts


def _new(walk: Schedule, like: Tensor, *shape: int) -> Tensor:
    """An array of the walk's rows: zero where rows may be left out."""
    return like.new_empty(shape) if walk.lanes is None else like.new_zeros(shape)


def make_stepper(
    layers: Sequence[tuple[NativeCell, Sequence[Tensor], Sequence[Tensor]]],
) -> Any:
    """The core's stepper of a stack of layers.

    Args:
        layers: each with its parameters, which are packed, and its states (B, size),
            which the stepper reads and writes from now on: contiguous, kept alive.
    """
    assert _core is not None  # `unavailable` has said so
    cell, _, states = layers[0]
    keep = [readable([p.detach() for p in given]) for _, given, _ in layers]
    parts = [
        (
            cell.program("inference"),
            memory(parameters),
            [(s.data_ptr(), *s.shape, s.shape[1]) for s in states],
        )
        for (cell, _, states), parameters in zip(layers, keep, strict=True)
    ]
    size, batch = states[0].element_size(), len(states[0])
    try:
        return _core.Stepper(parts, size, batch, cell.isa)
    except ValueError:
        check_memory([*chain.from_iterable(keep), *states])
        raise


class BoundWeights:
    """A `W` whose weights are parts of parameters, as a binding says."""

    def __init__(
        self, graph: Graph, binding: Binding, parameters: Sequence[Tensor]
    ) -> None:
        self._graph, self._binding, self._parameters = graph, binding, parameters

    def __getattr__(self, name: str) -> Any:
        weight = self._graph.weight(name)
        if weight.kind != "matrix":
            return self._vector(self._binding.vectors[name], int(weight.size))

        def affine(*operands: Tensor) -> Tensor:
            total = sum(
                self._product(weight, operand, value)
                for operand, value in enumerate(operands)
            )
            for piece in self._binding.biases.get(name, ()):
                total = total + self._vector(piece, int(weight.size))
            return total  # type: ignore[return-value]

        return affine

    def _product(self, weight: Any, operand: int, value: Tensor) -> Tensor:
        piece, heads = self._binding.matrices[weight.name, operand], weight.heads
        rows, columns = int(weight.size) // heads, value.shape[-1] // heads
        flat = self._parameters[piece.parameter].reshape(-1)
        strides = (rows * piece.stride, piece.stride, 1)
        matrix = flat.as_strided((heads, rows, columns), strides, piece.offset)
        blocks = value.unflatten(-1, (heads, -1))
        return torch.einsum("...nk,nok->...no", blocks, matrix).flatten(-2)

    def _vector(self, piece: Any, size: int) -> Tensor:
        flat = self._parameters[piece.parameter].reshape(-1)
        if piece.stride == 0:
            return flat[piece.offset]
        return flat[piece.offset : piece.offset + size]
