"""What the reader keeps is what the layer computes; changes do what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import cellwright as cw
from cellwright import cells
from cellwright.language import ArgumentError
from cellwright.look.reading import Change, Reader
from cellwright.text.model import LanguageModel, ModelSizes


def make(cell: str = "lstm", layers: int = 1) -> LanguageModel:
    model = LanguageModel(cells.get(cell), ModelSizes(11, 4, 6, layers))
    return model.eval()


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 2), ("gru", 1), ("slstm", 1)])
def test_a_reading_is_the_models(cell: str, layers: int):
    model = make(cell, layers)
    tokens = torch.randint(0, 11, (20,))
    reading = Reader(model).read(tokens.numpy())
    with torch.no_grad():
        logits, state = model(tokens[:, None])
    np.testing.assert_allclose(reading.logits, logits[:, 0], rtol=1e-4, atol=1e-5)
    last = state if isinstance(state, torch.Tensor) else state[0]
    name = model.rnn.cell.graph.states[0].name
    for k in range(layers):
        np.testing.assert_allclose(
            reading.values[f"{k}.{name}"][-1], last[k, 0], rtol=1e-4, atol=1e-5
        )
    expected = F.cross_entropy(logits[:-1, 0], tokens[1:], reduction="none")
    np.testing.assert_allclose(reading.surprisal()[1:], expected, rtol=1e-4)


def learned(cell: str, layers: int = 1) -> LanguageModel:
    """A model whose layers start at learned states, far from the declared ones."""
    model = make(cell, layers)
    model.rnn = cw.Recurrent(cell, 4, 6, layers, learn_initial_state=True)
    for states in model.rnn.initial_states:
        for state in states.values():
            torch.nn.init.uniform_(state, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 2), ("slstm", 1)])
def test_a_reading_starts_at_the_learned_state(cell: str, layers: int):
    model = learned(cell, layers)
    tokens = torch.randint(0, 11, (5,))
    reader = Reader(model)
    reading = reader.read(tokens.numpy())
    with torch.no_grad():
        logits, _ = model(tokens[:, None])
    np.testing.assert_allclose(reading.logits, logits[:, 0], rtol=1e-4, atol=1e-5)
    declared = [
        torch.full_like(s, d.init)
        for s, d in zip(
            model.rnn.own_states(), model.rnn.cell.graph.states, strict=True
        )
    ]
    other, _ = model(tokens[:, None], tuple(s[:, None] for s in declared))
    assert (other[0, 0] - logits[0, 0]).abs().max() > 1e-2


def test_gates_are_named_and_in_range():
    reading = Reader(make()).read(list(range(10)))
    assert set(reading.values) == {"0.f", "0.i", "0.g", "0.o", "0.h", "0.c"}
    assert ((reading.values["0.f"] > 0) & (reading.values["0.f"] < 1)).all()
    f, i, g, c = (reading.values[f"0.{n}"] for n in "figc")
    np.testing.assert_allclose(c[1:], f[1:] * c[:-1] + (i * g)[1:], atol=1e-6)


def test_a_clamped_forget_gate_forgets():
    reader = Reader(make())
    whole = reader.read(list(range(10)))
    changed = reader.read(list(range(10)), [Change("0.f", "clamp", 0.0, unit=2)])
    i, g, c = (changed.values[f"0.{n}"] for n in "igc")
    np.testing.assert_allclose(c[:, 2], (i * g)[:, 2], atol=1e-7)
    assert np.abs(c[3:] - whole.values["0.c"][3:]).max() > 1e-4
    same = reader.read(list(range(10)), [Change("0.o", "scale", 1.0)])
    np.testing.assert_array_equal(same.logits, whole.logits)


def test_a_matrix_is_shown_by_the_norms_of_its_rows():
    model = make("mlstm", 2)
    model.rnn = cw.Recurrent("mlstm", 4, 6, 2, heads=2)
    tokens = np.arange(12) % 11
    reader = Reader(model.eval())
    shown = reader.read(tokens)
    with torch.no_grad(), cw.record(model, "C") as values:
        model(torch.from_numpy(tokens)[:, None])
    for k in range(2):
        C = values[f"rnn.{k}.C"].reshape(12, 2, 3, 3)  # heads, rows, columns
        expected = C.norm(dim=-1).flatten(1)
        np.testing.assert_allclose(
            shown.values[f"{k}.C"], expected, rtol=1e-4, atol=1e-6
        )
    changed = reader.read(tokens, [Change("1.C", "clamp", 0.0, unit=4)])
    assert not changed.values["1.C"][:, 4].any()
    assert changed.values["1.C"][:, [3, 5]].all()
    with pytest.raises(ArgumentError, match=r"1\.C has 6 units; received unit 6"):
        reader.read(tokens, [Change("1.C", "clamp", 0.0, unit=6)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change("0.q", "clamp", 0.0), "no value '0.q'"),
        (Change("0.f", "clamp", 0.0, 6), "received unit 6, expected 0 to 5"),
        (Change("0.f", "double", 0.0), "expected 'clamp' or 'scale'"),
    ],
)
def test_a_change_of_nothing_is_explained(change: Change, message: str):
    with pytest.raises(ArgumentError, match=message):
        Reader(make()).read([1, 2], [change])


def test_an_empty_text_is_explained():
    with pytest.raises(ArgumentError, match="an empty text"):
        Reader(make()).read([])
