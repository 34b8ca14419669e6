"""The one training loop of the experiments: the library's own, over drawn batches.

`fit` trains on batches that a function draws, `fit_stream` on any stream, and may be
stopped and gone on with.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_atomically
from ..train.bptt import State
from ..train.checkpoint import Store
from ..train.divergence import Diverged
from ..train.loop import train
from ..train.optimisers import make_optimiser
from ..train.plan import Objective, Plan, Stream
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
        scores: (step, validation score), as often as asked.
        tests: (step, test score), wherever the validation was the best so far.
        seconds: of processor time, validation included.
        steps: done.
        diverged: whether a loss or gradient was not finite, which ended the run.
        solved_at: the step at which `solved(score)` was first true, which ended the
            run; None if never.
        largest_norm: of the gradient before clipping, over all steps.
    """

    curve: list[tuple[int, float]] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    tests: list[tuple[int, float]] = field(default_factory=list)
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

    @property
    def test(self) -> float | None:
        """The test score at the best validation."""
        return self.tests[-1][1] if self.tests else None

    def until(self, step: int) -> Fit:
        """What had been recorded when `step` steps were done."""

        def first(entries: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
            return [(at, value) for at, value in entries if at <= step]

        lists = {n: first(getattr(self, n)) for n in ("curve", "scores", "tests")}
        return replace(self, steps=step, **lists)


@dataclass(frozen=True)
class Training:
    """How a net is trained.

    Attributes:
        steps: optimiser steps at most.
        lr, optimiser, schedule, clip_norm: as for `cellwright.train`.
        seed: of the batches.
        every: steps between two entries of the curve, and between two scores.
        weight_decay, momentum: as for `make_optimiser`.
        patience: validations without gain after which to stop; None for never.
        checkpoint_every: steps between two checkpoints, where they are kept.
    """

    steps: int
    lr: float
    seed: int
    optimiser: str = "adam"
    schedule: Schedule = field(default_factory=Constant)
    clip_norm: float | None = 1.0
    every: int = 100
    weight_decay: float = 0.0
    momentum: float = 0.9
    patience: int | None = None
    checkpoint_every: int = 500


@dataclass(frozen=True)
class Judge:
    """What is measured while a net trains, in eval mode and without gradients.

    Attributes:
        validation: a score of the model; lower is better. None for none.
        test: another, measured wherever the validation is the best so far.
        solved: ends the run as soon as it is true of a validation's score.
        report: called after every validation with what there is so far.
    """

    validation: Callable[[nn.Module], float] | None = None
    test: Callable[[nn.Module], float] | None = None
    solved: Callable[[float], bool] = lambda score: False
    report: Callable[[Fit], None] = lambda fit: None


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

    stream = Drawn(draw, training.seed)
    return fit_stream(model, stream, objective, training, Judge(evaluate, None, solved))


def fit_stream(
    model: nn.Module,
    stream: Stream,
    objective: Objective,
    training: Training,
    judge: Judge,
    directory: Path | None = None,
) -> Fit:
    """Train a model in place on a stream.

    Args:
        model: called by `objective` and by what judges it.
        stream, objective: as for `cellwright.train.loop.train`.
        training: how.
        judge: what is measured meanwhile.
        directory: where checkpoints go. A run that was stopped there goes on, and ends
            as if it had not been stopped, to the bit.
    """
    recorder = _Recorder(training, judge, directory)
    store = None if directory is None else _RecordedStore(directory, recorder)
    plan = Plan(
        steps=training.steps,
        clip_norm=training.clip_norm,
        log_every=1,
        validate_every=training.every if judge.validation else None,
        patience=training.patience,
        checkpoint_every=training.checkpoint_every,
    )
    optimiser = make_optimiser(
        training.optimiser,
        model,
        training.lr,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
    )
    try:
        train(
            model,
            stream,
            objective,
            optimiser,
            training.schedule,
            plan,
            store=store,
            resume=True,
            validate=recorder.validate if judge.validation else None,
            reporter=recorder,
        )
    except _Solved:
        pass
    except Diverged:
        recorder.fit.diverged = True
    return recorder.done()


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


class Shuffled:
    """An endless stream of fixed batches: each once, then again in another order.

    Args:
        batches: at least one.
        seed: of the orders.
    """

    size = 1

    def __init__(self, batches: Sequence[Any], seed: int):
        self._batches = batches
        self._generator = torch.Generator().manual_seed(seed)
        self._begin()

    def _begin(self) -> None:
        """Draw the order of an epoch."""
        self._at_begin, self._position = self._generator.get_state(), 0
        count = len(self._batches)
        self._order = torch.randperm(count, generator=self._generator).tolist()

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._batches)

    def next(self) -> Any:
        if self._position == len(self):
            self._begin()
        self._position += 1
        return self._batches[self._order[self._position - 1]]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._at_begin, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
        self._begin()
        self._position = state["position"]


class _Solved(Exception):
    """Ends the loop from within a validation."""


class _Recorder(Reporter):
    """Writes losses and scores into a `Fit`; ends the run once it is solved."""

    def __init__(self, training: Training, judge: Judge, directory: Path | None):
        self.fit = Fit()
        self._every, self._judge = training.every, judge
        self._path = directory and directory / "fit.json"
        self._began, self._before = time.process_time(), 0.0

    def start(self, step: int, steps: int) -> None:
        if self._path is not None and step:
            recorded = json.loads(self._path.read_text(encoding="utf-8"))
            self.fit = Fit(**recorded).until(step)
            self._before = self.fit.seconds

    def log(self, row: dict[str, Any]) -> None:
        if "loss" not in row:
            return
        fit = self.fit
        fit.steps = row["step"]
        fit.largest_norm = max(fit.largest_norm, row["gradient_norm"])
        if row["step"] % self._every == 0:
            fit.curve.append((row["step"], row["loss"]))

    def validate(self, model: nn.Module) -> float:
        judge, fit = self._judge, self.fit
        assert judge.validation is not None
        score = judge.validation(model)
        best = min((v for _, v in fit.scores if not math.isnan(v)), default=math.inf)
        fit.scores.append((fit.steps, score))
        if judge.test is not None and score < best:
            fit.tests.append((fit.steps, judge.test(model)))
        judge.report(self.done())
        if judge.solved(score):
            fit.solved_at = fit.steps
            raise _Solved
        return score

    def done(self) -> Fit:
        """What there is so far."""
        self.fit.seconds = self._before + time.process_time() - self._began
        return self.fit

    def write(self) -> None:
        """Keep what there is: a run that goes on takes of it what it had then."""
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(asdict(self.done())).encode())


class _RecordedStore(Store):
    """Checkpoints, before each of which the record so far is written."""

    def __init__(self, directory: Path, recorder: _Recorder):
        super().__init__(directory)
        self._recorder = recorder

    def save(self, *arguments: Any, **named: Any) -> Path:
        self._recorder.write()
        return super().save(*arguments, **named)


def finite(value: float | None) -> float | None:
    """The number, or None where it is none that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None
