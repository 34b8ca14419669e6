"""The tasks of Bai, Kolter & Koltun 2018: for each the nets, the batches, the scores.

A task builds a net of a `Setting`, gives a stream of batches and their loss, and scores
a model on its validation or test part. `bai_2018.py` has the settings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw

from ..text.corpus import TextStream
from ..text.model import LanguageModel, ModelSizes
from ..train.plan import Stream
from . import tasks
from .peers import TCN, Recurrence
from .tasks import Sequences, music
from .training import Drawn

CELLS = {"RNN": "rnn", "GRU": "gru_reset_after", "LSTM": "lstm"}
#: The gate that keeps the old state, and what opens it for long.
KEEPS = {"GRU": "z", "LSTM": "f"}

Part = Literal["validation", "test"]


@dataclass(frozen=True)
class Setting:
    """How one net is made and trained on one task.

    Attributes:
        units: of a layer, or of a level of the TCN.
        layers: recurrent layers, or levels.
        kernel: of the TCN.
        embedding: width of a token's vector, which is the output matrix too (tied)
            where it is as wide as the last layer, as it always is for the TCN.
        dropout: between layers and of the outputs; after each convolution.
        embedding_dropout: of the tokens' vectors.
        recurrent_dropout: of the old output, one mask a sequence.
        bias: of the LSTM's forget gate at the start.
        longest: steps that chrono initialisation expects; None: no chrono.
        frequencies: of music, whether the output's bias starts at how often each key
            sounds, which saves hundreds of updates.
        batch: pieces, sequences or rows.
        length: steps of a drawn sequence, or of a window of text; 0: whole pieces.
        steps: of an epoch, where sequences are drawn; 0: once through the data.
        epochs: at most.
        optimiser, rate, clip, momentum, weight_decay: as for `cellwright.train`.
    """

    units: int
    layers: int = 1
    kernel: int = 0
    embedding: int = 0
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    bias: float | None = None
    longest: int | None = None
    frequencies: bool = False
    batch: int = 1
    length: int = 0
    steps: int = 0
    epochs: int = 100
    optimiser: str = "adam"
    rate: float = 2e-3
    clip: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Task(ABC):
    """A task of the paper's table 1.

    Attributes:
        title: with what is measured.
        published: that measure for every net.
        size: weights of a net, about, as the table says.
        tokens: frames, steps or tokens that an epoch trains on.
        anneal: (cut, window, first): the rate is multiplied by `cut` after a validation
            that is worse than the `window` before it, from epoch `first` on, as their
            code does; None: never.
    """

    title: str
    published: dict[str, float]
    size: int
    tokens: int
    anneal: tuple[float, int, int] | None = None

    @abstractmethod
    def why_missing(self) -> str | None:
        """Why its data is not here; None if it is."""

    @abstractmethod
    def build(self, net: str, setting: Setting) -> Any:
        """A net with its first weights."""

    @abstractmethod
    def stream(self, setting: Setting, seed: int) -> tuple[Stream, int]:
        """Batches, and how many of them make an epoch."""

    @abstractmethod
    def loss(
        self, model: Any, batch: Any, state: Any, step: float
    ) -> tuple[Tensor, Any]:
        """The objective: the mean loss of a batch, and the state carried on."""

    @abstractmethod
    def score(self, model: Any, part: Part, setting: Setting) -> float:
        """What the table measures, on the validation or the test part."""

    def multiply_adds(self, net: str, setting: Setting) -> float:
        """Of one epoch, forward and backward: three for each weight and step."""
        return 3.0 * self.tokens * products(self.build(net, setting))


def products(model: nn.Module) -> int:
    """Multiply-adds of a step forward: a weight of a matrix each; a look-up is none."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    shared = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    looked_up = {id(table.weight) for table in tables} - shared
    weights = {id(p): p.numel() for p in model.parameters() if p.ndim > 1}
    return sum(n for key, n in weights.items() if key not in looked_up)


