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
from .forcing import parse_forcing
from .optimisers import OPTIMISERS
from .schedules import SCHEDULES
from .seeds import HIGHEST, LOWEST


def _forcing(text: str) -> str:
    parse_forcing(text, steps=1)
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
UpdateDropout = Annotated[str, Rule(partial(_probabilities, "update_dropout"))]
Zoneout = Annotated[str, Rule(partial(_probabilities, "zoneout"))]


def setting(panel: str, default: Any, help: str, takes: type | None = None) -> Any:
    """A field with what the command line says of it: one sentence, under a heading.

    Args:
        takes: what the command line takes, where it is not the setting's own type.
    """
    shown = {"help": help, "panel": panel, "takes": takes}
    return field(default=default, metadata=shown)


_model = partial(setting, "The model")
_text = partial(setting, "The text")
_time = partial(setting, "How long")
_optim = partial(setting, "Optimising")
_run = partial(setting, "The run")


def engine_setting() -> Any:
    """The engine, of any model."""
    return _model("auto", f"What runs the cell: auto, {', '.join(ENGINES)}.", takes=str)


@dataclass(frozen=True)
class TextSettings(Checked):
    """The language model, and the text that it is trained on."""

    cell: str = _model("lstm", "A cell of the zoo, or FILE.py:NAME.")
    hidden: Width = _model(256, "Units of a layer.")
    layers: Layers = _model(1, "Stacked layers.")
    embedding: Width | None = _model(
        None, "Width of a token's vector. Default: 64; --hidden with --tie."
    )
    dropout: Probability = _model(
        0.0, "Dropout of embedding, between layers, and output."
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
    engine: Engine = engine_setting()
    tokenizer: Literal["char", "word", "bpe"] = _text("char", "What a token is.")
    vocab: Vocabulary | None = _text(
        None, "At most so many tokens. Default: all, 10000 words, 1024 bpe."
    )
    val_fraction: Probability = _text(
        0.1, "The last part of the text, held out and never trained on."
    )
    window: Count | None = _text(
        None, "Tokens per window of truncated BPTT. Default: 64."
    )
    batch: Count | None = _text(
        None, "Rows read side by side, over all processes. Default: 32."
    )
    restart: Probability = _text(0.03, "Share of windows that start from a zero state.")


@dataclass(frozen=True)
class LoopSettings(Checked):
    """How a run of any model is trained. One of minutes, epochs, steps says how long.

    Raises:
        ArgumentError: settings that contradict each other. `check` looks at each alone.
    """

    minutes: Amount | None = _time(
        None, "Plan the steps for so many minutes on this machine."
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

    DEFAULT_BATCH = 32
    DEFAULT_WINDOW = 64
    DEFAULT_EMBEDDING = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validate_every and not self.val_fraction:
            raise ArgumentError(
                "[validate_every] there is nothing to validate on; received a "
                "val_fraction of 0, expected more"
            )
