"""Random masks: drawn on the CPU's or the device's torch generator, 16 bits a unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.tracing import refuse_jit
from ..language.graph import Size

_STEPS = 1 << 16  # a probability is a multiple of 1/65536


@dataclass(frozen=True)
class Mask:
    """A random input of a regularised cell.

    Attributes:
        name: of the input.
        size: its units.
        probability: of dropping a unit, or with `zoneout` of keeping its old value.
        every_step: drawn anew at every step, or once a sequence.
        zoneout: the mask is 1 where the old value is kept, else 0; a dropout's is 0
            where a unit is dropped, else 1/(1 − probability).
    """

    name: str
    size: Size
    probability: float
    every_step: bool = False
    zoneout: bool = False

    @property
    def count(self) -> int:
        """Of the 65536 values of 16 bits, how many drop, or keep the old value."""
        return min(max(round(self.probability * _STEPS), 1), _STEPS - 1)


def draw(mask: Mask, steps: int, batch: int, like: Tensor, tag: str = "") -> Tensor:
    """(steps, batch, size), in the type and on the device of `like`.

    The bits are those of `torch.manual_seed`, whatever the type: in the order of
    memory, so that fewer steps are the first of more.
    """
    return draw_shape(mask, (steps, batch, int(mask.size)), like, tag)


def draw_shape(mask: Mask, shape: Sequence[int], like: Tensor, tag: str = "") -> Tensor:
    """The same for any shape. `tag` tells draws apart where torch compiles them.

    Raises:
        ArgumentError: inside torch.jit.trace, which has no operation for it.
    """
    refuse_jit("masks of a regulariser in training, drawn at every call")
    value = 1.0 if mask.zoneout else _STEPS / (_STEPS - mask.count)
    limit = mask.count - _STEPS // 2
    arguments = like.detach(), list(shape), limit, mask.zoneout, value
    if torch.compiler.is_compiling():
        return _mask_op(*arguments, f"{tag}{mask.name}")
    return _mask(*arguments)


def _mask(
    like: Tensor, shape: Sequence[int], limit: int, below: bool, value: float
) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device)
    bits = words.random_(-(1 << 63), None).view(torch.int16)[:count].view(shape)
    # `bernoulli_` draws a number a unit, one after the other: three times the time.
    chosen = bits < limit if below else bits >= limit
    mask = chosen.to(like.dtype)
    return mask if value == 1 else mask.mul_(value)


# Compiled code draws what eager code draws; the name keeps two equal calls two.
@torch.library.custom_op("cellwright::mask", mutates_args=())
def _mask_op(
    like: Tensor, shape: list[int], limit: int, below: bool, value: float, name: str
) -> Tensor:
    return _mask(like, shape, limit, below, value)


@_mask_op.register_fake
def _(like, shape, limit, below, value, name):
    return like.new_empty(shape)
