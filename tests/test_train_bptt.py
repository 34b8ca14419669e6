"""Back-propagation through time: full against autograd, truncated against a loop."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from cellwright.train.bptt import backpropagate, detach, map_state

Pair = namedtuple("Pair", "h c")


def test_states_of_any_nesting_keep_their_structure():
    a, b = torch.ones(1, requires_grad=True) * 2, torch.ones(1)
    state = {"rnn": (a, [b, None]), "pair": Pair(a, b)}
    cut = detach(state)
    assert isinstance(cut["rnn"], tuple)
    assert isinstance(cut["rnn"][1], list)
    assert cut["rnn"][1][1] is None
    assert isinstance(cut["pair"], Pair)
    assert a.requires_grad
    assert not cut["pair"].h.requires_grad
    doubled = map_state(lambda t: t * 2, state)
    assert doubled["pair"].c.item() == 2


@pytest.fixture
def problem():
    torch.manual_seed(1)
    layer = nn.LSTM(3, 4).double()
    inputs, targets = torch.randn(7, 2, 3).double(), torch.randn(7, 2, 4).double()

    def loss(x, y, state):
        out, state = layer(x, state)
        return ((out - y) ** 2).sum(), state

    return layer, inputs, targets, loss


def gradients(layer):
    found = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    return found


def test_full_is_the_gradient_of_the_whole(problem):
    layer, inputs, targets, loss = problem
    value, _ = backpropagate(loss, inputs, targets)
    ours = gradients(layer)
    whole, _ = loss(inputs, targets, None)
    whole.backward()
    for a, b in zip(ours, gradients(layer), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert value.item() == pytest.approx(whole.item())


def test_truncated_carries_values_but_no_gradients(problem):
    layer, inputs, targets, loss = problem
    value, state = backpropagate(loss, inputs, targets, window=3)
    ours = gradients(layer)

    by_hand, carried = 0.0, None
    for start in (0, 3, 6):
        part, carried = loss(
            inputs[start : start + 3], targets[start : start + 3], carried
        )
        part.backward()
        by_hand += part.item()
        carried = tuple(s.detach() for s in carried)
    theirs = gradients(layer)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    full, _ = backpropagate(loss, inputs, targets)
    assert value.item() == pytest.approx(by_hand)
    assert value.item() == pytest.approx(full.item())  # the values are carried …
    differences = [
        (a - b).abs().max() for a, b in zip(ours, gradients(layer), strict=True)
    ]
    assert max(differences) > 1e-3  # … and the gradients are cut
    assert not state[0].requires_grad


def test_no_steps_is_an_error(problem):
    _, inputs, targets, loss = problem
    with pytest.raises(ValueError, match="no steps"):
        backpropagate(loss, inputs[:0], targets[:0], window=2)
