"""Characters, words or byte pairs, by way of the `tokenizers` library.

The first three lose nothing: decoding gives the text back, white space included, but
for characters and words that are not in the vocabulary. "ptb" is how language models
read the Penn Treebank by word (Mikolov et al. 2010): a token is what stands between
blanks, the end of a line is the token <eos>, and <unk> in the text is the unknown token
itself. "space", what stands between blanks, is for symbols such as phonemes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from ..files import read_file, write_and_sync
from ..language.errors import ArgumentError, CellwrightError
from ..train.interrupt import interruptible

UNKNOWN = "<unk>"
END = "<eos>"  # of a sentence
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # how the unknown token is written

#: A word with the blank before it, a run of punctuation, or a run of white space.
_WORDS = Regex(r" ?\w+| ?[^\s\w]+|\s+(?!\S)|\s+")

_RUN = 4096  # characters
_BYTES = 256


class TextTokenizer:
    """Text to token numbers and back.

    Attributes:
        kind: "char", "word", "bpe", "ptb" or "space".
        vocabulary: number of tokens.
        unknown: the number of the unknown token; None for byte pairs, which know all.
    """

    def __init__(self, kind: str, inner: Tokenizer):
        self.kind = kind
        self._inner = inner
        self.vocabulary = inner.get_vocab_size()
        self.unknown: int | None = inner.token_to_id(UNKNOWN)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TextTokenizer):
            return NotImplemented
        return self.kind == other.kind and self._inner.to_str() == other._inner.to_str()

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def learn(
        kind: str, pieces: Iterable[str], vocabulary: int | None = None
    ) -> TextTokenizer:
        """Learn a vocabulary from text that comes in pieces.

        Args:
            kind: one of `KINDS`, or "space".
            vocabulary: at most so many tokens; None: every character or symbol, 10,000
                words (word, ptb) or 1,024 byte pairs.

        Raises:
            ArgumentError: no such kind, or a vocabulary too small for it.
        """
        if kind not in _EVERY_KIND:
            known = ", ".join(_EVERY_KIND)
            raise ArgumentError(
                f"[tokenizer] received {kind!r}, expected one of {known}"
            )
        known = _EVERY_KIND[kind]
        size = vocabulary or known.usual
        if size is not None and size < known.smallest:
            raise ArgumentError(
                f"[tokenizer] a vocabulary of {kind} has at least {known.smallest} "
                f"tokens; received {size}"
            )
        return TextTokenizer(kind, known.learn(pieces, size))

    def encode(self, text: str) -> np.ndarray:
        """Token numbers of a text: (N,), int64.

        Raises:
            ArgumentError: a lone surrogate in it.
        """
        check_text(text)
        if self.kind != "char":
            return np.array(self._inner.encode(text).ids, dtype=np.int64)
        # Characters do not see their neighbours: short runs are encoded in parallel.
        runs = [text[i : i + _RUN] for i in range(0, len(text), _RUN)]
        encoded = self._inner.encode_batch_fast(runs)
        numbers = [np.array(run.ids, dtype=np.int64) for run in encoded]
        return np.concatenate(numbers) if numbers else np.zeros(0, np.int64)

    def unknown_in(self, text: str) -> list[str]:
        """What stands in a text where its tokens are the unknown one, in order.

        Raises:
            ArgumentError: a lone surrogate in it.
        """
        check_text(text)
        if self.unknown is None:
            return []
        found = self._inner.encode(text)
        places = zip(found.ids, found.offsets, strict=True)
        return [text[a:b] for token, (a, b) in places if token == self.unknown]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The same of many short texts.

        Raises:
            ArgumentError: a lone surrogate in one.
        """
        known = _EVERY_KIND[self.kind]
        if known.count is None:
            return [self.encode(text) for text in texts]
        numbers = self.encode(known.between.join(texts))  # far faster than one by one
        return np.split(numbers, np.cumsum([known.count(t) for t in texts]))[:-1]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token numbers; an unknown one is written U+FFFD."""
        return _EVERY_KIND[self.kind].between.join(self.stream(tokens))

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens, as they come: each piece once its characters are whole.

        A character may take several byte-pair tokens; what is incomplete at the end is
        written U+FFFD.
        """
        pending: list[int] = []
        for token in tokens:
            if token == self.unknown:
                yield _EVERY_KIND[self.kind].written(REPLACEMENT)
                continue
            pending.append(token)
            text = self._inner.decode(pending)
            # The decoder writes U+FFFD for a character that is not whole yet. More than
            # a few of those are no beginning of a character, but nonsense.
            if text.endswith(REPLACEMENT) and len(pending) < 4:
                continue
            yield _EVERY_KIND[self.kind].written(text)
            pending = []
        if pending:
            yield self._inner.decode(pending)

    def pieces(self) -> list[bytes]:
        """The bytes of every token; of a byte pair they may be part of a character."""
        words = [self._inner.id_to_token(n) or "" for n in range(self.vocabulary)]
        if self.kind != "bpe":
            return [_EVERY_KIND[self.kind].written(word).encode() for word in words]
        numbers = _numbers_of_bytes()
        return [bytes(numbers[letter] for letter in word) for word in words]

    def to_json(self) -> str:
        """The `tokenizers` library's own JSON, which names the kind as well."""
        return self._inner.to_str()

    def save(self, path: Path) -> None:
        """Write that JSON."""
        write_and_sync(path, self.to_json().encode())

    @staticmethod
    def load(kind: str, path: Path) -> TextTokenizer:
        """Read what `save` wrote.

        Raises:
            CellwrightError: missing, not a tokenizer, or one of another kind.
        """
        try:
            text = read_file(path, path.parent).decode()
            found = TextTokenizer(kind, Tokenizer.from_str(text))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises bare Exception, and panics
            why = error.strerror if isinstance(error, OSError) else error
            raise CellwrightError(f"[{path}] is not a tokenizer: {why}") from None
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        """Raise CellwrightError unless it is of its kind, and numbers without gaps."""
        known = _EVERY_KIND[self.kind]
        found = type(self._inner.model).__name__, self.unknown is None
        wanted = known.model, known.knows_all
        if found != wanted:
            received, expected = (
                f"{model} {'without' if all_ else 'with'}"
                for model, all_ in (found, wanted)
            )
            raise CellwrightError(
                f"[{path}] is another tokenizer; received {received} an unknown token, "
                f"expected {self.kind}, that is {expected} one"
            )
        numbers = set(self._inner.get_vocab().values())
        if numbers != set(range(self.vocabulary)):
            raise CellwrightError(
                f"[{path}] numbers its {self.vocabulary} tokens with gaps, up to "
                f"{max(numbers, default=None)}; expected 0 to {self.vocabulary - 1}"
            )