def vector_net(net: str, setting: Setting, inputs: int, outputs: int) -> Any:
    """A net that reads vectors: x (T, B, inputs) to (T, B, outputs)."""
    s = setting
    if net == "TCN":
        sizes = {"kernel": s.kernel, "levels": s.layers, "dropout": s.dropout}
        return TCN(inputs, s.units, outputs, **sizes)
    layer = cw.Recurrent(
        CELLS[net],
        inputs,
        s.units,
        s.layers,
        dropout=s.dropout if s.layers > 1 else 0.0,
        output_dropout=s.dropout,
        recurrent_dropout=s.recurrent_dropout,
    )
    return Recurrence(open_gates(layer, net, s), outputs)


def open_gates(layer: cw.Recurrent, net: str, setting: Setting) -> cw.Recurrent:
    """Give the gate that keeps the old state its first bias."""
    if setting.longest is not None and net in KEEPS:
        cw.init.chrono_(layer, setting.longest, KEEPS[net])
    elif setting.bias is not None and net == "LSTM":
        cw.init.forget_bias_(layer, setting.bias)
    return layer


# -- music -------------------------------------------------------------------------


@dataclass(frozen=True)
class Music(Task):
    """Nats a frame of a collection's pieces."""

    collection: str = ""

    def why_missing(self) -> str | None:
        return tasks.why_missing(tasks.load_music, self.collection)

    @cached_property
    def data(self) -> tasks.Music:
        return tasks.load_music(self.collection)

    def build(self, net: str, setting: Setting) -> Any:
        model = vector_net(net, setting, music.KEYS, music.KEYS)
        if setting.frequencies:
            logits = music.frequency_logits(self.data.train)
            model.linear.bias.data.copy_(logits)
        return model

    def stream(self, setting: Setting, seed: int) -> tuple[Stream, int]:
        epochs = music.Epochs(self.data.train, setting.batch, seed)
        return epochs, len(epochs)

    def loss(
        self, model: Any, batch: Sequences, state: Any, step: float
    ) -> tuple[Tensor, Any]:
        return music.frame_loss(model(batch.inputs), batch), None

    def score(self, model: Any, part: Part, setting: Setting) -> float:
        return music.nats_per_frame(model, getattr(self.data, part))


# -- long lags ---------------------------------------------------------------------


@dataclass(frozen=True)
class LongLag(Task):
    """A task of drawn sequences: 1,000 of them validate, and as many test.

    Attributes:
        draw: `draw(count, length, generator)`.
        sizes: inputs and outputs.
        error: `error(outputs, batch)`.
    """

    draw: Callable[[int, int, torch.Generator], Sequences] = tasks.adding
    sizes: tuple[int, int] = (0, 0)
    error: Callable[[Tensor, Sequences], Tensor] = lambda outputs, batch: outputs

    def why_missing(self) -> str | None:
        return None

    def build(self, net: str, setting: Setting) -> Any:
        return vector_net(net, setting, *self.sizes)

    def stream(self, setting: Setting, seed: int) -> tuple[Stream, int]:
        def draw(generator: torch.Generator) -> Sequences:
            return self.draw(setting.batch, setting.length, generator)

        return Drawn(draw, seed), setting.steps

    def loss(
        self, model: Any, batch: Sequences, state: Any, step: float
    ) -> tuple[Tensor, Any]:
        return self.error(model(batch.inputs), batch), None

    @torch.no_grad()
    def score(self, model: Any, part: Part, setting: Setting) -> float:
        generator = torch.Generator().manual_seed({"validation": 1, "test": 2}[part])
        total = 0.0
        for _ in range(10):
            batch = self.draw(100, setting.length, generator)
            total += self.error(model(batch.inputs), batch).item()
        return total / 10


def squared_error(outputs: Tensor, batch: Sequences) -> Tensor:
    """Of the answer at the last step."""
    return F.mse_loss(outputs[-1], batch.targets)


def cross_entropy(outputs: Tensor, batch: Sequences) -> Tensor:
    """Nats of a step."""
    return F.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten())


# -- text --------------------------------------------------------------------------


