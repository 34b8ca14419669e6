"""Checkpoints: what goes in comes out; a crash at any moment loses nothing."""

import errno
import json
import os
import random

import numpy as np
import pytest
import torch

from cellwright import files
from cellwright.files import write_atomically
from cellwright.train import checkpoint
from cellwright.train.checkpoint import (
    CheckpointError,
    Store,
    pack,
    random_state,
    set_random_state,
    unpack,
)


def weights(value):
    return {"a": torch.full((2, 3), value), "b": torch.tensor(value)}


TRAINING = {
    "optimiser": {"state": {0: {"step": torch.tensor(3.0), "m": torch.randn(4)}}},
    "carried": (torch.randn(1, 2), [None, torch.arange(3)]),
    "numbers": [1, 0.1, True, None, "é"],
}


def test_a_round_trip_is_exact(tmp_path):
    store = Store(tmp_path / "checkpoints")
    assert not store.has()
    store.save(12, weights(0.1), TRAINING)
    found = store.load()
    assert found.step == 12
    assert torch.equal(found.model["a"], weights(0.1)["a"])
    assert found.model["b"].shape == ()
    assert found.training["numbers"] == TRAINING["numbers"]
    assert isinstance(found.training["carried"], tuple)
    assert torch.equal(found.training["carried"][0], TRAINING["carried"][0])
    restored = found.training["optimiser"]["state"][0]  # the key is a number still
    assert torch.equal(restored["m"], TRAINING["optimiser"]["state"][0]["m"])


def test_tied_weights_are_stored_under_both_names(tmp_path):
    shared = torch.randn(3, 2)
    Store(tmp_path).save(1, {"a": shared, "b": shared}, None)
    assert torch.equal(Store(tmp_path).load().model["b"], shared)


def test_only_what_is_pointed_at_is_kept(tmp_path):
    store = Store(tmp_path)
    store.save(1, weights(1.0), None, pointers=("best", "last"))
    store.save(2, weights(2.0), None)
    store.save(3, weights(3.0), None)
    assert store.load("last").step == 3
    assert store.load("best").step == 1
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert kept == ["step-00000001", "step-00000003"]


def test_the_same_step_again_is_not_written_over(tmp_path):
    store = Store(tmp_path)
    store.save(1, weights(1.0), None, pointers=("best",))
    store.save(1, weights(5.0), None, pointers=("last",))
    assert store.load("best").model["b"] == 1.0
    assert store.load("last").model["b"] == 5.0


def test_what_is_no_data_is_refused():
    with pytest.raises(CheckpointError, match="received set, expected numbers"):
        pack({"a": [{1, 2}]}, {})
    tensors = {}
    tree = {"x": [(1, torch.ones(1))], 3: {}}
    assert str(unpack(pack(tree, tensors), tensors)) == str(tree)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


SYSTEM_CALLS = ("mkdir", "rename", "replace", "fsync", "rmdir", "unlink")


def crash_at(monkeypatch, moment):
    """Die before the system call number `moment` of those that change the disk."""
    count = 0

    def counted(call):
        def wrapper(*args, **kwargs):
            nonlocal count
            count += 1
            if count == moment:
                raise Killed
            return call(*args, **kwargs)

        return wrapper

    for name in SYSTEM_CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def test_a_crash_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    outcomes = []
    for moment in range(1, 60):
        store = Store(tmp_path / str(moment))
        store.save(1, weights(1.0), TRAINING)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, moment)
            try:
                store.save(2, weights(2.0), TRAINING)
                survived = True
            except Killed:
                survived = False
        found = store.load()  # verifies every byte
        assert found.model["b"] == float(found.step)
        outcomes.append(found.step)
        store.save(3, weights(3.0), TRAINING)  # and the debris is no hindrance
        assert store.load().step == 3
        left = {path.name for path in store.directory.iterdir()}
        assert left == {"last.json", "step-00000003"}
        if survived:
            break
    assert survived
    assert outcomes == sorted(outcomes)
    assert {1, 2} == set(outcomes)


@pytest.mark.parametrize("file", range(1, 5))
def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path, monkeypatch, file):
    store = Store(tmp_path)
    store.save(1, weights(1.0), None)
    calls = 0
    write = files.write_and_sync

    def full(path, data):
        nonlocal calls
        calls += 1
        if calls == file:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    for module in (checkpoint, files):  # the checkpoint's own, and the pointer's
        monkeypatch.setattr(module, "write_and_sync", full)
    with pytest.raises(CheckpointError, match=r"step 2 .*No space left.*step-00000001"):
        store.save(2, weights(2.0), None)
    assert calls == file
    assert store.load().step == 1
    assert not list(tmp_path.glob(".aside*"))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "training.safetensors", "checkpoint.json"]
)
def test_a_truncated_or_altered_file_is_refused(tmp_path, name):
    store = Store(tmp_path)
    path = store.save(1, weights(1.0), TRAINING) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(CheckpointError, match=r"cut short|altered"):
        store.load()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="altered"):
        store.load()
    path.unlink()
    with pytest.raises(CheckpointError, match="not whole"):
        store.load()


def test_a_foreign_or_newer_pointer_is_refused_and_not_replaced(tmp_path):
    store = Store(tmp_path)
    pointer = tmp_path / "last.json"
    for content, message in [
        (b'{"step": 3}', "not a checkpoint of cellwright"),
        (b"PK\x03\x04", "not a checkpoint of cellwright"),
        (json.dumps({"format": checkpoint.FORMAT, "version": 99}).encode(), "99"),
    ]:
        pointer.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            store.load()
        with pytest.raises(CheckpointError, match=message):
            store.save(1, weights(1.0), None)
        assert pointer.read_bytes() == content
        assert list(tmp_path.iterdir()) == [pointer]


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def draws():
    numpy_draw = float(np.random.rand())
    return random.random(), numpy_draw, torch.rand(3).tolist()


def test_every_generator_goes_on_where_it_was(tmp_path):
    Store(tmp_path).save(1, {}, random_state())
    first = draws()
    draws()
    set_random_state(Store(tmp_path).load().training)
    assert draws() == first
