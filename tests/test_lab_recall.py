"""What the experiment compares, and how it counts right answers."""

import json

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.lab import recall
from cellwright.lab.tasks import NOTHING


@pytest.mark.parametrize("net", recall.NETS)
def test_every_state_has_as_many_numbers(net):
    layer = cw.Recurrent(net, 2 * recall.SYMBOLS, recall.hidden(net))
    _, state = layer(torch.zeros(1, 1, 2 * recall.SYMBOLS))
    states = state if isinstance(state, tuple) else (state,)
    numbers = [s[0, 0].numel() for s in states]
    if recall.NETS[net].states:
        assert sum(numbers) == recall.NUMBERS
    else:
        assert numbers[0] == recall.NUMBERS
        assert sum(numbers[1:]) <= layer.hidden_size + 1  # what normalises


def test_training_draws_every_number_of_pairs():
    generator = torch.Generator().manual_seed(0)
    lengths = {len(recall.training_batch(generator).inputs) for _ in range(300)}
    assert lengths == {2 * pairs for pairs in range(1, recall.PAIRS[-1] + 1)}


class Remembers(nn.Module):
    """Answers with the value of a key, if that was among the last `most` pairs."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        keys, values = x.split(recall.SYMBOLS, -1)
        pairs = len(x) // 2
        first = pairs - min(self.most, pairs)
        memory = torch.einsum("tbk,tbv->bkv", keys[first:pairs], values[first:pairs])
        return torch.einsum("tbk,bkv->tbv", keys, memory), None


def test_accuracy_counts_the_keys_that_are_asked_for():
    assert recall.accuracy(Remembers(16), 16) == 1.0
    assert recall.accuracy(Remembers(4), 4) == 1.0
    guessed = 0.75 / recall.SYMBOLS  # all scores zero: always the first value
    assert recall.accuracy(Remembers(4), 16) == pytest.approx(0.25 + guessed, abs=0.01)


def test_the_loss_leaves_out_what_is_shown():
    batch = recall.training_batch(torch.Generator().manual_seed(1))
    asked = batch.targets != NOTHING
    model = Remembers(16)
    expected = nn.functional.cross_entropy(
        model(batch.inputs)[0][asked], batch.targets[asked]
    )
    torch.testing.assert_close(recall.loss(model, batch), expected)


def test_one_case_is_measured_whole():
    for case in recall.cases(quick=True, seed=0):
        measured = recall.run(case | {"steps": 2})
        assert measured["pairs"] == list(recall.PAIRS)
        assert all(0 <= value <= 1 for value in measured["accuracy"])
        json.dumps(measured)
