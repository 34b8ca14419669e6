"""The directory of one run: everything that training, evaluating and generating need.

    config.json       versioned: sizes, settings, and the text's figures
    cell.txt          the printed graph of the cell; no user code is needed again
    tokenizer.json    in the form of the `tokenizers` library
    train.tokens      token numbers, memory-mapped
    held-out.tokens   the last part of the text, or --valid: never trained on
    test.tokens       --test, where it was given: evaluated at the end, and only then
    plan.json         how many steps, or how long; fixed when training first begins
    checkpoints/      see `train.checkpoint`
    metrics.jsonl     a line for every logged step and validation
    result.json       the figures of the held-out text
    test.json         the figures of the test text

It comes into being whole: it is prepared beside its place and then renamed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from uuid import uuid4

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..files import read_file, sync_directory, write_and_sync, write_atomically
from ..language import Cell
from ..language.errors import ArgumentError, CellwrightError
from ..nn.regularise import parse_probabilities
from ..schema import Checked, Limits, check, parse_json
from ..train.checkpoint import Store
from ..train.lock import LOCK, holder_of
from ..train.session import check_shapes, load_weights
from ..train.settings import Settings, parse_cutoffs
from .corpus import (
    CorpusError,
    Text,
    Tokens,
    check_length,
    fit_batch,
    open_text,
    write_tokens,
)
from .model import LanguageModel, ModelSizes, check_memory, model_shapes
from .score import Score
from .tokenizer import KINDS, TextTokenizer

FORMAT = "cellwright-run"
VERSION = 1

T = TypeVar("T")


class RunError(CellwrightError):
    """A directory is no run, or holds one that must not be touched."""


@dataclass(frozen=True)
class TextCounts(Checked):
    """What a run's text was."""

    files: Annotated[int, Limits(ge=0)]
    characters: Annotated[int, Limits(ge=0)]


@dataclass(frozen=True)
class Config(Checked):
    """`config.json`."""

    format: Literal["cellwright-run"]
    version: Literal[1]
    cellwright: str
    sources: list[str]
    settings: Settings
    model: ModelSizes
    text: TextCounts
    train: Tokens
    held_out: Tokens
    test: Tokens | None = None


@dataclass(frozen=True)
class StoredPlan(Checked):
    """`plan.json`; with `seconds` a plan by time, of which `steps` are an estimate."""

    version: Literal[1]
    steps: Annotated[int, Limits(ge=1)]
    planning_seconds: Annotated[float, Limits(ge=0)]
    seconds: Annotated[float, Limits(gt=0)] | None = None


