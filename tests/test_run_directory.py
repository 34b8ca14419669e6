"""What is in a run's directory, who may write there, and what is left of a failure."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cellwright import cells
from cellwright.cli import app
from cellwright.language.errors import ArgumentError
from cellwright.look.draw import read_run
from cellwright.look.inspection import Inspection
from cellwright.text.run import Run, RunError, Settings, create_run
from cellwright.train.checkpoint import CheckpointError, Store
from cellwright.train.lock import LockedError, holder_of, locked
from test_cli import small_text, words
from test_damaged_runs import files_of, invoke, run, whole

__all__ = ["run", "whole"]  # fixtures
SMALL = words("--hidden 8 --embedding 4 --batch 4 --window 8 --steps 2")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(small_text()[:2000])
    return path


# -- pointers that are lost ----------------------


def steps_in(run):
    return sorted(p.name for p in (run / "checkpoints").glob("step-*"))


def test_without_pointers_the_newest_whole_checkpoint_is_gone_on_from(run):
    whole = shutil.copytree(run, run.parent / "whole")
    for pointer in ("last", "best"):
        (run / "checkpoints" / f"{pointer}.json").unlink()
    assert Run(run).store.load().step == 2
    assert invoke("info", run, code=0)
    for place in (run, whole):
        invoke("train", "--resume", "--out", place, code=0)
    ends = [Run(place).trained_model().state_dict() for place in (run, whole)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    assert Run(run).store.load().training["progress"]["step"] == 3


def test_an_older_whole_checkpoint_is_better_than_a_newest_that_is_not(tmp_path):
    store = Store(tmp_path)
    store.save(1, {"a": torch.ones(1)}, None, ("best",))
    newest = store.save(2, {"a": torch.ones(1)}, None)
    (tmp_path / "last.json").unlink()
    (newest / "model.safetensors").write_bytes(b"")
    assert store.load().step == 1


def test_without_pointers_and_whole_checkpoints_nothing_is_touched(run):
    for pointer in ("last", "best"):
        (run / "checkpoints" / f"{pointer}.json").unlink()
    for path in (run / "checkpoints").glob("step-*/training.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = files_of(run)
    _, errors = invoke("train", "--resume", "--out", run, code=1)
    assert "of its checkpoints step-00000002 none is whole; nothing" in errors
    with pytest.raises(CheckpointError, match="none is whole"):
        Run(run).store.save(9, {}, None)
    assert files_of(run) == before


def test_a_best_pointer_that_is_cut_short_is_refused_before_the_first_step(run):
    best = run / "checkpoints" / "best.json"
    best.write_bytes(best.read_bytes()[:30])
    before = files_of(run)
    _, errors = invoke("train", "--resume", "--out", run, code=1)
    assert "best.json] is not a checkpoint of cellwright, or was cut short" in errors
    assert files_of(run) == before


def test_a_best_pointer_that_is_lost_is_found_again(run, monkeypatch):
    monkeypatch.setattr("cellwright.text.job._validate", lambda m, r: math.inf)
    best = run / "checkpoints" / "best.json"
    before = best.read_bytes()
    best.unlink()
    invoke("train", "--resume", "--out", run, code=0)
    assert best.read_bytes() == before  # step 3 is no better: step 2 is kept
    assert steps_in(run) == ["step-00000002", "step-00000003"]


def test_reading_goes_on_while_training_replaces_the_checkpoint(tmp_path, monkeypatch):
    store, trainer = Store(tmp_path), Store(tmp_path)
    store.save(1, {"a": torch.ones(1)}, None)
    read = Store._bytes_of
    moved = []

    def late(self, path, *expected, **more):
        if self is store and path.parent.name == "step-00000001" and not moved:
            moved.append(trainer.save(2, {"a": torch.zeros(1)}, None))
        return read(self, path, *expected, **more)

    monkeypatch.setattr(Store, "_bytes_of", late)
    assert store.load().step == 2
    assert moved


# -- the lock ----------------------


def test_who_comes_second_hears_who_holds_it(run):
    before = files_of(run)
    with locked(run):
        _, errors = invoke("train", "--resume", "--out", run, code=1)
        assert "is training this run; nothing was changed" in errors
        assert "process " in errors
        assert "since " in errors
        assert errors.count("\n") == 1
        _, errors = invoke("train", "text", "--out", run, code=1)
        assert "holds a run already, which process " in errors
        for command in ("evaluate", "generate", "info"):
            invoke(command, run, code=0)
        with pytest.raises(LockedError), locked(run):
            pass
    assert holder_of(run) is None
    assert files_of(run) == before


def test_a_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from cellwright.train.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert ended.returncode == -9
    assert holder_of(tmp_path) is None
    with locked(tmp_path):
        assert str(holder_of(tmp_path)).startswith("process ")


def make(directory, text, **settings):
    settings = Settings(**{"hidden": 8, "embedding": 4, "steps": 2, **settings})
    return create_run(directory, [str(text)], cells.get("lstm"), settings, lambda _: 0)


def test_of_two_that_make_one_directory_one_does(tmp_path, text, monkeypatch):
    from cellwright.text import run as module

    prepare, out = module._prepare, tmp_path / "out"

    def slow(folder, *arguments):
        prepare(folder, *arguments)
        monkeypatch.setattr(module, "_prepare", prepare)
        make(out, text)  # another, which is faster

    monkeypatch.setattr(module, "_prepare", slow)
    with pytest.raises(RunError, match="holds a run already; nothing was changed"):
        make(out, text)
    assert Run(out).tokenizer.vocabulary == Run(out).sizes.vocabulary
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "text.txt"]


def test_what_a_killed_preparation_left_is_cleared_away(tmp_path, text):
    left = tmp_path / ".out.preparing-0"
    left.mkdir()
    (left / ".lock").touch()
    working = tmp_path / ".out.preparing-1"
    working.mkdir()
    with locked(working):
        make(tmp_path / "out", text)
        assert not left.exists()
        assert working.exists()


# -- options that are refused ----------------------


@pytest.mark.parametrize(
    "options",
    [
        "--epochs inf",
        "--epochs nan",
        f"--seed {2**64}",
        f"--seed {-(2**63) - 1}",
        "--weight-decay -1",
        "--weight-decay nan",
        "--warm-up -1",
        "--layers 0",
        "--layers 1001",
        "--dropout 2",
        "--lr inf",
        "--lr nan",
        "--clip nan",
        "--minutes inf",
        "--hidden 1000000",
        "--forcing exponential:0",
        "--forcing sigmoid:inf",
        "--tokenizer bpe --vocab 1000000000",
        "--zoneout h=2",
        "--zoneout q=0.1",
        "--engine gpu",
        "--steps 10000000000000",
        "--hidden 65536",
        "--batch 1000000000000",
        "--beta2 1",
    ],
)
def test_an_option_that_is_refused_leaves_nothing_behind(tmp_path, text, options):
    before = files_of(tmp_path)
    out = tmp_path / "new" / "deep" / "run"
    _, errors = invoke("train", text, "--out", out, *words(options), code=1)
    assert errors.startswith("error: [")
    assert errors.count("\n") == 1
    assert files_of(tmp_path) == before


def test_the_largest_seed_trains(tmp_path, text):
    out = tmp_path / "run"
    invoke("train", text, "--out", out, *SMALL, "--seed", 2**64 - 1, code=0)


def test_settings_say_their_ranges_to_programs_too():
    with pytest.raises(ArgumentError, match=r"\[hidden\] received 0, expected at lea"):
        Settings(hidden=0).check()
    Settings(seed=-(2**63)).check()


def test_settings_that_contradict_each_other_are_never_made():
    with pytest.raises(ArgumentError, match=r"\[settings\] received both minutes and"):
        Settings(minutes=1.0, steps=3)
    with pytest.raises(ArgumentError, match=r"\[patience\] early stopping needs"):
        Settings(patience=2)


def test_a_setting_that_came_later_is_no_damage_to_an_older_run(run):
    config = json.loads((run / "config.json").read_text())
    del config["settings"]["restart"], config["model"]["locked"]
    (run / "config.json").write_text(json.dumps(config))
    assert Run(run).settings.restart == Settings().restart
    assert Run(run).sizes.locked is False
    del config["model"]["hidden"]  # which has no default
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"config.json, model.hidden\] is missing"):
        Run(run)


# -- what a run says of its text ----------------------


@pytest.fixture(scope="module")
def unknown_words(tmp_path_factory):
    """A run whose held-out text has many words that it does not know."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "text.txt").write_text(small_text()[:3000])
    options = [*SMALL, "--tokenizer", "word", "--vocab", 6]
    invoke("train", folder / "text.txt", "--out", folder / "run", *options, code=0)
    return Run(folder / "run")


