"""Associative recall: which value came with this key?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...language import ArgumentError
from .sequences import Sequences, integers

NOTHING = -100  # a target that no loss counts, as in torch.nn.functional.cross_entropy


def associative_recall(
    count: int, pairs: int, symbols: int, generator: torch.Generator
) -> Sequences:
    """Pairs of a key and a value, one a step; then every key again, in another order.

    The keys of a sequence differ, its values may repeat. With the whole pair in one
    step nothing but memory is asked for: no net must put neighbours together first, as
    in Ba et al. 2016 and Arora et al. 2023, where key and value are two steps.

    Inputs (T, B, 2·symbols) are one-hot: key, then value, which is zero where it is
    asked for. Targets (T, B) are `NOTHING` while pairs are shown. T is 2·pairs.

    Args:
        count: B, the sequences.
        pairs: to remember; at most `symbols`.
        symbols: keys, and values.
        generator: of the draws.
    """
    if not 1 <= pairs <= symbols:
        raise ArgumentError(
            f"[associative_recall] expected 1 to {symbols} pairs; received {pairs}"
        )
    keys = _orders(count, symbols, generator)[:pairs]  # (pairs, B)
    values = integers(generator, 0, symbols - 1, pairs, count)
    order = _orders(count, pairs, generator)
    shown = torch.cat((keys, keys.gather(0, order)))
    one_hot = F.one_hot(values, symbols).float()
    asked = torch.cat((one_hot, torch.zeros_like(one_hot)))
    inputs = torch.cat((F.one_hot(shown, symbols).float(), asked), -1)
    targets = torch.cat((torch.full_like(values, NOTHING), values.gather(0, order)))
    return Sequences(inputs, targets, torch.full((count,), 2 * pairs))


def _orders(count: int, things: int, generator: torch.Generator) -> Tensor:
    """(things, count): a random order in every column."""
    return torch.rand(things, count, generator=generator).argsort(0)
