"""The model of pairs by its numbers, and what its training minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...language import ArgumentError, Cell
from ...nn.encoder_decoder import EncoderDecoder
from ...nn.recurrent import Recurrent
from ...schema import Checked
from ...train.bptt import State
from ...train.forcing import Forcing
from ...train.settings import Layers, Probability, Vocabulary, Width
from .tokens import END


@dataclass(frozen=True)
class PairSizes(Checked):
    """The numbers that make a model of two cells; of a run, its settings resolved."""

    input_vocabulary: Vocabulary
    output_vocabulary: Vocabulary
    embedding: Width
    hidden: Width
    layers: Layers
    dropout: Probability
    tie: bool
    label_smoothing: Probability


def make_model(
    encoder: Cell,
    decoder: Cell,
    sizes: PairSizes,
    *,
    engine: str = "auto",
    unknown: int | None = None,
) -> EncoderDecoder:
    """A bidirectional encoder, and a decoder that attends if its cell has items.

    Args:
        engine: as `cw.Recurrent` takes it.
        unknown: the output token that is never written, or None.

    Raises:
        ArgumentError, CellError: a cell does not fit its place, or these sizes.
    """
    if encoder.graph.items:
        raise ArgumentError(
            "[encoder] there is nothing to attend to yet; received the cell "
            f"{encoder.name!r}, which has items, expected one without"
        )
    how: dict[str, Any] = {"num_layers": sizes.layers, "engine": engine}
    if sizes.layers > 1:
        how["dropout"] = sizes.dropout
    widths = sizes.embedding, sizes.hidden
    reading = Recurrent(encoder, *widths, bidirectional=True, **how)
    items = {i.name: reading.output_size for i in decoder.graph.items}
    if items:
        how["items"] = items
    return EncoderDecoder(
        reading,
        Recurrent(decoder, *widths, **how),
        sizes.input_vocabulary,
        sizes.output_vocabulary,
        tie=sizes.tie,
        dropout=sizes.dropout,
        label_smoothing=sizes.label_smoothing,
        end=END,
        unknown=unknown,
    )


class NextOutputToken:
    """The objective of a model of pairs (a `train.plan.Objective`).

    Args:
        forcing: the probability of reading the truth, by step.
    """

    def __init__(self, forcing: Forcing):
        self.forcing = forcing

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], state: State, step: float
    ) -> tuple[Tensor, State]:
        _, loss = model(
            batch["source"],
            batch["source_lengths"],
            batch["target"],
            batch["target_lengths"],
            self.forcing(step),
        )
        return loss * batch["weight"], None
