"""How well a model predicts a text: all of it, in one go, from a zero state."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..language.errors import ArgumentError
from ..schema import Checked, Limits
from .corpus import CorpusError, Tokens
from .model import LanguageModel
from .tokenizer import TextTokenizer

LARGEST = math.log(sys.float_info.max)  # nats, of which there is a perplexity
WINDOW = 1024  # tokens at a time: bounds the memory, changes no number


@dataclass(frozen=True)
class Score(Checked):
    """The figures of one text; None for what is no finite number.

    The first token has nothing before it, so N tokens have N − 1 targets, and it is
    these that every figure is divided by: tokens, or the characters they stand for.

    Attributes:
        perplexity: exp of the nats per token; None where no float is so large.
        characters, tokens: of the whole text.
        unknown: tokens that stand for something outside the vocabulary.
    """

    nats_per_char: float | None
    bits_per_char: float | None
    nats_per_token: float | None
    bits_per_token: float | None
    perplexity: float | None
    characters: Annotated[int, Limits(ge=0)]
    tokens: Annotated[int, Limits(ge=0)]
    unknown: Annotated[int, Limits(ge=0)]

    @property
    def finite(self) -> bool:
        """Whether the model's predictions were numbers at all."""
        return self.nats_per_token is not None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data."""
        return asdict(self)


#: Is told how much more is done.
Advance = Callable[[int], Any]

#: `with bar(what, total) as advance:` shows how far some work is.
Bar = Callable[[str, int], AbstractContextManager[Advance]]

#: Reads a text from a zero state: `reader(model, numbers, advance)` gives the sum of
#: nats over its targets. Numbers are (N,) token numbers; the model is in eval mode.
Reader = Callable[[LanguageModel, np.ndarray, Advance], float]


def no_bar(what: str, total: int) -> AbstractContextManager[Advance]:
    """The `Bar` that shows nothing."""
    return nullcontext(lambda count: None)


def score(
    model: LanguageModel,
    tokens: Tokens,
    tokenizer: TextTokenizer,
    *,
    free_running: bool = False,
    reader: Reader | None = None,
    advance: Callable[[int], Any] = lambda count: None,
) -> Score:
    """Read a text from its first token to its last, carrying the state.

    Args:
        model: the mode (training or not) is put back afterwards.
        tokenizer: knows how many characters the first token stands for.
        free_running: let the model read its own samples in place of the text, but for
            the first token: how far it goes astray when nothing corrects it.
        reader: another way to read, as `cache.Cache` and `dynamic.Dynamic` are.
        advance: called with the number of targets done, as they are done.

    Raises:
        CorpusError: fewer than two tokens.
        ArgumentError: both `free_running` and a `reader`.
    """
    check_reading(tokens, free_running, reader is not None)
    numbers = tokens.open(tokenizer.vocabulary)
    was_training = model.training
    model.eval()
    reader = reader or partial(read, free_running=free_running)
    nats = reader(model, numbers, advance)
    model.train(was_training)
    first = 1 if tokenizer.kind == "char" else len(tokenizer.decode([int(numbers[0])]))
    char, token = nats / max(1, tokens.characters - first), nats / (tokens.count - 1)
    perplexity = math.exp(token) if token < LARGEST else None
    figures = char, char / math.log(2), token, token / math.log(2), perplexity
    if not math.isfinite(nats):
        figures = None, None, None, None, None
    return Score(*figures, tokens.characters, tokens.count, tokens.unknown)


def check_reading(tokens: Tokens, free_running: bool, other: bool) -> None:
    """What `score` refuses: to be known before anything is tuned.

    Args:
        other: whether there is another way to read.

    Raises:
        CorpusError, ArgumentError: as `score`.
    """
    if free_running and other:
        raise ArgumentError(
            "[evaluate] received both free_running and another way to read, expected "
            "one of them"
        )
    if tokens.count < 2:
        raise CorpusError(
            f"[text] too short to evaluate: {tokens.count} tokens have no target; "
            "expected at least 2"
        )


@torch.no_grad()
def read(
    model: LanguageModel,
    numbers: np.ndarray,
    advance: Callable[[int], Any],
    free_running: bool = False,
) -> float:
    """The usual `Reader`."""
    state, nats, own = None, 0.0, None
    for x, y in windows(model, numbers, WINDOW):
        if free_running and own is not None:
            x[0] = own
        logits, state = model(x[:, None], state, 0.0 if free_running else 1.0)
        nats += F.cross_entropy(logits[:, 0], y, reduction="sum").double().item()
        own = model.sample(logits[-1:])[0, 0] if free_running else None
        advance(len(y))
    return nats


def windows(
    model: LanguageModel, numbers: np.ndarray, length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """A text in order: up to `length` tokens (T,) on the model's device, and theirs."""
    device = next(model.parameters()).device
    for start in range(0, len(numbers) - 1, length):
        piece = numbers[start : start + length + 1].astype(np.int64)
        both = torch.from_numpy(piece).to(device)  # (T + 1,)
        yield both[:-1].clone(), both[1:]