class Run:
    """An existing run directory.

    Every file is held to its schema when it is read, and must lie in the directory:
    a link that leads out of it is refused.

    Raises:
        RunError: the directory is missing, is no run, or has another version.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        config = self._read_config()
        self.sources, self.settings = config.sources, config.settings
        self.sizes, self.text = config.model, config.text
        self.train_tokens, self.held_out = (
            replace(tokens, path=self.directory / tokens.path)
            for tokens in (config.train, config.held_out)
        )
        self.test = config.test and replace(
            config.test, path=self.directory / config.test.path
        )
        self.cell = self._read_cell()
        self.store = Store(self.directory / "checkpoints", root=self.directory)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        path = self.directory / "tokenizer.json"
        found = TextTokenizer.load(self.settings.tokenizer, path)
        if found.vocabulary != self.sizes.vocabulary:
            raise RunError(
                f"[{path}] is of another run; received {found.vocabulary} tokens, "
                f"expected the model's {self.sizes.vocabulary}"
            )
        return found

    def read(
        self, text: str | NDArray[np.int64] | None, most: int | None = None
    ) -> NDArray[np.int64]:
        """A text as this run reads it: at most so many of its tokens.

        Args:
            text: a text, or token numbers; None: the tokens that were held out.
            most: None for all.

        Raises:
            RunError: nothing was held out.
        """
        if text is None and not self.held_out.count:
            raise RunError(
                f"[{self.directory}] this run holds no text out; give one of your own"
            )
        if text is None:
            return self.held_out.open(self.sizes.vocabulary)[:most].astype(np.int64)
        tokens = self.tokenizer.encode(text) if isinstance(text, str) else text
        return tokens[:most]

    def held_out_text(self, tokens: int) -> str:
        """So many tokens that were held out, as text; U+FFFD stands for unknown ones.

        Raises:
            RunError: nothing was held out.
        """
        return self.tokenizer.decode(self.read(None, tokens).tolist())

    def new_model(self) -> LanguageModel:
        """The model as drawn from torch's generator: untrained.

        Raises:
            RunError: its sizes are not those of the tokenizer.
            CheckpointError: they are not those of the weights on the disk.
            ArgumentError: no memory could hold it.
        """
        unknown = self.tokenizer.unknown
        self._check_sizes()
        return LanguageModel(
            self.cell, self.sizes, engine=self.settings.engine, unknown=unknown
        )

    def _check_sizes(self) -> None:
        """Hold the sizes to what is on the disk, before any memory is taken."""
        pointers = filter(self.store.has, ("last", "best"))
        found = [self.store.shapes(pointer) for pointer in pointers]
        fewest, layers = min(map(len, found), default=math.inf), self.sizes.layers
        if self.cell.graph.weights and layers > fewest:  # cheap: no layer is made
            raise RunError(
                f"[{self.directory}/config.json, model.layers] received {layers}, "
                f"expected fewer than the {fewest} weights of the checkpoint"
            )
        shapes = model_shapes(self.cell, self.sizes)
        for stored in found:
            check_shapes(stored, shapes, self.store)
        if not found:
            check_memory(shapes)

    def trained_model(self) -> LanguageModel:
        """The best checkpoint where training validated, else the last; in eval mode.

        Raises:
            CheckpointError: there is none yet, or it is damaged.
        """
        model = self.new_model()
        pointer = "best" if self.store.has("best") else "last"
        load_weights(model, self.store.load(pointer).model, self.store)
        return model.eval()

    def plan(self) -> StoredPlan | None:
        """The stored plan, or None before training first began."""
        return self._kept("plan.json", StoredPlan)

    def keep(self, name: str, content: dict[str, Any]) -> None:
        """Write one of the run's JSON files, in one atomic step."""
        write_atomically(self.directory / name, _json(content))

    def result(self) -> Score | None:
        """The figures of the held-out text, once training has ended."""
        return self._kept("result.json", Score)

    def _kept(self, name: str, kind: type[T]) -> T | None:
        path = self.directory / name
        if not os.path.lexists(path):
            return None
        content = parse_json(self._read(path), path, RunError)
        return check(kind, content, path, RunError)

    def _read(self, path: Path) -> bytes:
        try:
            return read_file(path, self.directory)
        except OSError as error:
            raise RunError(f"[{path}] cannot be read: {error.strerror}") from error

    def _read_cell(self) -> Cell:
        path = self.directory / "cell.txt"
        try:
            return Cell.from_text(self._read(path).decode())
        except (CellwrightError, UnicodeError) as error:
            why = " ".join(str(error).split())
            raise RunError(f"[{path}] is no printed cell: {why}") from error

    def _read_config(self) -> Config:
        path = self.directory / "config.json"
        if not os.path.lexists(path):
            raise RunError(
                f"[{self.directory}] is no run: it has no config.json. Expected a "
                "directory that `cellwright train … --out` made"
            )
        content = parse_json(self._read(path), path, RunError)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RunError(
                f"[{path}] was not written by cellwright; expected format {FORMAT!r}"
            )
        if content.get("version") != VERSION:
            raise RunError(
                f"[{path}] has another version; received {content.get('version')!r}, "
                f"expected {VERSION}. Use the cellwright that wrote it"
            )
        return check(Config, content, path, RunError)


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


def create_run(
    directory: Path,
    sources: list[str],
    cell: Cell,
    settings: Settings,
    say: Callable[[str], Any] = print,
) -> Run:
    """Read the text, learn its tokens, and make the run's directory.

    Args:
        directory: must not exist, or be empty.
        sources: as `open_text` takes them.
        cell: its printed graph is kept.
        settings: checked here.
        say: receives a line of news now and then.

    Raises:
        RunError, CorpusError, ArgumentError, CellError: nothing is made then.
    """
    check_free(directory)
    settings.check()
    with _folder_beside(directory) as aside:
        _prepare(aside, sources, cell, settings, say)
        try:
            os.rename(aside, directory)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                check_free(directory)  # another process was faster
            raise
        sync_directory(directory.parent)
    return Run(directory)


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


