"""Exported models, run by ONNX Runtime, against the reference."""

import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

import cellwright as cw
from cellwright.language import FUNCTIONS, OPS
from oracles import flat, normal, randomise
from strategies import HIDDEN, INPUT, make_cell, sources

pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

T, B, X, H = 6, 3, 5, 4
ZOO = sorted(cw.cells.all())
STANDARD = {
    "rnn": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "np": "LSTM", "coupled": "LSTM",
    "peephole_diagonal": "LSTM", "vanilla": "LSTM", "cifg": "LSTM", "gru": "GRU",
    "gru_bias": "GRU", "gru_reset_after": "GRU",
}  # fmt: skip


def run(model, feeds):
    """The model's outputs by name, from ONNX Runtime."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    arrays = {name: value.detach().numpy() for name, value in feeds.items()}
    names = [o.name for o in session.get_outputs()]
    values = [torch.from_numpy(v) for v in session.run(names, arrays)]
    return dict(zip(names, values, strict=True))


def operators(model):
    kinds = [node.op_type for node in model.graph.node]
    return [k for k in kinds if k in ("Scan", "LSTM", "GRU", "RNN")]


def make(cell, **options):
    """A layer in float64 with asymmetric weights, and inputs for it."""
    options = {"engine": "reference", "dtype": torch.float64, **options}
    layer = randomise(cw.Recurrent(cell, X, H, **options))
    feeds = {"x": normal(T, B, X, seed=1, grad=False)}
    for named in layer.graphs[0].inputs[1:]:  # a mass, a time step
        feeds[named.name] = normal(T, B, 1, seed=2, grad=False).abs() + 0.2
    return layer, feeds


def start_of(layer, batch=B):
    """Initial states: positive, since the sLSTM's n and a mass are."""
    count = len(layer.cells)
    return [
        normal(count, batch, int(s.size), seed=40 + k, grad=False).abs() + 0.1
        for k, s in enumerate(layer.graphs[0].states)
    ]


def as_argument(states):
    return states[0] if len(states) == 1 else tuple(states)


def by_layer(layer, feeds, start=None):
    """What the layer itself computes, under the model's names."""
    start = None if start is None else as_argument(start)
    with torch.no_grad():
        y, finals = layer(**feeds, state=start)
    names = ["y", *(f"{s.name}_n" for s in layer.graphs[0].states)]
    return dict(zip(names, flat((y, finals)), strict=True))


def assert_as_good_as_the_reference(layer, feeds, start=None, **options):
    """The runtime is right to 1e-12 in float64; in float32, as right as PyTorch is.

    PyTorch's own float32 error, the reference in float32 against itself in float64, is
    what rounding does to this cell here. The runtime rounds as often, in another order
    and with its own tanh and σ: it may be off by a few times that.
    """
    exact = by_layer(layer, feeds, start)
    names = [f"{s.name}_0" for s in layer.cell.states]
    states = {} if start is None else dict(zip(names, start, strict=True))
    model = cw.export_onnx(layer, initial_states=start is not None, **options)
    found = run(model, {**feeds, **states})
    assert list(found) == list(exact)
    for name, value in exact.items():
        assert found[name].shape == value.shape
        assert relative(found[name], value) <= 1e-12, name

    layer = layer.float()
    feeds = {name: value.float() for name, value in feeds.items()}
    states = {name: value.float() for name, value in states.items()}
    rounded = by_layer(layer, feeds, list(states.values()) or None)
    model = cw.export_onnx(layer, initial_states=start is not None, **options)
    found = run(model, {**feeds, **states})
    own = max(relative(rounded[name], value) for name, value in exact.items())
    own = max(own, torch.finfo(torch.float32).eps)
    for name, value in exact.items():
        assert found[name].dtype == torch.float32
        assert relative(found[name], value) <= 4 * own, name
    return model


def relative(value, exact):
    """The largest error, in units of the largest value."""
    return float((value - exact).abs().max() / exact.abs().max())


# -- every cell ----------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_every_cell_runs_in_onnx_runtime(name):
    model = assert_as_good_as_the_reference(*make(name))
    assert operators(model) == [STANDARD.get(name, "Scan")]


@pytest.mark.parametrize("name", ZOO)
def test_every_cell_stacked_in_both_directions_with_initial_states(name):
    count = 1 if name == "qrnn" else 2  # a state of the input's size: one layer
    layer, feeds = make(name, num_layers=count, bidirectional=True)
    model = assert_as_good_as_the_reference(layer, feeds, start_of(layer))
    assert operators(model) == [STANDARD.get(name, "Scan")] * (2 * count)


