"""The continuous cache: what was read lately is likelier to come again.

Grave, Joulin & Usunier 2017, "Improving Neural Language Models with a Continuous
Cache", section 3. The cache has the last N pairs of an output h_i and the token x_{i+1}
that came after it. It predicts a token by how alike the output h_t of now is to those,
and is mixed linearly with the model's own prediction:

    p_cache(w) ∝ Σ_i 1[w = x_{i+1}] exp(θ h_t · h_i)
    p(w) = (1 − λ) p_model(w) + λ p_cache(w)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..language.errors import ArgumentError
from .model import LanguageModel
from .score import Advance, Bar, no_bar, windows

WINDOW = 256  # tokens at a time: bounds the memory, changes no number
THETAS = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0)
LAMBDAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)


@dataclass(frozen=True)
class Cache:
    """A way to read a text (a `score.Reader`).

    Attributes:
        size: N, pairs that are kept.
        theta: θ, how much likeness counts; 0: how often a token is in the cache.
        weight: λ, the cache's part of the prediction.

    Raises:
        ArgumentError: a number out of its range.
    """

    size: int
    theta: float
    weight: float

    def __post_init__(self) -> None:
        inside = self.size >= 1 and 0 <= self.theta < math.inf and 0 <= self.weight <= 1
        if not inside:
            raise ArgumentError(
                f"[cache] received {self.size},{self.theta:g},{self.weight:g}, "
                "expected N of at least 1, θ of at least 0, and λ from 0 to 1"
            )

    def __call__(
        self, model: LanguageModel, numbers: np.ndarray, advance: Advance
    ) -> float:
        nats = 0.0
        for own, cached in _predictions(model, numbers, self.size, [self.theta]):
            nats -= _mixed(own, cached[0], self.weight).sum().item()
            advance(len(own))
        return nats


def tune(
    model: LanguageModel,
    numbers: np.ndarray,
    size: int,
    thetas: Sequence[float] = THETAS,
    weights: Sequence[float] = LAMBDAS,
    bar: Bar = no_bar,
) -> Cache:
    """The θ and λ of those given that predict a text best.

    Args:
        model: in eval mode.
        numbers: (N,) token numbers of a text for validation.
        bar: shows how far it is.
    """
    Cache(size, 0.0, 0.0)
    sums = torch.zeros(len(thetas), len(weights), dtype=torch.float64)
    with bar("tuning the cache", len(numbers) - 1) as advance:
        for own, cached in _predictions(model, numbers, size, thetas):
            for column, weight in enumerate(weights):
                sums[:, column] -= _mixed(own, cached, weight).sum(-1).cpu()
            advance(len(own))
    row, column = divmod(int(sums.argmin()), len(weights))
    return Cache(size, thetas[row], weights[column])


def _mixed(own: Tensor, cached: Tensor, weight: float) -> Tensor:
    """log p of mixed predictions; where the cache was empty it is NaN: the model's."""
    both = torch.stack(
        torch.broadcast_tensors(
            own + math.log1p(-weight) if weight < 1 else own - torch.inf,
            cached + math.log(weight) if weight else cached - torch.inf,
        )
    ).logsumexp(0)
    return torch.where(cached.isnan(), own, both)


@torch.no_grad()
def _predictions(
    model: LanguageModel, numbers: np.ndarray, size: int, thetas: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The log-probabilities of a window's targets, as doubles.

    Yields:
        The model's (T,), and the cache's (θ, T): NaN where it was empty.
    """
    state, keys, values = None, None, None
    for x, y in windows(model, numbers, WINDOW):
        logits, state, outputs, _ = model(x[:, None], state, outputs=True)
        own = logits[:, 0].double().log_softmax(-1).gather(-1, y[:, None])[:, 0]
        queries = outputs[:, 0]  # (T, H)
        keys = queries if keys is None else torch.cat([keys, queries])  # (K, H)
        values = y if values is None else torch.cat([values, y])  # (K,)
        number = torch.arange(len(keys), device=y.device)
        age = number[-len(y) :, None] - number  # (T, K): steps from key to query
        seen = (age > 0) & (age <= size)
        alike = (queries @ keys.t()).double()  # (T, K)
        hits = seen & (values == y[:, None])
        cached = torch.stack(
            [
                _log_sum(theta * alike, hits) - _log_sum(theta * alike, seen)
                for theta in thetas
            ]
        )
        yield own, cached
        keys, values = keys[-size:], values[-size:]


def _log_sum(values: Tensor, where: Tensor) -> Tensor:
    """log Σ exp over those columns of a row that count; −∞ where none does."""
    return values.masked_fill(~where, -torch.inf).logsumexp(-1)
