"""What the experiment trains on, and how it counts right answers."""

import json

import pytest
import torch
from torch import nn

from cellwright.lab import state_tracking
from cellwright.lab.experiment import Rows


def test_training_lengths_are_drawn_up_to_the_longest():
    case = {"task": "S5", "longest": 4}
    generator = torch.Generator().manual_seed(0)
    batches = [state_tracking.training_batch(case, generator) for _ in range(40)]
    assert {len(batch.inputs) for batch in batches} == {2, 3, 4}
    assert batches[0].targets.shape[1:] == (state_tracking.BATCH, 5)


class Answers(nn.Module):
    """Says the right places up to a step, and then those before anything moved."""

    def __init__(self, batch, until):
        super().__init__()
        self.places = batch.targets.clone()
        self.places[until:] = torch.arange(batch.targets.shape[-1])

    def forward(self, x):
        return nn.functional.one_hot(self.places).double().flatten(2), None


@pytest.mark.parametrize("task", state_tracking.TASKS)
def test_every_thing_must_be_in_its_place(task):
    found = state_tracking.TASKS[task]
    generator = torch.Generator().manual_seed(1000)
    batch = state_tracking.draw(found, state_tracking.TESTED, 12, generator)
    right = state_tracking.accuracy(Answers(batch, 7), task, 12)
    assert (right[:7] == 1).all()
    guess = state_tracking.chance(found) / 100
    # By swaps, nothing is in its place again after an odd number of steps.
    expected = [2 * guess * (t % 2) if found.swaps else guess for t in range(7, 12)]
    assert right[7:].tolist() == pytest.approx(expected, abs=0.08)


def test_a_matrix_has_as_many_numbers_as_the_two_states_of_an_lstm():
    for key, task in state_tracking.TASKS.items():
        for net in task.nets:
            case = {"task": key, "net": net, "hidden": state_tracking.hidden(task, net)}
            layer = state_tracking.make_model(case).layer
            if state_tracking.NETS[net].matrix:
                assert layer.hidden_size**2 == 2 * task.hidden


def test_one_case_is_measured_whole():
    for case in state_tracking.cases(quick=True, seed=0):
        measured = state_tracking.run(case | {"longest": 4, "steps": 2})
        assert measured["lengths"] == [2, 4, 8, 16, 32]
        assert all(0 <= value <= 1 for value in measured["accuracy"])
        json.dumps(measured)


def test_what_is_said_follows_the_rows():
    """Rows as theory expects them: every claim holds; turned round, none does."""
    able = {"parity": {"signed_min_gru", "signed_delta_net", "gated_delta_net"}}
    able["swaps"] = {"signed_delta_net", "gated_delta_net"}
    for flip in (False, True):
        rows = []
        for case in state_tracking.cases(quick=False, seed=0):
            right = case["net"] in {"lstm", "slstm", *able.get(case["task"], ())}
            lengths = [round(s * case["longest"]) for s in state_tracking.LENGTHS]
            measured = {"lengths": lengths, "accuracy": [float(right != flip)] * 5}
            rows.append(case | measured | {"parameters": 1, "cpu_seconds": 1.0})
        found = Rows(tuple(rows))
        assert {c.holds for c in state_tracking.claims(found)} == {not flip}
        titles = [t.title for t in state_tracking.tables(found)]
        assert [t.split(":")[0] for t in titles] == ["Parity", "S5 by swaps", "S5"]
        lstm = "LSTM 0 % and 0 %" if flip else "LSTM 100 % and 100 %"
        assert state_tracking.conclude(found).count(f" {lstm}") == 3
