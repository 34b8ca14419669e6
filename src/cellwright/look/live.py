"""Typing to a model: each token is a step from the state before, and can be undone."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..language.errors import ArgumentError, did_you_mean
from ..text.generate import check_sampling, keep_likely
from ..text.tokenizer import REPLACEMENT, TextTokenizer
from ..train.seeds import check_seed
from .reading import Reader, States, likeliest


@dataclass(frozen=True)
class Step:
    """A token that was read, and the model after it; logits (V,) of the next."""

    token: int
    logits: Tensor
    states: States
    named: dict[str, Tensor]


class Live:
    """A text that grows and shrinks at its end, with the state after every token.

    It begins with settled tokens: those that the model wrote, and all before them. What
    has been typed since is cut into tokens anew with every key: it may end a word or a
    byte pair. Only tokens that change are read again. A change before the end of the
    settled tokens unsettles those from there on. A report types in the browser in the
    same way: `web/src/inspect/typing.js`.

    Args:
        reader: of the model.
        tokenizer: of the run.
    """

    LONGEST = 20_000  # tokens: what a page may keep here

    def __init__(self, reader: Reader, tokenizer: TextTokenizer) -> None:
        self._reader, self._tokenizer = reader, tokenizer
        self._generator = torch.Generator()
        self._generator.seed()
        self._steps: list[Step] = []
        self._settle(0)

    def reset(self, seed: int | None = None) -> None:
        """Back to an empty text; `seed` fixes the samples to come.

        Raises:
            ArgumentError: a seed beyond 64 bits.
        """
        self._settle(0)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(check_seed(seed))

    def edit(self, text: str) -> None:
        """Read this as the whole text: what a field holds after a key, a paste, a cut.

        Raises:
            ArgumentError: it is too long.
        """
        if not text.startswith(self._written):
            # Its beginning is the text of so many settled tokens, and of all fewer.
            counts = range(1, self._settled + 1)
            self._settle(
                bisect(counts, False, key=lambda n: not text.startswith(self._text(n)))
            )
        self._read(text[len(self._written) :])

    def _settle(self, count: int) -> None:
        """So many tokens are settled from now on, and none follows."""
        del self._steps[count:]
        self._settled, self._written, self._typed = count, self._text(count), ""

    def _text(self, count: int) -> str:
        """That of the first tokens; an unknown one is U+FFFD."""
        return self._tokenizer.decode(step.token for step in self._steps[:count])

    def sample(self, temperature: float = 1.0, top_k: int | None = None) -> None:
        """Add one token of the model's own; temperature 0 takes the likeliest.

        Raises:
            ArgumentError: a temperature out of its range, or top_k below 1.
        """
        check_sampling(temperature, top_k)
        if not self._steps:
            self.edit("\n")
        logits = self._logits()
        if temperature == 0:
            self._push(int(logits.argmax()))
        else:
            chances = keep_likely(logits / temperature, top_k, None).softmax(-1)
            self._push(int(torch.multinomial(chances, 1, generator=self._generator)))
        self._settle(len(self._steps))

    def show(self, key: str | None = None) -> dict[str, Any]:
        """The text, what is likely next, and a named value after the last token.

        Args:
            key: the value, such as "0.c"; None for none.

        Raises:
            ArgumentError: there is no such value.
        """
        if key is not None and key not in self._reader.keys:
            raise ArgumentError(
                f"[live] no value {key!r}. {did_you_mean(key, list(self._reader.keys))}"
            )
        found: dict[str, Any] = {
            "text": self._written + self._typed,
            "tokens": len(self._steps),
            "unknown": self._unknown(),
            "next": [],
            "values": [],
        }
        if self._steps:
            found["next"] = self._likely()
            if key is not None:
                value = self._steps[-1].named[key].flatten()
                found["values"] = [round(v, 5) for v in value.tolist()]
        return found

    def _unknown(self) -> list[str]:
        """What stands in the text for unknown tokens; of settled ones U+FFFD."""
        unknown = self._tokenizer.unknown
        settled = sum(s.token == unknown for s in self._steps[: self._settled])
        return [REPLACEMENT] * settled + self._tokenizer.unknown_in(self._typed)

    def _likely(self) -> list[dict[str, Any]]:
        chances = self._logits().softmax(-1)
        return [
            {
                "piece": self._tokenizer.decode([t]),
                "chance": round(float(chances[t]), 5),
            }
            for t in likeliest(chances).tolist()
        ]

    def _logits(self) -> Tensor:
        logits = self._steps[-1].logits.clone()
        if self._tokenizer.unknown is not None:
            logits[self._tokenizer.unknown] = -torch.inf
        return logits

    def _read(self, typed: str) -> None:
        """Make `typed` what follows the settled text."""
        tokens = [int(t) for t in self._tokenizer.encode(typed)]
        if self._settled + len(tokens) > self.LONGEST:
            raise ArgumentError(
                f"[live] the text is full; expected at most {self.LONGEST} tokens"
            )
        old = [step.token for step in self._steps[self._settled :]]
        same = 0
        while same < min(len(old), len(tokens)) and old[same] == tokens[same]:
            same += 1
        del self._steps[self._settled + same :]
        for token in tokens[same:]:
            self._push(token)
        self._typed = typed

    def _push(self, token: int) -> None:
        if len(self._steps) >= self.LONGEST:
            raise ArgumentError(
                f"[live] the text is full; expected at most {self.LONGEST} tokens"
            )
        states = self._steps[-1].states if self._steps else self._reader.initial()
        self._steps.append(Step(token, *self._reader.step(token, states)))
