"""`layer.stepper()`: one step at a time, without autograd, for streams and games.

The native stepper keeps the weights packed and the states in place; a step allocates
nothing but its result, and not even that with `out=`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..engine.choice import REFERENCE
from ..engine.engine import Items
from ..engine.tracing import kind, readable, traced
from ..language import ArgumentError
from ..language.arguments import describe, plain, whole_numbers
from .direction import Direction
from .items import ItemInputs, enter_items, length_name, take_items
from .sequences import Layout

State = Tensor | tuple[Tensor, ...]
PACKED = ("bf16", "int8")  # what weights may be packed in instead of their own type


def make_stepper(
    layer: Any, batch_size: int = 1, weights: str | None = None
) -> Stepper:
    """A stepper of a layer, on the engine that the layer has now.

    Raises:
        ArgumentError: the layer is bidirectional, batch_size is no positive integer, or
            weights neither `None` nor what the engine packs.
    """
    if layer.bidirectional:
        raise ArgumentError(
            "[stepper] a bidirectional layer reads the end of the sequence first; "
            "received bidirectional=True, expected a layer that scans forward only"
        )
    batch_size = plain(batch_size)
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if not whole or batch_size < 1:
        raise ArgumentError(
            f"[stepper] batch_size counts rows; received {batch_size!r}, expected a "
            "positive integer"
        )
    if weights not in (None, *PACKED):
        raise ArgumentError(
            f"[stepper] weights are packed as they are, or in fewer bits; received "
            f"weights={weights!r}, expected None or one of {', '.join(PACKED)}"
        )
    return Stepper(layer, batch_size, weights or "full")


class Stepper:
    """Runs a layer a step at a time.

        step = layer.stepper(batch_size=1)
        y = step(x)  # (B, input_size) -> (B, output_size), a fresh tensor
        step(x, out=y)  # the same into y

    Where the cell looks at items, they are given once: `step.attend_to(source=…)`.

    It begins at the layer's initial states and evaluates: no dropout, no gradients. One
    stepper serves one thread at a time; several of them, also of one layer, run in
    several threads at once. `layer.stepper()` makes it. A copy (`copy`, `copy.copy`) is
    of the same layer; a deep copy, and a pickled one, has a copy of the layer: that of
    the model that is copied with it. Each takes the weights as they are, not as they
    were packed; the latter two when they are first used.

    Attributes:
        layer: whose weights it has, a `SequenceLayer`.
        batch_size: rows of x.
        precision: of its products: "bf16" or "int8" where matrices are packed in these,
            else "full".
        engine: "native", in full precision the same bits as the layer's (to rounding
            for the chunkwise form, docs/streaming.md); or else
            "reference".
    """

    _items: ItemInputs | None = None
    precision = "full"  # steppers saved before it was there have none

    def __init__(self, layer: Any, batch_size: int, precision: str = "full") -> None:
        self.layer, self.batch_size, self.precision = layer, batch_size, precision
        engine = layer.current_engine
        self._engine = engine if engine.packs else REFERENCE
        self._states: list[Tensor] = []
        self.refresh()

    @property
    def engine(self) -> str:
        return self._engine.name

    def __call__(
        self, x: Tensor, *, out: Tensor | None = None, **inputs: Tensor
    ) -> Tensor:
        """One step.

        Args:
            x: (B, input_size), or (input_size,) where batch_size is 1.
            out: takes the result, (B, output_size) or (output_size,) as x is, and is
                returned; without it the result is a fresh tensor. It may be x.
            **inputs: the named inputs of the cell, shaped like x.

        Raises:
            ArgumentError: shapes, dtypes or devices that do not fit.
        """
        if torch.compiler.is_compiling():
            return _outside_graphs(self, x, out, inputs)
        shaped = getattr(x, "shape", None) == self._x_shape
        if not (shaped and x.dtype is self._dtype and x.device == self._device):
            return self._unusual(x, out, inputs)
        if type(x) is not Tensor or x.is_neg() or traced():
            x = _plain("x", x)
        elif not x.is_contiguous():
            x = x.contiguous()
        if out is None:
            y = torch.empty_like(self._like_y)  # half the time of torch.empty
        else:
            y = out
            self._check("out", y, self._like_y.shape)
            if not y.is_contiguous() or y.is_neg():
                raise ArgumentError(
                    "[stepper] out= is written as one block of memory; received "
                    f"strides {y.stride()}, negative bit {y.is_neg()}, expected a "
                    "contiguous tensor without it"
                )
        self._advance(x, self._named(inputs) if inputs or self._sizes[1:] else (), y)
        if out is not None and not y.is_inference():
            increment_version(y)  # autograd may have kept what was in it
        return y

    def _unusual(
        self, x: Any, out: Tensor | None, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """A row without its batch; else what is wrong with x."""
        if self.batch_size == 1 and isinstance(x, Tensor) and x.dim() == 1:
            named = {n: v[None] if v.dim() == 1 else v for n, v in inputs.items()}
            if out is None:
                return self(x[None], **named)[0]
            self(x[None], out=out[None] if out.dim() == 1 else out, **named)
            return out
        self._check("x", x, self._x_shape)
        raise AssertionError("x is as it should be")

    def _named(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        expected = self._names[1:]
        for name in inputs:
            if name not in expected:
                known = ", ".join(expected) or "x alone"
                items = ", ".join(f"{n}=…" for n in self.layer.item_sizes)
                once = f". Items are given before: step.attend_to({items})"
                raise ArgumentError(
                    f"[stepper] the cell has no input {name!r}; received {name}=, "
                    f"expected {known}{once if items else ''}"
                )
        found = []
        for name, size in zip(expected, self._sizes[1:], strict=True):
            if name not in inputs:
                raise ArgumentError(
                    f"[stepper] the cell takes the input {name!r} at every step; "
                    f"received none, expected {name}=tensor of "
                    f"{(self.batch_size, size)}"
                )
            self._check(name, inputs[name], torch.Size((self.batch_size, size)))
            found.extend(readable([inputs[name]]))
        return found

    def _check(
        self,
        name: str,
        tensor: Any,
        shape: torch.Size,
        dtype: torch.dtype | None = None,
    ) -> None:
        dtype = dtype or self._dtype
        if not isinstance(tensor, Tensor):
            raise ArgumentError(
                f"[stepper] {name} is no tensor; received {type(tensor).__name__}, "
                f"expected a tensor {tuple(shape)}, as of torch.as_tensor"
            )
        if tensor.shape != shape:
            raise ArgumentError(
                f"[stepper] {name} has the wrong shape; received "
                f"{tuple(tensor.shape)}, expected {tuple(shape)}"
            )
        if tensor.dtype != dtype or tensor.device != self._device:
            raise ArgumentError(
                f"[stepper] {name} is {tensor.dtype} on {tensor.device}; expected "
                f"{dtype} on {self._device}, as the weights. Use .to()"
            )
        if type(tensor) is not Tensor:
            _plain(name, tensor)

    # -- items

    @torch.no_grad()
    def attend_to(self, **items: Any) -> None:
        """Give the items that every step from now on looks at, until others are given.

        They may be copied: give them again once they have changed. `reset` and `state`
        leave them alone.

        Args:
            **items: by name as the layer takes them: source=(S, B, size), (B, S, size)
                of a layer with batch_first, or (S, size) where batch_size is 1; and
                source_lengths=(B,) integers.

        Raises:
            ArgumentError: shapes, dtypes or devices that do not fit; a cell without
                items, or none given.
        """
        sizes, given = self.layer.item_sizes, dict(items)
        sets = take_items("stepper", sizes, given)
        if given or not sizes:
            known = ", ".join([*sizes, *map(length_name, sizes)])
            raise ArgumentError(
                f"[stepper] cell {self._graph.name!r} looks at no items of that name; "
                f"received {', '.join(items) or 'none'}, expected {known or 'none'}"
            )
        batched = self.batch_size > 1 or any(
            getattr(s.items, "ndim", 3) == 3 for s in sets
        )
        batch = (self.batch_size,) if batched else ()
        shape = (*batch, 1) if self.layer.batch_first else (1, *batch)
        x = self._like_y.new_empty((*shape, self._sizes[0]))
        layout = Layout(x, self.layer.batch_first)
        self._items = enter_items("stepper", sizes, sets, layout, self._check_like)
        self.refresh()

    def _check_like(self, what: str, tensor: Tensor) -> None:
        self._check(what, tensor, tensor.shape)

    def _items_of_layers(self, stack: Sequence[Callable[[], Direction]]) -> list[Items]:
        """The items of each layer's steps, its own weights applied."""
        if self._items is None:
            return []
        return [(give().made(self._items), self._items.sets) for give in stack]

    def _without_items(self, *unused: Any) -> NoReturn:
        name = next(iter(self.layer.item_sizes))
        raise ArgumentError(
            f"[stepper] cell {self._graph.name!r} looks at the items {name!r} at every "
            f"step; received none so far, expected step.attend_to({name}=…) first"
        )

    # -- states

    @property
    def state(self) -> State:
        """A copy of the states, (num_layers, B, size) each, as the layer returns them.

        Assigning copies into the stepper; it takes what the layer returns.
        """
        copies = [state.clone() for state in self._states]
        return copies[0] if len(copies) == 1 else tuple(copies)

    @state.setter
    def state(self, state: State) -> None:
        given = [state] if isinstance(state, Tensor) else list(state)
        if len(given) != len(self._states):
            raise ArgumentError(
                f"[stepper] the cell has {len(self._states)} state(s); received "
                f"{len(given)}"
            )
        if self.batch_size == 1:
            given = [s[:, None] if s.dim() == 2 else s for s in given]
        for name, mine, new in zip(self._state_names, self._states, given, strict=True):
            if isinstance(new, Tensor) and new.dtype == self._dtype:
                new = new.to(mine.dtype)  # a layer's, in bf16
            self._check(f"state {name!r}", new, mine.shape, mine.dtype)
        for mine, new in zip(self._states, given, strict=True):
            mine.copy_(new.detach())

    @property
    def _state_names(self) -> list[str]:
        return [s.name for s in self._graph.states]

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the states by name, to save."""
        pairs = zip(self._state_names, self._states, strict=True)
        return {name: state.clone() for name, state in pairs}

    def load_state_dict(self, states: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ArgumentError: other names, shapes, dtypes or devices.
        """
        if set(states) != set(self._state_names):
            raise ArgumentError(
                f"[stepper] received the states {sorted(states)}, expected "
                f"{sorted(self._state_names)}"
            )
        self.state = tuple(states[name] for name in self._state_names)

    @torch.no_grad()
    def reset(self, rows: Any = None) -> None:
        """Back to the layer's initial states.

        Args:
            rows: which rows of the batch: an index, a list of them, a slice, or a mask
                of B booleans, as tensors, NumPy arrays or lists; None is all.

        Raises:
            ArgumentError: rows of another kind, or that the batch has not.
        """
        where = slice(None) if rows is None else self._chosen(rows)
        if not self._engine.packs:  # its steps read the weights as they are now
            self._first = self._initial_states()
        for state, first in zip(self._states, self._first, strict=True):
            state[:, where] = first[:, where]

    def _initial_states(self) -> list[Tensor]:
        """The layer's own, as they are now, in the type that steps carry."""
        carried = self._engine.carried(self.layer.placement()[1])
        first = self.layer.first_states(self.batch_size)
        return [state.detach().to(carried) for state in first]

    def _chosen(self, rows: Any) -> Any:
        """Rows of the batch as torch takes them."""
        if isinstance(rows, slice):
            return rows
        number, batch = plain(rows), self.batch_size
        single = isinstance(number, int) and not isinstance(number, bool)
        found = whole_numbers([number] if single else rows)
        fits = found is not None and found.dim() == 1
        if fits and found.dtype == torch.bool:  # type: ignore[union-attr]
            fits = len(found) == batch  # type: ignore[arg-type]
        elif fits:
            fits = bool(((found >= -batch) & (found < batch)).all())  # type: ignore[operator]
        if not fits:
            shown = repr(number) if single else describe(rows)
            raise ArgumentError(
                f"[stepper] resets rows of its batch; received {shown}, expected "
                f"numbers of rows, 0 … {batch - 1}, or a mask of {batch} booleans"
            )
        return found

    def copy(self) -> Stepper:
        """A stepper of the same layer in the same state, with weights as they are."""
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        other.refresh()
        return other

    __copy__ = copy

    def __getstate__(self) -> dict[str, Any]:
        states = [state.clone() for state in self._states]
        names = "layer", "batch_size", "precision", "_engine", "_items"
        kept = {name: getattr(self, name) for name in names}
        return {**kept, "_states": states}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __getattr__(self, name: str) -> Any:
        """What `refresh` makes, of a stepper that was copied or loaded.

        Only now: a layer that holds its stepper is not whole before.
        """
        if (
            name.startswith("__")
            or "_states" not in vars(self)
            or "_x_shape" in vars(self)
        ):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        self.refresh()
        return getattr(self, name)

    # -- weights

    @property
    def stale(self) -> bool:
        """Whether the layer's weights have changed since they were packed.

        Changes through `.data` escape PyTorch's version counters, and so this.
        """
        return self._keeps and self._versions != self._now()

    @property
    def _keeps(self) -> bool:
        """Whether it keeps what was made of the weights."""
        return self._engine.packs or self._items is not None

    def _now(self) -> list[tuple[int, int]]:
        # Tensors made in inference mode count no versions. Buffers: a weight may be
        # made of them too, as a pruned one of its mask.
        return [
            (t.data_ptr(), 0 if t.is_inference() else t._version)
            for t in chain(self.layer.parameters(), self.layer.buffers())
        ]

    @torch.inference_mode(False)  # else the states could not be changed outside
    @torch.no_grad()
    def refresh(self) -> None:
        """Take the layer's weights as they are now; the states stay.

        Raises:
            ArgumentError: the layer has left the engine that has packed its weights.
        """
        layer, engine = self.layer, self._engine
        if engine.packs and layer.current_engine.name != engine.name:
            raise ArgumentError(
                f"[stepper] the layer has left the {engine.name} engine since the "
                f"stepper was made; received {layer.current_engine.name!r}, expected "
                f"{engine.name!r}. Make another with layer.stepper()"
            )
        self._device, self._dtype = layer.placement()
        if self.precision != "full":
            self._check_weights()
        self._first = self._initial_states()
        olds = self._states or self._first
        # Contiguous and its own: a packed stepper keeps the address.
        self._states = [s.to(self._first[0], copy=True).contiguous() for s in olds]
        stack = [partial(layer.direction, k) for k in range(layer.num_layers)]
        if layer.item_sizes and self._items is None:
            self._advance = self._without_items
        else:
            items = self._items_of_layers(stack)
            self._advance = engine.stepper(stack, self._states, items, self.precision)
        # Last: making weights may move buffers on, as spectral_norm's do in training.
        self._versions = self._now() if self._keeps else []
        graphs = [bound.graph for bound in layer.bound_cells()]
        self._graph, shape = graphs[0], (self.batch_size, int(graphs[-1].output_size))
        self._like_y = torch.empty(shape, dtype=self._dtype, device=self._device)
        self._names = tuple(i.name for i in self._graph.inputs)
        self._sizes = tuple(int(i.size) for i in self._graph.inputs)
        self._x_shape = torch.Size((self.batch_size, self._sizes[0]))

    def _check_weights(self) -> None:
        """Raise ArgumentError where weights cannot be packed in fewer bits."""
        if self._engine.packs and self._dtype == torch.float32:
            return
        raise ArgumentError(
            f"[stepper] weights in {self.precision} are multiplied by the compiled "
            f"core, with states in float32; received a layer in {self._dtype} on the "
            f"engine {self.layer.engine!r} ({self.layer.engine_reason}), expected "
            "float32 on 'native'. Use layer.float().cpu(), or weights=None"
        )

    def __repr__(self) -> str:
        shapes = f"x {tuple(self._x_shape)} -> y {tuple(self._like_y.shape)}"
        kind = "" if self.precision == "full" else f", {self.precision}"
        return f"<stepper {shapes}, {self.engine}{kind}>"


def _again(
    step: Stepper, x: Tensor, out: Tensor | None, inputs: Mapping[str, Tensor]
) -> Tensor:
    return step(x, out=out, **inputs)


# A step changes the states: torch.compile breaks its graph here.
_outside_graphs: Any = torch.compiler.disable(_again)


def _plain(name: str, tensor: Tensor) -> Tensor:
    """What is no plain tensor, as memory to read.

    Raises:
        ArgumentError: it cannot be: a stepper changes its states in place, so that
            what traces or transforms it would not see them.
    """
    if not traced() and kind([tensor]) == "memory":
        return readable([tensor])[0]
    raise ArgumentError(
        "[stepper] reads and writes memory, where torch.jit.trace, make_fx, torch.func "
        "and subclasses of tensors see nothing; received "
        f"{name} as {type(tensor).__name__} of {tensor.layout} in one of these, "
        "expected a plain tensor outside. A layer that is given its state goes: "
        "y, state = layer(x[None], state)"
    )
