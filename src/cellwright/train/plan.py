"""What a training run is made of: its data, its objective, its plan, its progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from torch import Tensor, nn

from ..schema import Checked, Limits
from .bptt import State

Count = Annotated[int, Limits(ge=0)]


class Stream(Protocol):
    """An endless source of batches that knows where it is."""

    #: Elements (tokens, frames) in one batch over all processes: for the speed only.
    size: int

    def next(self) -> Any:
        """The next batch of this process, on the CPU: nested tensors."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


#: One forward pass, `objective(model, batch, state, step)`: the mean loss of this
#: process's batch, and the new state. The step counts from 0; it is `Plan.position`.
Objective = Callable[[nn.Module, Any, State, float], tuple[Tensor, State]]


@dataclass(frozen=True)
class Plan:
    """What a run will do, fixed before its first step and kept by every resume.

    Attributes:
        steps: optimiser steps. Of a plan by time, how many are expected: the schedule
            counts in them, whatever the machine then does.
        accumulate: batches whose gradients are averaged for one step.
        clip_norm: limit of the gradient's total norm; None for no limit.
        clip_value: limit of every gradient element; None for no limit.
        log_every: steps between two rows of metrics.
        checkpoint_every: steps between two checkpoints; there is always one at the end.
        validate_every: steps between two validations; None for none.
        patience: validations without gain after which to stop early; None for never.
        seconds: wall clock in the loop, over all resumes, after which no step begins:
            a plan by time. None for a plan by steps.
    """

    steps: int
    accumulate: int = 1
    clip_norm: float | None = 1.0
    clip_value: float | None = None
    log_every: int = 10
    checkpoint_every: int = 500
    validate_every: int | None = None
    patience: int | None = None
    seconds: float | None = None

    def position(self, progress: Progress) -> float:
        """Where the run stands between 0 and `steps`: by its steps, or by its time."""
        if self.seconds is None:
            return progress.step
        return self.steps * progress.seconds / self.seconds

    def share(self, progress: Progress) -> float:
        """How much of the run is done, 0 to 1."""
        return min(1.0, self.position(progress) / self.steps)

    def over(self, progress: Progress) -> bool:
        """Whether no further step begins."""
        return progress.stopped or self.position(progress) >= self.steps


@dataclass
class Progress(Checked):
    """How far a run has come. `train` returns it; a checkpoint holds it.

    Attributes:
        step: optimiser steps done.
        loss: the last step's training loss.
        seconds: wall clock in the loop, over all resumes.
        validation: the last validation loss.
        best: the lowest validation loss.
        waited: validations since the best one.
        stopped: whether early stopping ended the run.
    """

    # A validation may overflow and training go on: its loss need not be finite.
    __pydantic_config__ = Checked.__pydantic_config__ | {"allow_inf_nan": True}

    step: Count = 0
    loss: float | None = None
    seconds: Annotated[float, Limits(ge=0, allow_inf_nan=False)] = 0.0
    validation: float | None = None
    best: float | None = None
    waited: Count = 0
    stopped: bool = False

    def observe(self, validation: float, patience: int | None) -> bool:
        """Note a validation loss; whether it is the best so far.

        After `patience` validations without a better one the run is stopped.
        """
        self.validation = validation
        if validation < (math.inf if self.best is None else self.best):
            self.best, self.waited = validation, 0
            return True
        self.waited += 1
        self.stopped = patience is not None and self.waited >= patience
        return False
