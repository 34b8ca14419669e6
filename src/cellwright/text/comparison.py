"""Runs beside each other: what their cells reach on the same held-out text."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from ..language.errors import ArgumentError
from ..train.report import read_metrics
from ..train.settings import Settings
from .directory import RunError
from .model import count_parameters
from .run import Run
from .trials import runs_in

POINTS = 100  # of a curve of the training loss, which is averaged in between
#: Settings that do not tell two rows apart: they have columns, or change no result.
_NOT_SHOWN = {
    *("cell", "seed", "hidden", "layers", "steps", "minutes", "epochs"),
    *("log_every", "checkpoint_every", "sources", "valid", "test"),
}


@dataclass(frozen=True)
class Figure:
    """A mean over runs, and their standard deviation; None for one run."""

    mean: float
    sd: float | None
    values: list[float]

    @staticmethod
    def of(values: Iterable[float | None]) -> Figure | None:
        """Of the runs that have the figure; None where none has."""
        known = [v for v in values if v is not None]
        if not known:
            return None
        return Figure(fmean(known), stdev(known) if len(known) > 1 else None, known)


@dataclass(frozen=True)
class Curve:
    """A loss in nats a token by the step: the mean over runs, and their deviation."""

    steps: list[float]
    mean: list[float]
    sd: list[float]


@dataclass(frozen=True)
class Row:
    """The runs of one cell with the same settings, but for their seeds.

    Attributes:
        cell: its name.
        settings: the settings by which the rows of the comparison differ.
        steps: optimiser steps done, by run; planned: how many there will be.
        tokens_per_second: the median while training, by run.
        nats_per_char, nats_per_token: of the whole held-out text.
        curve: of `Comparison.curves_of`; None where no run has two points.
    """

    cell: str
    units: int
    layers: int
    parameters: int
    settings: dict[str, Any]
    runs: list[str]
    seeds: list[int]
    steps: list[int]
    planned: list[int | None]
    tokens_per_second: Figure | None
    nats_per_char: Figure | None
    nats_per_token: Figure | None
    curve: Curve | None

    @property
    def label(self) -> str:
        """The cell, and the settings that only this row has."""
        return " ".join([self.cell, *(f"{k}={v}" for k, v in self.settings.items())])


@dataclass(frozen=True)
class Comparison:
    """Runs that can be compared: of one held-out text, in the same tokens.

    Attributes:
        text: what the text is, and where it is from.
        rows: the best mean first.
        curves_of: "validation loss", or "training loss" where not all runs validated.
        notes: what keeps the comparison from being fair, or whole.
    """

    text: str
    tokenizer: str
    rows: list[Row]
    curves_of: str
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain data for JSON."""
        return asdict(self)


def compare(directories: Sequence[Path | str]) -> list[Comparison]:
    """Compare runs of language models by the figures that they keep.

    Args:
        directories: runs, and folders of runs as `cellwright train --cells` makes.

    Returns:
        One comparison for each held-out text and tokenizer: losses on different ones
        are no comparison.

    Raises:
        RunError: a directory is no run of a language model, or holds no text out.
        ArgumentError: no run at all.
    """
    runs = [Run(path) for path in _all_runs(map(Path, directories))]
    if not runs:
        raise ArgumentError("[compare] received no run, expected at least one")
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[_held_out(run)].append(run)
    return [_comparison(group) for group in groups.values()]


def _all_runs(directories: Iterable[Path]) -> list[Path]:
    """Every run once, of folders those in them; what is no run is refused later."""
    found: dict[Path, Path] = {}
    for path in directories:
        inside = [] if (path / "config.json").exists() else runs_in(path)
        for run in inside or [path]:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _held_out(run: Run) -> tuple[str, ...]:
    """What two runs have in common whose losses can be compared."""
    if run.held_out.count < 2:
        raise RunError(
            f"[{run.directory}] this run holds no text out to be compared on; received "
            f"{run.held_out.count} tokens, expected at least 2. Train it with a "
            "--val-fraction"
        )
    tokens = run.held_out.open(run.sizes.vocabulary).data
    vocabulary = run.read_bytes(run.directory / "tokenizer.json")
    hashes = (hashlib.sha256(data).hexdigest() for data in (vocabulary, tokens))
    return run.settings.tokenizer, *hashes


def _comparison(runs: list[Run]) -> Comparison:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[_row_key(run)].append(run)
    differing = _differing([group[0].settings for group in groups.values()])
    metrics = {r.directory: read_metrics(r.directory / "metrics.jsonl") for r in runs}
    validated = all(len(_points(m, "validation_loss")) > 1 for m in metrics.values())
    kind = "validation" if validated else "training"
    rows = []
    for group in groups.values():
        own = [metrics[run.directory] for run in group]
        curve = _curve(own, "validation_loss" if validated else "loss")
        rows.append(_row(group, own, differing, curve))
    rows.sort(key=lambda row: row.nats_per_char.mean if row.nats_per_char else math.inf)
    first = runs[0]
    text = (
        f"{' '.join(Path(source).name for source in first.sources)}: "
        f"{first.held_out.characters:,} characters held out"
    )
    kind_of_token = f"{first.settings.tokenizer}, {first.sizes.vocabulary:,} tokens"
    notes = [*_notes(rows, runs)]
    return Comparison(text, kind_of_token, rows, f"{kind} loss", notes)


