"""The word problem of permutations: where is each thing after all of them so far?"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from ...language import ArgumentError
from .sequences import Sequences, integers


def permutations(
    count: int,
    length: int,
    things: int,
    generator: torch.Generator,
    *,
    swaps: bool = False,
) -> Sequences:
    """A permutation a step; the answer is their product so far.

    With two things it is parity: was the number of exchanges odd? With five it is the
    word problem of S5 (Merrill, Petty & Sabharwal 2024, arXiv 2404.08819). The product
    is told as the place of each thing, not as one of 120 classes: that is as much to
    know, and learnt from fewer sequences.

    Inputs (T, B, I) are one-hot over all permutations, or with `swaps` over those that
    exchange two things. Targets (T, B, things): the place of each thing.

    Args:
        count: B, the sequences.
        length: T, the steps; at least 1.
        things: to permute; at least 2.
        generator: of the draws.
        swaps: whether every step exchanges two things.
    """
    if length < 1 or things < 2:
        raise ArgumentError(
            "[permutations] expected at least 1 step and 2 things; received "
            f"{length} and {things}"
        )
    steps = torch.tensor(list(itertools.permutations(range(things))))
    if swaps:
        moved = (steps != torch.arange(things)).sum(1)
        steps = steps[moved == 2]
    tokens = integers(generator, 0, len(steps) - 1, length, count)
    places = torch.arange(things).expand(count, things)
    targets = torch.empty(length, count, things, dtype=torch.long)
    for t, step in enumerate(steps[tokens]):  # (B, things): where a place goes
        targets[t] = places = step.gather(1, places)
    inputs = F.one_hot(tokens, len(steps)).float()
    return Sequences(inputs, targets, torch.full((count,), length))
