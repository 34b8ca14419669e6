"""The language model: embedding → recurrent layer of any cell → linear."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..language import Cell
from ..language.errors import ArgumentError
from ..nn.masks import Mask, draw_shape
from ..nn.penalties import activation_regularisation, temporal_activation_regularisation
from ..nn.recurrent import Recurrent
from ..nn.regularise import Regularisers
from ..schema import Checked
from ..train.bptt import State
from ..train.forcing import run_forced
from ..train.settings import Layers, Probability, Settings, Vocabulary, Width
from .adaptive import AdaptiveSoftmax


@dataclass(frozen=True)
class ModelSizes(Checked):
    """The numbers that make a model of a cell; of a run, its settings resolved."""

    vocabulary: Vocabulary
    embedding: Width
    hidden: Width
    layers: Layers = Settings.layers
    dropout: Probability = Settings.dropout
    tie: bool = Settings.tie
    recurrent_dropout: Probability = Settings.recurrent_dropout
    update_dropout: Probability | dict[str, Probability] = 0.0
    zoneout: Probability | dict[str, Probability] = 0.0
    weight_drop: Probability = Settings.weight_drop
    locked: bool = Settings.locked
    input_dropout: Probability | None = None
    output_dropout: Probability | None = None
    embedding_dropout: Probability = 0.0
    adaptive: list[int] | None = None


class LanguageModel(nn.Module):
    """Predicts the next token from all tokens before it.

    Args:
        sizes: the widths; with `tie` the embedding is also the output matrix (Press &
            Wolf 2017), and must be as wide as the layer's output.
        engine: as `cw.Recurrent` takes it.
        unknown: number of the unknown token, which the model never feeds back to
            itself; None where there is none.

    Raises:
        ArgumentError: `tie` with widths that differ, or with an adaptive softmax, one
            of clusters beyond the vocabulary, or a cell that reads more than tokens.
    """

    def __init__(
        self,
        cell: Cell,
        sizes: ModelSizes,
        *,
        engine: str = "auto",
        unknown: int | None = None,
    ):
        super().__init__()
        _check_reads_tokens(cell)
        self.unknown = unknown
        self.embed = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.rnn = Recurrent(
            cell,
            sizes.embedding,
            sizes.hidden,
            sizes.layers,
            dropout=sizes.dropout if sizes.layers > 1 else 0.0,
            recurrent_dropout=sizes.recurrent_dropout,
            update_dropout=sizes.update_dropout,
            zoneout=sizes.zoneout,
            weight_drop=sizes.weight_drop,
            locked=sizes.locked,
            engine=engine,
        )
        first, last = (
            sizes.dropout if own is None else own
            for own in (sizes.input_dropout, sizes.output_dropout)
        )
        self._around = Regularisers(first, output_dropout=last, locked=sizes.locked)
        self._token_mask = Mask("embedding_dropout", 1, sizes.embedding_dropout)
        width = self.rnn.output_size
        self.head = _head(width, sizes)
        if sizes.tie:
            if sizes.embedding != width:
                raise ArgumentError(
                    "[tie] one matrix cannot be both the embedding and the output; "
                    f"received an embedding of {sizes.embedding} and outputs of "
                    f"{width}, expected equal widths. Give --embedding {width}"
                )
            # A unit-variance embedding would give logits of variance H at the output.
            nn.init.normal_(self.embed.weight, std=width**-0.5)
            self.head.weight = self.embed.weight

    def forward(
        self,
        tokens: Tensor,
        state: State = None,
        forcing: float = 1.0,
        outputs: bool = False,
        targets: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """Logits of the next token; log-probabilities, of an adaptive softmax.

        Args:
            tokens: (T, B) token numbers.
            state: the layer's state before the window; None is the initial one.
            forcing: the probability of reading the truth (see `run_forced`).
            outputs: return the layer's outputs too, (T, B, H) before and after
                dropout: what activation regularisation looks at.
            targets: (T, B) tokens that come after; None: they are not known.

        Returns:
            Logits (T, B, V) of the tokens that come after, or with `targets` their mean
            cross entropy; and the state.
        """
        seen: list[tuple[Tensor, Tensor]] = []

        def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            x = self._drop("input_dropout", self._embedded(tokens))  # (T, B, E)
            y, state = self.rnn(x, state)  # (T, B, H)
            dropped = self._drop("output_dropout", y)
            if outputs:
                seen.append((y, dropped))
            return dropped, state

        @torch.no_grad()
        def sample(dropped: Tensor) -> Tensor:
            return self.sample(self.head(dropped))

        dropped, state = run_forced(step, tokens, state, forcing, sample)
        whole = [torch.cat(parts) for parts in zip(*seen, strict=True)]
        if targets is None:
            return self.head(dropped), state, *whole
        return self._loss(dropped, targets), state, *whole

    def modules_in_order(self) -> list[nn.Module]:
        """What it runs one after another, in evaluation."""
        return [self.embed, self.rnn, self.head]

    def _embedded(self, tokens: Tensor) -> Tensor:
        """(T, B) -> (T, B, E), all of some tokens dropped in training."""
        x, mask = self.embed(tokens), self._token_mask
        if not (self.training and mask.probability):
            return x
        of_each = draw_shape(mask, (self.embed.num_embeddings, 1), x)
        return x * F.embedding(tokens, of_each)

    def _loss(self, dropped: Tensor, targets: Tensor) -> Tensor:
        if isinstance(self.head, AdaptiveSoftmax):
            return self.head.loss(dropped, targets)
        logits = self.head(dropped)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _drop(self, where: str, x: Tensor) -> Tensor:
        return self._around.drop(where, x, self.training)

    def stepper(self, state: State) -> Callable[[Tensor], Tensor]:
        """One token after another, without gradients or dropout.

        Args:
            state: of one row, from which the steps go on.

        Returns:
            `(1,) token -> (1, V) logits` of the token that comes after.
        """
        step = self.rnn.stepper()
        step.state = state

        @torch.no_grad()
        def logits(token: Tensor) -> Tensor:
            return self.head(step(self.embed(token)))

        return logits

    def sample(self, logits: Tensor) -> Tensor:
        """(1, B, V) -> (1, B): one token for each row, drawn from the prediction.

        Raises:
            ArgumentError: the prediction is no finite number.
        """
        check_finite(logits)
        if self.unknown is not None:
            logits = logits.index_fill(-1, torch.tensor(self.unknown), -torch.inf)
        return torch.multinomial(logits[0].softmax(-1), 1).t()


def _check_reads_tokens(cell: Cell) -> None:
    """Raise ArgumentError for a cell that reads more than a token at a step."""
    more = [source.name for source in cell.graph.inputs[1:]]
    if more:
        raise ArgumentError(
            f"[model] a text has tokens alone; received cell {cell.name!r}, which "
            f"reads {' and '.join(more)} too, expected a cell whose one input is x"
        )


def _head(width: int, sizes: ModelSizes) -> nn.Linear | AdaptiveSoftmax:
    cutoffs, vocabulary = sizes.adaptive, sizes.vocabulary
    if not cutoffs:
        return nn.Linear(width, vocabulary)
    if sizes.tie or cutoffs[-1] >= vocabulary:
        raise ArgumentError(
            f"[adaptive] received clusters from tokens {cutoffs} of {vocabulary}, "
            f"tie = {sizes.tie}; expected each below the vocabulary's size, and no tie"
        )
    if width < 4 ** len(cutoffs):
        raise ArgumentError(
            "[adaptive] each further cluster has a quarter of the width; received "
            f"outputs of {width} and {len(cutoffs)} further clusters, expected fewer"
        )
    return AdaptiveSoftmax(width, vocabulary, cutoffs)


def check_finite(logits: Tensor) -> None:
    """Raise ArgumentError for a prediction that nothing can be drawn from."""
    if not bool(logits.isfinite().all()):
        raise ArgumentError(
            "[model] received a prediction of NaN or infinity, expected finite "
            "numbers: the weights are too large for their precision"
        )


def model_shapes(cell: Cell, sizes: ModelSizes) -> dict[str, tuple[int, ...]]:
    """The shapes of a language model's weights by name.

    Raises:
        ArgumentError: no memory could hold them, or as `LanguageModel`.
        CellError: the cell does not bind to these sizes.
    """
    return shapes_of(lambda: LanguageModel(cell, sizes, engine="reference"))


def count_parameters(cell: Cell, sizes: ModelSizes) -> int:
    """The trained numbers of a language model; no memory is taken for them.

    Raises:
        ArgumentError, CellError: as `model_shapes`.
    """
    with torch.device("meta"):
        model = LanguageModel(cell, sizes, engine="reference")
    return sum(p.numel() for p in model.parameters())


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's weights by name; no memory is taken for them.

    Raises:
        ArgumentError: no memory could hold them.
    """
    try:
        with torch.device("meta"):
            model = build()
    except RuntimeError as error:  # more bytes than torch can count
        raise ArgumentError(
            f"[model] cannot be made in these sizes: {str(error).splitlines()[0]}"
        ) from error
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def check_memory(shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise ArgumentError for weights that this machine's memory cannot hold."""
    if not hasattr(os, "sysconf"):  # not POSIX: torch will refuse to allocate
        return
    count = sum(map(math.prod, shapes.values()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * count > memory:
        raise ArgumentError(
            f"[model] has {count:,} parameters, {4 * count / 2**30:,.0f} GiB; this "
            f"machine has {memory / 2**30:,.0f} GiB of memory. Use a smaller hidden, "
            "embedding, vocab or layers"
        )


class NextToken:
    """The objective of a language model (a `train.plan.Objective`).

    The mean cross entropy in nats over a window of tokens; the state is carried from
    window to window, and starts anew where the batch says it is the first.

    Args:
        forcing: the probability of reading the truth, by step.
        ar, tar: weights of the activation regularisers, which are added to the loss.
    """

    def __init__(self, forcing, ar: float = 0.0, tar: float = 0.0):
        self.forcing, self.ar, self.tar = forcing, ar, tar

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], state: State, step: float
    ) -> tuple[Tensor, State]:
        if batch["first"]:
            state = None
        penalised = bool(self.ar or self.tar)
        more: dict[str, Any] = {"outputs": True} if penalised else {}
        more["targets"] = batch["y"]
        loss, state, *seen = model(batch["x"], state, self.forcing(step), **more)
        if penalised:
            y, dropped = seen  # (T, B, H) each
            loss = loss + activation_regularisation(dropped, self.ar)
            loss = loss + temporal_activation_regularisation(y, self.tar)
        return loss, state