def _row_key(run: Run) -> str:
    """The same for runs that differ in their seeds alone."""
    own = vars(run.settings)
    settings = {k: v for k, v in own.items() if k == "hidden" or k not in _NOT_SHOWN}
    plan = [own[name] for name in ("steps", "minutes", "epochs", "layers")]
    return repr((run.cell.to_text(), sorted(settings.items(), key=str), plan))


def _differing(settings: list[Settings]) -> list[str]:
    """The settings by which rows differ, of those that no column shows."""
    names = [f.name for f in fields(Settings) if f.name not in _NOT_SHOWN]
    return [n for n in names if len({getattr(s, n) for s in settings}) > 1]


def _row(
    runs: list[Run],
    metrics: list[list[dict[str, Any]]],
    differing: list[str],
    curve: Curve | None,
) -> Row:
    first, results = runs[0], [run.result() for run in runs]
    plans = [run.plan() for run in runs]
    speeds = [[y for _, y in _points(m, "tokens_per_second")] for m in metrics]
    return Row(
        cell=first.cell.name,
        units=first.sizes.hidden,
        layers=first.sizes.layers,
        parameters=count_parameters(first.cell, first.sizes),
        settings={name: getattr(first.settings, name) for name in differing},
        runs=[str(run.directory) for run in runs],
        seeds=[run.settings.seed for run in runs],
        steps=[max((row["step"] for row in m), default=0) for m in metrics],
        planned=[None if p is None or p.seconds else p.steps for p in plans],
        tokens_per_second=Figure.of(median(s) if s else None for s in speeds),
        nats_per_char=Figure.of(r and r.nats_per_char for r in results),
        nats_per_token=Figure.of(r and r.nats_per_token for r in results),
        curve=curve,
    )


# -- learning curves


def _points(metrics: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """The rows that have a figure: (step, figure)."""
    found = ((row["step"], row.get(name)) for row in metrics)
    return [(step, y) for step, y in found if isinstance(y, int | float)]


def _curve(runs: list[list[dict[str, Any]]], name: str) -> Curve | None:
    """The mean of several runs' curves, over the steps that all of them did."""
    curves = [c for c in (_points(metrics, name) for metrics in runs) if len(c) > 1]
    if not curves:
        return None
    arrays = [np.array(curve, dtype=float).T for curve in curves]  # (2, points)
    last = min(steps[-1] for steps, _ in arrays)
    arrays = [_averaged(a[:, a[0] <= last], last) for a in arrays]
    steps = arrays[0][0]
    values = np.stack([np.interp(steps, *array) for array in arrays])
    sd = values.std(0, ddof=1) if len(values) > 1 else np.zeros(len(steps))
    return Curve(*(part.round(6).tolist() for part in (steps, values.mean(0), sd)))


def _averaged(curve: np.ndarray, last: float) -> np.ndarray:
    """(2, points): the means of a curve over equal parts of its steps."""
    if curve.shape[1] <= POINTS:
        return curve
    part = np.minimum((curve[0] * POINTS / last).astype(int), POINTS - 1)
    counts = np.bincount(part)
    sums = np.stack([np.bincount(part, weights=row) for row in curve])
    return sums[:, counts > 0] / counts[counts > 0]


# -- what to be careful about


def _notes(rows: list[Row], runs: list[Run]) -> Iterable[str]:
    """What keeps a comparison from being fair, or whole."""
    for run in runs:
        if run.result() is None:
            yield (
                f"{run.directory} has no figures of its held-out text yet: cellwright "
                f"train --resume --out {run.directory}"
            )
    if any(run.settings.minutes for run in runs):
        yield MINUTES
    elif len({steps for row in rows for steps in row.steps}) > 1:
        yield "the runs did not do the same number of steps: compare equal --steps"
    sizes = [row.parameters for row in rows]
    if max(sizes) > 1.05 * min(sizes):
        yield (
            f"the largest model has {max(sizes) / min(sizes):.2f} times the parameters "
            "of the smallest: cellwright train --cells … --same-parameters"
        )
    if min(len(row.seeds) for row in rows) == 1:
        yield (
            "a row of one seed does not tell how far chance goes: cellwright train "
            "--cells … --seeds 3"
        )


#: What is said of runs whose clock ended them.
MINUTES = (
    "equal minutes are not equal training: how many steps a cell gets depends on what "
    "else the machine does meanwhile. Equal --steps compare the cells, and tokens/s "
    "their speed"
)
