"""Where the laboratory finds data that the project does not carry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...language import CellwrightError

VARIABLE = "CELLWRIGHT_DATA"


class DataMissing(CellwrightError):
    """A file that an experiment reads is not there."""


def find_data(name: str, source: str, directory: str | Path | None = None) -> Path:
    """The path of a data file.

    Args:
        name: the file, below the directory.
        source: where a user may get it, for the message.
        directory: where data lies; without it, what CELLWRIGHT_DATA says.

    Raises:
        DataMissing: there is no such file, or no directory is named.
    """
    where = directory or os.environ.get(VARIABLE)
    path = Path(where or "") / name
    if where and path.exists():
        return path
    raise DataMissing(
        f"[data] {name} is not here; looked in {where or 'no directory'}. "
        f"Get it from {source}, and set {VARIABLE} to its directory"
    )


def why_missing(load: Callable[..., object], *arguments: object) -> str | None:
    """Why `load(*arguments)` does not find its data; None if it does."""
    try:
        load(*arguments)
    except DataMissing as error:
        return str(error)
    return None
