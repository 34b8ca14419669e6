"""Learning-rate schedules and optimisers, against hand-worked numbers."""

import math

import pytest
import torch
from torch import nn

from cellwright import ArgumentError
from cellwright.train.optimisers import (
    OPTIMISERS,
    decay_groups,
    make_optimiser,
    set_rate,
)
from cellwright.train.schedules import Cosine, Linear, Plateau, make_schedule


def test_cosine_rises_over_the_warm_up_then_falls_to_its_floor():
    schedule = Cosine(warm_up=4, steps=12, floor=0.2)
    assert [schedule.factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.factor(4) == 1.0
    assert schedule.factor(8) == pytest.approx(0.6)  # half way: (1 + 0.2) / 2
    assert schedule.factor(6) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert schedule.factor(12) == pytest.approx(0.2)
    assert schedule.factor(99) == pytest.approx(0.2)


def test_linear_is_a_straight_line():
    schedule = Linear(warm_up=2, steps=12)
    assert [schedule.factor(i) for i in (2, 7, 12, 20)] == [1.0, 0.5, 0.0, 0.0]


def test_plateau_halves_after_two_validations_without_gain():
    schedule = Plateau(patience=2)
    factors = []
    for loss in (3.0, 2.0, 2.5, 2.0, 2.1, 1.9, 1.95, 1.9):
        schedule.observe(loss)
        factors.append(schedule.factor(0))
    #  best, best, 1st, 2nd: cut; 1st, best, 1st, 2nd: cut
    assert factors == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_plateau_goes_on_from_its_state():
    first, second = Plateau(patience=2), Plateau(patience=2)
    for loss in (2.0, 2.5):
        first.observe(loss)
    second.load_state_dict(first.state_dict())
    second.observe(2.5)
    assert second.factor(0) == 0.5


@pytest.mark.parametrize("make", [lambda: make_schedule("cosin", 10)])
def test_an_unknown_schedule_is_named(make):
    with pytest.raises(ArgumentError, match="received 'cosin', expected one of cosine"):
        make()


def test_matrices_decay_and_vectors_do_not():
    model = nn.LSTM(3, 4)
    decayed, kept = decay_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # One step from w = 1 with gradient 0.5, rate 0.1, decay 0.01.
        ("adamw", 1 - 0.1 * 0.01 * 1 - 0.1),  # decay apart; Adam's first step is ±lr
        ("adam", 1 - 0.1),  # the decayed gradient has the same sign
        ("sgd", 1 - 0.1 * (0.5 + 0.01) * 1.9),  # Nesterov: g + μ·g
    ],
)
def test_the_first_step_of_each_optimiser(name, expected):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    optimiser = make_optimiser(name, model, 0.1, weight_decay=0.01)
    model.weight.grad = torch.full((1, 1), 0.5, dtype=torch.float64)
    optimiser.step()
    assert model.weight.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_in_one_pass_the_steps_are_the_same(name):
    torch.manual_seed(3)
    models, draws = [nn.Linear(5, 4) for _ in range(2)], torch.randn(20, 4, 5)
    models[1].load_state_dict(models[0].state_dict())
    for model, fused in zip(models, (None, True), strict=True):
        options = {"weight_decay": 0.1, "fused": fused}
        optimiser = make_optimiser(name, model, 0.01, **options)
        for draw in draws:
            model.weight.grad, model.bias.grad = draw.clone(), draw[:, 0].clone()
            optimiser.step()
    for p, q in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_an_unknown_optimiser_is_named():
    with pytest.raises(ArgumentError, match="received 'lion'"):
        make_optimiser("lion", nn.Linear(1, 1), 0.1)


def test_the_rate_is_always_a_fraction_of_the_peak():
    optimiser = make_optimiser("sgd", nn.Linear(2, 2), 0.4)
    assert set_rate(optimiser, 0.5) == 0.2
    assert set_rate(optimiser, 0.5) == 0.2
    assert {group["lr"] for group in optimiser.param_groups} == {0.2}
