"""Dynamic evaluation: the weights go on learning from the text that is read.

Krause, Kahembwe, Murray & Renals 2018, "Dynamic Evaluation of Neural Sequence Models".
The text is read in short segments. After each, when it is scored, the weights take a
step of its gradient g, and one back to the trained weights θ_g (their update rule with
gradient statistics and a decay back to θ_g):

    θ ← θ − η g / (√MS + ε) + λ (θ_g − θ) ⊙ √MS / mean(√MS)

MS is the mean of the squares of g over segments of the training text. As in the
authors' code, the mean is taken within each weight and then over the weights, and what
λ is multiplied with is at most 1/λ.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..language.errors import ArgumentError
from ..nn.state import State, detach
from .corpus import TextStream
from .model import LanguageModel
from .score import Advance, Bar, no_bar, read, windows

ROWS = 100  # of the training text, read side by side for the statistics
SEGMENTS = 300  # of each row at most
# For segments of 5; the paper's value for PTB comes first. Longer segments take
# proportionally more, as in the authors' search. 0: not to learn may be best.
RATES = (5e-5, 2.5e-5, 1e-5, 1e-4, 2e-4, 0.0)
DECAYS = (2e-3, 0.0, 1e-3, 5e-3)
TUNED_ON = 5_000  # tokens


@dataclass(frozen=True)
class Dynamic:
    """A way to read a text (a `score.Reader`); the model that it reads is not changed.

    Attributes:
        statistics: √MS of every parameter, in their order; see `statistics_of`.
        rate: η.
        decay: λ.
        epsilon: ε.
        segment: tokens to a step.

    Raises:
        ArgumentError: a number out of its range.
    """

    statistics: Sequence[Tensor]
    rate: float = 5e-5
    decay: float = 2e-3
    epsilon: float = 2e-5
    segment: int = 5

    def __post_init__(self) -> None:
        numbers = self.rate, self.decay, self.epsilon
        inside = all(0 <= n < math.inf for n in numbers) and self.epsilon > 0
        if not (inside and self.segment >= 1):
            raise ArgumentError(
                f"[dynamic] received a rate of {self.rate:g}, a decay of "
                f"{self.decay:g}, an epsilon of {self.epsilon:g} and segments of "
                f"{self.segment}; expected at least 0, at least 0, above 0, and at "
                "least 1"
            )

    def __call__(
        self, model: LanguageModel, numbers: np.ndarray, advance: Advance
    ) -> float:
        """Raises ArgumentError where the predictions stop being finite numbers."""
        nats = self._read(model, numbers, advance)
        if self.rate and not math.isfinite(nats):
            raise ArgumentError(
                "[dynamic] the weights have learned until their predictions are not "
                f"finite numbers; received a rate of {self.rate:g} and a decay of "
                f"{self.decay:g}, expected a smaller rate"
            )
        return nats

    def _read(
        self, model: LanguageModel, numbers: np.ndarray, advance: Advance
    ) -> float:
        """The nats; NaN or infinity as soon as they are no finite number."""
        if not self.rate:  # nothing is learned, so nothing decays either
            return read(model, numbers, advance)
        model, trained = copy.deepcopy(model), list(model.parameters())
        parameters = list(model.parameters())
        mean = torch.stack([s.mean() for s in self.statistics]).mean()
        mean.clamp_(min=torch.finfo(mean.dtype).tiny)  # no gradient at all: no decay
        pull = [self.decay * s / mean for s in self.statistics]
        pull = [p.clamp(max=1.0) for p in pull]  # λ · min(√MS / mean, 1/λ)
        scale = [self.rate / (s + self.epsilon) for s in self.statistics]
        state, nats = None, 0.0
        for x, y in windows(model, numbers, self.segment):
            loss, state = _loss(model, x[:, None], y[:, None], state)
            nats += loss.item() * len(y)
            if not math.isfinite(nats):
                break
            gradients = _gradients(loss, parameters)
            with torch.no_grad():
                for w, w_0, g, s, p in zip(
                    parameters, trained, gradients, scale, pull, strict=True
                ):
                    w.lerp_(w_0, p).addcmul_(s, g, value=-1)
            advance(len(y))
        return nats


def statistics_of(
    model: LanguageModel, numbers: np.ndarray, segment: int = 5, bar: Bar = no_bar
) -> list[Tensor]:
    """√MS of every parameter: the root mean square of the gradient of a segment.

    Args:
        model: in eval mode.
        numbers: (N,) token numbers of the training text.
        segment: tokens to a gradient.
        bar: shows how far it is.

    Raises:
        ArgumentError: a gradient is no finite number.
    """
    parameters = list(model.parameters())
    rows = max(1, min(ROWS, (len(numbers) - 1) // segment))
    segment = min(segment, len(numbers) - 1)
    stream = TextStream(numbers, rows, segment)
    squares = [torch.zeros_like(p) for p in parameters]
    count, state = min(SEGMENTS, stream.windows), None
    device = parameters[0].device
    with bar("gathering statistics", count) as advance:
        for _ in range(count):
            batch = stream.next()
            x, y = batch["x"].to(device), batch["y"].to(device)
            loss, state = _loss(model, x, y, state)
            for square, g in zip(squares, _gradients(loss, parameters), strict=True):
                square += g.square()
            advance(1)
    statistics = [(square / count).sqrt() for square in squares]
    if not all(s.isfinite().all() for s in statistics):
        raise ArgumentError(
            "[dynamic] received a model whose gradients on the training text are NaN "
            "or infinity, expected finite numbers"
        )
    return statistics


def tune(
    model: LanguageModel,
    numbers: np.ndarray,
    start: Dynamic,
    rates: Sequence[float],
    decays: Sequence[float],
    bar: Bar = no_bar,
) -> Dynamic:
    """The η, then the λ, that predict the beginning of a text for validation best.

    Args:
        model: in eval mode.
        numbers: (N,) token numbers; the first 5,000 are read.
        start: whose statistics and segments are kept.
        rates, decays: the choices. A rate of 0 leaves the weights as they are.
        bar: shows how far it is.
    """
    numbers = numbers[:TUNED_ON]

    def best(name: str, choices: list[Dynamic]) -> Dynamic:
        if len(choices) == 1:
            return choices[0]
        with bar(f"tuning the {name}", len(choices) * (len(numbers) - 1)) as advance:
            found = [choice._read(model, numbers, advance) for choice in choices]
        nats = [n if math.isfinite(n) else math.inf for n in found]
        return choices[nats.index(min(nats))]

    start = best("rate", [replace(start, rate=rate) for rate in rates])
    if not start.rate:
        return start
    return best("decay", [replace(start, decay=decay) for decay in decays])


def _loss(
    model: LanguageModel, x: Tensor, y: Tensor, state: State
) -> tuple[Tensor, State]:
    """The mean cross entropy of a segment (T, B), in eval mode but with gradients."""
    logits, state = model(x, state)
    return F.cross_entropy(logits.flatten(0, 1), y.flatten()), detach(state)


def _gradients(loss: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, parameters, materialize_grads=True)
