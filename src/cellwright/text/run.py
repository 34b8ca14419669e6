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

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..files import write_and_sync
from ..language import Cell
from ..language.errors import ArgumentError
from ..nn.regularise import parse_probabilities
from ..schema import Checked, Limits
from ..train.forcing import Forcing
from ..train.settings import Settings, parse_cutoffs
from .corpus import (
    CorpusError,
    Text,
    TextStream,
    Tokens,
    check_length,
    fit_batch,
    open_text,
    write_tokens,
)
from .directory import (
    RunDirectory,
    RunError,
    StoredPlan,
    check_free,
    create_directory,
    to_json,
)
from .model import LanguageModel, ModelSizes, NextToken, check_memory, model_shapes
from .score import Score, score
from .tokenizer import KINDS, TextTokenizer

__all__ = ["Run", "RunError", "Settings", "StoredPlan", "create_run"]

FORMAT = "cellwright-run"
VERSION = 1


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


class Run(RunDirectory[Settings]):
    """An existing run directory of a language model.

    Raises:
        RunError: the directory is missing, is no run of a language model, or has
            another version.
    """

    format, version = FORMAT, VERSION
    model_files = "cell.txt", "tokenizer.json"
    paths_in_settings = frozenset({"cell", "valid", "test"})

    def __init__(self, directory: Path | str):
        super().__init__(directory)
        config = self.read_config(Config)
        self.sources, self.settings = config.sources, config.settings
        self.sizes, self.text = config.model, config.text
        self.train_tokens, self.held_out = (
            replace(tokens, path=self.directory / tokens.path)
            for tokens in (config.train, config.held_out)
        )
        self.test = config.test and replace(
            config.test, path=self.directory / config.test.path
        )
        self.cell, self.engine = self.read_cell("cell.txt"), self.settings.engine

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

    def build(self, engine: str) -> LanguageModel:
        unknown = self.tokenizer.unknown
        return LanguageModel(self.cell, self.sizes, engine=engine, unknown=unknown)

    def check_sizes(self, stored: list[dict[str, tuple[int, ...]]]) -> None:
        self.check_layers(self.sizes.layers, self.cell, stored)

    def check_held_out(self) -> None:
        for tokens in filter(None, (self.held_out, self.test)):
            tokens.open(self.sizes.vocabulary)

    def stream(self, share: tuple[int, int]) -> TextStream:
        settings = self.settings
        if settings.batch is None or settings.window is None:
            raise RunError(
                f"[{self.directory}/config.json, settings] received a batch of "
                f"{settings.batch} and a window of {settings.window}, expected numbers"
            )
        return TextStream(
            self.train_tokens.open(self.sizes.vocabulary),
            settings.batch,
            settings.window,
            settings.seed,
            share,
            settings.restart,
            settings.random_window,
        )

    def objective(self, forcing: Forcing) -> NextToken:
        return NextToken(forcing, self.settings.ar, self.settings.tar)

    def validation_loss(self, model: nn.Module) -> float:
        assert isinstance(model, LanguageModel)
        loss = score(model, self.held_out, self.tokenizer).nats_per_token
        return math.inf if loss is None else loss

    def result(self) -> Score | None:
        """The figures of the held-out text, once training has ended."""
        return self.kept("result.json", Score)

    def test_result(self) -> Score | None:
        """The figures of the test text, once it was evaluated."""
        return self.kept("test.json", Score)

    def has_ended(self) -> bool:
        """Whether training has ended, and every text was evaluated after it."""
        tested = self.test is None or self.test_result() is not None
        return tested and self.result() is not None


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
    create_directory(
        directory, lambda aside: _prepare(aside, sources, cell, settings, say)
    )
    return Run(directory)


def copy_run(run: Run, directory: Path, cell: Cell, settings: Settings) -> Run:
    """Make a run of another cell, or other settings, on the text of an existing one.

    The text is copied as tokens: it is the same to the bit, and is not read again.

    Args:
        run: whose text it is.
        directory: must not exist, or be empty.
        settings: those of the text are `run.settings`'.

    Raises:
        RunError, ArgumentError, CellError: nothing is made then.
    """
    check_free(directory)
    settings.check()
    create_directory(directory, lambda aside: _copy(aside, run, cell, settings))
    return Run(directory)


