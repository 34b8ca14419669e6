"""The settings of a run, each declared once: type, range, default and help.

The command line makes its options of them (`cli/options.py`), `config.json` keeps them,
and `check` holds them to their ranges. A new setting is one line here.
"""

# ruff: noqa: RUF009 (the calls in the class body are dataclasses.field's)

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..engine.choice import ENGINES
from ..language.errors import ArgumentError
from ..nn.regularise import Regularisers, parse_probabilities
from ..schema import Checked, Limits, Rule, check
from .averaging import parse_average
from .forcing import parse_forcing
from .optimisers import OPTIMISERS
from .schedules import SCHEDULES
from .seeds import HIGHEST, LOWEST


def _forcing(text: str) -> str:
    parse_forcing(text, steps=1)
    return text


def _average(text: str) -> str:
    parse_average(text)
    return text


def parse_cutoffs(text: str) -> list[int]:
    """Where the clusters of an adaptive softmax begin: "2000,10000".

    Raises:
        ArgumentError: no rising numbers.
    """
    try:
        cutoffs = [int(part) for part in text.split(",")]
    except ValueError:
        cutoffs = [0]
    if cutoffs[0] < 1 or sorted(set(cutoffs)) != cutoffs:
        raise ArgumentError(
            f"[adaptive] received {text!r}, expected rising numbers of tokens, as in "
            "'2000,10000'"
        )
    return cutoffs


def _cutoffs(text: str) -> str:
    parse_cutoffs(text)
    return text


def _probabilities(name: str, text: str) -> str:
    given: Any = parse_probabilities(name, text)
    Regularisers(**{name: given})
    return text


if TYPE_CHECKING:
    Engine = Optimiser = ScheduleName = str
else:  # the tables have the names
    Engine = Literal[("auto", *ENGINES)]
    Optimiser = Literal[tuple(OPTIMISERS)]
    ScheduleName = Literal[tuple(SCHEDULES)]
Vocabulary = Annotated[int, Limits(ge=1, le=1 << 24)]
Width = Annotated[int, Limits(ge=1, le=1 << 16)]
Layers = Annotated[int, Limits(ge=1, le=1000)]
Count = Annotated[int, Limits(ge=1, le=10**12)]
Amount = Annotated[float, Limits(gt=0, le=10**6)]
Positive = Annotated[float, Limits(gt=0)]
AtLeast0 = Annotated[float, Limits(ge=0)]
Probability = Annotated[float, Limits(ge=0, lt=1)]
PairTokens = Literal["char", "space", "bpe"]
Beam = Annotated[int, Limits(ge=1, le=1000)]
UpdateDropout = Annotated[str, Rule(partial(_probabilities, "update_dropout"))]
Cutoffs = Annotated[str, Rule(_cutoffs)]
Zoneout = Annotated[str, Rule(partial(_probabilities, "zoneout"))]


def _setting(panel: str, default: Any, help: str, takes: type | None = None) -> Any:
    """A field with what the command line says of it: one sentence, under a heading.

    Args:
        takes: what the command line takes, where it is not the setting's own type.
    """
    shown = {"help": help, "panel": panel, "takes": takes}
    return field(default=default, metadata=shown)


_model = partial(_setting, "The model")
_text = partial(_setting, "The text")
_pairs = partial(_setting, "The pairs")
_time = partial(_setting, "How long")
_optim = partial(_setting, "Optimising")
_run = partial(_setting, "The run")
_engine = partial(
    _model, "auto", f"What runs the cell: auto, {', '.join(ENGINES)}.", takes=str
)


