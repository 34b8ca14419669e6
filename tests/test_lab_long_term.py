"""How the experiment judges: answers to the tasks of 1997, by hand."""

import pytest
import torch

from cellwright.lab import long_term
from cellwright.lab.tasks import Sequences, embedded_reber


def judge(task, outputs, targets):
    """Outputs (T, B, O) of sequences whose last step is the last but one."""
    lengths = torch.full((outputs.shape[1],), len(outputs) - 1)
    batch = Sequences(torch.zeros(len(outputs), len(lengths), 1), targets, lengths)
    return long_term.TASKS[task].right(outputs, batch).tolist()


def test_an_answer_within_the_papers_tolerance_is_right():
    outputs = torch.full((3, 3, 1), 9.0)
    outputs[1] = torch.tensor([[0.53], [0.55], [0.1]])
    targets = torch.tensor([[0.5], [0.5], [0.2]])
    assert judge("sum", outputs, targets) == [True, False, False]
    assert judge("two-sequence", outputs, targets) == [True, True, True]


def test_a_class_is_right_where_every_unit_is_near_its_target():
    logits = torch.zeros(3, 3, 4)
    logits[1, 0, 2] = 5.0  # 0.98
    logits[1, 1, 2] = 1.9  # 0.69: off by 0.31
    logits[1, 2, 1] = 5.0
    assert judge("order", logits, torch.tensor([2, 2, 2])) == [True, False, False]


def test_a_string_is_foretold_where_all_that_may_follow_is_above_all_that_may_not():
    batch = embedded_reber(3, torch.Generator().manual_seed(0))
    outputs = torch.where(batch.targets > 0, 1.0, -1.0)
    right = long_term.TASKS["reber"].right
    assert right(outputs, batch).tolist() == [True] * 3
    outputs[4, 1] = -outputs[4, 1]
    assert right(outputs, batch).tolist() == [True, False, True]


@pytest.mark.parametrize("net", long_term.NETS)
def test_every_net_starts_open_for_as_long_as_it_is_told(net):
    torch.manual_seed(1)
    layer = long_term.build(net, 2, 1, 64, longest=100).layer
    gates = {"gru": "z", "gru-plain": "z", "rnn": "h", "lstm-1997": "i"}
    bias = getattr(layer.cells[0], gates.get(net, "f")).bias.detach()
    assert (float(bias.max()) > 3) == (net in ("lstm", "peephole", "coupled", "gru"))
    if net == "lstm-1997":
        assert float(bias.min()) == -6
    if net == "lstm-bias-1":
        assert (bias == 1).all()
