"""Exported layers whose rows have lengths, starts and resets, and single steps."""

import pytest
import torch

import cellwright as cw
from onnx_cases import as_state, assert_close, make, run, states_of

T, B, X, H = 7, 4, 5, 4
ROWS = {
    "lengths": torch.tensor([2, 7, 0, 3]),
    "starts": torch.tensor([3, 0, 4, 2]),
    "resets": torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.4,
}
WAYS = [["lengths"], ["resets"], ["lengths", "resets"], ["lengths", "starts", "resets"]]

CELLS = sorted(cw.cells.all())


def check(layer, rows, steps=T, batch=B, **options):
    """The exported layer against the layer; gives the model."""
    layer, feeds = make(layer, steps, batch)
    states = states_of(layer, batch)
    with torch.no_grad():
        expected = layer(
            feeds["x"],
            as_state(states),
            **{n: v for n, v in feeds.items() if n != "x"},
            **rows,
        )
    taken = dict.fromkeys(rows, True)
    model = cw.export_onnx(layer, initial_states=True, **taken, **options)
    given = {f"{name}_0": value for name, value in states.items()}
    assert_close(run(model, {**feeds, **given, **rows}), expected)
    return model


def rows_of(names, batch_first=False):
    rows = {name: ROWS[name] for name in names}
    if batch_first and "resets" in rows:
        rows["resets"] = rows["resets"].T.contiguous()
    return rows


@pytest.mark.parametrize("names", WAYS, ids="+".join)
@pytest.mark.parametrize("name", ["lstm", "slstm", "mc_lstm", "peephole"])
def test_rows(name, names):
    layer = cw.Recurrent(
        name, X, H, 2, bidirectional=True, engine="reference", dtype=torch.float64
    )
    check(layer, rows_of(names))


@pytest.mark.full
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("number", range(len(CELLS)))
def test_every_cell_with_rows_of_its_own(number, bidirectional, layers):
    """Types and opsets in turn: every one meets every shape, not every cell."""
    name, turn = CELLS[number], number + 2 * bidirectional + layers
    if name == "qrnn" and layers > 1:
        pytest.skip("a state of the input's size is one of one layer")
    dtype = (torch.float32, torch.float64)[turn % 2]
    opset = (None, 25, 26)[turn % 3]
    for names in ([], *WAYS):
        layer = cw.Recurrent(
            name,
            X,
            H,
            layers,
            bidirectional=bidirectional,
            engine="reference",
            dtype=dtype,
        )
        check(layer, rows_of(names), opset=opset)


@pytest.mark.parametrize("make_layer", [cw.LSTM, cw.GRU, cw.RNN])
@pytest.mark.parametrize("names", WAYS, ids="+".join)
def test_drop_ins(make_layer, names):
    layer = make_layer(X, H, 2, bidirectional=True, batch_first=True)
    model = check(layer, rows_of(names, batch_first=True))
    kinds = {n.op_type for n in model.graph.node}
    assert (make_layer.__name__ in kinds) == (names == ["lengths"])
    assert not kinds & {"Slice", "Neg"} or names != ["lengths"]  # weights are stacked


def test_a_drop_in_without_biases_and_one_with_a_projection():
    for layer in (cw.LSTM(X, H, bias=False), cw.LSTM(X, H, proj_size=3)):
        check(layer, rows_of(["resets"]))
        check(layer, rows_of(["lengths"]))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_reset_starts_from_learned_states(bidirectional):
    layer = cw.Recurrent(
        "gru",
        X,
        H,
        learn_initial_state=True,
        bidirectional=bidirectional,
        dtype=torch.float64,
    )
    for states in layer.initial_states:
        torch.nn.init.uniform_(states["h"], 1, 2)
    check(layer, rows_of(["resets"]))
    check(layer, rows_of(["resets"]), operators=False)


def test_a_reset_behind_the_end_of_a_row_cuts_nothing():
    rows = {
        "lengths": torch.tensor([2, 5, 0, 1]),
        "resets": torch.ones(T, B, dtype=torch.bool),
    }
    layer = cw.Recurrent("lstm", X, H, bidirectional=True, dtype=torch.float64)
    check(layer, rows)


@pytest.mark.parametrize("name", ["lstm", "slstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_step(name, bidirectional):
    """And a batch of one: nothing of a file depends on the sizes."""
    layer = cw.Recurrent(name, X, H, 2, bidirectional=bidirectional)
    for lengths in (0, 1):
        rows = {
            "lengths": torch.tensor([lengths]),
            "resets": torch.ones(1, 1, dtype=torch.bool),
        }
        check(layer, rows, steps=1, batch=1)


@pytest.mark.parametrize("name", ["lstm", "peephole", "mc_lstm"])
def test_a_stream_of_single_steps_is_the_sequence(name):
    """States in and out: the streaming form is the model with time 1."""
    layer, feeds = make(cw.Recurrent(name, X, H, 2), T, B)
    states = states_of(layer, B)
    with torch.no_grad():
        named = {n: v for n, v in feeds.items() if n != "x"}
        expected = layer(feeds["x"], as_state(states), **named)
    model = cw.export_onnx(layer, initial_states=True)
    given, outputs = {f"{n}_0": v for n, v in states.items()}, []
    for t in range(T):
        step = {name: value[t : t + 1] for name, value in feeds.items()}
        y, *news = run(model, {**step, **given})
        outputs.append(y)
        given = dict(zip(given, news, strict=True))
    assert_close([torch.cat(outputs), *given.values()], expected)


def test_resets_are_declared_as_booleans_laid_out_as_x():
    layer = cw.Recurrent("gru", X, H, batch_first=True)
    model = cw.export_onnx(layer, resets=True, lengths=True, starts=True)
    found = {
        v.name: (
            v.type.tensor_type.elem_type,
            [d.dim_param for d in v.type.tensor_type.shape.dim],
        )
        for v in model.graph.input[1:]
    }
    assert found == {
        "lengths": (7, ["batch"]),
        "starts": (7, ["batch"]),
        "resets": (9, ["batch", "time"]),
    }
