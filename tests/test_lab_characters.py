"""What the experiment compares: models of equal sizes, for equal steps or time."""

import json

import numpy as np
import pytest
import torch

from cellwright.lab import characters
from cellwright.lab.experiment import Rows
from cellwright.lab.peers import parameters

SMALL = {"units": 16, "heads": 0, "batch": 4, "window": 8, "text": "prose"}


def case(net="lstm", budget="steps", **settings):
    return characters.case_of("prose", net, budget, 0) | SMALL | settings


@pytest.mark.parametrize("net", characters.NETS)
def test_all_models_have_about_as_many_parameters(net):
    sizes = [
        parameters(characters.build(characters.case_of("", n, "steps", 0), 65))
        for n in (net, "lstm")
    ]
    assert abs(sizes[0] / sizes[1] - 1) < 0.01


def test_matrix_states_have_heads_of_16_by_16_and_start_as_published():
    for name, net in characters.NETS.items():
        assert net.heads in (0, net.units // 16)
        assert net.units % 16 == 0 or not net.heads
        if name == "mlstm":
            model = characters.build(characters.case_of("", name, "steps", 0), 65)
            assert torch.equal(
                model.rnn.cells[1].f.bias.detach(), torch.linspace(3, 6, net.heads)
            )


def test_the_full_form_has_each_net_with_each_budget_seed_by_seed():
    cases = characters.cases(quick=False, seed=5)
    assert len(cases) == 3 * 2 * len(characters.NETS)
    assert [c["seed"] for c in cases] == sorted(c["seed"] for c in cases)
    for one in cases:
        assert ("steps" in one) == (one["budget"] == "steps") != ("seconds" in one)


def test_what_is_held_out_is_never_trained_on():
    train, held_out, vocabulary = characters.read("prose", 0.1)
    whole = characters.read("prose", 0.0)[0]
    assert np.array_equal(np.concatenate([train, held_out]), whole)
    assert abs(len(held_out) / len(whole) - 0.1) < 1e-4
    assert vocabulary == 27


@pytest.mark.parametrize("limit", [{"steps": 3}, {"seconds": 0.2}])
def test_one_case_is_measured_whole(limit):
    budget = "steps" if "steps" in limit else "time"
    measured = characters.run(case(budget=budget, held_out=0.001, **limit))
    json.dumps(measured)
    assert 0 < measured["nats"] < 2 * np.log(27)
    assert measured["trained_steps"] == limit.get("steps", measured["trained_steps"])
    assert measured["parameters"] > 1000


def test_a_calibration_leaves_the_model_alone():
    model = characters.build(case(), 27)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train = characters.read("prose", 0.1)[0]
    assert characters.steps_for(case(seconds=0.1), model, train) >= 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def rows(*found):
    shared = {"parameters": 1, "trained_steps": 2, "cpu_seconds": 3.0, "curve": []}
    return Rows(
        tuple(
            case(net, budget, seed=seed, steps=3, seconds=60) | {"nats": nats, **shared}
            for net, budget, seed, nats in found
        )
    )


def test_the_claim_is_about_equal_time_and_waits_for_both_nets():
    found = rows(("lstm", "time", 0, 1.7), ("lstm", "time", 1, 1.5))
    (claim,) = characters.claims(found)
    assert claim.measured is None
    assert not claim.holds
    more = rows(("lstm", "time", 0, 1.7), ("min_gru", "time", 0, 1.8))
    (claim,) = characters.claims(more)
    assert claim.measured == pytest.approx(0.1)
    assert claim.holds
    assert characters.nats(found, "lstm", "time") == pytest.approx(1.6)


def test_tables_have_the_best_net_first():
    found = rows(("lstm", "steps", 0, 1.7), ("gru", "steps", 0, 1.6))
    (table,) = characters.tables(found)
    assert [row[0] for row in table.rows] == ["GRU", "LSTM"]
    assert "best first: GRU 1.600, LSTM 1.700" in characters.conclude(found)
