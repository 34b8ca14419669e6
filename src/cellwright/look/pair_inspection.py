"""What a model of pairs does with an input: outputs, attention, every gate."""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor

from ..language.errors import ArgumentError
from ..nn.beam_search import Hypothesis
from ..text.pairs.files import check_longest
from ..text.pairs.run import PairRun
from ..text.tokenizer import check_text
from .record import record

WIDEST = 50  # hypotheses that a search keeps here
SHOWN = 10  # of them
EXAMPLES = 12  # inputs that are offered

END = "end"  # how the end token is written


class PairInspection:
    """A run of pairs, applied to one input at a time.

    Args:
        inputs: what is offered to look at; None: some that were held out.

    Raises:
        CheckpointError: the run is not trained yet.
        PairError, ArgumentError: an input is empty, too long, or no text.
    """

    def __init__(self, run: PairRun, inputs: list[str] | None = None):
        self.run, self.model, self.tokenizer = run, run.trained_model(), run.tokenizer
        held_out = (example.input for example in run.held_out[:EXAMPLES])
        self.inputs = list(held_out) if inputs is None else inputs
        for text in self.inputs:
            self._check(text)

    def describe(self) -> dict[str, Any]:
        """The model, and the inputs that are offered."""
        cells = {"encoder": self.run.encoder, "decoder": self.run.decoder}
        return {
            "run": self.run.directory.name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "cells": {n: [c.name, *c.equations] for n, c in cells.items()},
            "beam": min(WIDEST, self.run.settings.beam),
            "widest": WIDEST,
            "inputs": self.inputs,
        }

    def look(self, text: str, beam: int) -> dict[str, Any]:
        """The outputs of an input, and what the model did for each.

        Returns:
            "input", its tokens as text; "encoder", the values of its steps; and
            "outputs", the best first: the tokens, the end of all included, "text",
            "score", "attention" (None where the decoder has none) and "decoder", the
            values of its steps. Values are matrices of 256 levels.

        Raises:
            PairError, ArgumentError: the input is empty, too long or no text, or the
                beam is out of its range.
        """
        self._check(text)
        if not 1 <= beam <= WIDEST:
            raise ArgumentError(
                f"[beam] received {beam}, expected from 1 to {WIDEST} hypotheses"
            )
        tokens = self.tokenizer.input.encode(text)
        source = torch.from_numpy(tokens)[:, None]  # (S, 1)
        ((found),) = self.model.beam_search(
            source,
            beam=beam,
            n_best=min(beam, SHOWN),
            max_length=10 + 2 * len(source),
            attention=bool(self.run.decoder.graph.items),
        )
        looks = [self._outcome(source, hypothesis) for hypothesis in found]
        return {
            "input": [self.tokenizer.input.decode([n]) for n in tokens.tolist()],
            "encoder": looks[0].pop("encoder"),
            "outputs": looks,
        }

    def _check(self, text: str) -> None:
        check_text(text)
        check_longest(text, self.run.settings.longest, "input")
        if not len(self.tokenizer.input.encode(text)):
            raise ArgumentError(f"[input] is empty; received {text!r}, expected a text")

    @torch.no_grad()
    def _outcome(self, source: Tensor, hypothesis: Hypothesis) -> dict[str, Any]:
        """One output, with the values of the steps that wrote it."""
        target = torch.tensor([*hypothesis.tokens, self.model.end])[:, None]  # (T, 1)
        with record(self.model) as values:
            self.model(source, None, target)
        sides: dict[str, dict[str, Any]] = {"encoder": {}, "decoder": {}}
        for key, value in values.items():
            side, _, name = key.partition(".")
            if name.split(".")[1] != "attention":
                sides[side][name] = levels(value[:, 0].T)  # (units, steps)
        decode = self.tokenizer.decode_output
        attention = hypothesis.attention
        return {
            "tokens": [*(decode([n]) for n in hypothesis.tokens), END],
            "text": decode(hypothesis.tokens),
            "score": hypothesis.score,
            "attention": None if attention is None else attention.tolist(),
            **sides,
        }


def levels(matrix: Tensor) -> dict[str, Any]:
    """A matrix as 256 levels from `low` to `high`, in base64, row by row."""
    low, high = matrix.min().item(), matrix.max().item()
    scaled = (matrix - low) * (255 / (high - low) if high > low else 0.0)
    data = base64.b64encode(scaled.round().byte().contiguous().numpy().tobytes())
    rows, columns = matrix.shape
    return {
        "low": low,
        "high": high,
        "rows": rows,
        "columns": columns,
        "data": data.decode(),
    }
