"""How often a model's outputs are right, and how far off they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch

from ...language.errors import ArgumentError
from ...nn.beam_search import Hypothesis
from ...nn.encoder_decoder import EncoderDecoder
from ...schema import Checked, Limits
from ..tokenizer import check_text
from .files import Example, Pair, check_longest
from .stream import padded
from .tokens import PairTokenizer

ROWS = 128  # inputs that are searched for at a time

Share = Annotated[float, Limits(ge=0)]


@dataclass(frozen=True)
class PairScore(Checked):
    """The figures of a set of inputs, each with its references.

    Attributes:
        exact_match: the share of inputs whose output is one of their references.
        error_rate: the edit distance of every output to its nearest reference, summed,
            over the tokens of those references.
        pairs: inputs.
        tokens: of the nearest references.
        unknown: tokens of the inputs that are not in the vocabulary.
    """

    exact_match: Share
    error_rate: Share
    pairs: Annotated[int, Limits(ge=0)]
    tokens: Annotated[int, Limits(ge=0)]
    unknown: Annotated[int, Limits(ge=0)]

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data."""
        return asdict(self)


def search(
    model: EncoderDecoder,
    tokenizer: PairTokenizer,
    inputs: Sequence[str],
    **options: Any,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Search for the outputs of many inputs, those of about the same length together.

    Args:
        options: as `EncoderDecoder.beam_search` takes them. Without max_length an
            output has at most ten tokens more than twice those of the longest input
            beside it.

    Yields:
        The number of each input, in no order, and its hypotheses.
    """
    sources = tokenizer.encode_inputs(inputs)
    order = sorted(range(len(sources)), key=lambda n: len(sources[n]))
    device = model.head.weight.device
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        source, lengths = padded([sources[row] for row in rows])  # (S, B), (B,)
        limit = {"max_length": 10 + 2 * len(source), **options}
        found = model.beam_search(source.to(device), lengths, **limit)
        yield from zip(rows, found, strict=True)


def check_inputs(inputs: Sequence[str], longest: int) -> None:
    """Raise ArgumentError or PairError for an input that no model of pairs takes."""
    for number, text in enumerate(inputs, 1):
        check_text(text)
        check_longest(text, longest, f"input {number}")
        if not text.strip():
            raise ArgumentError(
                f"[input {number}] is empty; received {text!r}, expected a text"
            )


def score(
    model: EncoderDecoder,
    tokenizer: PairTokenizer,
    examples: Sequence[Example],
    beam: int,
    advance: Callable[[int], Any] = lambda count: None,
) -> PairScore:
    """Write an output for every input, and compare it with the references.

    Args:
        beam: hypotheses that the search keeps.
        advance: called with the number of inputs done, as they are done.
    """
    right = errors = tokens = 0
    inputs = [example.input for example in examples]
    for number, (best, *_) in search(model, tokenizer, inputs, beam=beam):
        output = tokenizer.decode_output(best.tokens)
        distance, length = nearest(tokenizer, output, examples[number].references)
        right += distance == 0
        errors += distance
        tokens += length
        advance(1)
    return PairScore(
        exact_match=right / max(1, len(examples)),
        error_rate=errors / max(1, tokens),
        pairs=len(examples),
        tokens=tokens,
        unknown=count_unknown(tokenizer, inputs),
    )


def count_unknown(tokenizer: PairTokenizer, inputs: Sequence[str]) -> int:
    """Tokens of the inputs that are not in the vocabulary."""
    unknown = tokenizer.input.unknown
    return sum(int((t == unknown).sum()) for t in tokenizer.encode_inputs(inputs))


def nearest(
    tokenizer: PairTokenizer, output: str, references: Sequence[str]
) -> tuple[int, int]:
    """The edit distance to the nearest reference in tokens, and that one's tokens.

    Of several that are equally near it is the first.
    """
    own, *others = map(tokenizer.output_tokens, (output, *references))
    return min(
        ((edit_distance(own, other), len(other)) for other in others),
        key=lambda found: found[0],
    )


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The fewest insertions, deletions and substitutions from a to b (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            kept = diagonal + (left != right)
            diagonal = row[j]
            row[j] = min(kept, diagonal + 1, row[j - 1] + 1)
    return row[-1]


@torch.no_grad()
def mean_loss(
    model: EncoderDecoder, tokenizer: PairTokenizer, pairs: Sequence[Pair]
) -> float:
    """The mean cross entropy, in nats, of all tokens of the outputs, forced."""
    inputs, outputs = tokenizer.encode_pairs(pairs)
    order = sorted(range(len(pairs)), key=lambda n: (len(outputs[n]), len(inputs[n])))
    device, was_training = model.head.weight.device, model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        source, source_lengths = padded([inputs[row] for row in rows])
        target, lengths = padded([outputs[row] for row in rows])
        _, loss = model(source.to(device), source_lengths, target.to(device), lengths)
        tokens = int(lengths.sum())
        total, count = total + loss.item() * tokens, count + tokens
    model.train(was_training)
    return total / count
