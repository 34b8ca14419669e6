"""The time that a run has used, over all resumes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..files import read_file
from .checkpoint import CheckpointError
from .devices import from_main

now = time.perf_counter


class Clock:
    """A stopwatch: seconds in the training loop.

    Args:
        seconds: what was used before.
    """

    def __init__(self, seconds: float):
        self._began = now() - seconds

    def read(self, step: int) -> float:
        """The seconds that are used when `step` steps are done."""
        return now() - self._began

    def close(self) -> None:
        """No more readings will be asked for."""


class RecordedClock(Clock):
    """What a plan by time goes by: a clock that shows the same times again.

    Every reading is recorded. Steps that a kill undid happen at the recorded times when
    they are done again, and so at the same learning rates; from the last of them on the
    clock runs. All processes read the main one's clock.

    Args:
        seconds: what was used before.
        path: of the record: the reading after step 1, 2, … as float64; None for none.
        repeat: whether what is recorded there holds; else the record begins anew.
        writes: whether this process writes the record.

    Raises:
        CheckpointError: the record cannot be read, or holds no rising times.
    """

    def __init__(
        self, seconds: float, path: Path | None, *, repeat: bool, writes: bool
    ):
        super().__init__(seconds)
        self._recorded, self._file = np.zeros(0), None
        if path is not None and repeat and os.path.lexists(path):
            self._recorded = _read_record(path)
        if path is not None and writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_record(path, 0 if repeat else os.O_TRUNC)

    def read(self, step: int) -> float:
        if step <= len(self._recorded):
            seconds = float(self._recorded[step - 1])
            self._began = now() - seconds
            return seconds
        seconds = from_main(super().read(step))
        if self._file is not None:
            self._file.seek(8 * (step - 1))
            self._file.write(np.array(seconds, "<f8").tobytes())
        return seconds

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _open_record(path: Path, flags: int) -> BinaryIO:
    """For writing at any place; nothing is buffered, so a kill loses no reading."""
    flags |= os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return open(os.open(path, flags), "r+b", buffering=0)


def _read_record(path: Path) -> np.ndarray:
    try:
        data = read_file(path, path.parent)
    except OSError as error:
        raise CheckpointError(f"[{path}] cannot be read: {error.strerror}") from error
    seconds = np.frombuffer(data[: len(data) // 8 * 8], "<f8")
    if not (np.isfinite(seconds).all() and (np.diff(seconds, prepend=0.0) >= 0).all()):
        raise CheckpointError(
            f"[{path}] was altered; expected times that rise from step to step. "
            "Without this file a resumed run goes by the time that is left"
        )
    return seconds
