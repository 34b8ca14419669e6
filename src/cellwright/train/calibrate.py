"""How many steps fit into a given time, on this machine, for this model."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

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
    from accelerate.utils import broadcast_object_list

    began = time.perf_counter()
    trial, position = copy.deepcopy(model), stream.state_dict()
    optimiser = make_optimiser(trial)

    def run(steps: int) -> float:
        short = replace(plan, steps=steps, log_every=steps, validate_every=None)
        start = time.perf_counter()
        train(
            trial,
            stream,
            objective,
            optimiser,
            _AtRest(),
            short,
            accelerator=accelerator,
        )
        # Every process must go on with the first one's clock.
        took = [time.perf_counter() - start]
        broadcast_object_list(took)
        return took[0]

    with torch.random.fork_rng():
        run(2)  # the first steps make plans and warm caches: not counted
        guess = run(2) / 2
        count = max(3, math.ceil(min(10.0, seconds / 50) / guess))
        per_step = run(count) / count
        if validate is not None and plan.validate_every:
            start = time.perf_counter()
            validate(trial)
            per_step += (time.perf_counter() - start) / plan.validate_every
    stream.load_state_dict(position)
    accelerator.free_memory()

    steps = [(seconds * USED - (time.perf_counter() - began)) / per_step]
    broadcast_object_list(steps)
    return max(1, int(steps[0]))


class _AtRest(Constant):
    """No learning: a trial cannot diverge, and costs what a step costs."""

    def factor(self, step: int) -> float:
        return 0.0
