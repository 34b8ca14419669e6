"""The directory of a run of pairs.

config.json            versioned: sizes, settings, and what the pairs are
encoder.txt            the printed graph of the encoder's cell
decoder.txt            … and of the decoder's
input-tokenizer.json   in the form of the `tokenizers` library
output-tokenizer.json
train.tsv              the pairs: an input, a tab, an output
validation.tsv         what --validate-every looks at; may be empty
held-out.tsv           evaluated at the end; neither is ever trained on
plan.json, checkpoints/, metrics.jsonl    as of every run
result.json            the figures of the held-out pairs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn

from ...files import write_and_sync
from ...language import Cell
from ...schema import Checked, Limits
from ...train.forcing import Forcing
from ...train.settings import PairSettings
from ..directory import (
    RunDirectory,
    RunError,
    check_free,
    create_directory,
    to_json,
)
from ..model import check_memory, shapes_of
from .files import Example, Pair, PairError, Parts, examples, read_pairs, write_pairs
from .model import NextOutputToken, PairSizes, make_model
from .score import PairScore, mean_loss, score
from .sources import open_source
from .stream import PairStream, check_batch
from .tokens import PairTokenizer

FORMAT = "cellwright-pairs"
VERSION = 1

Count = Annotated[int, Limits(ge=0)]


@dataclass(frozen=True)
class PairCounts(Checked):
    """How many pairs each file of a run has."""

    train: Count
    validation: Count
    held_out: Count


@dataclass(frozen=True)
class PairConfig(Checked):
    """`config.json`."""

    format: Literal["cellwright-pairs"]
    version: Literal[1]
    cellwright: str
    sources: list[str]
    note: str
    settings: PairSettings
    model: PairSizes
    pairs: PairCounts


class PairRun(RunDirectory[PairSettings]):
    """An existing run directory of a model of pairs.

    Raises:
        RunError: the directory is missing, is no run of pairs, or has another version.
    """

    format, version = FORMAT, VERSION
    model_files = (
        *("encoder.txt", "decoder.txt"),
        *("input-tokenizer.json", "output-tokenizer.json"),
    )
    paths_in_settings = frozenset({"encoder", "decoder"})

    def __init__(self, directory: Path | str):
        super().__init__(directory)
        config = self.read_config(PairConfig)
        self.sources, self.settings = config.sources, config.settings
        self.sizes, self.counts, self.note = config.model, config.pairs, config.note
        self.engine = self.settings.engine
        self.encoder, self.decoder = map(self.read_cell, ("encoder.txt", "decoder.txt"))

    @cached_property
    def tokenizer(self) -> PairTokenizer:
        found = PairTokenizer.load(self.directory, token_kinds(self.settings))
        expected = self.sizes.input_vocabulary, self.sizes.output_vocabulary
        if found.sizes != expected:
            raise RunError(
                f"[{self.directory}] has the tokenizers of another run; received "
                f"{found.sizes} tokens, expected the model's {expected}"
            )
        return found

    def pairs(self, part: str) -> list[Pair]:
        """The pairs of a part: "train", "validation" or "held_out".

        Raises:
            RunError: the file cannot be read, or has another number of pairs.
            PairError: a line is no pair.
        """
        path = self.directory / f"{part.replace('_', '-')}.tsv"
        expected = getattr(self.counts, part)
        self.check_file(path)
        found = read_pairs(path, self.settings.longest) if expected else []
        if len(found) != expected:
            raise RunError(
                f"[{path}] was altered; received {len(found)} pairs, expected "
                f"{expected}"
            )
        return found

    @property
    def held_out(self) -> list[Example]:
        """The inputs that are evaluated at the end, with their references."""
        return examples(self.pairs("held_out"))

    # -- what the training asks for

    def build(self, engine: str) -> nn.Module:
        unknown = self.tokenizer.unknown_output
        cells = self.encoder, self.decoder
        return make_model(*cells, self.sizes, engine=engine, unknown=unknown)

    def check_sizes(self, stored: list[dict[str, tuple[int, ...]]]) -> None:
        for cell in (self.encoder, self.decoder):
            self.check_layers(self.sizes.layers, cell, stored)

    def check_held_out(self) -> None:
        self.pairs("held_out")

    def stream(self, share: tuple[int, int]) -> PairStream:
        assert self.settings.batch is not None
        tokens = self.tokenizer.encode_pairs(self.pairs("train"))
        return PairStream(*tokens, self.settings.batch, self.settings.seed, share)

    def objective(self, forcing: Forcing) -> NextOutputToken:
        return NextOutputToken(forcing)

    def validation_loss(self, model: nn.Module) -> float:
        return mean_loss(model, self.tokenizer, self._validation)  # type: ignore[arg-type]

    @cached_property
    def _validation(self) -> list[Pair]:
        return self.pairs("validation") or self.pairs("held_out")

    # -- its figures

    def evaluate_held_out(
        self, advance: Callable[[int], Any] = lambda count: None
    ) -> PairScore | None:
        """The figures of the held-out pairs by the trained model, kept in the run.

        None where nothing was held out.
        """
        held_out = self.held_out
        if not held_out:
            return None
        work = self.trained_model(), self.tokenizer, held_out, self.settings.beam
        figures = score(*work, advance)
        self.keep("result.json", figures.to_json())
        return figures

    def result(self) -> PairScore | None:
        """The figures of the held-out pairs, once training has ended."""
        return self.kept("result.json", PairScore)


def token_kinds(settings: PairSettings) -> tuple[str, str]:
    """The kinds of the tokens of inputs and outputs, of resolved settings."""
    default = PairSettings.DEFAULT_TOKENS
    return settings.input_tokens or default, settings.output_tokens or default


def create_pair_run(
    directory: Path,
    sources: list[str],
    cells: tuple[Cell, Cell],
    settings: PairSettings,
    say: Callable[[str], Any] = print,
) -> PairRun:
    """Read or make the pairs, learn their tokens, and make the run's directory.

    Args:
        directory: must not exist, or be empty.
        sources: one file, or the name of a task: see `sources.open_source`.
        cells: of encoder and decoder; their printed graphs are kept.
        settings: checked here.
        say: receives a line of news now and then.

    Raises:
        RunError, PairError, CorpusError, ArgumentError, CellError: nothing is made
            then.
    """
    check_free(directory)
    settings.check()
    create_directory(
        directory, lambda aside: _prepare(aside, sources, cells, settings, say)
    )
    return PairRun(directory)


def _prepare(
    folder: Path,
    sources: list[str],
    cells: tuple[Cell, Cell],
    settings: PairSettings,
    say: Callable[[str], Any],
) -> None:
    from ...version import __version__

    settings, parts = open_source(sources, settings)
    say(parts.note)
    tokenizer = PairTokenizer.learn(parts.train, token_kinds(settings), settings.vocab)
    settings = _fit(settings, parts, say)
    sizes = _sizes(settings, tokenizer)
    # Refuse now what cannot be trained later.
    check_memory(shapes_of(lambda: make_model(*cells, sizes, engine="reference")))
    make_model(*cells, sizes, engine=settings.engine)
    if settings.validate_every and not (parts.validation or parts.held_out):
        raise PairError(
            "[validate_every] there is nothing to validate on; received 0 pairs that "
            "are held out. Use more pairs, or a larger --val-fraction"
        )
    tokenizer.save(folder)
    for name, cell in zip(("encoder", "decoder"), cells, strict=True):
        write_and_sync(folder / f"{name}.txt", cell.to_text().encode())
    counts = {}
    for field in fields(PairCounts):
        pairs = getattr(parts, field.name)
        name = f"{field.name.replace('_', '-')}.tsv"
        write_and_sync(folder / name, write_pairs(pairs))
        counts[field.name] = len(pairs)
    made_by = FORMAT, VERSION, __version__
    config = PairConfig(
        *made_by, sources, parts.note, settings, sizes, PairCounts(**counts)
    )
    write_and_sync(folder / "config.json", to_json(asdict(config)))


def _fit(
    settings: PairSettings, parts: Parts, say: Callable[[str], Any]
) -> PairSettings:
    """Fill in the batch; a smaller one where few pairs ask for it."""
    usual, count = PairSettings.DEFAULT_BATCH, len(parts.train)
    batch = settings.batch or min(usual, count)  # what was asked for is never changed
    check_batch(count, batch)
    if batch < usual and settings.batch is None:
        say(f"there are few pairs: batches of {batch}")
    return replace(settings, batch=batch)


def _sizes(settings: PairSettings, tokenizer: PairTokenizer) -> PairSizes:
    known = {f.name for f in fields(PairSizes)} & vars(settings).keys()
    own = {name: getattr(settings, name) for name in known}
    inputs, outputs = tokenizer.sizes
    return PairSizes(input_vocabulary=inputs, output_vocabulary=outputs, **own)
