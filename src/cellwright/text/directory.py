"""What the directory of any run has: settings, cells, a plan, checkpoints.

A directory comes into being whole: it is prepared beside its place and then renamed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar
from uuid import uuid4

from filelock import FileLock
from torch import nn

from ..cells import in_notation
from ..files import check_file_at, read_file, sync_directory, write_atomically
from ..language import Cell
from ..language.errors import CellwrightError
from ..schema import Checked, Limits, check, parse_json
from ..train.checkpoint import Store
from ..train.forcing import Forcing
from ..train.lock import LOCK, holder_of
from ..train.plan import Objective, Stream
from ..train.session import check_shapes, load_weights
from ..train.settings import LoopSettings
from .model import check_memory, shapes_of

T = TypeVar("T")
Settings = TypeVar("Settings", bound=LoopSettings)

#: The kinds of runs, by the format in config.json, and which commands read them.
FORMATS = {
    "cellwright-run": "a language model: cellwright evaluate, generate and info read",
    "cellwright-pairs": "pairs: cellwright pairs evaluate and pairs apply read",
}


class RunError(CellwrightError):
    """A directory is no run, or holds one that must not be touched."""


@dataclass(frozen=True)
class StoredPlan(Checked):
    """`plan.json`; with `seconds` a plan by time, of which `steps` are an estimate."""

    version: Literal[1]
    steps: Annotated[int, Limits(ge=1)]
    planning_seconds: Annotated[float, Limits(ge=0)]
    seconds: Annotated[float, Limits(gt=0)] | None = None


class Epochs(Stream, Protocol):
    """A stream whose batches come again."""

    batches: int  # in every epoch


class RunDirectory(Generic[Settings]):
    """An existing run directory, of any kind of model.

    Every file is held to its schema when it is read, and must lie in the directory: a
    link that leads out of it is refused.

    Attributes:
        format: of its config.json, one of `FORMATS`.
        version: of the same.
        model_files: what the model needs besides config.json and its weights.
        paths_in_settings: settings that may name a user's file.

    Raises:
        RunError: the directory is missing, is no run, is one of another kind, or has
            another version.
    """

    format: ClassVar[str]
    version: ClassVar[int] = 1
    model_files: ClassVar[tuple[str, ...]]  # besides config.json and checkpoints
    paths_in_settings: ClassVar[frozenset[str]]

    settings: Settings
    sources: list[str]
    engine: str  # what runs the model's layers

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self.store = Store(self.directory / "checkpoints", root=self.directory)

    # -- what a kind of run says of itself: `text.job` trains by it

    def build(self, engine: str) -> nn.Module:
        """The model as drawn from torch's generator, on an engine."""
        raise NotImplementedError

    def check_sizes(self, stored: list[dict[str, tuple[int, ...]]]) -> None:
        """Raise RunError where sizes cannot be those of the checkpoints' weights.

        It is cheap; shapes are compared afterwards.
        """
        raise NotImplementedError

    def check_held_out(self) -> None:
        """Raise CellwrightError where the data that the end needs is damaged."""
        raise NotImplementedError

    def stream(self, share: tuple[int, int]) -> Epochs:
        """The batches of process k of n."""
        raise NotImplementedError

    def objective(self, forcing: Forcing) -> Objective:
        """What training minimises."""
        raise NotImplementedError

    def validation_loss(self, model: nn.Module) -> float:
        """The mean loss over what was held out; infinite where it is no number."""
        raise NotImplementedError

    # -- the model

    def new_model(self) -> Any:
        """The model as drawn from torch's generator: untrained.

        Raises:
            RunError: its sizes are not those of the tokenizer.
            CheckpointError: they are not those of the weights on the disk.
            ArgumentError: no memory could hold it.
        """
        pointers = filter(self.store.has, ("last", "best"))
        found = [self.store.shapes(pointer) for pointer in pointers]
        self.check_sizes(found)  # before any memory is taken
        shapes = shapes_of(lambda: self.build("reference"))
        for stored in found:
            check_shapes(stored, shapes, self.store)
        if not found:
            check_memory(shapes)
        return self.build(self.engine)

    def check_layers(
        self, layers: int, cell: Cell, stored: list[dict[str, tuple[int, ...]]]
    ) -> None:
        """Raise RunError for more layers than a checkpoint has weights."""
        fewest = min(map(len, stored), default=math.inf)
        if cell.graph.weights and layers > fewest:
            raise RunError(
                f"[{self.directory}/config.json, model.layers] received {layers}, "
                f"expected fewer than the {fewest} weights of the checkpoint"
            )

    def trained_model(self) -> Any:
        """The best checkpoint where training validated, else the last; in eval mode.

        Raises:
            CheckpointError: there is none yet, or it is damaged.
        """
        model = self.new_model()
        pointer = "best" if self.store.has("best") else "last"
        load_weights(model, self.store.load(pointer).model, self.store)
        return model.eval()

    # -- its files

    def publish(self, folder: Path, model: nn.Module) -> None:
        """Write a run that evaluates and generates: no text, no optimiser's state.

        Of its sources and settings the names of files stay, without their folders.

        Args:
            folder: exists; files of these names are replaced.
            model: whose weights are written.
        """
        path = self.directory / "config.json"
        content = parse_json(self.read_bytes(path), path, RunError)
        content["sources"] = [Path(source).name for source in content["sources"]]
        settings = content["settings"]
        for name in self.paths_in_settings & settings.keys():
            settings[name] = settings[name] and Path(settings[name]).name
        write_atomically(folder / "config.json", to_json(content))
        for name in self.model_files:
            write_atomically(folder / name, self.read_bytes(self.directory / name))
        store = Store(folder / "checkpoints")
        pointer = "best" if self.store.has("best") else "last"
        store.save(self.store.load(pointer).step, model.state_dict(), {})

    def plan(self) -> StoredPlan | None:
        """The stored plan, or None before training first began."""
        return self.kept("plan.json", StoredPlan)

    def keep(self, name: str, content: dict[str, Any]) -> None:
        """Write one of the run's JSON files, in one atomic step."""
        write_atomically(self.directory / name, to_json(content))

    def kept(self, name: str, kind: type[T]) -> T | None:
        """Read one of the run's JSON files; None where it is not there yet."""
        path = self.directory / name
        if not os.path.lexists(path):
            return None
        content = parse_json(self.read_bytes(path), path, RunError)
        return check(kind, content, path, RunError)

    def read_bytes(self, path: Path) -> bytes:
        try:
            return read_file(path, self.directory)
        except OSError as error:
            raise RunError(f"[{path}] cannot be read: {error.strerror}") from error

    def check_file(self, path: Path) -> None:
        """Raise RunError unless it is a regular file of the directory."""
        try:
            check_file_at(path, self.directory)
        except OSError as error:
            raise RunError(f"[{path}] cannot be read: {error.strerror}") from error

    def read_cell(self, name: str) -> Cell:
        path = self.directory / name
        try:
            return in_notation(Cell.from_text(self.read_bytes(path).decode()))
        except (CellwrightError, UnicodeError) as error:
            why = " ".join(str(error).split())
            raise RunError(f"[{path}] is no printed cell: {why}") from error

    def read_config(self, kind: type[T]) -> T:
        path = self.directory / "config.json"
        if not self.directory.exists():
            raise RunError(
                f"[{self.directory}] is no run: there is no such directory. Expected "
                "one that `cellwright train … --out` made"
            )
        if not os.path.lexists(path):
            raise RunError(
                f"[{self.directory}] is no run: it has no config.json. Expected a "
                "directory that `cellwright train … --out` made"
            )
        content = parse_json(self.read_bytes(path), path, RunError)
        found = content.get("format") if isinstance(content, dict) else None
        if found != self.format and found in FORMATS:
            raise RunError(
                f"[{self.directory}] is a run of another kind; received a run of "
                f"{FORMATS[found]} it, expected one of {FORMATS[self.format]} it"
            )
        if not isinstance(content, dict) or found != self.format:
            raise RunError(
                f"[{path}] was not written by cellwright; expected format "
                f"{self.format!r}"
            )
        if content.get("version") != self.version:
            raise RunError(
                f"[{path}] has another version; received {content.get('version')!r}, "
                f"expected {self.version}. Use the cellwright that wrote it"
            )
        return check(kind, content, path, RunError)


