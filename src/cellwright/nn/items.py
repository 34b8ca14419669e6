"""The items that a call is given: checked, and packed as engines take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
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
    where: str, sizes: Mapping[str, int], inputs: dict[str, Any]
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


def enter_items(
    where: str,
    sizes: Mapping[str, int],
    sets: Sequence[Given],
    layout: Layout,
    check_like: Callable[[str, Tensor], None],
) -> ItemInputs:
    """The sets of items of a call as engines take them.

    Args:
        where: what messages call the place.
        sizes: units of an item, by name.
        sets: as `take_items` found them.
        layout: of the call.
        check_like: checks a tensor's dtype and device, of what it is called.

    Raises:
        ArgumentError: items or lengths that do not fit.
    """
    values, batches = {}, {}
    for given in sets:
        name, items, lengths = _unpacked(given, layout.batch_first)
        _refuse_torchs_onnx_export(name, lengths)
        _check_shape(where, name, items, layout, sizes[name])
        check_like(f"the set of items {name!r}", items)
        entered, called = layout.enter_items(items), length_name(name)
        lengths = layout.enter_item_lengths(called, lengths, items.device)
        rows, longest = entered.shape[:2]
        batch = ItemBatch(rows, longest, lengths, called)
        values[name], batches[name] = batch.pack(entered), batch
    return ItemInputs(values, batches)


def _refuse_torchs_onnx_export(name: str, lengths: Any) -> None:
    """It sees no values, and the items of a batch are packed by their lengths."""
    if isinstance(lengths, Tensor) and torch.onnx.is_in_onnx_export():
        raise ArgumentError(
            f"[torch.onnx.export] packs items by values that it cannot see; received "
            f"{length_name(name)}=tensor, expected none. Write the layer or the whole "
            "model with cellwright.export_onnx(model, path, example=…)"
        )


def _unpacked(given: Given, batch_first: bool) -> Given:
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


def _check_shape(where: str, name: str, items: Any, layout: Layout, size: int) -> None:
    batch = [layout.batch.batch] if layout.batched else []
    free = 1 if layout.batched and layout.batch_first else 0  # the dimension of items
    shape = list(getattr(items, "shape", ()))
    expected: list[Any] = [*batch, size]
    expected.insert(free, shape[free] if len(shape) > free else "S")
    if isinstance(items, Tensor) and shape == expected:
        return
    expected[free] = "S"
    raise ArgumentError(
        f"[{where}] the set of items {name!r} has the wrong shape; received "
        f"{tuple(shape) or type(items).__name__}, expected "
        f"({', '.join(map(str, expected))})"
    )
