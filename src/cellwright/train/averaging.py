"""Averages of the weights over steps: what is validated, kept and evaluated.

Training itself goes on with the weights of the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..language.errors import ArgumentError


class Average:
    """A running mean of a model's parameters; None until it begins.

    Args:
        model: whose parameters; they must be all of its state.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._mean: list[Tensor] | None = None
        self._count = 0

    def update(self) -> None:
        """Take in the weights of a step that is done."""
        raise NotImplementedError

    def observe(self, validation_loss: float) -> None:
        """Take note of a validation."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Meanwhile the model has the mean, where there is one yet."""
        if self._mean is None:
            yield
            return
        own = [p.detach().clone() for p in self._model.parameters()]
        self.apply()
        try:
            yield
        finally:
            self._set(own)

    def apply(self) -> None:
        """Give the model the mean for good, where there is one yet."""
        if self._mean is not None:
            self._set(self._mean)

    def state_dict(self) -> dict[str, Any]:
        """All but the mean itself, which a checkpoint holds as the model's weights."""
        own = None
        if self._mean is not None:
            own = [p.detach().clone() for p in self._model.parameters()]
        return {"count": self._count, "own": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the model has the mean, and gets its own weights back."""
        self._count, own = state["count"], state["own"]
        self._mean = None
        if own is not None:
            self._mean = [p.detach().clone() for p in self._model.parameters()]
            self._set(own)

    @torch.no_grad()
    def _move(self, share: float) -> None:
        """Move the mean by a share of the way to the weights; begin there."""
        own = [p.detach() for p in self._model.parameters()]
        if self._mean is None:
            self._mean = [p.clone() for p in own]
        else:
            for mean, weights in zip(self._mean, own, strict=True):
                mean.lerp_(weights, share)
        self._count += 1

    @torch.no_grad()
    def _set(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self._model.parameters(), weights, strict=True):
            parameter.copy_(weight)


class ExponentialAverage(Average):
    """mean ← d · mean + (1 − d) · weights; d is at most (1 + t) / (10 + t) at step t.

    Args:
        decay: d. The mean is over about the last 1 / (1 − d) steps.
    """

    def __init__(self, model: nn.Module, decay: float = 0.99):
        super().__init__(model)
        self._decay = decay

    def update(self) -> None:
        t = self._count
        self._move(1 - min(self._decay, (1 + t) / (10 + t)))


class NonMonotonicAverage(Average):
    """NT-ASGD: from the trigger on, the plain mean of the weights of all steps.

    Merity, Keskar & Socher 2018, "Regularizing and Optimizing LSTM Language Models",
    algorithm 1: it is triggered when a validation is worse than the best of those that
    are at least `patience` validations older.

    Args:
        patience: their n, the non-monotone interval.
    """

    def __init__(self, model: nn.Module, patience: int = 5):
        super().__init__(model)
        self._patience, self._triggered = patience, False
        self._losses: list[float] = []

    def update(self) -> None:
        if self._triggered:
            self._move(1 / (self._count + 1))

    def observe(self, validation_loss: float) -> None:
        older = self._losses[: -self._patience]
        if older and validation_loss > min(older):
            self._triggered = True
        self._losses.append(validation_loss)

    def state_dict(self) -> dict[str, Any]:
        losses = torch.tensor(self._losses, dtype=torch.float64)
        more = {"losses": losses, "triggered": self._triggered}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._losses = state["losses"].tolist()
        self._triggered = state["triggered"]


def parse_average(text: str) -> Callable[[nn.Module], Average] | None:
    """An average from its short form: "none", "ema[:D]" or "nt-asgd[:N]".

    Raises:
        ArgumentError: another word, or a number out of its range.
    """
    name, _, number = text.partition(":")
    try:
        if name == "ema":
            decay = float(number or 0.99)
            if 0 < decay < 1:
                return lambda model: ExponentialAverage(model, decay)
        elif name == "nt-asgd":
            patience = int(number or 5)
            if patience >= 1:
                return lambda model: NonMonotonicAverage(model, patience)
        elif text == "none":
            return None
    except ValueError:
        pass
    raise ArgumentError(
        f"[average] received {text!r}, expected 'none', 'ema[:D]' with a decay D "
        "between 0 and 1, or 'nt-asgd[:N]' with N validations, at least 1"
    )
