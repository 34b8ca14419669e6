"""The text of a language model's tokens in C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...language import ArgumentError
from .templates import TOKENS
from .values import array


@dataclass(frozen=True)
class Tokens:
    """What the tokens of a model stand for.

    Attributes:
        pieces: the bytes of every token.
        unknown: the number of the unknown token, or `None`.
    """

    pieces: list[bytes]
    unknown: int | None

    def definition(self) -> str:
        """The function NAME_text and its tables."""
        texts = ",\n".join(f"    {_string(piece)}" for piece in self.pieces)
        lengths = [len(piece) for piece in self.pieces]
        table = array("static const int @_lengths", lengths)
        return TOKENS.format(count=len(self.pieces), texts=texts, lengths=table)


def tokens_of(tokenizer: Any, count: int | None) -> Tokens:
    """The tokens of a tokenizer.

    Args:
        tokenizer: a `TextTokenizer`.
        count: of the model's tokens; `None` where it reads numbers.

    Raises:
        ArgumentError: the model has other tokens, or none.
    """
    if count is None:
        raise ArgumentError(
            "[export_c] tokenizer= is a language model's; received a model that reads "
            "numbers, expected one that begins with an nn.Embedding"
        )
    pieces = tokenizer.pieces()
    if len(pieces) != count:
        raise ArgumentError(
            f"[export_c] the tokenizer is of another model; received {len(pieces)} "
            f"tokens, expected the {count} of the model's nn.Embedding"
        )
    return Tokens(pieces, tokenizer.unknown)


def _string(text: bytes) -> str:
    """A string of C, every byte but letters and digits by its number."""
    letters = (chr(b) if chr(b).isalnum() and b < 128 else f"\\{b:03o}" for b in text)
    return f'"{"".join(letters)}"'
