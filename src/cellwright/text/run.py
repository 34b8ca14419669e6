"""The directory of one run: everything that training, evaluating and generating need.

    config.json       versioned: sizes, settings, and the text's figures
    cell.txt          the printed graph of the cell; no user code is needed again
    tokenizer.json    in the form of the `tokenizers` library
    train.tokens      token numbers, memory-mapped
    held-out.tokens   the last part of the text, never trained on
    plan.json         how many steps; fixed when training first begins
    checkpoints/      see `train.checkpoint`
    metrics.jsonl     a line for every logged step and validation
    result.json       the figures of the held-out text

It comes into being whole: it is prepared beside its place and then renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..language import Cell
from ..language.errors import ArgumentError, CellwrightError
from ..nn.regularise import parse_probabilities
from ..train.checkpoint import Store, sync_directory, write_and_sync, write_atomically
from ..train.forcing import parse_forcing
from ..train.session import load_weights
from .corpus import (
    CorpusError,
    Tokens,
    check_length,
    fit_batch,
    open_text,
    write_tokens,
)
from .model import LanguageModel, ModelSizes
from .tokenizer import TextTokenizer

FORMAT = "cellwright-run"
VERSION = 1


class RunError(CellwrightError):
    """A directory is no run, or holds one that must not be touched."""


@dataclass(frozen=True)
class Settings:
    """What a run was asked for. One of minutes, epochs and steps says how long.

    The defaults are tuned for a minute on two cores and a text of a million characters.
    `None` for batch and window means: these defaults, or less where the text is short.
    """

    cell: str = "lstm"
    hidden: int = 256
    layers: int = 1
    embedding: int | None = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    update_dropout: str = "0"
    zoneout: str = "0"
    weight_drop: float = 0.0
    locked: bool = False
    ar: float = 0.0
    tar: float = 0.0
    tie: bool = False
    tokenizer: str = "char"
    vocab: int | None = None
    val_fraction: float = 0.1
    minutes: float | None = None
    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    window: int | None = None
    accumulate: int = 1
    optimiser: str = "adamw"
    lr: float = 8e-3
    weight_decay: float = 0.1
    beta2: float = 0.99
    momentum: float = 0.9
    schedule: str = "cosine"
    warm_up: int = 50
    clip: float | None = 1.0
    clip_value: float | None = None
    forcing: str = "1"
    restart: float = 0.03
    validate_every: int | None = None
    patience: int | None = None
    checkpoint_every: int = 500
    log_every: int = 10
    precision: str = "no"
    seed: int = 0
    engine: str = "auto"

    DEFAULT_BATCH = 32
    DEFAULT_WINDOW = 64
    DEFAULT_EMBEDDING = 64
    DEFAULT_EPOCHS = 10

    def check(self) -> None:
        """Raise ArgumentError for numbers that make no sense."""
        given = [n for n in ("minutes", "epochs", "steps") if getattr(self, n)]
        if len(given) > 1:
            raise ArgumentError(
                f"[settings] received both {given[0]} and {given[1]}, expected one way "
                "to say how long to train"
            )
        positive = (
            "hidden layers embedding vocab minutes epochs steps batch window "
            "accumulate lr clip clip_value validate_every patience "
            "checkpoint_every log_every"
        )
        for name in positive.split():
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ArgumentError(f"[{name}] received {value}, expected more than 0")
        fractions = (
            "dropout recurrent_dropout weight_drop val_fraction beta2 momentum restart"
        )
        for name in fractions.split():
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ArgumentError(
                    f"[{name}] received {value}, expected at least 0 and less than 1"
                )
        for name in ("ar", "tar"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(
                    f"[{name}] received {getattr(self, name)}, expected at least 0"
                )
        parse_forcing(self.forcing, steps=1)
        if self.patience and not self.validate_every:
            raise ArgumentError(
                "[patience] early stopping needs validations; give validate_every, too"
            )
        if self.validate_every and not self.val_fraction:
            raise ArgumentError(
                "[validate_every] there is nothing to validate on; received a "
                "val_fraction of 0, expected more"
            )


class Run:
    """An existing run directory.

    Raises:
        RunError: the directory is missing, is no run, or has another version.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        config = self._read_config()
        try:
            self.sources: list[str] = config["sources"]
            self.settings = Settings(**config["settings"])
            self.sizes = ModelSizes(**config["model"])
            self.text: dict[str, Any] = config["text"]
            self.train_tokens = Tokens.from_json(config["train"], self.directory)
            self.held_out = Tokens.from_json(config["held_out"], self.directory)
            self.created_by: str = config["cellwright"]
        except (KeyError, TypeError) as error:
            raise RunError(
                f"[{self.directory}/config.json] is not what cellwright wrote: {error}"
            ) from error
        self.cell = Cell.from_text((self.directory / "cell.txt").read_text("utf-8"))
        self.store = Store(self.directory / "checkpoints")

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        path = self.directory / "tokenizer.json"
        return TextTokenizer.load(self.settings.tokenizer, path)

    def held_out_text(self, tokens: int) -> str:
        """The beginning of the held-out text: at most so many tokens of it."""
        if not self.held_out.count:
            raise RunError(
                f"[{self.directory}] this run holds no text out; give one of your own"
            )
        return self.tokenizer.decode(self.held_out.open()[:tokens].tolist())

    def new_model(self) -> LanguageModel:
        """The model as drawn from torch's generator: untrained."""
        return LanguageModel(
            self.cell,
            self.sizes,
            engine=self.settings.engine,
            unknown=self.tokenizer.unknown,
        )

    def trained_model(self) -> LanguageModel:
        """The best checkpoint where training validated, else the last; in eval mode.

        Raises:
            CheckpointError: there is none yet, or it is damaged.
        """
        model = self.new_model()
        pointer = "best" if self.store.has("best") else "last"
        load_weights(model, self.store.load(pointer).model, self.store)
        return model.eval()

    def plan(self) -> dict[str, Any] | None:
        """The stored plan, or None before training first began."""
        path = self.directory / "plan.json"
        return json.loads(path.read_text()) if path.exists() else None

    def keep(self, name: str, content: dict[str, Any]) -> None:
        """Write one of the run's JSON files, in one atomic step."""
        write_atomically(self.directory / name, _json(content))

    def result(self) -> dict[str, Any] | None:
        """The figures of the held-out text, once training has ended."""
        path = self.directory / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _read_config(self) -> dict[str, Any]:
        path = self.directory / "config.json"
        try:
            config = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"[{self.directory}] is no run: it has no config.json. Expected a "
                "directory that `cellwright train … --out` made"
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"[{path}] cannot be read: {error}") from error
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise RunError(
                f"[{path}] was not written by cellwright; expected format {FORMAT!r}"
            )
        if config.get("version") != VERSION:
            raise RunError(
                f"[{path}] has another version; received {config.get('version')!r}, "
                f"expected {VERSION}. Use the cellwright that wrote it"
            )
        return config


