"""Adaptive softmax: large vocabularies at the cost of the frequent tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptiveSoftmax(nn.AdaptiveLogSoftmaxWithLoss):
    """The output of a language model as clusters of tokens by frequency.

    Grave, Joulin, Cissé, Grangier & Jégou 2017, "Efficient softmax approximation for
    GPUs", as torch has it: each further cluster has a projection of a quarter of the
    width of the one before. Lower numbers are more frequent tokens.

    Args:
        width: H, of what it reads.
        vocabulary: V.
        cutoffs: the number of the first token of every cluster but the first.
    """

    def __init__(self, width: int, vocabulary: int, cutoffs: list[int]):
        super().__init__(width, vocabulary, cutoffs)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Log-probabilities (…, V) of every token, for x (…, H)."""
        with _whole_precision(x):
            found = self.log_prob(x.flatten(0, -2).to(self.head.weight.dtype))
        return found.unflatten(0, x.shape[:-1])

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """The mean nats of targets (…), for x (…, H): only their clusters cost."""
        with _whole_precision(x):
            x = x.flatten(0, -2).to(self.head.weight.dtype)
            return super().forward(x, targets.flatten()).loss


def _whole_precision(x: Tensor) -> torch.autocast:
    """No autocast: torch keeps the log-probabilities in the type of x, even in bf16."""
    return torch.autocast(x.device.type, enabled=False)
