"""Beam search: the likeliest outputs of a model that writes token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..language import ArgumentError


@dataclass
class Hypothesis:
    """An output that a search found.

    Attributes:
        tokens: its token numbers, without the end token.
        log_probability: of the tokens and the end token, in nats.
        score: log_probability / length ** length_penalty, where the length counts the
            end token; hypotheses are ranked by it.
        attention: (len(tokens) + 1, S) weights over the items when each token, the end
            token last, was written; None where it was not asked for.
    """

    tokens: list[int]
    log_probability: float
    score: float
    attention: Tensor | None = None


@dataclass(frozen=True)
class Search:
    """What is searched for, and how widely.

    Attributes:
        beam: hypotheses of a row that are kept at each step; 1 is greedy search.
        n_best: how many to return; at most `beam`.
        length_penalty: the power of the length by which log-probabilities are divided:
            0 for none, 1 for the mean of a token.
        max_length: tokens after which an output must end.

    Raises:
        ArgumentError: a number out of its range.
    """

    beam: int = 5
    n_best: int = 1
    length_penalty: float = 1.0
    max_length: int = 100

    def __post_init__(self) -> None:
        for name, least, most in (
            ("beam", 1, 10_000),
            ("n_best", 1, self.beam),
            ("length_penalty", 0, 100),
            ("max_length", 0, 1_000_000),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ArgumentError(
                    f"[beam search] {name} is out of its range; received {value}, "
                    f"expected {least} to {most}"
                )

    def score(self, log_probability: float, length: int) -> float:
        return log_probability / length**self.length_penalty


def beam_search(
    advance: Callable[[Tensor, Tensor], Tensor], rows: int, end: int, search: Search
) -> list[list[Hypothesis]]:
    """Search for the likeliest outputs of each row of a batch.

    A row's search ends when it has found `beam` outputs, or when no prefix that is left
    can reach a better score than the `n_best` found. With a beam as wide as there are
    prefixes it is exhaustive.

    Args:
        advance: `advance(tokens (N,), parents (N,)) -> logits (N, V)` of the next
            token, where N is rows · beam: prefix n now is prefix parents[n] of before,
            and tokens[n] after it. At first the tokens are the end token.
        rows: B.
        end: the end token.

    Returns:
        For each row its best hypotheses, the best one first.

    Raises:
        ArgumentError: the logits are no finite numbers.
    """
    total = torch.full((rows, search.beam), -torch.inf)  # (B, K): of prefixes
    total[:, 0] = 0.0  # at first there is one, the empty prefix
    written = torch.zeros(rows, search.beam, 0, dtype=torch.long)  # (B, K, t)
    tokens = torch.full((rows * search.beam,), end)
    parents = torch.arange(rows * search.beam)
    found: list[list[Hypothesis]] = [[] for _ in range(rows)]
    for length in range(1, search.max_length + 2):
        chances = _log_probabilities(advance(tokens, parents))  # (B·K, V)
        if length > search.max_length:  # now it must end
            others = torch.arange(chances.shape[-1]) != end
            chances = chances.masked_fill(others, -torch.inf)
        total, written, parents = _extend(total, written, chances)
        tokens = written[..., -1].flatten()
        total = _take_ended(total, written, end, search, found)
        if not bool(total.isfinite().any()):
            break
    return [sorted(own, key=_rank)[: search.n_best] for own in found]


def _rank(hypothesis: Hypothesis) -> float:
    return -hypothesis.score


def _log_probabilities(logits: Tensor) -> Tensor:
    """(N, V) -> the same, normalised; −∞ is a token that is never written."""
    chances = logits.float().log_softmax(-1)
    if bool(chances.isnan().any()):
        raise ArgumentError(
            "[beam search] received a prediction of NaN or infinity, expected finite "
            "numbers: the weights are too large for their precision"
        )
    return chances


def _extend(
    total: Tensor, written: Tensor, chances: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest prefixes that are one token longer, (B, K) and (B, K, t + 1).

    Returns:
        Their log-probabilities, their tokens, and which prefixes of before they extend,
        (B·K,).
    """
    rows, beam, _ = written.shape
    vocabulary = chances.shape[-1]
    every = total[..., None] + chances.view(rows, beam, vocabulary)  # (B, K, V)
    total, best = every.flatten(1).topk(beam)  # (B, K) of K·V
    parent, token = best // vocabulary, best % vocabulary
    before = written.gather(1, parent[..., None].expand_as(written))
    written = torch.cat([before, token[..., None]], -1)
    first = torch.arange(rows)[:, None] * beam
    return total, written, (first + parent).flatten()


def _take_ended(
    total: Tensor,
    written: Tensor,
    end: int,
    search: Search,
    found: list[list[Hypothesis]],
) -> Tensor:
    """Move prefixes that have ended to `found`; −∞ for them, and in rows that are done.

    A prefix's log-probability can only fall, so its score is at best what it would be
    at the greatest length.
    """
    length = written.shape[-1]
    ended = (written[..., -1] == end) & total.isfinite()
    for row, k in ended.nonzero().tolist():
        chance = total[row, k].item()
        score = search.score(chance, length)
        found[row].append(Hypothesis(written[row, k, :-1].tolist(), chance, score))
    total = total.masked_fill(ended, -torch.inf)
    for row, best in enumerate(total.amax(1).tolist()):
        scores = sorted((h.score for h in found[row]), reverse=True)
        bound = search.score(best, search.max_length + 1)
        enough = len(scores) >= search.n_best and scores[search.n_best - 1] >= bound
        if enough or len(scores) >= search.beam:
            total[row] = -torch.inf
    return total