def _prepare(
    folder: Path,
    sources: list[str],
    cell: Cell,
    settings: Settings,
    say: Callable[[str], Any],
) -> None:
    from ..version import __version__

    text, tokenizer, tokens = _tokenise(folder, sources, settings, say)
    train, held_out, test = tokens
    settings = _fit(settings, train, say)
    sizes = _sizes(settings, tokenizer.vocabulary)
    _check_adaptive(settings)
    # Refuse now what cannot be trained later.
    check_memory(model_shapes(cell, sizes))
    LanguageModel(cell, sizes, engine=settings.engine)
    check_length(train.count, settings.batch or 1, settings.window or 1, held_out.count)
    if settings.validate_every and held_out.count < 2:
        raise CorpusError(
            "[validate_every] the part of the text that is held out is too short to "
            f"validate on; received {held_out.count} tokens, expected at least 2. Use "
            "a longer text, or a larger --val-fraction"
        )
    tokenizer.save(folder / "tokenizer.json")
    write_and_sync(folder / "cell.txt", cell.to_text().encode())
    counts = TextCounts(len(text.files), text.characters)
    made_by = FORMAT, VERSION, __version__
    config = Config(*made_by, sources, settings, sizes, counts, train, held_out, test)
    write_and_sync(folder / "config.json", _json(asdict(config)))


def _tokenise(
    folder: Path, sources: list[str], settings: Settings, say: Callable[[str], Any]
) -> tuple[Text, TextTokenizer, tuple[Tokens, Tokens, Tokens | None]]:
    """Read the texts and learn the tokens of the first; train, held out and test."""
    spool = folder / "stdin.txt"
    text = open_text(sources, spool)
    if text.skipped:
        say(f"left out {len(text.skipped)} files that are not UTF-8 text")
    apart = settings.valid is not None
    cut = int(text.characters * (1 - (0 if apart else settings.val_fraction)))
    tokenizer = TextTokenizer.learn(
        settings.tokenizer, text.pieces(0, cut), settings.vocab
    )

    def write(pieces: Iterator[str], name: str) -> Tokens:
        return write_tokens(pieces, tokenizer, folder / name)

    def read(source: str, name: str) -> Tokens:
        return write(open_text([source], folder / "stdin.txt").pieces(), name)

    train = write(text.pieces(0, cut), "train.tokens")
    if settings.valid is None:
        held_out = write(text.pieces(cut), "held-out.tokens")
    else:
        held_out = read(settings.valid, "held-out.tokens")
    test = settings.test and read(settings.test, "test.tokens")
    spool.unlink(missing_ok=True)
    return text, tokenizer, (train, held_out, test or None)


def _check_adaptive(settings: Settings) -> None:
    if settings.adaptive and not KINDS[settings.tokenizer].by_frequency:
        known = ", ".join(name for name, kind in KINDS.items() if kind.by_frequency)
        raise ArgumentError(
            "[adaptive] its clusters are of tokens by frequency; received tokenizer "
            f"{settings.tokenizer}, whose numbers are not in that order, expected "
            f"{known}"
        )


def _fit(settings: Settings, train: Tokens, say: Callable[[str], Any]) -> Settings:
    """Fill in batch and window; smaller ones where a short text asks for it."""
    wanted = settings.batch or Settings.DEFAULT_BATCH
    length = settings.window or Settings.DEFAULT_WINDOW
    batch, window = fit_batch(train.count, wanted, length)
    batch = settings.batch or batch  # one that was asked for is never changed
    window = settings.window or window
    if (batch, window) != (wanted, length):
        say(f"the text is short: {batch} rows, windows of {window} tokens")
    every = settings.validate_every
    if every is None and settings.average.startswith("nt-asgd"):
        every = max(1, (train.count - 1) // (batch * window))  # once an epoch
    return replace(settings, batch=batch, window=window, validate_every=every)


def _sizes(settings: Settings, vocabulary: int) -> ModelSizes:
    embedding = settings.embedding or Settings.DEFAULT_EMBEDDING
    if settings.tie and settings.embedding is None:
        embedding = settings.hidden  # the one width that can be tied
    known = {f.name for f in fields(ModelSizes)} & vars(settings).keys()
    sizes: dict[str, Any] = {name: getattr(settings, name) for name in known}
    for name in ("update_dropout", "zoneout"):
        sizes[name] = parse_probabilities(name, sizes[name])
    if settings.adaptive:
        sizes["adaptive"] = parse_cutoffs(settings.adaptive)
    return ModelSizes(**{**sizes, "vocabulary": vocabulary, "embedding": embedding})


def _json(content: dict[str, Any]) -> bytes:
    """JSON of plain data and of paths, which stand there without their folder."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=lambda p: p.name)
    return f"{text}\n".encode()
