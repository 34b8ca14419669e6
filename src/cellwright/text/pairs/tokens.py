"""Both sides' tokens: of the inputs, and of the outputs with a token that ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..tokenizer import TextTokenizer
from .files import Pair

#: The number of the end token in an output; the others are one more than their
#: tokenizer's. It also stands for what was written before the first token.
END = 0


@dataclass(frozen=True)
class PairTokenizer:
    """The tokenizers of inputs and outputs."""

    input: TextTokenizer
    output: TextTokenizer

    @staticmethod
    def learn(
        pairs: Sequence[Pair], kinds: tuple[str, str], vocabulary: int | None
    ) -> PairTokenizer:
        """Learn both vocabularies.

        Args:
            kinds: of the inputs' tokens and of the outputs': "char", "space" or "bpe".
            vocabulary: at most so many tokens each; None: all, or 1,024 byte pairs.

        Raises:
            ArgumentError: a vocabulary too small for its kind.
        """
        sides = zip(kinds, zip(*pairs, strict=True), strict=True)
        return PairTokenizer(
            *(TextTokenizer.learn(kind, texts, vocabulary) for kind, texts in sides)
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """Token numbers of inputs, and of outputs with the end token."""
        return self.input.vocabulary, self.output.vocabulary + 1

    @property
    def unknown_output(self) -> int | None:
        """The number in outputs of what is not in the vocabulary."""
        unknown = self.output.unknown
        return None if unknown is None else unknown + 1

    def encode_inputs(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token numbers of each text, (S,) int64."""
        return self.input.encode_all(texts)

    def encode_outputs(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token numbers of each text and the end token, (T,) int64."""
        end = np.array([END])
        return [np.concatenate((t + 1, end)) for t in self.output.encode_all(texts)]

    def encode_pairs(
        self, pairs: Sequence[Pair]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Token numbers of all inputs, and of all outputs."""
        inputs, outputs = zip(*pairs, strict=True)
        return self.encode_inputs(inputs), self.encode_outputs(outputs)

    def output_tokens(self, text: str) -> list[Any]:
        """An output as the tokens that errors are counted in, known or not."""
        written: dict[str, Callable[[str], list[Any]]] = {
            "char": list,
            "space": str.split,
            "bpe": lambda text: self.output.encode(text).tolist(),
        }
        return written[self.output.kind](text)

    def decode_output(self, tokens: Iterable[int]) -> str:
        """The text of an output's token numbers, up to its end token."""
        return self.output.decode(t - 1 for t in tokens if t != END)

    def save(self, folder: Path) -> None:
        for name, tokenizer in vars(self).items():
            tokenizer.save(folder / f"{name}-tokenizer.json")

    @staticmethod
    def load(folder: Path, kinds: tuple[str, str]) -> PairTokenizer:
        """Read what `save` wrote.

        Raises:
            CellwrightError: a file is missing, or no tokenizer of its kind.
        """
        names = zip(kinds, ("input", "output"), strict=True)
        files = ((kind, folder / f"{name}-tokenizer.json") for kind, name in names)
        return PairTokenizer(*(TextTokenizer.load(*file) for file in files))