@dataclass(frozen=True)
class _ReadText:
    """A text as a run keeps it."""

    sources: list[str]
    counts: TextCounts
    tokenizer: TextTokenizer
    train: Tokens
    held_out: Tokens
    test: Tokens | None


def _prepare(
    folder: Path,
    sources: list[str],
    cell: Cell,
    settings: Settings,
    say: Callable[[str], Any],
) -> None:
    text, tokenizer, tokens = _tokenise(folder, sources, settings, say)
    settings = _fit(settings, tokens[0], say)
    tokenizer.save(folder / "tokenizer.json")
    counts = TextCounts(len(text.files), text.characters)
    read = _ReadText(sources, counts, tokenizer, *tokens)
    _write(folder, read, cell, settings)


def _copy(folder: Path, run: Run, cell: Cell, settings: Settings) -> None:
    parts = run.train_tokens, run.held_out, run.test
    for tokens in filter(None, parts):
        tokens.open(run.sizes.vocabulary)  # refuses what was cut short or altered
        shutil.copyfile(tokens.path, folder / tokens.path.name)
    run.tokenizer.save(folder / "tokenizer.json")
    read = _ReadText(run.sources, run.text, run.tokenizer, *parts)
    _write(folder, read, cell, settings)


def _write(folder: Path, text: _ReadText, cell: Cell, settings: Settings) -> None:
    """Write the cell and config.json beside the text's files, if it can be trained."""
    from ..version import __version__

    sizes = model_sizes(settings, text.tokenizer.vocabulary)
    _check_adaptive(settings)
    # Refuse now what cannot be trained later.
    check_memory(model_shapes(cell, sizes))
    LanguageModel(cell, sizes, engine=settings.engine)
    train, held_out = text.train, text.held_out
    check_length(train.count, settings.batch or 1, settings.window or 1, held_out.count)
    if settings.validate_every and held_out.count < 2:
        raise CorpusError(
            "[validate_every] the part of the text that is held out is too short to "
            f"validate on; received {held_out.count} tokens, expected at least 2. Use "
            "a longer text, or a larger --val-fraction"
        )
    write_and_sync(folder / "cell.txt", cell.to_text().encode())
    parts = text.counts, train, held_out, text.test
    made_by = FORMAT, VERSION, __version__
    config = Config(*made_by, text.sources, settings, sizes, *parts)
    write_and_sync(folder / "config.json", to_json(asdict(config)))


def _tokenise(
    folder: Path, sources: list[str], settings: Settings, say: Callable[[str], Any]
) -> tuple[Text, TextTokenizer, tuple[Tokens, Tokens, Tokens | None]]:
    """Read the texts and learn the tokens of the first; train, held out and test."""
    spool = folder / "stdin.txt"
    kind = KINDS[settings.tokenizer]
    text = open_text(sources, spool, kind.by_line)
    if text.skipped:
        say(f"left out {len(text.skipped)} files that are not UTF-8 text")
    apart = settings.valid is not None
    cut = int(text.characters * (1 - (0 if apart else settings.val_fraction)))
    if kind.by_word:
        cut = text.word_start(cut)
    tokenizer = TextTokenizer.learn(
        settings.tokenizer, text.pieces(0, cut), settings.vocab
    )

    def write(pieces: Iterator[str], name: str) -> Tokens:
        return write_tokens(pieces, tokenizer, folder / name)

    def read(option: str, source: str, name: str) -> Tokens:
        tokens = write(open_text([source], spool, kind.by_line).pieces(), name)
        if tokens.count < 2:
            raise CorpusError(
                f"[{option}] {source} is too short to evaluate; received "
                f"{tokens.count} tokens, expected at least 2"
            )
        return tokens

    train = write(text.pieces(0, cut), "train.tokens")
    if settings.valid is None:
        held_out = write(text.pieces(cut), "held-out.tokens")
    else:
        held_out = read("valid", settings.valid, "held-out.tokens")
    test = None
    if settings.test is not None:
        test = read("test", settings.test, "test.tokens")
    spool.unlink(missing_ok=True)
    return text, tokenizer, (train, held_out, test)


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


def model_sizes(settings: Settings, vocabulary: int) -> ModelSizes:
    """The numbers of the model that the settings ask for."""
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
