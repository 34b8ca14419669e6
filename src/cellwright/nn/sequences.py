"""How the sequences of one call lie, and the way in and out of an engine's layout.

Engines take x time first, (T, B, size), or packed, (Σ batch_sizes, size). A user has
batches first, single sequences, `PackedSequence`, lengths and resets.
"""

from __future__ import annotations

import reprlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..engine.schedule import SequenceBatch
from ..engine.tracing import refuse_jit
from ..language import ArgumentError
from ..language.arguments import describe, whole_numbers


class Layout:
    """The layout of one call, by its x.

    Args:
        x: (T, B, size), or (B, T, size) with batch_first; (T, size); a PackedSequence.
        lengths: (B,) integers, in any order: a tensor, a NumPy array, a list.
        resets: (T, B) booleans, or integers 0 and 1, laid out as x.
        starts: (B,) integers, as lengths.

    Attributes:
        batched: x has a batch.
        batch_first: the batch, where x has one, is its first dimension.
        batch: what the engines need to know of lengths and resets.

    Raises:
        ArgumentError: lengths, resets or starts of another kind or shape, or that do
            not go with this x.
    """

    __slots__ = ("_first", "_packed", "batch", "batch_first", "batched")

    def __init__(
        self,
        x: Any,
        batch_first: bool,
        lengths: Any = None,
        resets: Any = None,
        starts: Any = None,
    ) -> None:
        self._packed: PackedSequence | None = None
        self.batch_first = batch_first
        if isinstance(x, PackedSequence):
            _refuse_packed(lengths=lengths, resets=resets, starts=starts)
            refuse_jit("a PackedSequence, whose sizes are read as numbers")
            sizes = x.batch_sizes.tolist()
            self._packed = x
            self.batched, self._first = True, False
            self.batch = SequenceBatch(len(sizes), sizes[0], batch_sizes=sizes)
            return
        self.batched = x.dim() == 3
        self._first = batch_first and self.batched
        shape = x.shape[:2] if self.batched else (x.shape[0], 1)
        steps, batch = reversed(shape) if self._first else shape
        if lengths is resets is starts is None:
            self.batch = SequenceBatch(steps, batch)
            return
        self.batch = SequenceBatch(
            steps,
            batch,
            lengths=self._check_counts("lengths", lengths, batch, x.device),
            resets=self._check_resets(resets, x),
            starts=self._check_counts("starts", starts, batch, x.device),
        )

    # -- sequences: x, the named inputs, y

    def enter(self, value: Any) -> Tensor:
        """x or a named input as engines take it."""
        if self._packed is not None:
            return value.data
        if not self.batched:
            return value.unsqueeze(1)
        return value.transpose(0, 1) if self._first else value

    def enter_static(self, value: Tensor) -> Tensor:
        """A named input without time as engines take it, (B, size)."""
        if self._packed is not None:
            indices = self._packed.sorted_indices
            return value if indices is None else value.index_select(0, indices)
        return value if self.batched else value.unsqueeze(0)

    def enter_items(self, value: Tensor) -> Tensor:
        """Items, (S, B, size) or laid out as x, as (B, S, size)."""
        if self.batched and not self.batch_first:
            value = value.transpose(0, 1)
        return self.enter_static(value)

    def enter_item_lengths(
        self, name: str, given: Any, device: torch.device
    ) -> Tensor | None:
        """The number of items of each row, (B,) of int64."""
        lengths = self._check_counts(name, given, self.batch.batch, device)
        return lengths if lengths is None else self.enter_static(lengths)

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
        return pad_packed_sequence(values, self.batch_first)[0]  # type: ignore[arg-type]

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
                "expected a PackedSequence like x, or a tensor with a row for each "
                "sequence for all steps"
            )

    # -- states: (layers·directions, B, size)

    def enter_state(self, state: Tensor) -> Tensor:
        return self._state(state, -2)

    def leave_states(self, states: list[Tensor]) -> list[Tensor]:
        if self._packed is None and self.batched:
            return states
        return [self._state(state, -1) for state in states]

    def _state(self, state: Tensor, which: int) -> Tensor:
        if self._packed is not None:
            indices = self._packed[which]
            return state if indices is None else state.index_select(1, indices)
        if not self.batched:
            return state.unsqueeze(1) if which == -2 else state.squeeze(1)
        return state

    # -- arguments

    def _check_counts(
        self, name: str, given: Any, batch: int, device: torch.device
    ) -> Tensor | None:
        """lengths or starts, (B,) of int64."""
        if given is None:
            return None
        if not self.batched:
            raise ArgumentError(
                f"[{name}] a single sequence is as long as it is; received {name}= "
                "with x of 2 dimensions, expected none, or a batch"
            )
        return row_numbers(name, given, batch, device)

    def _check_resets(self, resets: Any, x: Tensor) -> Tensor | None:
        if resets is None:
            return None
        shape, found = tuple(x.shape[:-1]), whole_numbers(resets)
        if found is None or found.shape != shape:
            names = "(B, T)" if self._first else "(T, B)" if self.batched else "(T,)"
            raise ArgumentError(
                "[resets] one boolean for each row and step; received "
                f"{describe(resets)}, expected {names} = {shape} of torch.bool, or of "
                "integers 0 and 1"
            )
        _check_device("resets", found, x.device)
        return self.enter(found)


def row_numbers(name: str, given: Any, batch: int, device: torch.device) -> Tensor:
    """One integer for each row of a batch, (B,) of int64.

    Args:
        name: of the argument, for messages.
        given: a tensor, a NumPy array or a sequence of integers of any kind.
        batch: B.
        device: of x; a tensor is there or on the CPU.

    Raises:
        ArgumentError: it is none of these, or of another shape.
    """
    found = whole_numbers(given)
    if found is None or found.dtype == torch.bool or found.shape != (batch,):
        known = given if found is None else found
        shown, expected = describe(known), f"({batch},) of int64"
        if not isinstance(known, Tensor):
            shown, expected = reprlib.repr(given), "a tensor or a list of integers"
        raise ArgumentError(
            f"[{name}] one integer for each row of the batch; received "
            f"{shown}, expected {expected}"
        )
    _check_device(name, found, device)
    return found.long()


def _refuse_packed(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ArgumentError(
                f"[{name}] a PackedSequence has its own lengths and layout; received "
                f"{name}= with it, expected a padded x (torch.nn.utils.rnn."
                "pad_packed_sequence), with lengths= if need be"
            )


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device.type != "cpu" and tensor.device != device:
        raise ArgumentError(
            f"[{name}] is on another device than x; received {tensor.device}, expected "
            f"the CPU or {device}"
        )