def test_the_held_out_tokens_themselves_are_looked_at(unknown_words):
    run = unknown_words
    kept = run.held_out.open().astype(np.int64)
    again = run.tokenizer.encode(run.held_out_text(len(kept)))
    assert len(again) < len(kept)  # unknown words that touch would become one
    looked = Inspection(run, steps=10**6)
    assert np.array_equal(looked.reading.tokens, kept)
    evaluated = json.loads(
        CliRunner().invoke(app, ["evaluate", str(run.directory), "--json"]).stdout
    )
    nats = looked.describe()["nats"]
    assert nats == pytest.approx(evaluated["nats_per_token"], rel=1e-5)
    assert np.array_equal(looked.text_for(run), kept)
    _, moment = read_run(run, at=len(kept) - 1)  # the text read again has no such token
    assert f"token {len(kept) - 1}: " in moment.title


def test_predictions_that_are_no_numbers_are_null_and_status_1(run):
    with torch.no_grad():
        weights = Run(run).trained_model().state_dict()
    weights = {n: torch.full_like(w, 3e38) for n, w in weights.items()}
    store = Run(run).store
    store.save(9, weights, store.load().training, ("best", "last"))
    result = CliRunner().invoke(app, ["evaluate", str(run), "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout, parse_constant=pytest.fail)
    assert told["nats_per_char"] is None
    assert told["perplexity"] is None
    assert result.stderr.startswith("error: [evaluate] the model's predictions")
    assert result.stderr.count("\n") == 1
    commands = [
        ("evaluate",),
        ("evaluate", "--free-running"),
        ("generate", "--length", 3),
        ("inspect", "--report", run.parent / "x.html"),
        ("draw", "--steps", "--out", run.parent / "x.svg"),
    ]
    for command in commands:
        _, errors = invoke(command[0], run, *command[1:], code=1)
        assert errors.startswith("error: [")
        assert errors.count("\n") == 1
