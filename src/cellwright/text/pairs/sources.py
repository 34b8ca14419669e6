"""Where pairs come from: a file, or a task by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from .dates import dates
from .files import PairError, Parts, check_longest, read_pairs, split
from .pronunciations import cmudict
from .settings import PairSettings


@dataclass(frozen=True)
class Task:
    """Pairs that need no file."""

    make: Callable[[], Parts]
    output_tokens: str = "char"


TASKS = {"dates": Task(dates), "cmudict": Task(cmudict, "space")}


def open_source(
    sources: list[str], settings: PairSettings
) -> tuple[PairSettings, Parts]:
    """The pairs of a task, or of a file.

    Args:
        sources: one of `TASKS`, or one file; a file of a task's name comes first.

    Returns:
        The settings, with the task's tokens where none were asked for; and the pairs.

    Raises:
        PairError: there is no such file, or it is none of pairs.
        MissingExtraError: a task needs a package that is not installed.
    """
    (source,) = sources
    path = Path(source)
    if source in TASKS and not path.exists():
        task = TASKS[source]
        tokens = settings.output_tokens or task.output_tokens
        parts = task.make()
        for text in chain(*parts.train, *parts.validation, *parts.held_out):
            check_longest(text, settings.longest, source)
        return replace(settings, output_tokens=tokens), parts
    if not path.is_file():
        raise PairError(
            f"[pairs] no such file; received {source!r}, expected a file of pairs or "
            f"{' or '.join(TASKS)}"
        )
    return settings, _of_file(path, settings)


def _of_file(path: Path, settings: PairSettings) -> Parts:
    pairs = read_pairs(path, settings.longest)
    inputs = len({pair.input for pair in pairs})
    held_out, train = split(pairs, int(inputs * settings.val_fraction))
    note = f"{path.name}: {len(pairs):,} pairs of {inputs:,} inputs"
    return Parts(train, [], held_out, note)
