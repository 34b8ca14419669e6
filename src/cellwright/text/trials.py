"""Trials: runs of several cells, each with several seeds, on one text.

    OUT/lstm-0  OUT/lstm-1  OUT/gru-0  OUT/gru-1    cell and seed

Each is a run like any other. The folder comes into being whole, before the first of
them is trained: what cannot be trained is refused then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..language import Cell, CellwrightError
from ..language.errors import ArgumentError
from ..train.settings import Settings
from .directory import check_free, create_directory, format_of
from .model import count_parameters
from .run import Run, copy_run, create_run, model_sizes

MOST_UNITS = 1 << 16
_HEADS = 64  # the size of a state is a multiple of at most so many units


@dataclass(frozen=True)
class Trials:
    """What is compared.

    Attributes:
        cells: by what `Settings.cell` calls each.
        settings: of every run; its seed is the first seed.
        seeds: so many runs of each cell, with seeds that follow each other.
        same_parameters: choose the units of every cell but the first such that its
            model has about as many parameters as the first one's.
    """

    cells: Mapping[str, Cell]
    settings: Settings
    seeds: int = 1
    same_parameters: bool = False


def create_trials(
    directory: Path,
    sources: list[str],
    trials: Trials,
    say: Callable[[str], Any] = print,
) -> list[Run]:
    """Read the text once, and make the directory of every run.

    Args:
        directory: must not exist, or be empty.
        sources: as `open_text` takes them.
        say: receives a line of news now and then.

    Raises:
        RunError, CorpusError, ArgumentError, CellError: nothing is made then.
    """
    check_free(directory)
    _check_names(trials.cells)
    if trials.settings.valid is None and not trials.settings.val_fraction:
        raise ArgumentError(
            "[val_fraction] cells are compared on text that was held out; received 0, "
            "expected more"
        )
    create_directory(directory, lambda aside: _prepare(aside, sources, trials, say))
    return [Run(path) for path in runs_in(directory)]


def runs_in(directory: Path) -> list[Path]:
    """The runs of language models that lie in a folder, by their names."""
    if not directory.is_dir():
        return []
    found = sorted(path for path in directory.iterdir() if path.is_dir())
    return [path for path in found if format_of(path) == Run.format]


def _check_names(cells: Mapping[str, Cell]) -> None:
    names: dict[str, str] = {}
    for reference, cell in cells.items():
        if cell.name in names:
            raise ArgumentError(
                f"[cells] two cells have one name; received {names[cell.name]!r} and "
                f"{reference!r}, which are both called {cell.name!r}. Rename one"
            )
        names[cell.name] = reference


def _prepare(
    folder: Path, sources: list[str], trials: Trials, say: Callable[[str], Any]
) -> None:
    settings, first = trials.settings, None
    for (reference, cell), number in product(trials.cells.items(), range(trials.seeds)):
        seed = settings.seed + number
        place = folder / f"{cell.name}-{seed}"
        if first is None:
            own = replace(settings, cell=reference)
            first = create_run(place, sources, cell, own, say)
            continue
        own = replace(first.settings, cell=reference, seed=seed)
        if trials.same_parameters and cell != first.cell:
            own = replace(own, hidden=matching_units(first, cell))
        copy_run(first, place, cell, own)


def matching_units(run: Run, cell: Cell) -> int:
    """The units with which a cell's model is most nearly as large as a run's.

    Raises:
        ArgumentError: the cell has no model of any size with the run's settings.
    """

    def size(units: int) -> int:
        settings = replace(run.settings, hidden=units)
        return count_parameters(cell, model_sizes(settings, run.sizes.vocabulary))

    wanted = count_parameters(run.cell, run.sizes)
    every = _multiple(cell, size)
    low, high = 1, 2  # in multiples: size(low) ≤ wanted < size(high)
    while high * every < MOST_UNITS and size(high * every) <= wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle * every) <= wanted else (low, middle)
    return min(low, high, key=lambda n: abs(size(n * every) - wanted)) * every


def _multiple(cell: Cell, size: Callable[[int], int]) -> int:
    """The fewest units that a cell can have: with n heads, n, and then multiples."""
    failure = ""
    for units in range(1, _HEADS + 1):
        try:
            size(units)
            return units
        except CellwrightError as error:
            failure = f"{error}"
    raise ArgumentError(
        f"[same-parameters] {cell.name} has no size that fits: {failure}"
    )