@pytest.mark.parametrize("name", sorted(STANDARD))
def test_a_standard_cell_is_a_scan_where_operators_are_not_wanted(name):
    layer, feeds = make(name, bidirectional=True)
    model = assert_as_good_as_the_reference(layer, feeds, operators=False)
    assert operators(model) == ["Scan", "Scan"]


@pytest.mark.parametrize("name", ["lstm", "gru", "slstm"])
def test_a_wrong_gate_is_noticed(name):
    """The comparison above has teeth: two swapped gates are far outside it."""
    layer, feeds = make(name)
    exact = by_layer(layer, feeds)["y"]
    W = layer.float().cells[0]
    first, second = ("z", "r") if name == "gru" else ("i", "f")
    one, other = getattr(W, first).weight, getattr(W, second).weight
    one.data, other.data = other.data, one.data
    found = run(cw.export_onnx(layer), {n: v.float() for n, v in feeds.items()})
    assert float((found["y"] - exact).abs().max()) > 1e-3


# -- shapes, names, options ----------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "slstm", "mc_lstm"])
def test_one_model_takes_any_length_and_batch(name):
    layer, _ = make(name, num_layers=2, bidirectional=True, dtype=torch.float32)
    model = cw.export_onnx(layer)
    for steps, batch in [(1, 1), (1, 4), (9, 1), (3, 7)]:
        feeds = {"x": normal(steps, batch, X, seed=3, grad=False).float()}
        if name == "mc_lstm":
            feeds["mass"] = torch.rand(steps, batch, 1)
        found = run(model, feeds)
        for key, value in by_layer(layer, feeds).items():
            torch.testing.assert_close(found[key], value)


@pytest.mark.parametrize("name", ["gru", "mc_lstm"])
def test_batch_first(name):
    layer, feeds = make(name, batch_first=True, num_layers=2)
    feeds = {n: v.transpose(0, 1).contiguous() for n, v in feeds.items()}
    assert_as_good_as_the_reference(layer, feeds, start_of(layer))


def test_inputs_and_outputs_have_names_and_symbolic_sizes():
    layer, _ = make("mc_lstm", batch_first=True)
    graph = cw.export_onnx(layer, initial_states=True).graph

    def shape(value):
        dims = value.type.tensor_type.shape.dim
        return [d.dim_param or d.dim_value for d in dims]

    assert {v.name: shape(v) for v in graph.input} == {
        "x": ["batch", "time", X],
        "mass": ["batch", "time", 1],
        "c_0": [1, "batch", H],
    }
    assert {v.name: shape(v) for v in graph.output} == {
        "y": ["batch", "time", H],
        "c_n": [1, "batch", H],
    }


def test_a_model_carries_its_printed_cell():
    layer, _ = make("lem", dt=0.25)
    properties = {p.key: p.value for p in cw.export_onnx(layer).metadata_props}
    again = cw.Cell.from_text(properties["cellwright.cell"])
    assert again.graph == layer.cell.graph


def test_the_file_is_the_model(tmp_path):
    import onnx

    layer, _ = make("gru")
    model = cw.export_onnx(layer, tmp_path / "gru.onnx")
    assert onnx.load(tmp_path / "gru.onnx") == model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("slstm", {"heads": 2}),
        ("slstm", {"heads": 4, "exponential_forget": True}),
        ("leaky_rnn", {"alpha": 0.3}),
        ("lstm_book", {"squash": cw.softsign}),
        ("lstm_projected", {"proj_size": 3}),
    ],
)
def test_sizes_and_hyperparameters(name, options):
    assert_as_good_as_the_reference(*make(name, **options, bidirectional=True))


def test_another_activation_is_a_scan():
    cell = cw.cells.lstm.replace(f=cw.hard_sigmoid)
    model = assert_as_good_as_the_reference(*make(cell))
    assert operators(model) == ["Scan"]


