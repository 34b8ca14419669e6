"""The main job beside plain PyTorch: one minute of training, the same held-out text.

    python benchmarks/charlm.py TEXT [--seconds 60] [--seeds 3] [--json FILE]

Every seed trains each column once, in turn, in a process of its own:

    plain               benchmarks/plain_pytorch_charlm.py, which is never changed
    plain, our settings the same script with the batch, window, widths and rates that
                        `cellwright train` has by default: what the recipe gives there
    cellwright, lstm    `cellwright train --cell lstm` with the units of the plain one:
                        beside the column before, what the engine and the loop give
    cellwright          `cellwright train --minutes`: what a user gets

All hold out the last tenth and read it whole, from a zero state. On a busy machine it
says little: the columns train for a time, not for a number of steps. The defaults were
searched on the last tenth of the *training* text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import facts

from cellwright.train.report import read_metrics
from cellwright.train.settings import Settings

PLAIN = Path(__file__).with_name("plain_pytorch_charlm.py")
PLAIN_UNITS = 256
SETTINGS = Settings()
OURS = {
    "--embedding": SETTINGS.DEFAULT_EMBEDDING,
    "--batch": SETTINGS.DEFAULT_BATCH,
    "--window": SETTINGS.DEFAULT_WINDOW,
    "--lr": SETTINGS.lr,
    "--beta2": SETTINGS.beta2,
    "--decay": SETTINGS.weight_decay,
    "--warmup": SETTINGS.warm_up,
}


def plain(text: Path, seconds: float, seed: int, *more: object) -> dict[str, Any]:
    """What the plain script reports."""
    options = ["--seconds", seconds, "--seed", seed, *more]
    out = _run(str(PLAIN), text, *options)
    return json.loads(out.splitlines()[-1])


def cellwright(text: Path, seconds: float, seed: int, *more: object) -> dict[str, Any]:
    """What a run of `cellwright train` leaves."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = ["--minutes", seconds / 60, "--seed", seed, "--out", run, *more]
        _run("-m", "cellwright", "train", text, *options)
        last = [row for row in read_metrics(run / "metrics.jsonl") if "loss" in row][-1]
        planning = json.loads((run / "plan.json").read_text())["planning_seconds"]
        result = json.loads((run / "result.json").read_text())
    return {
        "nats_per_char": round(result["nats_per_char"], 4),
        "steps": last["step"],
        "seconds": last["seconds"] + planning,
    }


COLUMNS: dict[str, tuple[Callable[..., dict[str, Any]], list[object]]] = {
    "plain": (plain, []),
    "plain, our settings": (plain, [part for both in OURS.items() for part in both]),
    "cellwright, lstm": (cellwright, ["--cell", "lstm", "--hidden", PLAIN_UNITS]),
    "cellwright": (cellwright, []),
}


def _run(*arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=COLUMNS, nargs="*", default=list(COLUMNS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name in options.only:
            run, more = COLUMNS[name]
            row = run(options.text, options.seconds, seed, *more)
            found[name].append(row)
            print(f"seed {seed}  {name:20} {row}", flush=True)
    for name, rows in found.items():
        nats = [row["nats_per_char"] for row in rows]
        steps = statistics.median(row["steps"] for row in rows)
        spread = f"{min(nats):.4f} … {max(nats):.4f}"
        print(f"{name:20} {statistics.mean(nats):.4f} nats ({spread}), {steps} steps")
    if options.json:
        content = {"machine": facts(), "seconds": options.seconds, "columns": found}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
