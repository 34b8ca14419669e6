"""A language model reads a text; every value that it computes is recorded.

Every step evaluates the cell's graph, so that any named value can be looked at, and
changed: what a unit is good for shows when it is set to a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..language.errors import ArgumentError, did_you_mean
from ..language.evaluate import evaluate
from ..language.graph import Graph
from ..language.sizes import MatrixSize, Size
from ..text.model import LanguageModel, check_finite
from .diagram import Moment

LARGEST = torch.finfo(torch.float32).max  # amount of a change
LIKELIEST = 10  # next tokens that are shown

#: The states of every layer, one tuple a layer: (1, size) each.
States = tuple[tuple[Tensor, ...], ...]


@dataclass(frozen=True)
class Change:
    """An intervention: a value, or one unit of it, is set or scaled at every step.

    Attributes:
        key: the value, such as "0.f": layer and name.
        kind: "clamp" sets it to `amount`, "scale" multiplies it.
        amount: 0 silences it either way.
        unit: which one, of a matrix which row; None for all.
    """

    key: str
    kind: str
    amount: float
    unit: int | None = None

    def apply(self, value: Tensor, units: int) -> Tensor:
        """The changed value (…, size), of so many units."""
        held = torch.full_like(value, self.amount)
        new = held if self.kind == "clamp" else value * self.amount
        if self.unit is None:
            return new
        chosen = torch.arange(units) == self.unit
        width = value.shape[-1] // units
        return torch.where(chosen.repeat_interleave(width), new, value)


@dataclass(frozen=True)
class Reading:
    """What a model computed over a text of T tokens.

    Attributes:
        tokens: (T,).
        values: "layer.name" -> (T, units), every named value of every layer; of a
            matrix the norm of each row.
        logits: (T, V), of the token after each.
    """

    tokens: NDArray[np.int64]
    values: dict[str, NDArray[np.float32]]
    logits: NDArray[np.float32]

    @property
    def log_probabilities(self) -> NDArray[np.float64]:
        """(T, V), natural logarithms."""
        logits = self.logits.astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def surprisal(self) -> NDArray[np.float64]:
        """(T,): −ln p of each token given those before it; NaN for the first."""
        predicted = self.log_probabilities[:-1]
        found = -np.take_along_axis(predicted, self.tokens[1:, None], 1)[:, 0]
        return np.concatenate([[np.nan], found])


class Reader:
    """Steps a language model by its graphs.

    Args:
        model: in eval mode; any cell without further inputs.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.layer = model, model.rnn
        if len(self.layer.cell.graph.inputs) > 1:
            raise ArgumentError(
                f"[inspect] cell {self.layer.cell.name!r} has named inputs, which a "
                "text does not give; expected a cell of x alone"
            )
        self.graphs = self.layer.graphs
        self.keys = {
            f"{k}.{name}": (k, node)
            for k, graph in enumerate(self.graphs)
            for name, node in graph.values.items()
        }

    @torch.no_grad()
    def initial(self) -> States:
        """The states before the first token: the layer's own, learned or declared."""
        by_state = [own.split(1) for own in self.layer.own_states()]
        return tuple(zip(*by_state, strict=True))

    @torch.no_grad()
    def step(
        self, token: int, states: States, changes: Sequence[Change] = ()
    ) -> tuple[Tensor, States, dict[str, Tensor]]:
        """One token: the logits (V,) of the next, the new states, every named value.

        A named value is (1, units); a matrix is shown by the norms of its rows.

        Raises:
            ArgumentError: without changes the logits are no finite numbers.
        """
        news, named, x = [], {}, None
        for k, (_, values) in enumerate(self._layers(token, states, changes)):
            graph = self.graphs[k]
            sizes = [int(s.size) for s in graph.states]
            news.append(
                tuple(
                    values[u].expand(1, n)
                    for u, n in zip(graph.updates, sizes, strict=True)
                )
            )
            named |= {
                f"{k}.{n}": _shown(values[node], graph.nodes[node].size)
                for n, node in graph.values.items()
            }
            x = values[graph.output]
        logits = self.model.head(x)[0]
        if not changes:  # else it is they, rather than the weights
            check_finite(logits)
        return logits, tuple(news), named

    def _layers(
        self, token: int, states: States, changes: Sequence[Change] = ()
    ) -> Iterator[tuple[Tensor, list[Any]]]:
        """Each layer's input (1, size) and its nodes' values, lowest layer first."""
        x = self.model.embed(torch.tensor([token]))  # (1, E)
        for k, graph in enumerate(self.graphs):
            values = evaluate(
                graph,
                self.layer.cells[k],
                {"x": x},
                _by_name(graph, states[k]),
                visit=self._changer(k, changes),
            )
            yield x, values
            x = values[graph.output]

    @torch.no_grad()
    def moment(
        self, tokens: Sequence[int] | NDArray[np.int64], layer: int = 0
    ) -> Moment:
        """A layer's input and old states at the last token, for pictures with values.

        Raises:
            ArgumentError: no token, or no such layer.
        """
        if not len(tokens):
            raise ArgumentError("[draw] an empty text; expected at least one token")
        if not 0 <= layer < len(self.graphs):
            raise ArgumentError(
                f"[draw] the model has {len(self.graphs)} layer(s); received layer "
                f"{layer}, expected 0 to {len(self.graphs) - 1}"
            )
        states = self.initial()
        for token in tokens[:-1]:
            _, states, _ = self.step(int(token), states)
        inputs = (x for x, _ in self._layers(int(tokens[-1]), states))
        x = next(islice(inputs, layer, None))
        olds = _by_name(self.graphs[layer], states[layer])
        olds = {name: old[0] for name, old in olds.items()}
        return Moment(self.layer.cells[layer], {"x": x[0]}, olds)

    def read(
        self,
        tokens: Sequence[int] | NDArray[np.int64],
        changes: Sequence[Change] = (),
        advance: Callable[[int], Any] = lambda count: None,
    ) -> Reading:
        """Read from the initial states; `advance(1)` is called after every token.

        Raises:
            ArgumentError: no token, or a change of something that is not there.
        """
        if not len(tokens):
            raise ArgumentError("[inspect] an empty text; expected at least one token")
        self.check(changes)
        states, logits, rows = self.initial(), [], []
        for token in tokens:
            predicted, states, named = self.step(int(token), states, changes)
            logits.append(predicted)
            rows.append(named)
            advance(1)
        values = {
            key: torch.cat([row[key] for row in rows]).numpy() for key in self.keys
        }
        return Reading(
            np.asarray(tokens, dtype=np.int64), values, torch.stack(logits).numpy()
        )

    def check(self, changes: Sequence[Change]) -> None:
        """Raise ArgumentError for a change of something that is not there."""
        for change in changes:
            if change.key not in self.keys:
                raise ArgumentError(
                    f"[inspect] no value {change.key!r}. "
                    f"{did_you_mean(change.key, list(self.keys))}"
                )
            units = self.units(change.key)
            if change.kind not in ("clamp", "scale"):
                raise ArgumentError(
                    f"[inspect] received {change.kind!r}, expected 'clamp' or 'scale'"
                )
            if not abs(change.amount) <= LARGEST:
                raise ArgumentError(
                    f"[inspect] received the amount {change.amount}, expected a "
                    f"number of 32 bits: at most {LARGEST:g}"
                )
            if change.unit is not None and not 0 <= change.unit < units:
                raise ArgumentError(
                    f"[inspect] {change.key} has {units} units; received unit "
                    f"{change.unit}, expected 0 to {units - 1}"
                )

    def units(self, key: str) -> int:
        """How many units a value has; of a matrix how many rows."""
        k, node = self.keys[key]
        return units_of(self.graphs[k].nodes[node].size)

    def _changer(
        self, k: int, changes: Sequence[Change]
    ) -> Callable[[int, Any], Any] | None:
        """What `evaluate` calls for layer k; None where nothing changes."""
        mine = [(self.keys[c.key][1], c) for c in changes if self.keys[c.key][0] == k]
        if not mine:
            return None

        def change(position: int, value: Any) -> Any:
            for node, wanted in mine:
                if node == position:
                    value = wanted.apply(value, self.units(wanted.key))
            return value

        return change


def units_of(size: Size) -> int:
    """How many units a value of this size has; of a matrix how many rows."""
    return int(size.rows if isinstance(size, MatrixSize) else size)


def _shown(value: Any, size: Size) -> Tensor:
    """A named value as (1, units): one that is a parameter alone has no rows."""
    row = value.detach().reshape(1, -1).float()
    if isinstance(size, MatrixSize):
        return row.unflatten(-1, (units_of(size), -1)).norm(dim=-1)
    return row


def likeliest(scores: Tensor) -> Tensor:
    """The tokens with the highest scores (…, V), best first: (…, 10)."""
    return scores.topk(min(LIKELIEST, scores.shape[-1])).indices


def _by_name(graph: Graph, states: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {s.name: v for s, v in zip(graph.states, states, strict=True)}