def test_a_layer_in_training_is_exported_for_inference():
    layer, feeds = make("gru", num_layers=2, dropout=0.5)
    layer.train()
    found = run(cw.export_onnx(layer), feeds)
    expected = by_layer(layer.eval(), feeds)
    torch.testing.assert_close(found["y"], expected["y"])


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.LSTM(X, H, 2, bidirectional=True), "LSTM"),
        (nn.LSTM(X, H, bias=False), "LSTM"),
        (nn.LSTM(X, H, proj_size=3), "Scan"),
        (nn.GRU(X, H, batch_first=True), "GRU"),
        (nn.RNN(X, H, nonlinearity="relu"), "RNN"),
        (cw.LSTM(X, H), "LSTM"),
        (cw.GRU(X, H, 2), "GRU"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_torchs_modules_and_the_drop_ins(module, kind):
    randomise(module)
    x = torch.randn(B, T, X) if module.batch_first else torch.randn(T, B, X)
    model = cw.export_onnx(module)
    assert set(operators(model)) == {kind}
    found = run(model, {"x": x})
    y, finals = module(x)
    for value, expected in zip(found.values(), flat((y, finals)), strict=True):
        torch.testing.assert_close(value, expected.detach())


# -- the language --------------------------------------------------------------


def test_every_operation_can_be_written():
    from cellwright.export.onnx.step import OTHER, SAME

    missing = {n for n, op in OPS.items() if op.primitive} - {*SAME, *OTHER}
    # Programs of the core alone have them.
    assert missing == {"row_dots", "column_dots", "to_matrix", "to_vector"}
    assert not set(SAME) & set(OTHER)


@pytest.mark.parametrize(
    "name", sorted(n for n, op in FUNCTIONS.items() if op.kind != "matrix")
)
def test_every_function(name):
    op = FUNCTIONS[name]

    def f(W, x, h):
        v = 3 * W.g(h, x)
        if name in ("log", "sqrt"):
            v = cw.abs(v) + 0.1
        arguments = (v, v, h) if name == "where" else (v, h)
        if name == "where":
            arguments = (v > h, v, h)
        value = op(*arguments[: op.arity])
        return cw.tanh(value if name != "sum" else 0.1 * value + v)

    assert_as_good_as_the_reference(*make(cw.cell(f)))


@pytest.mark.parametrize("comparison", ["<", "<=", ">", ">=", "==", "!="])
def test_every_comparison(comparison):
    source = (
        "def random_cell(W, x, h):\n    v = W.g(h, x)\n    r = relu(v)\n"
        f"    return tanh(where(r {comparison} 0, 0.5 * v + 0.3, h + 0.1))\n"
    )
    assert_as_good_as_the_reference(*make(make_cell(source)))


def test_values_that_no_row_has_to_itself():
    """A weight as an operand, a state and an output; an output that is a state."""

    def odd(W, x, y, s, z=0.5):
        g = cw.tanh(W.g(W.vector("v"), x, y))
        u = W.r(W.vector("w"), heads=2) + cw.layer_norm(W.vector("w"), heads=2)
        return W.vector("p"), y + g * z, W.vector("p"), 0.3 * u + 0.5 * z + 0 * s

    assert_as_good_as_the_reference(*make(cw.cell(odd)))


def test_several_named_inputs_of_different_sizes():
    @cw.cell
    def f(W, x, h, *, dt, seen):
        return h + dt * cw.tanh(W.g(h, x, seen))

    layer = randomise(
        cw.Recurrent(f, X, H, 2, inputs={"seen": 2, "dt": 1}, dtype=torch.float64)
    )
    feeds = {n: torch.rand(T, B, s).double() for n, s in (("x", X), ("seen", 2))}
    feeds["dt"] = torch.rand(T, B, 1).double()
    assert_as_good_as_the_reference(layer, feeds)


@given(sources())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_random_cells(source):
    layer = randomise(
        cw.Recurrent(
            make_cell(source), INPUT, HIDDEN, engine="reference", dtype=torch.float64
        )
    )
    inputs = layer.graphs[0].inputs
    feeds = {i.name: normal(3, 2, i.size, seed=9, grad=False) for i in inputs}
    expected = by_layer(layer, feeds)
    found = run(cw.export_onnx(layer), feeds)
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1.0)
        assert float((found[name] - value).abs().max()) <= 1e-10 * scale, name


# -- errors --------------------------------------------------------------------


def test_without_onnx_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"\[export_onnx\].*'cellwright\[onnx\]'"):
        cw.export_onnx(make("gru")[0])


def test_what_is_no_layer_is_refused():
    with pytest.raises(
        cw.ArgumentError, match=r"received Linear, expected a Recurrent"
    ):
        cw.export_onnx(nn.Linear(2, 2))


def test_a_dtype_that_runtimes_do_not_have_is_refused():
    layer, _ = make("gru")
    with pytest.raises(cw.ArgumentError, match=r"received a layer in torch\.bfloat16"):
        cw.export_onnx(layer.bfloat16())


# -- the steps of each row -----------------------------------------------------

LENGTHS, STARTS = [2, 6, 0], [3, 0, 4]


