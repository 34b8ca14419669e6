"""The main job beside plain PyTorch: one minute of training, the same held-out text.

    python benchmarks/charlm.py TEXT [--seconds 60] [--seeds 3] [--json FILE]

Every seed trains each column once, in turn, in a process of its own:

    plain               benchmarks/plain_pytorch_charlm.py, which is never changed
    plain, our settings the same script with the batch, window, widths and rates that
                        `cellwright train` has by default: what the recipe gives there
    cellwright, lstm    `cellwright train --cell lstm` with the units of the plain one:
                        beside the column before, what the engine and the loop give
    cellwright          `cellwright train`: what a user gets

All hold out the last tenth and read it whole, from a zero state. The defaults were
searched on the last tenth of the *training* text.

On a busy machine columns that train for a time say little. `--cpu` gives them equal
processor time instead: the columns' steps are timed first, in turn, on one thread, and
each trains for the number of steps that fits into `--seconds` of it. `--plain-steps N`
makes that time the one which N steps of the plain script take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import plain_pytorch_charlm as script
import torch
from machine import facts

from cellwright import cells
from cellwright.text.run import create_run
from cellwright.train.devices import make_accelerator
from cellwright.train.forcing import ConstantForcing
from cellwright.train.loop import train
from cellwright.train.optimisers import make_optimiser
from cellwright.train.plan import Plan
from cellwright.train.report import read_metrics
from cellwright.train.schedules import Constant
from cellwright.train.settings import Settings

PLAIN = Path(script.__file__)
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
PLAIN_OPTIONS = {  # the script's own defaults
    "--embedding": 64,
    "--batch": 32,
    "--window": 64,
    "--lr": 8e-3,
    "--beta2": 0.99,
    "--decay": 0.1,
    "--warmup": 50,
    "--clip": 1.0,
}
DEFAULT_CELL = "coupled"
TIMED_STEPS, ROUNDS = 15, 5


def plain(text: Path, length: dict[str, Any], seed: int, *more: object) -> dict:
    """What the plain script reports; the length is seconds or steps."""
    options = [f"--{k}={v}" for k, v in length.items()]
    out = _run(str(PLAIN), text, *options, "--seed", seed, *more)
    return json.loads(out.splitlines()[-1])


def cellwright(text: Path, length: dict[str, Any], seed: int, *more: object) -> dict:
    """What a run of `cellwright train` leaves."""
    if "seconds" in length:
        length = {"minutes": length["seconds"] / 60}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = [f"--{k}={v}" for k, v in length.items()]
        options += ["--seed", seed, "--out", run, *more]
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


# ── equal processor time ──────────────────────────────────────────────────────────────


def step_seconds(text: Path, names: list[str]) -> dict[str, float]:
    """Processor seconds of a training step of every column, on one thread.

    The median of rounds, in which the columns take turns.
    """
    torch.set_num_threads(1)
    timers = {plain: _time_plain, cellwright: _time_ours}
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.txt"
        part.write_text(text.read_text(encoding="utf-8")[:200_000], encoding="utf-8")
        for _ in range(ROUNDS):
            for name in names:
                column, more = COLUMNS[name]
                given = dict(zip(map(str, more[::2]), more[1::2], strict=True))
                times[name].append(timers[column](part, given))
    return {name: statistics.median(rounds) for name, rounds in times.items()}


def _time_plain(text: Path, given: dict[str, Any]) -> float:
    """Processor seconds of a step of the plain script's own loop."""
    options: dict[str, Any] = {**PLAIN_OPTIONS, **given}
    args = argparse.Namespace(
        **{name[2:]: v for name, v in options.items()}, steps=TIMED_STEPS
    )
    characters = text.read_text(encoding="utf-8")
    known = {c: i for i, c in enumerate(sorted(set(characters)))}
    ids = torch.tensor([known[c] for c in characters])
    model = script.CharLM(len(known), args.embedding, PLAIN_UNITS, 1)
    began = time.process_time()
    steps = script.train(model, ids, args)
    return (time.process_time() - began) / steps


def _time_ours(text: Path, given: dict[str, Any]) -> float:
    """Processor seconds of a step of `cellwright train`'s own loop."""
    cell = getattr(cells, given.get("--cell", DEFAULT_CELL))
    settings = replace(SETTINGS, hidden=given.get("--hidden", SETTINGS.hidden))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        run = create_run(place, [str(text)], cell, settings, lambda line: None)
        model, stream = run.new_model(), run.stream((0, 1))
        rates = {"weight_decay": settings.weight_decay, "betas": (0.9, settings.beta2)}
        optimiser = make_optimiser(
            settings.optimiser, model, settings.lr, fused=True, **rates
        )
        objective = run.objective(ConstantForcing(1.0))
        parts = model, stream, objective, optimiser, Constant(), Plan(TIMED_STEPS)
        accelerator = make_accelerator(settings.precision, device="cpu")
        began = time.process_time()
        train(*parts, accelerator=accelerator)
        return (time.process_time() - began) / TIMED_STEPS


# ── the command ───────────────────────────────────────────────────────────────────────


def lengths(options: argparse.Namespace) -> tuple[dict[str, dict], dict[str, Any]]:
    """How long each column trains, and what the JSON says of it."""
    if not options.cpu:
        length = {"seconds": options.seconds}
        return dict.fromkeys(options.only, length), length
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    each = step_seconds(options.text, list(dict.fromkeys(["plain", *options.only])))
    seconds = options.seconds
    if options.plain_steps:
        seconds = options.plain_steps * each["plain"]
    steps = {name: {"steps": round(seconds / one)} for name, one in each.items()}
    return steps, {"processor_seconds": seconds, "seconds_per_step": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=COLUMNS, nargs="*", default=list(COLUMNS))
    parser.add_argument("--cpu", action="store_true", help="equal processor time")
    parser.add_argument("--plain-steps", type=int, help="with --cpu: in place of it")
    parser.add_argument("--json", type=Path, help="columns that are not run are kept")
    options = parser.parse_args()
    length, told = lengths(options)
    print(json.dumps(told), flush=True)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    if options.json and options.json.exists():
        found |= json.loads(options.json.read_text())["columns"]
    found |= {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name in options.only:
            run, more = COLUMNS[name]
            row = run(options.text, length[name], seed, *more)
            found[name].append(row)
            print(f"seed {seed}  {name:20} {row}", flush=True)
    found = {name: rows for name, rows in found.items() if rows}
    if options.json:
        command = " ".join(["python", *sys.argv])
        content = {"command": command, "machine": facts(), **told, "columns": found}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    show(found)


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """The mean and the range of every column, and its difference to the first."""
    first = next(iter(found.values()))
    for name, rows in found.items():
        nats = [row["nats_per_char"] for row in rows]
        pairs = zip(rows, first, strict=True)
        less = [b["nats_per_char"] - a["nats_per_char"] for a, b in pairs]
        steps = statistics.median(row["steps"] for row in rows)
        spread = f"{min(nats):.4f} … {max(nats):.4f}"
        print(
            f"{name:20} {statistics.mean(nats):.4f} nats ({spread}), {steps} steps, "
            f"better by {statistics.mean(less):.4f} (least {min(less):.4f})"
        )


if __name__ == "__main__":
    main()
