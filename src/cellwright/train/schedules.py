"""Learning-rate schedules: a factor for every step, times the optimiser's own rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..language.errors import ArgumentError


@dataclass
class Schedule:
    """A linear rise over `warm_up` steps, then whatever `after` says."""

    warm_up: int = 0

    def factor(self, step: float) -> float:
        """The learning rate of `step`, as a fraction of the peak rate.

        Args:
            step: from 0; of a plan by time, `Plan.position`, which lies between steps.
        """
        # (step + 1): the very first step must move the weights, too.
        rise = min(1.0, (step + 1) / self.warm_up) if step < self.warm_up else 1.0
        return rise * self.after(step)

    def after(self, step: float) -> float:
        return 1.0

    def observe(self, validation_loss: float) -> None:
        """Take note of a validation; only a plateau schedule does."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@dataclass
class Constant(Schedule):
    """Warm-up, then the peak rate to the end."""


@dataclass
class _Falling(Schedule):
    """Warm-up, then down to `floor` at step `steps`."""

    steps: int = 1
    floor: float = 0.0

    def done(self, step: float) -> float:
        """How much of the fall is over: 0 to 1."""
        length = max(1, self.steps - self.warm_up)
        return min(1.0, max(0, step - self.warm_up) / length)


@dataclass
class Cosine(_Falling):
    """Warm-up, then half a cosine down to `floor` at step `steps`.

    Loshchilov & Hutter 2017, "SGDR", equation 5, with one period and no restart.
    """

    def after(self, step: float) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.done(step)))
        return self.floor + (1 - self.floor) * cosine


@dataclass
class Linear(_Falling):
    """Warm-up, then a straight line down to `floor` at step `steps`."""

    def after(self, step: float) -> float:
        return 1 - (1 - self.floor) * self.done(step)


@dataclass
class Plateau(Schedule):
    """Warm-up, then `cut` times the rate after `patience` validations without gain."""

    cut: float = 0.5
    patience: int = 2
    scale: float = field(default=1.0, init=False)
    best: float | None = field(default=None, init=False)
    waited: int = field(default=0, init=False)

    def after(self, step: float) -> float:
        return self.scale

    def observe(self, validation_loss: float) -> None:
        if self.best is None or validation_loss < self.best:
            self.best, self.waited = validation_loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.scale, self.waited = self.scale * self.cut, 0

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("scale", "best", "waited")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self.best = state["scale"], state["best"]
        self.waited = state["waited"]


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "cosine": Cosine,
    "linear": Linear,
    "constant": lambda warm_up, steps: Constant(warm_up),
    "plateau": lambda warm_up, steps: Plateau(warm_up),
}


def make_schedule(name: str, steps: int, warm_up: int = 0) -> Schedule:
    """A schedule by its name.

    Raises:
        ArgumentError: another name.
    """
    if name not in SCHEDULES:
        raise ArgumentError(
            f"[schedule] no such schedule; received {name!r}, "
            f"expected one of {', '.join(SCHEDULES)}"
        )
    return SCHEDULES[name](warm_up, steps)
