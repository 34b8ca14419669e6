"""Averages of weights, held to plain loops; what is validated, kept, gone on from."""

import pytest
import torch
from torch import nn

from cellwright import ArgumentError
from cellwright.train.averaging import (
    ExponentialAverage,
    NonMonotonicAverage,
    parse_average,
)
from cellwright.train.checkpoint import Store
from cellwright.train.plan import Plan
from cellwright.train.schedules import Constant
from test_train_loop import Stop, StopAt, assert_same, new_model, run


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def walk(average, model, steps, seed=0):
    """Random steps; the weights after each."""
    generator, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape, generator=generator, dtype=p.dtype)
        average.update()
        seen.append(weights(model))
    return seen


def assert_mean(average, expected):
    with average.applied():
        for p, q in zip(average._model.parameters(), expected, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=0, atol=1e-12)


def test_an_exponential_average_is_its_recursion():
    model = nn.Linear(3, 2).double()
    average = ExponentialAverage(model, 0.8)
    seen = walk(average, model, 60)
    mean = seen[0]
    for t, own in enumerate(seen[1:], start=1):
        d = min(0.8, (1 + t) / (10 + t))
        mean = [d * m + (1 - d) * w for m, w in zip(mean, own, strict=True)]
    before = weights(model)
    assert_mean(average, mean)
    assert all(map(torch.equal, weights(model), before))  # put back
    average.apply()
    torch.testing.assert_close(weights(model), mean, rtol=0, atol=1e-12)


def test_nt_asgd_is_triggered_and_is_the_mean_from_then_on():
    """Merity et al. 2018, algorithm 1, n = 2: worse than the best but the last two."""
    model = nn.Linear(3, 2).double()
    average = NonMonotonicAverage(model, 2)
    losses = [5.0, 4.0, 4.5, 4.2, 3.9, 4.1, 4.3, 3.0]
    #             at 4.3 the best of all but the last two is 3.9: not at 4.1 (4.0)
    triggered = [False, False, False, False, False, True, True, True]
    after = []
    for number, loss in enumerate(losses):
        seen = walk(average, model, 3, seed=number)
        if average._triggered:
            after += seen
        average.observe(loss)
        best_older = min(losses[: max(0, number - 2)], default=None)
        expected = best_older is not None and loss > best_older
        triggered[number] = expected or (number > 0 and triggered[number - 1])
        assert average._triggered == triggered[number]
    assert not triggered[3]
    assert triggered[-1]
    mean = [torch.stack(part).mean(0) for part in zip(*after, strict=True)]
    assert_mean(average, mean)


@pytest.mark.parametrize("text", ["ema:0.9", "nt-asgd:1"])
@pytest.mark.parametrize("stops", [(), (3, 10, 17)])
def test_a_run_keeps_its_average_and_goes_on_from_its_weights(tmp_path, text, stops):
    plan = Plan(20, checkpoint_every=4, validate_every=5, log_every=1)
    validated = []

    def validate(model):
        validated.append(weights(model))
        return float(len(validated))  # ever worse

    def start(store, resume, reporter=None):
        validated.clear()
        model = new_model()
        average = parse_average(text)(model)
        options = {"store": store, "resume": resume, "reporter": reporter}
        return run(
            plan, model, Constant(), validate=validate, average=average, **options
        )

    plain, _ = run(Plan(20), schedule=Constant())
    store = Store(tmp_path / "run")
    for step in stops:
        with pytest.raises(Stop):
            start(store, True, StopAt(step))
    whole, _ = start(store, True)
    kept = store.load()
    found = new_model()
    found.load_state_dict(kept.model)
    assert_same(whole, found)  # what is kept is the average …
    assert all(map(torch.equal, validated[-1], weights(whole)))  # … as validated
    own = kept.training["average"]["own"]  # and training went on as without it
    assert all(map(torch.equal, own, weights(plain)))
    assert not all(map(torch.equal, own, weights(whole)))
    if stops:
        expected, _ = start(Store(tmp_path / "whole"), False)
        assert_same(expected, whole)


@pytest.mark.parametrize(
    "text", ["emma", "ema:1", "ema:x", "nt-asgd:0", "nt-asgd:1.5", "none:3", ""]
)
def test_what_is_no_average_is_refused(text):
    with pytest.raises(ArgumentError, match=r"\[average\] received .*nt-asgd\[:N\]"):
        parse_average(text)


def test_short_forms():
    assert parse_average("none") is None
    model = nn.Linear(1, 1)
    assert parse_average("ema")(model)._decay == 0.99
    assert parse_average("nt-asgd")(model)._patience == 5
