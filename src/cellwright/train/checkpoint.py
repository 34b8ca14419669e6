"""Checkpoints that survive a kill at any moment, without pickle.

On disk, in a directory of their own:

    last.json                  which checkpoint to resume from
    best.json                  which one validated best (where anything validates)
    step-00000500/
        model.safetensors      the model's state_dict, names as they are
        training.safetensors   the tensors of the optimiser, states, generators …
        checkpoint.json        everything else, and size and SHA-256 of the two above

A checkpoint is written aside, flushed to the disk and renamed; then the pointer is
replaced, in one atomic step; only then is the older checkpoint deleted. So the pointer
names a whole one at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..language.errors import CellwrightError

FORMAT = "cellwright-checkpoint"
VERSION = 1


class CheckpointError(CellwrightError):
    """A checkpoint cannot be written, or is not one that can be read."""


@dataclass(frozen=True)
class Checkpoint:
    """What `Store.load` gives back."""

    step: int
    model: dict[str, Tensor]
    training: Any


class Store:
    """The checkpoints of one run, in one directory."""

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)

    def has(self, pointer: str = "last") -> bool:
        """Whether there is anything to resume from (it may still be refused)."""
        return self._pointer(pointer).exists()

    def save(
        self,
        step: int,
        model: dict[str, Tensor],
        training: Any,
        pointers: Iterable[str] = ("last",),
    ) -> Path:
        """Write a checkpoint, then let `pointers` name it.

        Args:
            step: optimiser steps done.
            model: a state_dict.
            training: a tree of dicts, lists, tuples, numbers, strings and tensors.
            pointers: which of `last` and `best` it becomes.

        Raises:
            CheckpointError: the disk is full or cannot be written. What was there
                before is still there.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._prune()  # what a killed run left behind may be what fills the disk
            path = self._write(step, model, training)
            manifest = (path / "checkpoint.json").read_bytes()
            record = {
                "format": FORMAT,
                "version": VERSION,
                "checkpoint": path.name,
                "sha256": hashlib.sha256(manifest).hexdigest(),
            }
            for pointer in pointers:
                write_atomically(self._pointer(pointer), _json(record))
            self._prune()
        except OSError as error:
            raise self._cannot_write(step, error) from error
        return path

    def load(self, pointer: str = "last") -> Checkpoint:
        """Read and verify a checkpoint, every byte of it.

        Raises:
            CheckpointError: there is none, it is truncated or altered, it is not
                cellwright's, or a newer version wrote it.
        """
        record = _read_json(self._pointer(pointer))
        path = self.directory / str(record.get("checkpoint"))
        manifest = _read(path / "checkpoint.json")
        _compare(path / "checkpoint.json", manifest, record)
        content = _read_json(path / "checkpoint.json")
        files = {}
        for name, expected in content["files"].items():
            files[name] = _read(path / name)
            _compare(path / name, files[name], expected)
        model = safetensors.torch.load(files["model.safetensors"])
        tensors = safetensors.torch.load(files["training.safetensors"])
        return Checkpoint(content["step"], model, unpack(content["training"], tensors))

    def _pointer(self, pointer: str) -> Path:
        return self.directory / f"{pointer}.json"

    def _write(self, step: int, model: dict[str, Tensor], training: Any) -> Path:
        tensors: dict[str, Tensor] = {}
        skeleton = pack(training, tensors)
        files = {
            "model.safetensors": _tensor_bytes(model),
            "training.safetensors": _tensor_bytes(tensors),
        }
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "files": {name: _fingerprint(data) for name, data in files.items()},
            "training": skeleton,
        }
        files["checkpoint.json"] = _json(manifest)

        final = self._free_name(step)
        aside = self.directory / f".aside-{final.name}"
        aside.mkdir()
        for name, data in files.items():
            write_and_sync(aside / name, data)
        sync_directory(aside)
        os.rename(aside, final)
        sync_directory(self.directory)
        return final

    def _free_name(self, step: int) -> Path:
        # A resumed run may pass a step again whose first checkpoint is still pointed
        # at as the best one: it is never written over.
        name = f"step-{step:08d}"
        taken = {path.name for path in self.directory.iterdir()}
        attempt = 0
        while name in taken:
            attempt += 1
            name = f"step-{step:08d}.{attempt}"
        return self.directory / name

    def _prune(self) -> None:
        """Delete what no pointer names, and what a killed run left aside."""
        kept = set()
        for pointer in ("last", "best"):
            if self.has(pointer):
                kept.add(_read_json(self._pointer(pointer))["checkpoint"])
        for path in self.directory.iterdir():
            leftover = path.name.startswith((".aside-", "step-"))
            if leftover and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _cannot_write(self, step: int, error: OSError) -> CheckpointError:
        for path in self.directory.glob(".aside-*"):
            shutil.rmtree(path, ignore_errors=True)
        kept = "There was no earlier checkpoint."
        if self.has():
            name = _read_json(self._pointer("last"))["checkpoint"]
            kept = f"The last good checkpoint, {name}, is untouched; free some space "
            kept += "and resume."
        return CheckpointError(
            f"[{self.directory}] the checkpoint of step {step} could not be written: "
            f"{error.strerror or error}. {kept}"
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: readers see the old bytes or the new, never a mix."""
    aside = path.with_name(f".aside-{path.name}")
    try:
        write_and_sync(aside, data)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_and_sync(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` durable. Not every system can; POSIX ones do."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pack(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Split a tree into JSON and named tensors; `unpack` puts it together again.

    Tuples and dicts are marked, because JSON knows neither tuples nor keys that are
    numbers (an optimiser's state has those).

    Raises:
        CheckpointError: the tree holds something that is not plain data.
    """
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        items = [[k, pack(v, tensors, f"{path}.{k}")] for k, v in tree.items()]
        return {"dict": items}
    if isinstance(tree, (tuple, list)):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [pack(v, tensors, f"{path}.{i}") for i, v in enumerate(tree)]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise CheckpointError(
        f"[checkpoint{path}] cannot be stored; received {type(tree).__name__}, "
        "expected numbers, strings, tensors, and dicts, lists or tuples of them"
    )


def unpack(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(value, tensors) for key, value in content}
    parts = [unpack(value, tensors) for value in content]
    return tuple(parts) if kind == "tuple" else parts


def random_state() -> dict[str, Any]:
    """The state of every global generator: Python's, NumPy's, torch's."""
    name, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put every global generator back where `random_state` found it."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    # clone: two names of one tied weight share memory, which safetensors refuses.
    plain = {n: t.detach().cpu().clone().contiguous() for n, t in tensors.items()}
    return safetensors.torch.save(plain)


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"[{path}] cannot be read: {error.strerror}. The checkpoint is not whole, "
            "or this is no run of cellwright"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"[{path}] is not a checkpoint of cellwright, or was cut short; "
            f"received {data[:40]!r}, expected JSON with format {FORMAT!r}"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"[{path}] has another version; received {content.get('version')!r}, "
            f"expected {VERSION}. Use the cellwright that wrote it"
        )
    return content


def _compare(path: Path, data: bytes, expected: dict[str, Any]) -> None:
    size = expected.get("bytes", len(data))
    if len(data) != size:
        raise CheckpointError(
            f"[{path}] was cut short; received {len(data)} bytes, expected {size}"
        )
    if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
        raise CheckpointError(
            f"[{path}] was altered: its SHA-256 is not the recorded one"
        )
