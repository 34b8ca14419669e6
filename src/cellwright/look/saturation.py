"""How far gates are open: near 0, near 1; and how long a state remembers.

The thresholds and the picture are Karpathy, Johnson & Li's (2015, section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOW, HIGH = 0.1, 0.9


@dataclass(frozen=True)
class Saturation:
    """One entry a unit, (H,) each.

    Attributes:
        low: fraction of the steps with the gate below 0.1.
        high: fraction of the steps with it above 0.9.
        mean: of the gate.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]


def saturation(gate: NDArray[np.floating]) -> Saturation:
    """How saturated each unit of a gate is.

    Args:
        gate: (T, H), its values.
    """
    mean = gate.mean(0, dtype=np.float64)
    return Saturation((gate < LOW).mean(0), (gate > HIGH).mean(0), mean)


def implied_memory(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps, 1 / (1 − factor): the time constant of what is multiplied by it each step.

    Args:
        factor: (H,), the mean of what multiplies a state's old value; from 1 on the
            memory is infinite.
    """
    with np.errstate(divide="ignore"):
        return np.where(factor < 1, 1 / (1 - np.minimum(factor, 1)), np.inf)
