"""Whole runs as a user starts them: killed, resumed, and in two processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cellwright.text.run import Run
from cellwright.train.report import read_metrics
from test_cli import small_text, words

MODEL = "--hidden 12 --embedding 8 --batch 4 --window 16 --log-every 1"
PATIENCE = 600  # seconds for a process on a busy machine: only a failure takes them
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text())
    return path


def start(*arguments, launcher=("-m", "cellwright"), **options):
    command = [sys.executable, *launcher, "train", *map(str, arguments)]
    # A shell's background job ignores SIGINT, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, env=ONE_THREAD, text=True, **options)
    finally:
        signal.signal(signal.SIGINT, before)


def finish(*arguments, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(*arguments, **pipes, **options)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


def weights(directory: Path):
    (found,) = (directory / "checkpoints").glob("step-*/model.safetensors")
    return found.read_bytes()


def wait_for(process, directory, step):
    """Return once the metrics have passed a step."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        rows = read_metrics(directory / "metrics.jsonl")
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.002)


def kill_at(process, directory, step):
    """SIGKILL at a step; the run must still be going."""
    wait_for(process, directory, step)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def test_a_killed_and_resumed_run_ends_with_the_very_same_weights(text, tmp_path):
    options = [
        *words(MODEL),
        *words("--layers 2 --dropout 0.2 --steps 300 --checkpoint-every 7"),
        *words("--forcing 0.9 --seed 5"),
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(text, "--out", whole, *options)

    kill_at(start(text, "--out", parts, *options), parts, 3)  # maybe no checkpoint yet
    for step in (80, 180):
        kill_at(start("--resume", "--out", parts), parts, step)
    finish("--resume", "--out", parts)

    assert weights(parts) == weights(whole)
    steps = [row["step"] for row in read_metrics(parts / "metrics.jsonl")]
    assert steps == list(range(1, 301))
    assert Run(parts).result() == Run(whole).result()


def test_two_processes_train_as_one(text, tmp_path):
    """The same global batch, no dropout: the same losses, and the same model."""
    options = [*words(MODEL), "--steps", 20, "--checkpoint-every", 8]
    one, two = tmp_path / "one", tmp_path / "two"
    finish(text, "--out", one, *options)
    torchrun = "-m torch.distributed.run --standalone --nproc_per_node 2 -m cellwright"
    finish(text, "--out", two, *options, launcher=words(torchrun))

    losses = [
        [row["loss"] for row in read_metrics(directory / "metrics.jsonl")]
        for directory in (one, two)
    ]
    assert len(losses[0]) == 20
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[1] != losses[0]  # two halves were averaged: it did run in two
    models = [next(d.glob("checkpoints/step-*/model.safetensors")) for d in (one, two)]
    first, second = map(load_file, models)
    for name, weight in first.items():
        assert (weight - second[name]).abs().max() < 1e-3, name
    training = Run(two).store.load().training
    carried = [process["carried"][0].shape for process in training["processes"]]
    assert carried == [(1, 2, 12), (1, 2, 12)]  # two rows each


def test_an_interrupted_run_says_how_to_go_on(text, tmp_path):
    out = tmp_path / "out"
    options = [*words(MODEL), "--steps", 100_000, "--checkpoint-every", 100_000]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(text, "--out", out, *options, **pipes)
    wait_for(process, out, 20)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert f"cellwright train --resume --out {out}" in said
    assert "Traceback" not in errors
    rows = read_metrics(out / "metrics.jsonl")
    assert Run(out).store.load().step == rows[-1]["step"] >= 20  # no step was lost
