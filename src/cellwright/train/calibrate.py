"""About how many steps fit into a given time, on this machine, for this model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .devices import from_main
from .plan import Plan, Stream

MOST = 50  # steps of a measurement


def steps_for(
    seconds: float,
    model: nn.Module,
    stream: Stream,
    plan: Plan,
    trial: Callable[[nn.Module, Plan], Any],
) -> int:
    """Measure the loop itself on a copy of the model, and divide.

    A plan by time counts its schedule in these steps; when it ends, the clock says.
    Nothing of the run changes: model, data position and random numbers are as before.
    The measurement takes about a hundredth of the time, or one step where that is
    longer. Validations are not measured: a run that validates does fewer steps.

    Args:
        seconds: wall clock that the run may take.
        model, stream, plan: as for `train`.
        trial: `trial(copy, plan)` trains the copy on the stream for a few steps; at a
            rate of 0 it cannot diverge, and costs what it always costs.

    Returns:
        The optimiser steps, the same on every process; at least 1.
    """
    copied, position = copy.deepcopy(model), stream.state_dict()

    def run(steps: int) -> float:
        short = replace(plan, steps=steps, log_every=steps, validate_every=None)
        return _seconds(lambda: trial(copied, short)) / steps

    with torch.random.fork_rng():
        per_step = run(1)  # which makes plans and warms caches, too
        for _ in range(2):
            count = int(seconds / 200 / per_step)
            if count >= 2:
                per_step = run(min(count, MOST))
    stream.load_state_dict(position)
    return max(1, int(seconds / per_step))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return from_main(time.perf_counter() - start)
