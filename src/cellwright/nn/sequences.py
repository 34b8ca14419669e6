"""How the sequences of one call lie, and the way in and out of an engine's layout.

Engines take x time first, (T, B, size), or packed, (Σ batch_sizes, size). A user has
batches first, single sequences, `PackedSequence`, lengths and resets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..engine.schedule import Order
from ..engine.tracing import refuse_jit
from ..language import ArgumentError


class Layout:
    """The layout of one call, by its x.

    Args:
        x: (T, B, size), or (B, T, size) with batch_first; (T, size); a PackedSequence.
        lengths: (B,) integers, in any order.
        resets: (T, B) booleans, laid out as x.

    Attributes:
        batched: x has a batch.
        order: what the engines need to know of lengths and resets.

    Raises:
        ArgumentError: lengths or resets of another kind or shape, or that do not go
            with this x.
    """

    def __init__(
        self, x: Any, batch_first: bool, lengths: Any = None, resets: Any = None
    ) -> None:
        self._packed: PackedSequence | None = None
        self._batch_first = batch_first
        if isinstance(x, PackedSequence):
            _refuse_packed(lengths=lengths, resets=resets)
            refuse_jit("a PackedSequence, whose sizes are read as numbers")
            sizes = x.batch_sizes.tolist()
            self._packed = x
            self.batched, self._first = True, False
            self.order = Order(len(sizes), sizes[0], batch_sizes=sizes)
            return
        self.batched = x.dim() == 3
        self._first = batch_first and self.batched
        shape = x.shape[:2] if self.batched else (x.shape[0], 1)
        steps, batch = reversed(shape) if self._first else shape
        self.order = Order(
            steps,
            batch,
            lengths=self._check_lengths(lengths, batch, x.device),
            resets=self._check_resets(resets, x),
        )

    # -- sequences: x, the named inputs, y

    def enter(self, value: Any) -> Tensor:
        """x or a named input as engines take it."""
        if self._packed is not None:
            return value.data
        if not self.batched:
            return value.unsqueeze(1)
        return value.transpose(0, 1) if self._first else value

    def leave(self, y: Tensor) -> Any:
        """An engine's outputs as the user has x."""
        if self._packed is not None:
            _, sizes, sorted_indices, unsorted_indices = self._packed
            return PackedSequence(y, sizes, sorted_indices, unsorted_indices)
        if not self.batched:
            return y.squeeze(1)
        return y.transpose(0, 1) if self._first else y

    def padded(self, values: Tensor) -> Tensor:
        """An engine's values as the user has x, packed ones padded with zeros."""
        values = self.leave(values)
        if self._packed is None:
            return values
        return pad_packed_sequence(values, self._batch_first)[0]  # type: ignore[arg-type]

    def check_named(self, name: str, value: Any) -> None:
        """A named input of packed sequences is packed in the same way."""
        if self._packed is None:
            return
        same = isinstance(value, PackedSequence) and all(
            a is b or (a is not None and b is not None and torch.equal(a, b))
            for a, b in zip(value[1:], self._packed[1:], strict=True)
        )
        if not same:
            raise ArgumentError(
                f"[lengths] x is packed, and so is every named input, with the same "
                f"lengths in the same order; received {name}={type(value).__name__}, "
                "expected a PackedSequence like x"
            )

    # -- states: (layers·directions, B, size)

    def enter_state(self, state: Tensor) -> Tensor:
        return self._state(state, -2)

    def leave_state(self, state: Tensor) -> Tensor:
        return self._state(state, -1)

    def _state(self, state: Tensor, which: int) -> Tensor:
        if self._packed is not None:
            indices = self._packed[which]
            return state if indices is None else state.index_select(1, indices)
        if not self.batched:
            return state.unsqueeze(1) if which == -2 else state.squeeze(1)
        return state

    # -- arguments

    def _check_lengths(
        self, lengths: Any, batch: int, device: torch.device
    ) -> Tensor | None:
        if lengths is None:
            return None
        if not self.batched:
            raise ArgumentError(
                "[lengths] a single sequence is as long as it is; received lengths= "
                "with x of 2 dimensions, expected none, or a batch"
            )
        if not isinstance(lengths, Tensor):
            lengths = _as_tensor(lengths)
        whole = not (lengths.is_floating_point() or lengths.is_complex())
        if lengths.dtype == torch.bool or not whole or lengths.shape != (batch,):
            raise ArgumentError(
                f"[lengths] one integer for each row of the batch; received "
                f"{_describe(lengths)}, expected ({batch},) of int64"
            )
        _check_device("lengths", lengths, device)
        return lengths.long()

    def _check_resets(self, resets: Any, x: Tensor) -> Tensor | None:
        if resets is None:
            return None
        shape = tuple(x.shape[:-1])
        found = isinstance(resets, Tensor)
        if not found or resets.dtype != torch.bool or resets.shape != shape:
            names = "(B, T)" if self._first else "(T, B)" if self.batched else "(T,)"
            raise ArgumentError(
                "[resets] one boolean for each row and step; received "
                f"{_describe(resets)}, expected {names} = {shape} of torch.bool"
            )
        _check_device("resets", resets, x.device)
        return self.enter(resets)


def _refuse_packed(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ArgumentError(
                f"[{name}] a PackedSequence has its own lengths and layout; received "
                f"{name}= with it, expected a padded x (torch.nn.utils.rnn."
                "pad_packed_sequence), with lengths= if need be"
            )


def _as_tensor(lengths: Any) -> Tensor:
    whole = isinstance(lengths, Sequence) and all(
        isinstance(n, int) and not isinstance(n, bool) for n in lengths
    )
    if not whole:
        raise ArgumentError(
            f"[lengths] one integer for each row of the batch; received {lengths!r}, "
            "expected a tensor or a list of integers"
        )
    return torch.tensor(lengths, dtype=torch.int64)


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} of {value.dtype}"


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device.type != "cpu" and tensor.device != device:
        raise ArgumentError(
            f"[{name}] is on another device than x; received {tensor.device}, expected "
            f"the CPU or {device}"
        )
