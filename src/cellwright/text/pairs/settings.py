"""The settings of a run of pairs: what `LoopSettings` has, the model and the pairs."""

# ruff: noqa: RUF009 (the calls in the class body are dataclasses.field's)

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from ...schema import Checked, Limits
from ...train.settings import (
    AtLeast0,
    Count,
    Engine,
    Layers,
    LoopSettings,
    Positive,
    Probability,
    Vocabulary,
    Width,
    engine_setting,
    setting,
)

_model = partial(setting, "The model")
_pairs = partial(setting, "The pairs")
_optim = partial(setting, "Optimising")

Tokens = Literal["char", "space", "bpe"]
Beam = Annotated[int, Limits(ge=1, le=1000)]


@dataclass(frozen=True)
class ModelSettings(Checked):
    """The model of pairs, and the pairs that it is trained on."""

    encoder: str = _model("gru", "Reads the input: a cell, or FILE.py:NAME.")
    decoder: str = _model(
        "bahdanau_gru",
        "Writes the output: a cell, or FILE.py:NAME. One with items attends to the "
        "encoder's outputs.",
    )
    hidden: Width = _model(128, "Units of a layer, and of each direction that reads.")
    layers: Layers = _model(1, "Stacked layers of encoder and decoder.")
    embedding: Width = _model(64, "Width of a token's vector.")
    dropout: Probability = _model(
        0.0, "Dropout of embeddings, between layers, and output."
    )
    tie: bool = _model(False, "Use the outputs' embedding as the output matrix, too.")
    label_smoothing: Probability = _model(
        0.0, "Share of a target's probability that all tokens have."
    )
    engine: Engine = engine_setting()
    input_tokens: Tokens | None = _pairs(
        None, "What a token of an input is. Default: char."
    )
    output_tokens: Tokens | None = _pairs(
        None, "The same of an output. Default: char; of cmudict space."
    )
    vocab: Vocabulary | None = _pairs(
        None, "At most so many tokens a side. Default: all, 1024 bpe."
    )
    longest: Count = _pairs(500, "The most characters of an input or output.")
    val_fraction: Probability = _pairs(
        0.1, "Share of a file's inputs that is held out and never trained on."
    )
    batch: Count | None = _pairs(
        None, "Pairs side by side, over all processes. Default: 64."
    )
    beam: Beam = _pairs(5, "Hypotheses that evaluating and applying keep.")


@dataclass(frozen=True)
class PairSettings(LoopSettings, ModelSettings):
    """What a run of pairs was asked for.

    The defaults are tuned for a minute on two cores and the task `dates`.

    Raises:
        ArgumentError: settings that contradict each other. `check` looks at each alone.
    """

    lr: Positive = _optim(3e-3, "Peak learning rate.")
    weight_decay: AtLeast0 = _optim(0.01, "Weight decay of matrices.")

    DEFAULT_BATCH = 64
    DEFAULT_TOKENS = "char"
