"""Timing on a machine that is not ours alone: interleaved rounds, medians, spread."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Hashable

SAMPLE = 0.02  # seconds; quicker calls are repeated within a sample
PAUSE = 0.005  # between samples: idle thread pools of other peers stop spinning


def interleaved(
    calls: dict[Hashable, Callable[[], object]],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Hashable, dict[str, float]]:
    """Time every call once a round, so that drift meets all of them alike.

    Args:
        clock: `time.process_time` counts this process's own time, on all threads: what
            a busy machine changes least.

    Returns:
        For every call, in milliseconds: the median of its samples, their first and
        last quartile, and the smallest.
    """
    repeats = {key: _repeats(call, clock) for key, call in calls.items()}
    samples: dict[Hashable, list[float]] = {key: [] for key in calls}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(runs):
            for key, call in calls.items():
                time.sleep(PAUSE)
                samples[key].append(_seconds(call, repeats[key], clock))
    finally:
        if collecting:
            gc.enable()
    return {key: _summary(values) for key, values in samples.items()}


def _repeats(call: Callable[[], object], clock: Callable[[], float]) -> int:
    """Calls a sample; the first call warms up, and may compile."""
    seconds = _seconds(call, 1, clock)
    if seconds < 50 * SAMPLE:
        seconds = _seconds(call, 1, clock)
    return max(1, min(10_000, int(SAMPLE / seconds)))


def _seconds(
    call: Callable[[], object], repeats: int, clock: Callable[[], float]
) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def _summary(seconds: list[float]) -> dict[str, float]:
    ms = [1000 * s for s in seconds]
    low, middle, high = statistics.quantiles(ms, n=4) if len(ms) > 1 else ms * 3
    return {
        "median_ms": round(middle, 5),
        "q1_ms": round(low, 5),
        "q3_ms": round(high, 5),
        "min_ms": round(min(ms), 5),
        "runs": len(ms),
    }
