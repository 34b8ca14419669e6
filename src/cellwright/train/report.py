"""What a run reports: a progress bar, `metrics.jsonl`, and accelerate's trackers."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from ..files import read_file, write_atomically


class Reporter:
    """Reports nothing: the base class, and what all but the main process have."""

    def start(self, step: int, steps: int) -> None:
        """The run begins or resumes at `step` of `steps`, by time of about as many."""

    def log(self, row: dict[str, Any]) -> None:
        """Numbers of one step, or of one validation."""

    def finish(self) -> None:
        """No more numbers will come, for whatever reason."""


class MetricsFile(Reporter):
    """Appends every row to a file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path
        self._file = None

    def start(self, step: int, steps: int) -> None:
        # Rows after the checkpoint will be written once more: drop the first writing.
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.path, lines.encode())
        self._file = open(self.path, "a", buffering=1)  # noqa: SIM115

    def log(self, row: dict[str, Any]) -> None:
        if self._file is not None:  # JSON has no NaN: a loss that overflowed is null
            finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
            self._file.write(json.dumps(finite) + "\n")

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a metrics file; a line that a kill cut short is left out.

    Raises:
        OSError: it cannot be read, or is no file of this folder.
    """
    from pydantic_core import from_json

    if not os.path.lexists(path):
        return []
    rows = []
    for line in read_file(path, path.parent, most=math.inf).splitlines():
        try:
            row = from_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
    return rows


class ProgressBar(Reporter):
    """Loss, tokens per second and time left, on standard error.

    A terminal gets a moving bar; a file or a pipe gets a line every ten seconds.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._last_line = time.monotonic()

    def start(self, step: int, steps: int) -> None:
        self._task = self._bar.add_task(
            "train", total=1.0, step=step, loss="–", speed="–"
        )
        self._bar.update(self._task, completed=min(1.0, step / steps))
        self._bar.start()

    def log(self, row: dict[str, Any]) -> None:
        if "loss" not in row:
            return
        speed = f"{row['tokens_per_second']:,.0f}"
        loss = f"{row['loss']:.3f}"
        step, done = row["step"], row["progress"]
        self._bar.update(self._task, completed=done, step=step, loss=loss, speed=speed)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line > 10:
            self._last_line = now
            # Over the whole run: one slow interval says little of what is to come.
            left = row["seconds"] * (1 / done - 1)
            self._console.print(
                f"step {step}, {done:.0%}  loss {loss}  {speed} tokens/s  "
                f"{left:.0f} s left",
                highlight=False,
            )

    def finish(self) -> None:
        self._bar.stop()


class Trackers(Reporter):
    """Hands the numbers to accelerate's trackers (TensorBoard)."""

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator

    def log(self, row: dict[str, Any]) -> None:
        values = {key: value for key, value in row.items() if key != "step"}
        self._accelerator.log(values, step=row["step"])

    def finish(self) -> None:
        self._accelerator.end_training()


class Together(Reporter):
    """Several reporters as one."""

    def __init__(self, *reporters: Reporter):
        self._reporters = reporters

    def start(self, step: int, steps: int) -> None:
        for reporter in self._reporters:
            reporter.start(step, steps)

    def log(self, row: dict[str, Any]) -> None:
        for reporter in self._reporters:
            reporter.log(row)

    def finish(self) -> None:
        for reporter in self._reporters:
            reporter.finish()