def check_free(directory: Path) -> None:
    """Raise RunError unless a new run may be made at `directory`."""
    if (directory / "config.json").exists():
        raise RunError(
            f"[{directory}] holds a run already; nothing was changed. Continue it with "
            "--resume, or choose another --out"
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
        cell: the recurrent cell; its printed graph is kept.
        settings: checked here.
        say: receives a line of news now and then.

    Raises:
        RunError, CorpusError, ArgumentError, CellError: nothing is made then.
    """
    check_free(directory)
    settings.check()
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = directory.parent / f".{directory.name}.preparing"
    shutil.rmtree(aside, ignore_errors=True)  # a preparation that was killed
    aside.mkdir()
    try:
        _prepare(aside, sources, cell, settings, say)
        os.rename(aside, directory)
        sync_directory(directory.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Run(directory)


def _prepare(
    folder: Path,
    sources: list[str],
    cell: Cell,
    settings: Settings,
    say: Callable[[str], Any],
) -> None:
    from .. import __version__

    spool = folder / "stdin.txt"
    text = open_text(sources, spool)
    if text.skipped:
        say(f"left out {len(text.skipped)} files that are not UTF-8 text")
    cut = int(text.characters * (1 - settings.val_fraction))
    tokenizer = TextTokenizer.learn(
        settings.tokenizer, text.pieces(0, cut), settings.vocab
    )
    train = write_tokens(text.pieces(0, cut), tokenizer, folder / "train.tokens")
    held_out = write_tokens(text.pieces(cut), tokenizer, folder / "held-out.tokens")
    spool.unlink(missing_ok=True)
    settings = _fit(settings, train, say)
    sizes = _sizes(settings, cell, tokenizer)
    # Refuse now what cannot be trained later.
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
    config = {
        "format": FORMAT,
        "version": VERSION,
        "cellwright": __version__,
        "sources": sources,
        "settings": asdict(settings),
        "model": sizes.to_json(),
        "text": {"files": len(text.files), "characters": text.characters},
        "train": train.to_json(),
        "held_out": held_out.to_json(),
    }
    write_and_sync(folder / "config.json", _json(config))


def _fit(settings: Settings, train: Tokens, say: Callable[[str], Any]) -> Settings:
    """Fill in batch and window; smaller ones where a short text asks for it."""
    wanted = settings.batch or Settings.DEFAULT_BATCH
    length = settings.window or Settings.DEFAULT_WINDOW
    batch, window = fit_batch(train.count, wanted, length)
    batch = settings.batch or batch  # what was asked for is refused later, not changed
    window = settings.window or window
    if (batch, window) != (wanted, length):
        say(f"the text is short: {batch} lanes, windows of {window} tokens")
    return Settings(**{**asdict(settings), "batch": batch, "window": window})


def _sizes(settings: Settings, cell: Cell, tokenizer: TextTokenizer) -> ModelSizes:
    embedding = settings.embedding or Settings.DEFAULT_EMBEDDING
    if settings.tie and settings.embedding is None:
        embedding = settings.hidden  # the one width that can be tied
    return ModelSizes(
        tokenizer.vocabulary,
        embedding,
        settings.hidden,
        settings.layers,
        settings.dropout,
        settings.tie,
        settings.recurrent_dropout,
        parse_probabilities("update_dropout", settings.update_dropout),
        parse_probabilities("zoneout", settings.zoneout),
        settings.weight_drop,
        settings.locked,
    )


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
