"""The units of a span and its further places, against the definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from .test_browser_engine import in_node

pytestmark = pytest.mark.browser


def on_of(levels: np.ndarray, share: float) -> np.ndarray:
    """(2, units, T): on at the upper end, and at the lower.

    The largest values of a unit, as many as `share` of the steps at most; equal ones
    are on together.
    """
    most = share * levels.shape[1]
    above = (levels[:, None, :] >= levels[:, :, None]).sum(2)  # as large, or larger
    below = (levels[:, None, :] <= levels[:, :, None]).sum(2)
    return np.stack([above <= most, below <= most])


def units_of(levels: np.ndarray, first: int, last: int, share: float) -> set:
    beside = [t for t in (first - 1, last + 1) if 0 <= t < levels.shape[1]]
    on = on_of(levels, share)
    chosen = on[..., first : last + 1].all(-1) & ~on[..., beside].any(-1)
    return {(int(u), end == 0) for end, u in np.argwhere(chosen)}


def places_of(levels: np.ndarray, units: list, first: int, last: int, share: float):
    """Runs of steps where two thirds of the units are on, without the span itself."""
    on = on_of(levels, share)
    together = np.mean([on[0 if high else 1, unit] for unit, high in units], 0)
    alike = np.flatnonzero(together >= 2 / 3)
    runs = np.split(alike, np.flatnonzero(np.diff(alike) > 1) + 1)
    found = []
    for run in runs:
        if len(run) and (run[0] > last or run[-1] < first):
            padded = np.pad(together, 1)
            beside = (padded[run[0]] + padded[run[-1] + 2]) / 2
            ratio = len(run) / (last - first + 1)
            score = (together[run].mean() - beside) * min(ratio, 1 / ratio)
            found.append((-score, run[0], run[-1]))
    return [(a, b) for _, a, b in sorted(found)][:12]


def smooth_levels(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    walk = rng.normal(size=(rows, columns)).cumsum(1)
    walk[0] = rng.random(columns) < 0.5  # saturated: too many have its largest level
    walk -= walk.min(1, keepdims=True)
    return np.rint(255 * walk / walk.max(1, keepdims=True)).astype(int)


def test_units_and_places_are_those_of_the_definition():
    rng = np.random.default_rng(5)
    spans = [(0, 3), (20, 20), (57, 61), (96, 99), (40, 47)]
    matrices = [smooth_levels(rng, 60, 100) for _ in spans]
    cases = [
        {
            "rows": 60,
            "columns": 100,
            "data": levels.flatten().tolist(),
            "from": first,
            "to": last,
            "share": 0.3,
        }
        for levels, (first, last) in zip(matrices, spans, strict=True)
    ]
    some = 0
    for levels, (first, last), found in zip(
        matrices, spans, in_node(cases, "pattern.mjs"), strict=True
    ):
        units = [(u["unit"], u["high"]) for u in found["units"]]
        expected = units_of(levels, first, last, 0.3)
        assert len(units) == min(len(expected), 12)
        assert set(units) <= expected
        if not units:
            assert not found["places"]
            continue
        places = [(p["from"], p["to"]) for p in found["places"]]
        assert places == places_of(levels, units, first, last, 0.3)
        some += len(places)
    assert some > 5