@dataclass(frozen=True)
class TextSettings(Checked):
    """The language model, and the text that it is trained on."""

    cell: str | None = _model(
        None,
        "A cell of the zoo, or FILE.py:NAME. Default: coupled; lstm on a GPU and with "
        "--engine torch.",
    )
    hidden: Width = _model(288, "Units of a layer.")
    layers: Layers = _model(1, "Stacked layers.")
    embedding: Width | None = _model(
        None, "Width of a token's vector. Default: 32; --hidden with --tie."
    )
    dropout: Probability = _model(
        0.0, "Dropout of embedding, between layers, and output."
    )
    input_dropout: Probability | None = _model(
        None, "Dropout of the embedding alone. Default: --dropout."
    )
    output_dropout: Probability | None = _model(
        None, "Dropout of the output alone. Default: --dropout."
    )
    embedding_dropout: Probability = _model(
        0.0, "Dropout of whole tokens of the embedding, a mask a window."
    )
    locked: bool = _model(False, "One dropout mask a window, not one a step.")
    recurrent_dropout: Probability = _model(
        0.0, "Dropout of h where matrices read it, a mask a window."
    )
    update_dropout: UpdateDropout = _model(
        "0", "Dropout of the candidate; or by value, 'g=0.2'."
    )
    zoneout: Zoneout = _model(
        "0", "Chance that a unit stays; or by state, 'h=0.05,c=0.5'."
    )
    weight_drop: Probability = _model(0.0, "Dropout of elements of recurrent matrices.")
    ar: AtLeast0 = _model(0.0, "Penalty on the squares of outputs (Merity: 2).")
    tar: AtLeast0 = _model(0.0, "Penalty on their differences (Merity: 1).")
    tie: bool = _model(False, "Use the embedding as the output matrix, too.")
    adaptive: Cutoffs | None = _model(
        None, "Adaptive softmax: where its clusters begin, '2000,10000'."
    )
    engine: Engine = _engine()
    tokenizer: Literal["char", "word", "bpe", "ptb"] = _text(
        "char", "What a token is; ptb: a word between blanks, or a line's end."
    )
    vocab: Vocabulary | None = _text(
        None, "At most so many tokens. Default: all, 10000 words, 1024 bpe."
    )
    valid: str | None = _text(
        None, "A text to hold out, in place of the last part of TEXT."
    )
    test: str | None = _text(
        None, "A text that is evaluated at the end, and only then."
    )
    val_fraction: Probability = _text(
        0.1, "The last part of the text, held out and never trained on."
    )
    window: Count | None = _text(
        None, "Tokens per window of truncated BPTT. Default: 48."
    )
    random_window: bool = _text(
        False, "Windows of random length about --window (Merity et al. 2018)."
    )
    batch: Count | None = _text(
        None, "Rows read side by side, over all processes. Default: 24."
    )
    restart: Probability = _text(0.03, "Share of windows that start from a zero state.")
    recipe: Literal["awd", "long"] | None = _run(
        None,
        "Settings where none are written; awd: Merity et al. 2018, AWD-LSTM, by word; "
        "long: characters, for ten minutes or ten passes.",
    )


