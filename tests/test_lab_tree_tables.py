"""The papers' tables of trees and rows: what is trained on, counted and said."""

import pytest
import torch

import cellwright as cw
from cellwright.lab import recursive, tree_tables
from cellwright.lab.experiment import Rows
from cellwright.lab.training import Shuffled

TREE = "(3 (2 It) (4 (3 really) (2 works)))"


def test_every_phrase_of_a_tree_comes_once():
    found = recursive.phrases([TREE, "(1 (2 It) (0 sinks))"])
    assert found == [
        "(2 It)",
        "(3 really)",
        "(2 works)",
        "(4 (3 really) (2 works))",
        TREE,
        "(0 sinks)",
        "(1 (2 It) (0 sinks))",
    ]


def test_both_ways_read_the_last_word_and_the_first():
    """Each row of a batch has the logits that it has by itself."""
    torch.manual_seed(0)
    layer = cw.Recurrent("lstm", 3, 4, bidirectional=True, dtype=torch.float64)
    model = recursive.Reader(layer, 9, 5).double()
    words = torch.tensor([[1, 4], [2, 5], [3, 0]])
    batch = recursive.Batch(words, torch.tensor([0, 1]), lengths=torch.tensor([3, 2]))
    found = model(batch)
    for row, length in enumerate((3, 2)):
        x = model.embedding(words[:length, [row]])
        y, _ = layer(x)
        ends = torch.cat((y[-1, 0, :4], y[0, 0, 4:]))
        torch.testing.assert_close(found[row], model.linear(ends))


def test_an_order_goes_on_in_its_middle():
    whole = Shuffled(range(7), seed=3)
    seen = [whole.next() for _ in range(20)]
    assert sorted(seen[:7]) == sorted(seen[7:14]) == list(range(7))
    assert seen[:7] != seen[7:14]
    half = Shuffled(range(7), seed=3)
    for _ in range(9):
        half.next()
    again = Shuffled(range(7), seed=8)
    again.load_state_dict(half.state_dict())
    assert [again.next() for _ in range(11)] == seen[9:]


def test_cases_are_the_papers(monkeypatch):
    monkeypatch.setattr(tree_tables, "treebank_is_missing", lambda: None)
    found = tree_tables.cases(False, 0)
    assert len(found) == 3 * (2 + 3)
    assert {c["units"] for c in found if c["part"] == "listops"} == {128}
    lstm = next(c for c in found if c["net"] == "LSTM" and c["part"] == "listops")
    steps = lstm["epochs"] * 90_000 * 37
    assert tree_tables.work(lstm) == 3 * steps * 4 * 128 * 256
    assert len({str(c) for c in found}) == len(found)
    monkeypatch.setattr(tree_tables, "treebank_is_missing", lambda: "not here")
    assert {c["part"] for c in tree_tables.cases(True, 0)} == {"listops"}


def test_parts_have_no_expression_in_common():
    parts = tree_tables.TABLES["listops"].examples(50)
    assert [len(p) for p in parts.values()] == [50, 200, 500]
    assert len({e for part in parts.values() for e in part}) == 750


def row(net, test, done=1.0, seed=0):
    return {
        "part": "listops",
        "net": net,
        "seed": seed,
        "epochs": 10,
        "epoch": 4,
        "parameters": 7,
        "test": test,
        "frequent": 0.1,
        "curve": [0.2],
        "done": done,
    }


def test_what_is_said_of_finished_and_stopped_cases():
    rows = Rows(
        (row("LSTM", 0.75), row("LSTM", 0.73, seed=1), row("TreeLSTM", 0.9, 0.4))
    )
    (table,) = tree_tables.tables(rows)
    assert table.rows[0][2] == "75.0 / 73.0"
    assert table.rows[1][2] == "90.0 (epoch 4 of 10)"
    (claim,) = tree_tables.claims(rows)
    assert claim.measured == pytest.approx(74.0)
    assert claim.low == 73.3
    assert "74.0 % (published 73.3)" in tree_tables.conclude(rows)
    assert tree_tables.conclude(Rows(())) == "Nothing is finished yet."