@pytest.mark.parametrize("name", [*sorted(STANDARD), "slstm", "mc_lstm"])
@pytest.mark.parametrize("what", ["lengths", "starts", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_with_steps_of_their_own(name, what, dtype):
    layer, feeds = make(name, num_layers=2, bidirectional=True, dtype=dtype)
    feeds = {n: v.to(dtype) for n, v in feeds.items()}
    state = [s.to(dtype) for s in start_of(layer)]
    rows = {"lengths": torch.tensor(LENGTHS), "starts": torch.tensor(STARTS)}
    rows = rows if what == "both" else {what: rows[what]}
    model = cw.export_onnx(layer, initial_states=True, **dict.fromkeys(rows, True))
    standard = name in STANDARD and what == "lengths" and dtype == torch.float32
    assert set(operators(model)) == {STANDARD[name] if standard else "Scan"}
    states = [s.name for s in layer.graphs[0].states]
    given = {f"{n}_0": s for n, s in zip(states, state, strict=True)}
    found = run(model, {**feeds, **given, **rows})
    x, named = feeds["x"], {n: v for n, v in feeds.items() if n != "x"}
    with torch.no_grad():
        y, finals = layer(x, as_argument(state), **rows, **named)
    expected = {
        "y": y,
        **dict(zip((f"{s}_n" for s in states), flat(finals), strict=True)),
    }
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for what, value in expected.items():
        torch.testing.assert_close(found[what], value, rtol=tolerance, atol=tolerance)


def test_steps_of_rows_with_batches_first_and_rows_of_nan():
    layer, feeds = make("gru_reset_after", batch_first=True, bidirectional=True)
    x = feeds["x"].transpose(0, 1).contiguous()
    rows = {"lengths": torch.tensor(LENGTHS), "starts": torch.tensor(STARTS)}
    with torch.no_grad():
        y, h = layer(x, **rows)
    step = torch.arange(T)
    for b, (s, n) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        x[b, (step < s) | (step >= s + n)] = torch.nan
    found = run(cw.export_onnx(layer, lengths=True, starts=True), {"x": x, **rows})
    torch.testing.assert_close(found["y"], y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["h_n"], h, rtol=1e-12, atol=1e-12)


# -- names that a user may give ------------------------------------------------


@pytest.mark.parametrize("given", ["y", "h_n", "h_0", "y_", "time", "batch"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_named_input_keeps_its_name_and_the_models_own_gives_way(given, batch_first):
    source = f"lambda W, x, h, {given}: tanh(W.a(h, x)) + W.b({given})"
    cell = cw.cell(inputs={given: 2})(eval(source, {"tanh": cw.tanh}))
    layer = randomise(
        cw.Recurrent(cell, X, H, 2, bidirectional=True, batch_first=batch_first,
                     dtype=torch.float64)
    )  # fmt: skip
    lead = (B, T) if batch_first else (T, B)
    feeds = {"x": torch.randn(*lead, X).double(), given: torch.randn(*lead, 2).double()}
    h = torch.randn(4, B, H).double()

    def free(name):
        return f"{name}_" if name == given else name

    model = cw.export_onnx(layer, initial_states=True)
    assert [i.name for i in model.graph.input] == ["x", given, free("h_0")]
    with torch.no_grad():
        y, h_n = layer(**feeds, state=h)
    found = run(model, {**feeds, free("h_0"): h})
    assert list(found) == [free("y"), free("h_n")]
    torch.testing.assert_close(found[free("y")], y, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[free("h_n")], h_n, rtol=0, atol=1e-12)


def test_a_compiled_layer_is_exported_as_the_layer_in_it():
    layer, _ = make("lstm")
    for module in (layer, cw.GRU(X, H), nn.LSTM(X, H)):
        compiled = torch.compile(module, backend="eager")
        assert cw.export_onnx(compiled) == cw.export_onnx(module)


# -- inputs that are given once ------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_static_input_is_one_of_the_models(batch_first):
    @cw.cell
    def conditioned(W, x, h, *, s, dt, y):
        return h + dt * cw.tanh(W.g(h, x, s) + W.u(s * y))

    layer = randomise(
        cw.Recurrent(conditioned, X, H, 2, bidirectional=True, batch_first=batch_first,
                     inputs={"s": 2, "dt": 1, "y": 1}, dtype=torch.float64)
    )  # fmt: skip
    lead = (B, T) if batch_first else (T, B)
    feeds = {"x": torch.randn(*lead, X).double(), "dt": torch.rand(*lead, 1).double()}
    feeds |= {"s": torch.randn(B, 2).double(), "y": torch.randn(B, 1).double()}
    model = cw.export_onnx(layer, static=["s", "y"])
    with torch.no_grad():
        y, h_n = layer(**feeds)
    found = run(model, feeds)
    torch.testing.assert_close(found["y_"], y, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["h_n"], h_n, rtol=0, atol=1e-12)
    with pytest.raises(cw.ArgumentError, match=r"no named input 'x'.*some of \[s, dt"):
        cw.export_onnx(layer, static=["x"])
