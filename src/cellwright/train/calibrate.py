"""About how many steps fit into a given time, on this machine, for this model."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .devices import from_main
from .plan import Plan, Stream


def steps_for(
    seconds: float,
    model: nn.Module,
    stream: Stream,
    plan: Plan,
    trial: Callable[[nn.Module, Plan], Any],
    validate: Callable[[nn.Module], float] | None = None,
) -> int:
    """Measure the loop itself on a copy of the model, and divide.

    A plan by time counts its schedule in these steps; when it ends, the clock says.
    Nothing of the run changes: model, data position and random numbers are as before.
    The measurement takes about a two-hundredth of the time.

    Args:
        seconds: wall clock that the run may take.
        model, stream, plan, validate: as for `train`.
        trial: `trial(copy, plan)` trains the copy on the stream for a few steps; at a
            rate of 0 it cannot diverge, and costs what it always costs.

    Returns:
        The optimiser steps, the same on every process; at least 1.
    """
    copied, position = copy.deepcopy(model), stream.state_dict()

    def run(steps: int) -> float:
        short = replace(plan, steps=steps, log_every=steps, validate_every=None)
        return _seconds(lambda: trial(copied, short))

    with torch.random.fork_rng():
        run(2)  # the first steps make plans and warm caches: not counted
        guess = run(2) / 2
        count = max(3, math.ceil(min(10.0, seconds / 200) / guess))
        per_step = run(count) / count
        if validate is not None and plan.validate_every:
            per_step += _seconds(lambda: validate(copied)) / plan.validate_every
    stream.load_state_dict(position)
    return max(1, int(from_main(seconds / per_step)))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return from_main(time.perf_counter() - start)
