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
names a whole one at any moment. Where last.json is lost, the newest checkpoint that is
whole takes its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..extras import require
from ..files import (
    check_file_at,
    read_file,
    sync_directory,
    write_and_sync,
    write_atomically,
)
from ..language.errors import CellwrightError
from ..schema import Checked, Limits, check, parse_json

FORMAT = "cellwright-checkpoint"
VERSION = 1

T = TypeVar("T")
_NAME = re.compile(r"step-(\d{8,18})(?:\.(\d{1,9}))?", re.ASCII)


class CheckpointError(CellwrightError):
    """A checkpoint cannot be written, or is not one that can be read."""


Sha256 = Annotated[str, Limits(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Pointer(Checked):
    """`last.json` and `best.json`: which checkpoint, and the hash of its manifest."""

    format: Literal["cellwright-checkpoint"]
    version: Literal[1]
    checkpoint: Annotated[str, Limits(pattern=f"^{_NAME.pattern}$")]
    sha256: Sha256


@dataclass(frozen=True)
class Fingerprint(Checked):
    """The size of a file in bytes, and what it hashes to."""

    bytes: Annotated[int, Limits(ge=0)]
    sha256: Sha256


File = Literal["model.safetensors", "training.safetensors"]


@dataclass(frozen=True)
class Manifest(Checked):
    """`checkpoint.json`; `training` is a tree that `pack` split."""

    format: Literal["cellwright-checkpoint"]
    version: Literal[1]
    step: Annotated[int, Limits(ge=0)]
    files: Annotated[dict[File, Fingerprint], Limits(min_length=2)]
    training: Any


@dataclass(frozen=True)
class Checkpoint:
    """What `Store.load` gives back."""

    step: int
    model: dict[str, Tensor]
    training: Any


class Store:
    """The checkpoints of one run, in one directory.

    Args:
        directory: made when the first one is written.
        root: no file is read that lies outside; None: the directory itself.
    """

    def __init__(self, directory: Path | str, root: Path | None = None):
        require("cellwright.train", "train")
        self.directory = Path(directory)
        self._root = root or self.directory

    def has(self, pointer: str = "last") -> bool:
        """Whether there is anything to resume from (it may still be refused)."""
        if os.path.lexists(self._pointer(pointer)):
            return True
        return pointer == "last" and bool(self._names())

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
            for pointer in pointers:
                self.point(pointer, path.name)
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
        return self._follow(pointer, self._read)

    def shapes(self, pointer: str = "last") -> dict[str, tuple[int, ...]]:
        """The shapes of a checkpoint's weights, without reading them.

        Raises:
            CheckpointError: as `load`, but for the weights themselves.
        """
        return self._follow(pointer, self._read_shapes)

    def whole(self) -> Iterator[tuple[str, Checkpoint]]:
        """Every checkpoint that is whole, the newest first, by its name."""
        for name in self._names():
            try:
                yield name, self._read(self._point_at(name))
            except CheckpointError:
                continue

    def point(self, pointer: str, name: str) -> None:
        """Let `last` or `best` name a checkpoint."""
        write_atomically(self._pointer(pointer), _json(self._point_at(name)))

    def _follow(self, pointer: str, read: Callable[[Pointer], T]) -> T:
        """Read what a pointer names; again where training has moved on meanwhile."""
        while True:
            record = self._record(pointer)
            try:
                return read(record)
            except CheckpointError:
                if self._record(pointer) == record:
                    raise

    def _record(self, pointer: str) -> Pointer:
        path = self._pointer(pointer)
        names = self._names() if pointer == "last" else []
        if not names or os.path.lexists(path):
            return _checked(Pointer, self._bytes_of(path), path)
        for (
            name,
            _,
        ) in self.whole():  # the newest stands in for a last.json that is lost
            return self._point_at(name)
        raise CheckpointError(
            f"[{self.directory}] has no last.json, and of its checkpoints "
            f"{', '.join(names)} none is whole; nothing was changed. Put a "
            "copy back, or start a new run"
        )

    def _point_at(self, name: str) -> Pointer:
        manifest = self._bytes_of(self.directory / name / "checkpoint.json")
        return Pointer(FORMAT, VERSION, name, _hash(manifest))

    def _read(self, record: Pointer) -> Checkpoint:
        import safetensors.torch

        path = self.directory / record.checkpoint
        manifest = self._manifest(record)
        tensors = {}
        for name, expected in manifest.files.items():
            data = self._bytes_of(path / name, expected.bytes, expected.sha256)
            try:
                tensors[name] = safetensors.torch.load(data)
            except Exception as error:  # the library's, and KeyError for odd types
                raise CheckpointError(
                    f"[{path / name}] is no safetensors file: {error}"
                ) from None
        try:
            training = unpack(manifest.training, tensors["training.safetensors"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"[{path / 'checkpoint.json'}, training] is not what cellwright "
                f"writes: {error!r}"
            ) from None
        return Checkpoint(manifest.step, tensors["model.safetensors"], training)

    def _read_shapes(self, record: Pointer) -> dict[str, tuple[int, ...]]:
        import safetensors

        expected = self._manifest(record).files["model.safetensors"]
        path = self.directory / record.checkpoint / "model.safetensors"
        try:
            check_file_at(path, self._root, expected.bytes)
            with safetensors.safe_open(path, "pt") as file:
                return {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise _cannot_read(path, error) from None

    def _manifest(self, record: Pointer) -> Manifest:
        path = self.directory / record.checkpoint / "checkpoint.json"
        return _checked(Manifest, self._bytes_of(path, sha256=record.sha256), path)

    def _bytes_of(
        self, path: Path, size: int | None = None, sha256: str | None = None
    ) -> bytes:
        try:
            data = read_file(path, self._root, size)
        except OSError as error:
            raise _cannot_read(path, error) from error
        if sha256 is not None and _hash(data) != sha256:
            raise CheckpointError(
                f"[{path}] was altered: its SHA-256 is not the recorded one"
            )
        return data

    def _names(self) -> list[str]:
        """The checkpoints, the newest first."""
        if not os.path.lexists(self.directory):
            return []
        try:
            found = filter(None, map(_NAME.fullmatch, os.listdir(self.directory)))
        except OSError as error:
            raise _cannot_read(self.directory, error) from error
        ranked = sorted(found, key=lambda m: (int(m[1]), int(m[2] or 0)), reverse=True)
        return [match[0] for match in ranked]

    def _pointer(self, pointer: str) -> Path:
        return self.directory / f"{pointer}.json"

    def _write(self, step: int, model: dict[str, Tensor], training: Any) -> Path:
        tensors: dict[str, Tensor] = {}
        skeleton = pack(training, tensors)
        files: dict[File, bytes] = {
            "model.safetensors": _tensor_bytes(model),
            "training.safetensors": _tensor_bytes(tensors),
        }
        prints: dict[File, Fingerprint] = {
            name: Fingerprint(len(data), _hash(data)) for name, data in files.items()
        }
        manifest = Manifest(FORMAT, VERSION, step, prints, skeleton)

        # A resumed run may pass a step again whose first checkpoint is still pointed
        # at as the best one: it is never written over.
        final, attempt = self.directory / f"step-{step:08d}", 0
        while os.path.lexists(final):
            attempt += 1
            final = self.directory / f"step-{step:08d}.{attempt}"
        aside = self.directory / f".aside-{final.name}"
        aside.mkdir()
        for name, data in {**files, "checkpoint.json": _json(manifest)}.items():
            write_and_sync(aside / name, data)
        sync_directory(aside)
        os.rename(aside, final)
        sync_directory(self.directory)
        return final

    def _prune(self) -> None:
        """Delete what no pointer names, and what a killed run left aside."""
        pointers = filter(self.has, ("last", "best"))
        kept = {self._record(pointer).checkpoint for pointer in pointers}
        for path in self.directory.iterdir():
            leftover = path.name.startswith((".aside-", "step-"))
            if leftover and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _cannot_write(self, step: int, error: OSError) -> CheckpointError:
        for path in self.directory.glob(".aside-*"):
            shutil.rmtree(path, ignore_errors=True)
        kept = "There was no earlier checkpoint."
        if self.has():
            last = f"The last good checkpoint, {self._record('last').checkpoint},"
            kept = f"{last} is untouched; free some space and resume."
        return CheckpointError(
            f"[{self.directory}] the checkpoint of step {step} could not be written: "
            f"{error.strerror or error}. {kept}"
        )


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
    import safetensors.torch

    # clone: two names of one tied weight share memory, which safetensors refuses.
    plain = {n: t.detach().cpu().clone().contiguous() for n, t in tensors.items()}
    return safetensors.torch.save(plain)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(content: Pointer | Manifest) -> bytes:
    return json.dumps(asdict(content), ensure_ascii=False).encode()


def _checked(kind: type[T], data: bytes, path: Path) -> T:
    """A `kind` from JSON of this format and version."""
    try:
        content = parse_json(data, path, CheckpointError)
    except CheckpointError:
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
    return check(kind, content, path, CheckpointError)


def _cannot_read(path: Path, error: Exception) -> CheckpointError:
    why = error.strerror if isinstance(error, OSError) else error
    return CheckpointError(
        f"[{path}] cannot be read: {why}. The checkpoint is not whole, or this is no "
        "run of cellwright"
    )
