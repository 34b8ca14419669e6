"""A chaotic series: the system of Lorenz, "Deterministic nonperiodic flow" (Journal of
the Atmospheric Sciences 20, 1963), eq. 25–27."""

from __future__ import annotations

import torch
from torch import Tensor

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0

#: Time in which a small error grows e-fold: 1 / 0.906, the largest Lyapunov exponent
#: (Sprott, "Chaos and Time-Series Analysis", 2003).
LYAPUNOV_TIME = 1 / 0.906

#: Mean and standard deviation of x, y, z on the attractor, to two digits.
_CENTRE = torch.tensor((0.0, 0.0, 23.5), dtype=torch.float64)
_SPREAD = torch.tensor((7.9, 9.0, 8.6), dtype=torch.float64)


def lorenz(
    count: int, steps: int, generator: torch.Generator, *, interval: float = 0.05
) -> Tensor:
    """Stretches of the Lorenz attractor, each coordinate of about unit variance.

    The equations are integrated by the classical Runge–Kutta method in steps of 0.01
    or less, in double precision, and sampled every `interval`; a stretch begins 10
    time units after a random point, on the attractor for all purposes.

    Args:
        count: B, the stretches.
        steps: T, the samples of each.
        generator: of the starting points.
        interval: time between two samples.

    Returns:
        (T, B, 3) of the default dtype.
    """
    start = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    state = _CENTRE + _SPREAD * start
    for _ in range(1000):
        state = runge_kutta(state, 0.01)
    inner = max(1, round(interval / 0.01))
    samples = []
    for _ in range(steps):
        samples.append((state - _CENTRE) / _SPREAD)
        for _ in range(inner):
            state = runge_kutta(state, interval / inner)
    return torch.stack(samples).to(torch.get_default_dtype())


def velocity(state: Tensor) -> Tensor:
    """d(x, y, z)/dt at (…, 3)."""
    x, y, z = state.unbind(-1)
    return torch.stack((SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z), -1)


def runge_kutta(state: Tensor, dt: float) -> Tensor:
    """The state after dt, by the classical method of fourth order."""
    k1 = velocity(state)
    k2 = velocity(state + dt / 2 * k1)
    k3 = velocity(state + dt / 2 * k2)
    k4 = velocity(state + dt * k3)
    return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
