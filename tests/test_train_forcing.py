"""Teacher forcing: the decays by hand, and what a forced model reads."""

import math

import pytest
import torch

from cellwright import ArgumentError
from cellwright.train.forcing import (
    ConstantForcing,
    ExponentialForcing,
    InverseSigmoidForcing,
    LinearForcing,
    parse_forcing,
    run_forced,
)


def test_the_three_decays_of_bengio_et_al():
    assert LinearForcing(k=0.9, c=0.1, floor=0.25)(3) == pytest.approx(0.6)
    assert LinearForcing(k=0.9, c=0.1, floor=0.25)(8) == 0.25
    assert ExponentialForcing(0.9)(2) == pytest.approx(0.81)
    assert InverseSigmoidForcing(5)(0) == pytest.approx(5 / 6)
    assert InverseSigmoidForcing(5)(10) == pytest.approx(5 / (5 + math.e**2))
    assert InverseSigmoidForcing(1)(10**6) == 0.0


def test_short_forms():
    assert parse_forcing("0.75", 10) == ConstantForcing(0.75)
    assert parse_forcing("exponential:0.9", 10) == ExponentialForcing(0.9)
    assert parse_forcing("sigmoid:7", 10) == InverseSigmoidForcing(7)
    linear = parse_forcing("linear:0.2", 100)
    assert [linear(i) for i in (0, 50, 100)] == pytest.approx([1.0, 0.6, 0.2])


@pytest.mark.parametrize("name", ["exponential", "sigmoid"])
@pytest.mark.parametrize("steps", [20, 1000])
def test_without_a_constant_half_is_reached_in_the_middle(name, steps):
    assert parse_forcing(name, steps)(steps // 2) == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["1.5", "-0.1", "linear:2", "sigmoid:0.5", "teacher"])
def test_what_is_no_forcing_is_refused(text):
    with pytest.raises(ArgumentError, match="expected a ratio between 0 and 1"):
        parse_forcing(text, 10)


def echo(read):
    """A model whose prediction is what it read, plus 100; it notes what it reads."""

    def step(inputs, state):
        read.append(inputs.clone())
        return inputs + 100, state + len(inputs)

    return step


def test_a_ratio_of_one_reads_the_truth_in_one_call():
    read, truth = [], torch.arange(6.0).view(3, 2)
    outputs, state = run_forced(echo(read), truth, 0, 1.0, lambda y: y)
    assert len(read) == 1
    assert torch.equal(outputs, truth + 100)
    assert state == 3


def test_free_running_reads_its_own_predictions_after_the_first():
    read, truth = [], torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    _, state = run_forced(echo(read), truth, 0, 0.0, lambda y: y)
    assert torch.cat(read).tolist() == [[0, 1], [100, 101], [200, 201]]
    assert state == 3


def test_coins_are_tossed_for_every_step_and_row():
    torch.manual_seed(0)
    read, truth = [], torch.zeros(400, 10)
    run_forced(echo(read), truth, 0, 0.7, lambda y: torch.ones_like(y))
    own = torch.cat(read)[1:]  # 1 where the model read itself; the first is the truth
    assert own.mean().item() == pytest.approx(0.3, abs=0.03)
    assert 0 < own[:, 0].mean() < 1  # not the same coin for a whole row …
    assert ((own.sum(1) > 0) & (own.sum(1) < 10)).any()  # … nor for a whole step


def test_trailing_dimensions_share_a_coin():
    torch.manual_seed(0)
    read, truth = [], torch.zeros(50, 3, 4)
    run_forced(echo(read), truth, 0, 0.5, lambda y: torch.ones_like(y))
    rows = torch.cat(read)
    assert torch.equal(rows.amin(-1), rows.amax(-1))
    assert 0 < rows.mean() < 1


def test_no_gradient_flows_through_what_is_fed_back():
    weight = torch.tensor(2.0, requires_grad=True)
    truth = torch.ones(2, 1)
    outputs, _ = run_forced(lambda x, s: (x * weight, s), truth, None, 0.0, lambda y: y)
    outputs[1].sum().backward()
    assert weight.grad.item() == 2.0  # d(w·fed)/dw = fed = 2; with a path it were 4
