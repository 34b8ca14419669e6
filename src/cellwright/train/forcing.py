"""Teacher forcing, scheduled sampling and free running.

A model that predicts a sequence reads at each step either the true last element
(teacher forcing) or what it predicted itself (free running). Scheduled sampling
(Bengio, Vinyals, Jaitly & Shazeer 2015) tosses a coin for each step and row, true with
probability ε_i, and lets ε_i fall with the training step i (their section 2.4).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ..language.errors import ArgumentError
from ..nn.forcing import run_forced

__all__ = [
    "ConstantForcing",
    "ExponentialForcing",
    "Forcing",
    "InverseSigmoidForcing",
    "LinearForcing",
    "parse_forcing",
    "run_forced",
]

#: The probability ε_i of reading the truth, from the training step i.
Forcing = Callable[[float], float]


@dataclass(frozen=True)
class ConstantForcing:
    """ε_i = ratio: 1 is teacher forcing, 0 free running."""

    ratio: float = 1.0

    def __call__(self, step: float) -> float:
        return self.ratio


@dataclass(frozen=True)
class LinearForcing:
    """ε_i = max(ε, k − c·i)."""

    k: float
    c: float
    floor: float = 0.0

    def __call__(self, step: float) -> float:
        return max(self.floor, self.k - self.c * step)


@dataclass(frozen=True)
class ExponentialForcing:
    """ε_i = k^i, with k < 1."""

    k: float

    def __call__(self, step: float) -> float:
        return self.k**step


@dataclass(frozen=True)
class InverseSigmoidForcing:
    """ε_i = k / (k + exp(i / k)), with k ≥ 1."""

    k: float

    def __call__(self, step: float) -> float:
        exponent = step / self.k
        return self.k / (self.k + math.exp(exponent)) if exponent < 700 else 0.0


_ABOVE_0 = sys.float_info.min


def parse_forcing(text: str, steps: int) -> Forcing:
    """A forcing from its short form.

    `0.8` is a constant ratio. `linear:E` falls from 1 to E (default 0.5) over the
    run's `steps`; `exponential:K` is K^i; `sigmoid:K` is K / (K + exp(i / K)). K left
    out puts ε near one half in the middle of the run.

    Raises:
        ArgumentError: another word, or a number out of its range.
    """
    name, _, number = text.partition(":")
    try:
        if name == "linear":
            end = _within(float(number or 0.5), 0, 1)
            return LinearForcing(1.0, (1.0 - end) / max(1, steps), end)
        if name == "exponential":
            k = float(number or 0.5 ** (2 / max(2, steps)))
            return ExponentialForcing(_within(k, _ABOVE_0, 1))
        if name == "sigmoid":
            k = float(number or _inverse_sigmoid_with_middle(steps / 2))
            return InverseSigmoidForcing(_within(k, 1, sys.float_info.max))
        return ConstantForcing(_within(float(text), 0, 1))
    except ValueError:
        raise ArgumentError(
            f"[forcing] received {text!r}, expected a ratio between 0 and 1, "
            "'linear[:END]', 'exponential[:K]' with K above 0 and up to 1, or "
            "'sigmoid[:K]' with K of at least 1"
        ) from None


def _within(value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError
    return value


def _inverse_sigmoid_with_middle(middle: float) -> float:
    """The k with k / (k + exp(middle / k)) = ½, that is k·ln k = middle."""
    k = max(math.e, middle)
    for _ in range(50):  # Newton's method on k·ln k − middle
        k -= (k * math.log(k) - middle) / (math.log(k) + 1)
        k = max(k, 1.0)
    return k
