"""How well a model predicts a text: all of it, in one go, from a zero state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..schema import Checked, Limits
from .corpus import CorpusError, Tokens
from .model import LanguageModel
from .tokenizer import TextTokenizer

WINDOW = 1024  # tokens at a time: bounds the memory, changes no number


@dataclass(frozen=True)
class Figures(Checked):
    """How well a text is predicted, as JSON keeps it: None for no finite number."""

    nats_per_char: float | None
    bits_per_char: float | None
    nats_per_token: float | None
    bits_per_token: float | None
    perplexity: float | None
    characters: Annotated[int, Limits(ge=0)]
    tokens: Annotated[int, Limits(ge=0)]
    unknown: Annotated[int, Limits(ge=0)]


@dataclass(frozen=True)
class Score:
    """The figures of one text.

    The first token has nothing before it, so N tokens have N − 1 targets, and it is
    these that every figure is divided by: tokens, or the characters they stand for.

    Attributes:
        nats: the sum of −ln p(target).
        targets: N − 1.
        target_characters: characters of the targets.
        characters, tokens: of the whole text.
        unknown: tokens that stand for something outside the vocabulary.
    """

    nats: float
    targets: int
    target_characters: int
    characters: int
    tokens: int
    unknown: int = 0

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.targets

    @property
    def nats_per_char(self) -> float:
        return self.nats / self.target_characters

    @property
    def perplexity(self) -> float:
        """exp of the nats per token."""
        return math.exp(min(self.nats_per_token, 700.0))

    @property
    def finite(self) -> bool:
        """Whether the model's predictions were numbers at all."""
        return math.isfinite(self.nats)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data."""
        char, token, bit = self.nats_per_char, self.nats_per_token, math.log(2)
        found = char, char / bit, token, token / bit, self.perplexity
        shown = found if self.finite else (None, None, None, None, None)
        return asdict(Figures(*shown, self.characters, self.tokens, self.unknown))


@torch.no_grad()
def score(
    model: LanguageModel,
    tokens: Tokens,
    tokenizer: TextTokenizer,
    *,
    free_running: bool = False,
    advance: Callable[[int], Any] = lambda count: None,
) -> Score:
    """Read a text from its first token to its last, carrying the state.

    Args:
        model: the mode (training or not) is put back afterwards.
        tokens: the text.
        tokenizer: knows how many characters the first token stands for.
        free_running: let the model read its own samples in place of the text, but for
            the first token: how far it goes astray when nothing corrects it.
        advance: called with the number of targets done, as they are done.

    Raises:
        CorpusError: fewer than two tokens.
    """
    if tokens.count < 2:
        raise CorpusError(
            f"[text] too short to evaluate: {tokens.count} tokens have no target; "
            "expected at least 2"
        )
    numbers = tokens.open(tokenizer.vocabulary)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    state, nats, read = None, 0.0, None
    for x, y in _windows(numbers):
        x, y = x.to(device), y.to(device)
        if free_running and read is not None:
            x[0] = read
        logits, state = model(x[:, None], state, 0.0 if free_running else 1.0)
        nats += F.cross_entropy(logits[:, 0], y, reduction="sum").double().item()
        read = model.sample(logits[-1:])[0, 0] if free_running else None
        advance(len(y))
    model.train(was_training)
    first = 1 if tokenizer.kind == "char" else len(tokenizer.decode([int(numbers[0])]))
    divisors = tokens.count - 1, max(1, tokens.characters - first)
    return Score(nats, *divisors, tokens.characters, tokens.count, tokens.unknown)


def _windows(numbers: np.ndarray) -> Iterable[tuple[Tensor, Tensor]]:
    """(T,) inputs and targets, all N − 1 of them."""
    for start in range(0, len(numbers) - 1, WINDOW):
        stop = min(start + WINDOW, len(numbers) - 1)
        piece = torch.from_numpy(numbers[start : stop + 1].astype(np.int64))
        yield piece[:-1].clone(), piece[1:]
