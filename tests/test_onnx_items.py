"""Exported layers whose cells look at sets of items, in ONNX Runtime."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import cellwright as cw
from cellwright import Items, attend, cell, sigmoid, tanh, total
from onnx_cases import as_state, assert_close, make, run, states_of
from oracles import normal
from strategies import HIDDEN, INPUT, ITEM_SIZES, make_cell, sources

T, B, S, X, H = 5, 4, 3, 5, 4
COUNTS = torch.tensor([3, 0, 2, 1])
ROWS = {
    "lengths": torch.tensor([2, 5, 0, 3]),
    "starts": torch.tensor([3, 0, 4, 2]),
    "resets": torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.4,
}


@cell
def two_sets(W, x, h, *, source: Items, facts: Items[6]):
    """Two sets, a softmax for each unit, block-diagonal maps and normalised keys."""
    e = W.e(tanh(W.query(h, bias=False) + W.key(source)), size=1)
    seen = attend(e, source)
    key = cw.layer_norm(W.look(h, facts, size=4), heads=2)
    known = attend(W.score(key, heads=2), W.value(facts, size=4, heads=2))
    z = sigmoid(W.z(h, x, seen) + total(W.sum(facts)))
    return z * h + (1 - z) * tanh(W.n(x, known))


@cell
def mixed(W, x, h, *, source: Items):
    """A map of a state and the items together, which the native engine cuts in two."""
    seen = attend(W.e(tanh(W.a(h, source)), size=1), source)
    return tanh(W.n(h, x, seen))


SIZES = {"two_sets": {"source": 3, "facts": 6}}
CELLS = [*sorted(cw.cells.all_with_items()), two_sets, mixed]
USUAL = {"bahdanau_gru", "two_sets", "mixed"}
NAMES = [getattr(cell, "name", cell) for cell in CELLS]
FEW = [  # in the usual run: one that comes with cellwright, and those of this file
    pytest.param(cell, id=name, marks=[] if name in USUAL else pytest.mark.full)
    for cell, name in zip(CELLS, NAMES, strict=True)
]


def layer_of(cell, **options):
    name = cell if isinstance(cell, str) else cell.name
    items = SIZES.get(name, {"source": H})
    options = {"engine": "reference", "dtype": torch.float64, **options}
    return cw.Recurrent(cell, X, H, items=items, **options)


def items_of(layer, batch, counts=COUNTS):
    """Sets of items, NaN beyond their counts: different for each set."""
    found = {}
    for k, (name, size) in enumerate(layer.item_sizes.items()):
        most, own = S + k, counts.roll(k)
        values = normal(most, batch, size, seed=70 + k, grad=False)
        values[torch.arange(most)[:, None] >= own] = torch.nan
        values = values.to(layer.placement()[1])
        found[name] = values.transpose(0, 1) if layer.batch_first else values
        found[f"{name}_lengths"] = own
    return found


def check(layer, rows=(), steps=T, batch=B, counts=COUNTS, **options):
    """The exported layer against the layer; gives the model."""
    layer, feeds = make(layer, steps, batch)
    states, items = states_of(layer, batch), items_of(layer, batch, counts)
    rows = {name: ROWS[name] for name in rows}
    if "lengths" in rows:
        rows["lengths"] = rows["lengths"].clamp(max=steps)
    if layer.batch_first and "resets" in rows:
        rows["resets"] = rows["resets"].T.contiguous()
    named = {n: v for n, v in feeds.items() if n != "x"}
    with torch.no_grad():
        state = as_state(states)
        expected = layer(feeds["x"], state, **named, **items, **rows)
    wanted = dict.fromkeys(rows, True)
    model = cw.export_onnx(layer, initial_states=True, **wanted, **options)
    given = {f"{name}_0": value for name, value in states.items()}
    assert_close(run(model, {**feeds, **given, **items, **rows}), expected)
    return model


@pytest.mark.parametrize(
    ("rows", "batch_first"),
    [
        (["lengths", "starts", "resets"], True),
        pytest.param([], False, marks=pytest.mark.full),
        pytest.param(["lengths"], False, marks=pytest.mark.full),
        pytest.param([], True, marks=pytest.mark.full),
        pytest.param(["lengths"], True, marks=pytest.mark.full),
        pytest.param(["lengths", "starts", "resets"], False, marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("cell", FEW)
def test_every_cell(cell, batch_first, rows):
    layer = layer_of(cell, num_layers=2, bidirectional=True, batch_first=batch_first)
    check(layer, rows)


@pytest.mark.parametrize("cell", FEW)
def test_a_step_in_float32(cell):
    model = check(layer_of(cell, dtype=torch.float32), ["lengths"], steps=1, step=True)
    assert "Scan" not in {node.op_type for node in model.graph.node}


def test_one_file_for_any_sizes():
    layer, _ = make(layer_of("bahdanau_gru", dtype=torch.float32), T, B)
    model = cw.export_onnx(layer)
    for steps, batch, most in ((1, 1, 7), (4, 2, 0), (3, 5, 1)):
        feeds = {
            "x": normal(steps, batch, X, seed=4, grad=False).float(),
            "source": normal(most, batch, H, seed=5, grad=False).float(),
            "source_lengths": torch.arange(batch) % (most + 1),
        }
        with torch.no_grad():
            expected = layer(**feeds)
        assert_close(run(model, feeds), expected)


def test_the_inputs_and_what_is_made_once():
    model = cw.export_onnx(layer_of("bahdanau_gru"))
    inputs = [
        (i.name, [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim])
        for i in model.graph.input
    ]
    assert inputs == [
        ("x", ["time", "batch", X]),
        ("source", ["source_count", "batch", H]),
        ("source_lengths", ["batch"]),
    ]
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMul") == 1  # the keys
    (body,) = (a.g for a in scan.attribute if a.name == "body")
    assert [node.op_type for node in body.node].count("MatMul") == 1  # the scores
    assert "Transpose" not in {node.op_type for node in body.node}


def test_a_padded_item_and_a_wrong_weight_are_noticed():
    """The comparison has teeth."""
    layer, feeds = make(layer_of("bahdanau_gru"), T, B)
    items = items_of(layer, B)
    model = cw.export_onnx(layer)
    before = run(model, {**feeds, **items})[0]
    items["source_lengths"] = torch.tensor([2, 0, 2, 1])
    after = run(model, {**feeds, **items})[0]
    assert (before[:, 0] - after[:, 0]).abs().max() > 1e-3
    torch.testing.assert_close(before[:, 1:], after[:, 1:], rtol=0, atol=0)


@given(sources(items=True))
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
def test_random_cells(source):
    random = make_cell(source)
    sizes = {i.name: ITEM_SIZES[i.name] for i in random.graph.items}
    layer = cw.Recurrent(
        random, INPUT, HIDDEN, items=sizes, engine="reference",
        dtype=torch.float64,
    )  # fmt: skip
    check(layer, ["lengths"])