@dataclass(frozen=True)
class LoopSettings(Checked):
    """How a run of any model is trained. One of minutes, epochs, steps says how long.

    Raises:
        ArgumentError: settings that contradict each other. `check` looks at each alone.
    """

    minutes: Amount | None = _time(
        None, "Train for so many minutes: the clock ends the run."
    )
    epochs: Amount | None = _time(None, "Passes over the text. Default: 10.")
    steps: Count | None = _time(None, "Optimiser steps.")
    patience: Count | None = _time(None, "Stop after so many validations without gain.")
    optimiser: Optimiser = _optim("adamw", "The optimiser.")
    lr: Positive = _optim(8e-3, "Peak learning rate.")
    schedule: ScheduleName = _optim(
        "cosine", "How the rate falls. plateau needs --validate-every."
    )
    warm_up: Annotated[int, Limits(ge=0, le=10**12)] = _optim(
        50, "Steps of rising rate, at most a tenth of all."
    )
    weight_decay: AtLeast0 = _optim(0.1, "Weight decay of matrices.")
    beta2: Probability = _optim(0.99, "Second-moment decay of Adam.")
    momentum: Probability = _optim(0.9, "Momentum of SGD.")
    clip: Positive | None = _optim(1.0, "Limit of the gradient's norm; 0 for none.")
    clip_value: Positive | None = _optim(None, "Limit of every gradient element.")
    average: Annotated[str, Rule(_average)] = _optim(
        "none",
        "Average of weights: ema[:DECAY], or nt-asgd[:N] (Merity et al. 2018: 5), "
        "which validates once an epoch unless told.",
    )
    accumulate: Count = _optim(1, "Batches whose gradients make one step.")
    forcing: Annotated[str, Rule(_forcing)] = _optim(
        "1",
        "Teacher forcing: a ratio, or linear[:END], exponential[:K], sigmoid[:K] "
        "for scheduled sampling.",
    )
    validate_every: Count | None = _run(
        None, "Validate, and keep the best model, every so many steps."
    )
    checkpoint_every: Count = _run(500, "Steps between two checkpoints.")
    log_every: Count = _run(10, "Steps between two lines of metrics.jsonl.")
    precision: Literal["no", "bf16", "fp16"] = _run(
        "no", "Mixed precision, where the device has it."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = _run(
        "auto", "Where it trains; auto: on a GPU where there is one."
    )
    seed: Annotated[int, Limits(ge=LOWEST, le=HIGHEST)] = _run(
        0, "Of weights, dropout and samples."
    )

    DEFAULT_EPOCHS = 10

    def __post_init__(self) -> None:
        given = [n for n in ("minutes", "epochs", "steps") if getattr(self, n)]
        if len(given) > 1:
            raise ArgumentError(
                f"[settings] received both {given[0]} and {given[1]}, expected one way "
                "to say how long to train"
            )
        if self.patience and not self.validate_every:
            raise ArgumentError(
                "[patience] early stopping needs validations; give validate_every, too"
            )

    def check(self) -> None:
        """Raise ArgumentError for a number that is out of its range."""
        check(type(self), asdict(self))


@dataclass(frozen=True)
class Settings(LoopSettings, TextSettings):
    """What a run of a language model was asked for.

    The defaults are tuned for a minute on two cores and a text of a million characters.
    `None` for batch and window means: these defaults, or less where the text is short.

    Raises:
        ArgumentError: settings that contradict each other. `check` looks at each alone.
    """

    DEFAULT_BATCH = 24
    DEFAULT_WINDOW = 48
    DEFAULT_EMBEDDING = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        holds_out = self.valid is not None or self.val_fraction
        if self.validate_every and not holds_out:
            raise ArgumentError(
                "[validate_every] there is nothing to validate on; received a "
                "val_fraction of 0, expected more"
            )
        if self.average.startswith("nt-asgd") and not holds_out:
            raise ArgumentError(
                "[average] nt-asgd is triggered by validations, and there is nothing "
                "to validate on; received a val_fraction of 0, expected more"
            )
        if self.random_window and self.accumulate > 1:
            raise ArgumentError(
                "[random_window] the learning rate goes with the length of one window; "
                f"received accumulate = {self.accumulate}, expected 1"
            )
        if self.adaptive and self.tie:
            raise ArgumentError(
                "[adaptive] an adaptive softmax has no matrix that could be tied; "
                "received both adaptive and tie"
            )


@dataclass(frozen=True)
class PairModelSettings(Checked):
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
    engine: Engine = _engine()
    input_tokens: PairTokens | None = _pairs(
        None, "What a token of an input is. Default: char."
    )
    output_tokens: PairTokens | None = _pairs(
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
class PairSettings(LoopSettings, PairModelSettings):
    """What a run of pairs was asked for.

    The defaults are tuned for a minute on two cores and the task `dates`.

    Raises:
        ArgumentError: settings that contradict each other. `check` looks at each alone.
    """

    lr: Positive = _optim(3e-3, "Peak learning rate.")
    weight_decay: AtLeast0 = _optim(0.01, "Weight decay of matrices.")

    DEFAULT_BATCH = 64
    DEFAULT_TOKENS = "char"