class ConvolutionalModel(nn.Module):
    """Predicts the next token with a TCN: embedding, blocks, the embedding transposed.

    The state is the tokens of the window before that the convolutions still see, so a
    text is read window by window as a recurrent net reads it ("effective history" in
    the authors' code).
    """

    def __init__(self, vocabulary: int, setting: Setting):
        super().__init__()
        s = setting
        self.embed = nn.Embedding(vocabulary, s.embedding)
        self.drop = nn.Dropout(s.embedding_dropout)
        self.tcn = TCN(
            s.embedding,
            s.units,
            vocabulary,
            kernel=s.kernel,
            levels=s.layers,
            dropout=s.dropout,
            last=s.embedding,
        )
        nn.init.normal_(self.embed.weight, std=0.01)
        nn.init.zeros_(self.tcn.linear.bias)
        self.tcn.linear.weight = self.embed.weight

    def forward(
        self,
        tokens: Tensor,
        state: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (T, B, V) of the tokens that come after, or with `targets` (T, B)
        their mean cross entropy; and the state."""
        seen = tokens if state is None else torch.cat((state, tokens))
        hidden = self.tcn.hidden(self.drop(self.embed(seen)))[-len(tokens) :]
        logits = self.tcn.linear(hidden)
        state = seen[1 - self.tcn.receptive_field :]
        if targets is None:
            return logits, state
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), state


@dataclass(frozen=True)
class Text(Task):
    """The Penn Treebank: perplexity of a word, or bits of a character."""

    unit: str = ""
    vocabulary: int = 0

    def why_missing(self) -> str | None:
        return tasks.why_missing(tasks.load_ptb, self.unit)

    @cached_property
    def data(self) -> tasks.TokenText:
        return tasks.load_ptb(self.unit)

    def build(self, net: str, setting: Setting) -> Any:
        s = setting
        if net == "TCN":
            return ConvolutionalModel(self.vocabulary, s)
        sizes = ModelSizes(
            vocabulary=self.vocabulary,
            embedding=s.embedding,
            hidden=s.units,
            layers=s.layers,
            dropout=s.dropout,
            input_dropout=s.embedding_dropout,
            recurrent_dropout=s.recurrent_dropout,
            tie=s.embedding == s.units,
        )
        model = LanguageModel(cw.cells.get(CELLS[net]), sizes)
        open_gates(model.rnn, net, s)
        return model

    def stream(self, setting: Setting, seed: int) -> tuple[Stream, int]:
        stream = TextStream(self.data.train, setting.batch, setting.length, seed)
        return stream, stream.windows

    def loss(
        self, model: Any, batch: dict[str, Tensor], state: Any, step: float
    ) -> tuple[Tensor, Any]:
        state = None if batch["first"] else state
        return model(batch["x"], state, targets=batch["y"])

    def score(self, model: Any, part: Part, setting: Setting) -> float:
        nats = nats_per_token(model, getattr(self.data, part))
        # exp overflows beyond 709: a model that bad has no figure.
        return nats / math.log(2) if self.unit == "char" else math.exp(min(nats, 700))

    def multiply_adds(self, net: str, setting: Setting) -> float:
        model = self.build(net, setting)
        steps = products(model)
        if net == "TCN":  # convolutions read the tokens before the window again
            history = model.tcn.receptive_field - 1
            steps += round(products(model.tcn.blocks) * history / setting.length)
        return 3.0 * self.tokens * steps


@torch.no_grad()
def nats_per_token(model: Any, tokens: np.ndarray, rows: int = 10) -> float:
    """Read a text in ten rows side by side, as the authors do, each from its beginning.

    What does not fill the rows, less than ten tokens, is left out.
    """
    length = (len(tokens) - 1) // rows
    x, y = (
        torch.from_numpy(tokens[k : k + rows * length].reshape(rows, length)).t()
        for k in (0, 1)
    )
    nats, state = 0.0, None
    for begin in range(0, length, 128):
        window = slice(begin, begin + 128)
        logits, state = model(x[window], state)
        nats += F.cross_entropy(
            logits.flatten(0, 1), y[window].flatten(), reduction="sum"
        ).item()
    return nats / (rows * length)
