"""How many steps fit into a given time, on this machine, for this model."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .loop import train
from .plan import Objective, Plan, Stream
from .schedules import Constant

if TYPE_CHECKING:
    from accelerate import Accelerator

#: The part of the time that is planned for. The rest is for checkpoints and noise.
USED = 0.98


def steps_for(
    seconds: float,
    model: nn.Module,
    stream: Stream,
    objective: Objective,
    make_optimiser: Callable[[nn.Module], torch.optim.Optimizer],
    plan: Plan,
    accelerator: Accelerator,
    validate: Callable[[nn.Module], float] | None = None,
) -> int:
    """Measure the loop itself on a copy of the model, and divide.

    Nothing of the run changes: model, data position and random numbers are as before.
    The measurement takes about a fiftieth of the time, and counts as part of it.

    Args:
        seconds: wall clock that the run may take, this measurement included.
        model, stream, objective, plan, accelerator, validate: as for `train`.
        make_optimiser: builds the run's optimiser, over the copy's parameters.

    Returns:
        The number of optimiser steps, the same on every process; at least 1.
    """
    began = time.perf_counter()
    trial, position = copy.deepcopy(model), stream.state_dict()
    optimiser = make_optimiser(trial)

    def run(steps: int) -> float:
        short = replace(plan, steps=steps, log_every=steps, validate_every=None)
        parts = trial, stream, objective, optimiser, _AtRest(), short
        return _seconds(lambda: train(*parts, accelerator=accelerator))

    with torch.random.fork_rng():
        run(2)  # the first steps make plans and warm caches: not counted
        guess = run(2) / 2
        count = max(3, math.ceil(min(10.0, seconds / 50) / guess))
        per_step = run(count) / count
        if validate is not None and plan.validate_every:
            per_step += _seconds(lambda: validate(trial)) / plan.validate_every
    stream.load_state_dict(position)
    accelerator.free_memory()
    left = seconds * USED - (time.perf_counter() - began)
    return max(1, int(_agreed(left / per_step)))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return _agreed(time.perf_counter() - start)


def _agreed(value: float) -> float:
    """The first process's value: all of them must go on with the same."""
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]


class _AtRest(Constant):
    """A rate of zero: a trial cannot diverge, and a step costs what it always costs."""

    def factor(self, step: int) -> float:
        return 0.0