def format_of(directory: Path) -> str | None:
    """The format of a run's config.json; None where that cannot be read."""
    try:
        content = json.loads(read_file(directory / "config.json", directory))
    except (OSError, ValueError, RecursionError):
        return None
    return content.get("format") if isinstance(content, dict) else None


def check_free(directory: Path) -> None:
    """Raise RunError unless a new run may be made at `directory`."""
    if os.path.lexists(directory / "config.json"):
        holder = holder_of(directory)
        training = f", which {holder} is training" if holder else ""
        raise RunError(
            f"[{directory}] holds a run already{training}; nothing was changed. "
            "Continue it with --resume, or choose another --out"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(
            f"[{directory}] is not empty, and no run; nothing was changed. Choose "
            "another --out"
        )


def create_directory(directory: Path, prepare: Callable[[Path], Any]) -> None:
    """Make a run's directory: all of what `prepare` writes to its folder, or nothing.

    Raises:
        RunError: there is something else at its place.
    """
    with _folder_beside(directory) as aside:
        prepare(aside)
        try:
            os.rename(aside, directory)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                check_free(directory)  # another process was faster
            raise
        sync_directory(directory.parent)


@contextmanager
def _folder_beside(directory: Path) -> Iterator[Path]:
    """A folder of one's own beside a directory: it becomes that, or goes away.

    While it is locked nobody takes it for what a killed process left.
    """
    prefix = f".{directory.name}.preparing-"
    new = [p for p in (directory.parent, *directory.parent.parents) if not p.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    for other in directory.parent.iterdir():
        left = other.name.startswith(prefix) and (other / LOCK).exists()
        if left and holder_of(other) is None:
            shutil.rmtree(other, ignore_errors=True)
    aside = directory.with_name(f"{prefix}{uuid4().hex}")
    try:
        aside.mkdir()
        with FileLock(aside / LOCK).acquire(timeout=0):
            yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for parent in new:
            with suppress(OSError):
                parent.rmdir()  # it is empty: nothing came of it


def to_json(content: dict[str, Any]) -> bytes:
    """JSON of plain data and of paths, which stand there without their folder."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=lambda p: p.name)
    return f"{text}\n".encode()
