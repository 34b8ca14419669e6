"""What the experiment asks of its nets, and how it counts their answers."""

import pytest
import torch

from cellwright.lab import attention
from cellwright.nn.beam_search import Hypothesis

LENGTHS = torch.tensor([3, 1, 5])


@pytest.mark.parametrize("task", attention.TASKS)
def test_a_target_is_its_source_or_the_source_reversed(task):
    generator = torch.Generator().manual_seed(0)
    source, lengths, target, target_lengths = attention.pairs(task, LENGTHS, generator)
    assert source.shape == (5, 3)
    assert target.shape == (6, 3)
    assert target_lengths.tolist() == [4, 2, 6]
    for row, n in enumerate(lengths.tolist()):
        read, written = source[:, row].tolist(), target[:, row].tolist()
        tokens = read[:n]
        assert all(1 <= token <= attention.SYMBOLS for token in tokens)
        assert not any(read[n:])
        own = tokens if task == "copy" else tokens[::-1]
        assert written == own + [0] * (6 - n)


def test_every_length_up_to_the_longest_is_trained():
    case = {"task": "copy", "longest": 4}
    generator = torch.Generator().manual_seed(0)
    _, lengths, _, _ = attention.training_batch(case, generator)
    assert set(lengths.tolist()) == {1, 2, 3, 4}


class Answers:
    """A model that writes and attends as it is told.

    Args:
        change: what is written, of the tokens of a source.
        order: (T,) the item with the largest weight at each step.
    """

    items = "source"

    def __init__(self, change, order):
        self.change, self.order = change, order

    def greedy(self, source, lengths, max_length):
        rows = zip(source.T.tolist(), lengths.tolist(), strict=True)
        return [Hypothesis(self.change(row[:n]), 0.0, 0.0) for row, n in rows]

    def attention(self, source, lengths, target, target_lengths):
        weights = torch.nn.functional.one_hot(self.order, len(source)).double()
        return weights[:, None].expand(-1, source.shape[1], -1)


@pytest.mark.parametrize(
    ("change", "exact", "accuracy"),
    [
        (lambda tokens: tokens, 1.0, 1.0),
        (lambda tokens: tokens[:3], 0.0, 0.75),  # one too few
        (lambda tokens: [*tokens, 1], 0.0, 1.0),  # one too many
        (lambda tokens: [*tokens[:2], 99, 99], 0.0, 0.5),
        (lambda tokens: [], 0.0, 0.0),
    ],
)
def test_exact_match_and_token_accuracy(change, exact, accuracy):
    model = Answers(change, torch.tensor([0, 1, 2, 3, 0]))
    score = attention.score(model, "copy", 4)
    assert score == {"exact": exact, "accuracy": accuracy, "aligned": 1.0}


def test_the_alignment_of_reversing_is_from_last_to_first():
    model = Answers(lambda tokens: tokens[::-1], torch.tensor([3, 2, 0, 0, 1]))
    score = attention.score(model, "reverse", 4)
    assert score == {"exact": 1.0, "accuracy": 1.0, "aligned": 0.75}


def test_the_net_without_attention_has_no_fewer_parameters():
    for quick in (True, False):
        sizes = {
            case["net"]: sum(
                p.numel()
                for p in attention.make_model(case["net"], case["hidden"]).parameters()
            )
            for case in attention.cases(quick, 0)
        }
        assert sizes["bahdanau_gru"] <= sizes["gru"] <= 1.1 * sizes["bahdanau_gru"]


def test_one_case_is_measured_whole():
    case = attention.cases(quick=True, seed=0)[0] | {"longest": 4, "steps": 2}
    measured = attention.run(case)
    assert measured["lengths"] == [1, 2, 3, 4, 5, 6, 7, 8]
    for key in attention.MEASURES:
        assert all(0 <= value <= 1 for value in measured[key])
    plain = attention.run(case | {"net": "gru"})
    assert plain["aligned"] == [None] * 8
