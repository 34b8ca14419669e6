"""The one training loop of the experiments: the library's own, over drawn batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..train.bptt import State
from ..train.divergence import Diverged
from ..train.loop import train
from ..train.optimisers import make_optimiser
from ..train.plan import Plan
from ..train.report import Reporter
from ..train.schedules import Constant, Schedule

#: `draw(generator)`: a batch, drawn with that generator alone.
Draw = Callable[[torch.Generator], Any]
#: `loss(model, batch)`: its mean loss, as a 0-d tensor.
Loss = Callable[[nn.Module, Any], Tensor]


@dataclass
class Fit:
    """What a training run leaves.

    Attributes:
        curve: (step, training loss), as often as asked.
        scores: (step, what `evaluate` gave), as often as asked.
        seconds: of processor time, validation included.
        steps: done.
        diverged: whether a loss or gradient was not finite, which ended the run.
        solved_at: the step at which `solved(score)` was first true, which ended the
            run; None if never.
        largest_norm: of the gradient before clipping, over all steps.
    """

    curve: list[tuple[int, float]] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    largest_norm: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    diverged: bool = False
    solved_at: int | None = None

    @property
    def score(self) -> float | None:
        """The last score."""
        return self.scores[-1][1] if self.scores else None

    @property
    def best(self) -> float | None:
        """The lowest score."""
        return min((score for _, score in self.scores), default=None)


@dataclass(frozen=True)
class Training:
    """How a net is trained.

    Attributes:
        steps: optimiser steps at most.
        lr, optimiser, schedule, clip_norm: as for `cellwright.train`.
        seed: of the batches.
        every: steps between two entries of the curve, and between two scores.
    """

    steps: int
    lr: float
    seed: int
    optimiser: str = "adam"
    schedule: Schedule = field(default_factory=Constant)
    clip_norm: float | None = 1.0
    every: int = 100


def fit(
    model: nn.Module,
    draw: Draw,
    loss: Loss,
    training: Training,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    solved: Callable[[float], bool] = lambda score: False,
) -> Fit:
    """Train a model in place on newly drawn batches.

    Args:
        model: called by `loss` alone.
        draw: batches; its generator is seeded with `training.seed`.
        loss: of one batch.
        training: how.
        evaluate: a score of the model in eval mode, without gradient; lower is better.
        solved: ends the run as soon as it is true of a score.
    """

    def objective(
        model: nn.Module, batch: Any, state: State, step: float
    ) -> tuple[Tensor, State]:
        return loss(model, batch), None

    recorder = _Recorder(training.every, evaluate, solved)
    plan = Plan(
        steps=training.steps,
        clip_norm=training.clip_norm,
        log_every=1,
        validate_every=training.every if evaluate else None,
    )
    began = time.process_time()
    try:
        train(
            model,
            Drawn(draw, training.seed),
            objective,
            make_optimiser(training.optimiser, model, training.lr),
            training.schedule,
            plan,
            validate=recorder.validate if evaluate else None,
            reporter=recorder,
        )
    except _Solved:
        pass
    except Diverged:
        recorder.fit.diverged = True
    recorder.fit.seconds = time.process_time() - began
    return recorder.fit


class Drawn:
    """An endless stream of batches from a generator of its own."""

    size = 1

    def __init__(self, draw: Draw, seed: int):
        self._draw = draw
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> Any:
        return self._draw(self._generator)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


class _Solved(Exception):
    """Ends the loop from within a validation."""


class _Recorder(Reporter):
    """Writes losses and scores into a `Fit`; ends the run once it is solved."""

    def __init__(
        self,
        every: int,
        evaluate: Callable[[nn.Module], float] | None,
        solved: Callable[[float], bool],
    ) -> None:
        self.fit, self.step = Fit(), 0
        self._every, self._evaluate, self._solved = every, evaluate, solved

    def log(self, row: dict[str, Any]) -> None:
        self.step = row["step"]
        if "loss" in row:
            fit = self.fit
            fit.steps = row["step"]
            fit.largest_norm = max(fit.largest_norm, row["gradient_norm"])
            if row["step"] % self._every == 0:
                fit.curve.append((row["step"], row["loss"]))

    def validate(self, model: nn.Module) -> float:
        assert self._evaluate is not None
        score = self._evaluate(model)
        self.fit.scores.append((self.step, score))
        if self._solved(score):
            self.fit.solved_at = self.step
            raise _Solved
        return score


def finite(value: float | None) -> float | None:
    """The number, or None where it is none that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None