def check_text(text: str) -> None:
    """Raise ArgumentError for half a surrogate pair, which is no character.

    Python makes one of every byte of the command line that is not in its encoding.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"[text] received {text[error.start]!r} at character {error.start}, which "
            "is no character; expected UTF-8 text"
        ) from None


def _ranked(parts: Iterable[Iterable[str]], size: int | None) -> list[str]:
    """The most frequent tokens, the unknown one aside; ties in order of the token."""
    counts = Counter(chain.from_iterable(parts))
    counts.pop(UNKNOWN, None)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [token for token, _ in ranked[: None if size is None else size - 1]]


def _numbered(tokens: Iterable[str]) -> dict[str, int]:
    """The unknown token, and then these."""
    return {token: number for number, token in enumerate([UNKNOWN, *tokens])}


def _characters(pieces: Iterable[str], size: int | None) -> Tokenizer:
    # Byte-pair encoding with no pair to merge leaves characters; it is ten times
    # faster than splitting at every character.
    vocabulary = _numbered(sorted(_ranked(pieces, size)))
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    inner.decoder = decoders.Fuse()  # type: ignore[assignment]
    return inner


def _words(pieces: Iterable[str], size: int | None) -> Tokenizer:
    splitter = pre_tokenizers.Split(_WORDS, "isolated")
    words = ((w for w, _ in splitter.pre_tokenize_str(piece)) for piece in pieces)
    vocabulary = _numbered(sorted(_ranked(words, size)))
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = splitter  # type: ignore[assignment]
    inner.decoder = decoders.Fuse()  # type: ignore[assignment]
    return inner


def _between_blanks(pieces: Iterable[str], size: int | None) -> Tokenizer:
    vocabulary = _numbered(sorted(_ranked(map(str.split, pieces), size)))
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    inner.decoder = decoders.Fuse()  # type: ignore[assignment]
    return inner


def _treebank(pieces: Iterable[str], size: int | None) -> Tokenizer:
    ends = normalizers.Replace("\n", f" {END} ")
    splitter = pre_tokenizers.WhitespaceSplit()
    lines = map(ends.normalize_str, pieces)
    words = ((w for w, _ in splitter.pre_tokenize_str(piece)) for piece in lines)
    # In the order of frequency, as adaptive softmax needs them.
    vocabulary = _numbered(_ranked(words, size))
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.normalizer = ends  # type: ignore[assignment]
    inner.pre_tokenizer = splitter  # type: ignore[assignment]
    inner.decoder = decoders.Fuse()  # type: ignore[assignment]
    return inner


def _treebank_written(token: str) -> str:
    return "\n" if token == END else f"{token} "


def _byte_pairs(pieces: Iterable[str], size: int | None) -> Tokenizer:
    assert size is not None
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(  # type: ignore[assignment]
        add_prefix_space=False
    )
    inner.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    interruptible(inner.train_from_iterator, pieces, trainer)
    return inner


@dataclass(frozen=True)
class Kind:
    """How a kind of tokenizer is learned, and how its file is told from others."""

    learn: Callable[[Iterable[str], int | None], Tokenizer]
    model: str  # of the library
    knows_all: bool  # whether no text has an unknown token
    smallest: int  # vocabulary
    usual: int | None  # vocabulary
    between: str = ""  # what decoding writes between two tokens
    count: Callable[[str], int] | None = None  # tokens of a text; None: it depends on
    # what stands beside it
    written: Callable[[str], str] = str  # how a text has a token
    lossless: bool = True
    by_frequency: bool = False  # whether more frequent tokens have lower numbers
    by_line: bool = False  # whether the end of a line is a token

    @property
    def by_word(self) -> bool:
        """Whether a token is a word, of which no part is one."""
        return self.model == "WordLevel"


#: The kinds for running text, which lose nothing.
KINDS = {
    "char": Kind(_characters, "BPE", False, 2, None, count=len),
    "word": Kind(_words, "WordLevel", False, 2, 10_000),
    "bpe": Kind(_byte_pairs, "BPE", True, _BYTES, 1_024),  # it starts from every byte
    "ptb": Kind(
        _treebank,
        "WordLevel",
        False,
        2,
        10_000,
        written=_treebank_written,
        lossless=False,
        by_frequency=True,
        by_line=True,
    ),
}
_EVERY_KIND = {
    **KINDS,
    "space": Kind(
        _between_blanks,
        "WordLevel",
        False,
        2,
        None,
        " ",
        lambda text: len(text.split()),
    ),
}


def _numbers_of_bytes() -> dict[str, int]:
    """What byte a letter of `ByteLevel` stands for: itself, where it can be seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(_BYTES) if b not in seen]
    letters = {chr(_BYTES + k): b for k, b in enumerate(hidden)}
    return {**{chr(b): b for b in seen}, **letters}
