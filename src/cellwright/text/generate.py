"""Text from a model, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..language.errors import ArgumentError
from ..train.seeds import check_seed
from .model import LanguageModel, check_finite
from .tokenizer import TextTokenizer, check_text

COLDEST, HOTTEST = 1e-6, 1e6  # temperatures by which float32 logits can be divided


def generate(
    model: LanguageModel,
    tokenizer: TextTokenizer,
    prompt: str = "",
    length: int = 500,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Continue a prompt, giving each piece of text as soon as it is certain.

    Args:
        prompt: read first, and not repeated; an empty one counts as a line end.
        length: tokens to generate.
        temperature: divides the logits, from 1e-6 to 1e6; 0 always takes the most
            probable token.
        top_k: sample among the k most probable tokens only.
        top_p: sample among the fewest most probable tokens whose probabilities sum to
            at least p (Holtzman et al. 2020, "nucleus sampling").
        seed: of the samples; None for others every time.

    Raises:
        ArgumentError: a setting out of its range, or a prompt that is no text.
    """
    if length < 0:
        raise ArgumentError(f"[length] received {length}, expected 0 or more")
    check_sampling(temperature, top_k, top_p)
    check_text(prompt)
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(check_seed(seed))

    def choose(logits: Tensor) -> Tensor:  # (V,) -> (1,)
        if temperature == 0:
            return logits.argmax().view(1)
        kept = keep_likely(logits / temperature, top_k, top_p)
        return torch.multinomial(kept.softmax(-1), 1, generator=generator)

    return tokenizer.stream(_tokens(model, tokenizer, prompt, length, choose))


@torch.no_grad()
def _tokens(
    model: LanguageModel,
    tokenizer: TextTokenizer,
    prompt: str,
    length: int,
    choose: Callable[[Tensor], Tensor],
) -> Iterator[int]:
    model.eval()
    read = torch.from_numpy(tokenizer.encode(prompt or "\n"))[:, None]  # (T, 1)
    logits, state = model(read)  # (T, 1, V)
    step, last = model.stepper(state), logits[-1, 0]  # (V,)
    for left in range(length, 0, -1):
        last = last.float()
        check_finite(last)
        if tokenizer.unknown is not None:
            last[tokenizer.unknown] = -torch.inf
        token = choose(last)
        yield int(token)
        if left > 1:
            last = step(token)[0]


def keep_likely(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits (V,) with −∞ for every token that top-k and top-p leave out."""
    if top_k is not None and top_k < len(logits):
        smallest = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p is not None and top_p < 1:
        sorted_logits, order = logits.sort(descending=True)
        chances = sorted_logits.softmax(-1)
        # A token stays if those before it have not reached p yet: at least one stays.
        out = chances.cumsum(-1) - chances >= top_p
        logits = logits.index_fill(0, order[out], -torch.inf)
    return logits


def check_sampling(
    temperature: float, top_k: int | None = None, top_p: float | None = None
) -> None:
    """Raise ArgumentError for settings out of their range."""
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise ArgumentError(
            f"[temperature] received {temperature}, expected 0 or more: 0 for the "
            f"likeliest token, else from {COLDEST:g} to {HOTTEST:g}"
        )
    if top_k is not None and top_k < 1:
        raise ArgumentError(f"[top-k] received {top_k}, expected 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        expected = "more than 0 and at most 1"
        raise ArgumentError(f"[top-p] received {top_p}, expected {expected}")
