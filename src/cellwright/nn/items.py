"""The items that a call is given: checked, and packed as engines take them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..engine.items import ItemBatch
from ..language import ArgumentError
from ..language.evaluate import Edges
from .sequences import Layout


class ItemInputs:
    """The items of one call.

    Attributes:
        values: packed, (Σ lengths, size), by name.
        sets: how many each row of the batch has, by name.
    """

    def __init__(
        self, values: Mapping[str, Tensor], sets: Mapping[str, ItemBatch]
    ) -> None:
        self.values, self.sets = values, sets

    @cached_property
    def edges(self) -> dict[str, Edges]:
        """Which row of the batch each item is of."""
        pairs = self.values.items()
        return {name: self.sets[name].edges(v.device) for name, v in pairs}


class Given(NamedTuple):
    """One set of items as the user gives it: padded, and the lengths."""

    name: str
    items: Any
    lengths: Any


def length_name(name: str) -> str:
    """The argument that says how many items each row has."""
    return f"{name}_lengths"


def take_items(
    sizes: Mapping[str, int], inputs: dict[str, Any], where: str
) -> list[Given]:
    """Take the sets of items out of the named arguments.

    Raises:
        ArgumentError: a set is not given.
    """
    found = []
    for name, size in sizes.items():
        if name not in inputs:
            raise ArgumentError(
                f"[{where}] the cell looks at the items {name!r}; received none, "
                f"expected {name}=tensor of (S, B, {size}), or (B, S, {size}) with "
                f"batch_first, and {length_name(name)}= where rows have fewer"
            )
        lengths = inputs.pop(length_name(name), None)
        found.append(Given(name, inputs.pop(name), lengths))
    return found


def unpacked(given: Given, batch_first: bool) -> Given:
    """Items that came as a PackedSequence, padded, with their lengths."""
    name, items, lengths = given
    if not isinstance(items, PackedSequence):
        return given
    if lengths is not None:
        raise ArgumentError(
            f"[{length_name(name)}] a PackedSequence has its own lengths; received "
            f"{length_name(name)}= with {name}=PackedSequence, expected one of them"
        )
    return Given(name, *pad_packed_sequence(items, batch_first))


def check_items(
    where: str, given: Given, expected: tuple[int | None, int], batch_first: bool
) -> None:
    """Check the shape of a set of items.

    Args:
        where: what a message calls the place.
        given: padded.
        expected: B, or `None` of a single sequence, and the units of an item.
        batch_first: they are (B, S, size).

    Raises:
        ArgumentError: they are no tensor of that shape.
    """
    batch, size = expected
    shape = tuple(getattr(given.items, "shape", ()))
    if isinstance(given.items, Tensor) and shape[-1:] == (size,):
        rows = shape[:1] if batch_first else shape[1:2]
        if len(shape) == (2 if batch is None else 3) and (
            batch is None or rows == (batch,)
        ):
            return
    axes = f"({batch}, S" if batch_first else f"(S, {batch}"
    axes = "(S" if batch is None else axes
    raise ArgumentError(
        f"[{where}] the set of items {given.name!r} has the wrong shape; received "
        f"{shape or type(given.items).__name__}, expected {axes}, {size})"
    )


def enter_items(given: Given, layout: Layout) -> tuple[Tensor, ItemBatch]:
    """One set of items as engines take it, once its shape is checked."""
    name, items, lengths = given
    value = layout.enter_items(items)
    lengths = layout.enter_item_lengths(length_name(name), lengths, items.device)
    batch = ItemBatch(*value.shape[:2], lengths, length_name(name))
    return batch.pack(value), batch
