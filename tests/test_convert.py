"""Weights from and to torch.nn and Keras, against torch, and Keras' equations by hand.

Keras itself is no dependency: its documented equations are written here in NumPy.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cellwright as cw
from oracles import assert_close, flat, normal, randomise

T, B, X, H = 6, 3, 5, 4

# -- torch ---------------------------------------------------------------------

MODULES = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"bias": False}),
    (nn.LSTM, {"proj_size": 3, "num_layers": 2, "bidirectional": True}),
    (nn.GRU, {}),
    (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"bias": False}),
    (nn.RNN, {}),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}),
    (cw.LSTM, {"num_layers": 2}),
    (cw.GRU, {"bidirectional": True}),
    (cw.RNN, {}),
]


@pytest.mark.parametrize("engine", ["reference", "auto"])
@pytest.mark.parametrize(("kind", "options"), MODULES)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_layer_from_torch_computes_the_same_and_goes_back(kind, options, engine):
    module = randomise(kind(X, H, dtype=torch.float64, **options))
    layer = cw.from_torch(module, engine=engine)
    x = normal(*((B, T, X) if module.batch_first else (T, B, X)), seed=1, grad=False)
    count = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or H] + [H] * (module.mode == "LSTM")
    start = [normal(count, B, s, seed=5 + k) for k, s in enumerate(sizes)]
    start = tuple(start) if len(start) > 1 else start[0]
    back = cw.to_torch(layer)
    for found in (layer(x, start), back(x, start)):
        for value, expected in zip(flat(found), flat(module(x, start)), strict=True):
            assert_close(value, expected)
    assert type(back) is getattr(nn, type(module).__name__)
    assert cw.to_torch(cw.from_torch(back)).state_dict().keys() == (
        back.state_dict().keys()
    )


def test_settings_go_along():
    module = nn.GRU(X, H, 2, dropout=0.25).double().eval()
    layer = cw.from_torch(module)
    assert (layer.dropout, layer.training) == (0.25, False)
    assert next(layer.parameters()).dtype == torch.float64
    back = cw.to_torch(layer)
    assert (back.dropout, back.training, back.num_layers) == (0.25, False, 2)
    copied = {id(p) for p in module.parameters()} | {id(p) for p in back.parameters()}
    assert not copied & {id(p) for p in layer.parameters()}


def test_a_cell_under_other_names_goes_to_torch():
    layer = randomise(cw.Recurrent("np", X, H, engine="reference"))
    x = torch.randn(T, B, X)
    torch.testing.assert_close(cw.to_torch(layer)(x)[0], layer(x)[0])


def test_a_cell_without_biases_goes_to_torch_without():
    @cw.cell
    def plain(W, x, h):
        return cw.tanh(W.h(h, x, bias=False))

    layer = cw.Recurrent(plain, X, H)
    back = cw.to_torch(layer)
    assert not back.bias
    x = torch.randn(T, B, X)
    torch.testing.assert_close(back(x)[0], layer(x)[0])


def test_what_torch_does_not_have_is_refused():
    with pytest.raises(cw.ArgumentError, match=r"\[to_torch\].*of cell 'peephole'"):
        cw.to_torch(cw.Recurrent("peephole", X, H))
    with pytest.raises(cw.ArgumentError, match=r"proj_size 4, expected less than"):
        cw.to_torch(cw.Recurrent("lstm_projected", X, H, engine="reference"))
    with pytest.raises(cw.ArgumentError, match=r"received Linear, expected torch\.nn"):
        cw.from_torch(nn.Linear(2, 2))


# -- Keras, by hand ------------------------------------------------------------


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def keras_lstm(w, x, h, c):
    z = x @ w["kernel"] + h @ w["recurrent_kernel"] + w.get("bias", 0)
    i, f, g, o = np.split(z, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def keras_gru_reset_after(w, x, h):
    inward, recurrent = w.get("bias", np.zeros((2, 1)))
    x_z, x_r, x_h = np.split(x @ w["kernel"] + inward, 3, axis=1)
    h_z, h_r, h_h = np.split(h @ w["recurrent_kernel"] + recurrent, 3, axis=1)
    z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
    return (z * h + (1 - z) * np.tanh(x_h + r * h_h),)


def keras_gru_reset_before(w, x, h):
    x_z, x_r, x_h = np.split(x @ w["kernel"] + w.get("bias", 0), 3, axis=1)
    u_z, u_r, u_h = np.split(w["recurrent_kernel"], 3, axis=1)
    z, r = sigmoid(x_z + h @ u_z), sigmoid(x_r + h @ u_r)
    return (z * h + (1 - z) * np.tanh(x_h + (r * h) @ u_h),)


def keras_simple_rnn(activation):
    def step(w, x, h):
        v = x @ w["kernel"] + h @ w["recurrent_kernel"] + w.get("bias", 0)
        return (activation(v),)

    return step


KERAS = {
    "lstm": (keras_lstm, 4, 2, (16,)),
    "gru_reset_after": (keras_gru_reset_after, 3, 1, (2, 12)),
    "gru_bias": (keras_gru_reset_before, 3, 1, (12,)),
    "rnn": (keras_simple_rnn(np.tanh), 1, 1, (4,)),
    "rnn_relu": (keras_simple_rnn(lambda v: np.maximum(v, 0)), 1, 1, (4,)),
}


def arrays(name, seed=0, inputs=X):
    """One Keras cell's weights, all different."""
    _, gates, _, bias = KERAS[name]
    draw = np.random.default_rng(seed).normal
    return {
        "kernel": draw(0.05, 0.5, (inputs, gates * H)),
        "recurrent_kernel": draw(0.05, 0.5, (H, gates * H)),
        "bias": draw(0.1, 0.5, bias),
    }


def keras_walk(name, w, x, reverse=False, step=None):
    known, _, count, _ = KERAS[name]
    step = step or known
    states, outputs = [np.zeros((x.shape[1], H))] * count, [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        states = step(w, x[t], *states)
        outputs[t] = states[0]
    return np.stack(outputs), states


def inputs():
    return normal(T, B, X, seed=1, grad=False)


@pytest.mark.parametrize("path", ["", "my_layer/cell/", "model/rnn/cell/"])
@pytest.mark.parametrize("name", sorted(KERAS))
def test_a_layer_from_keras_computes_keras_equations(name, path):
    w, x = arrays(name), inputs()
    named = {f"{path}{key}:0" if path else key: value for key, value in w.items()}
    layer = cw.from_keras_weights(name, named, engine="reference")
    y, finals = layer(x)
    expected, states = keras_walk(name, w, x.numpy())
    assert_close(y, torch.from_numpy(expected))
    for value, by_hand in zip(flat(finals), states, strict=True):
        assert_close(value[0], torch.from_numpy(by_hand))


@pytest.mark.parametrize("name", sorted(KERAS))
def test_keras_weights_come_back_as_they_were(name):
    w = arrays(name)
    found = cw.to_keras_weights(cw.from_keras_weights(name, w))
    assert list(found) == ["kernel", "recurrent_kernel", "bias"]
    for key in ("kernel", "recurrent_kernel"):
        np.testing.assert_array_equal(found[key], w[key])
    assert found["bias"].shape == w["bias"].shape
    if name != "gru_reset_after":  # there, z and r have one bias, the sum
        np.testing.assert_array_equal(found["bias"], w["bias"])
    x = inputs().numpy()
    np.testing.assert_allclose(
        keras_walk(name, found, x)[0], keras_walk(name, w, x)[0], rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("name", ["lstm", "gru_reset_after", "gru_bias"])
def test_layers_and_directions_are_told_apart_by_their_paths(name):
    cells = {
        "first/forward/kernels": arrays(name, 1),
        "first/backward/kernels": arrays(name, 2),
        "second/forward/kernels": arrays(name, 3, 2 * H),
        "second/backward/kernels": arrays(name, 4, 2 * H),
    }
    named = {f"{p}/{key}": v for p, w in cells.items() for key, v in w.items()}
    layer = cw.from_keras_weights(name, named, bidirectional=True, engine="reference")
    assert (layer.num_layers, layer.bidirectional) == (2, True)
    x = inputs()
    expected, groups = x.numpy(), list(cells.values())
    for forward, backward in (groups[:2], groups[2:]):
        parts = [
            keras_walk(name, forward, expected)[0],
            keras_walk(name, backward, expected, reverse=True)[0],
        ]
        expected = np.concatenate(parts, axis=2)
    assert_close(layer(x)[0], torch.from_numpy(expected))
    found = cw.to_keras_weights(layer)
    assert list(found)[:4] == [
        "layer_0/forward/kernel",
        "layer_0/forward/recurrent_kernel",
        "layer_0/forward/bias",
        "layer_0/backward/kernel",
    ]
    again = cw.from_keras_weights(name, found, bidirectional=True, engine="reference")
    assert_close(again(x)[0], layer(x)[0])


@pytest.mark.parametrize("name", sorted(KERAS))
def test_without_use_bias_there_is_none(name):
    w, x = arrays(name), inputs()
    del w["bias"]
    layer = cw.from_keras_weights(name, w, engine="reference")
    assert_close(layer(x)[0], torch.from_numpy(keras_walk(name, w, x.numpy())[0]))


def test_keras_weights_can_be_written_into_a_layer():
    layer = cw.Recurrent("gru", X, H, engine="reference", dtype=torch.float64)
    w, x = arrays("gru_bias"), inputs()
    del w["bias"]  # the papers' GRU has none
    assert cw.from_keras_weights(layer, w) is layer
    expected, _ = keras_walk("gru_bias", w, x.numpy())
    assert_close(layer(x)[0], torch.from_numpy(expected))


def test_the_dtype_is_the_arrays_and_the_arrays_stay_the_users():
    w = {key: value.astype(np.float32) for key, value in arrays("lstm").items()}
    before = {key: value.copy() for key, value in w.items()}
    layer = cw.from_keras_weights("lstm", w)
    assert {p.dtype for p in layer.parameters()} == {torch.float32}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    for key, value in w.items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": np.zeros(4)}, r"received the name 'gamma', expected kernel"),
        ({"kernel": None}, r"needs a matrix 'kernel'; received none"),
        ({"kernel": np.zeros((X, 3 * H))}, r"'kernel' does not fit cell 'lstm'"),
        ({"bias": np.zeros(3)}, r"'bias' .* received \(3,\), expected \(16,\)"),
        ({"other/kernel": np.zeros((X, 4 * H))}, r"other needs a matrix 'recurrent_k"),
    ],
)
def test_names_and_shapes_that_are_not_keras_are_refused(change, message):
    w = {**arrays("lstm"), **change}
    w = {key: value for key, value in w.items() if value is not None}
    with pytest.raises(cw.ArgumentError, match=message):
        cw.from_keras_weights("lstm", w)


def test_a_gru_of_the_other_kind_is_refused_with_the_remedy():
    with pytest.raises(cw.ArgumentError, match=r"reset_after=True .*'gru_reset_after'"):
        cw.from_keras_weights("gru_bias", arrays("gru_reset_after"))
    with pytest.raises(cw.ArgumentError, match=r"without, 'gru_bias'"):
        cw.from_keras_weights("gru_reset_after", arrays("gru_bias"))


def test_what_does_not_fit_the_layer_is_refused():
    with pytest.raises(cw.ArgumentError, match=r"Keras.*equations of cell 'peephole'"):
        cw.from_keras_weights("peephole", arrays("lstm"))
    with pytest.raises(cw.ArgumentError, match=r"of 1 cell\(s\), expected 2"):
        cw.from_keras_weights(cw.Recurrent("lstm", X, H, 2), arrays("lstm"))
    with pytest.raises(cw.ArgumentError, match="gate 'z' has no bias"):
        cw.from_keras_weights("gru", arrays("gru_bias"))
    with pytest.raises(cw.ArgumentError, match="received no weights"):
        cw.from_keras_weights("lstm", {})


# -- Keras, in any order ---------------------------------------------------------

STACK = {  # how Keras, and files, call the cells of two layers in both directions
    "keras2": (
        "bidirectional/forward_lstm/lstm_cell_1",
        "bidirectional/backward_lstm/lstm_cell_2",
        "bidirectional_1/forward_lstm_1/lstm_cell_4",
        "bidirectional_1/backward_lstm_1/lstm_cell_5",
    ),
    "keras3": (
        "layers/bidirectional/forward_layer/cell",
        "layers/bidirectional/backward_layer/cell",
        "layers/bidirectional_1/forward_layer/cell",
        "layers/bidirectional_1/backward_layer/cell",
    ),
    "no wrapper": (
        "forward_lstm",
        "backward_lstm",
        "forward_lstm_1",
        "backward_lstm_1",
    ),
    "own backward": (
        "b/forward_a",
        "b/backward_c",
        "b_1/forward_a_1",
        "b_1/backward_c_1",
    ),
    "tensorflow": ("l_2/fw/c", "l_2/bw/c", "l_10/fw/c", "l_10/bw/c"),
}


def named_arrays(paths, cells):
    return {
        f"{p}/{k}:0": v for p, w in zip(paths, cells, strict=True) for k, v in w.items()
    }


@pytest.mark.parametrize("naming", sorted(STACK))
def test_directions_and_layers_are_what_the_paths_say_in_any_order(naming):
    cells = [
        arrays("lstm", 1),
        arrays("lstm", 2),
        arrays("lstm", 3, 2 * H),
        arrays("lstm", 4, 2 * H),
    ]
    named, x = named_arrays(STACK[naming], cells), inputs()
    expected = x.numpy()
    for forward, backward in (cells[:2], cells[2:]):
        both = (
            keras_walk("lstm", forward, expected),
            keras_walk("lstm", backward, expected, reverse=True),
        )
        expected = np.concatenate([y for y, _ in both], axis=2)
    for order in (named, dict(sorted(named.items())), dict(reversed(named.items()))):
        layer = cw.from_keras_weights("lstm", order, bidirectional=True)
        assert_close(layer(x)[0], torch.from_numpy(expected))
        cw.from_keras_weights(layer, order)  # into a layer: its own directions
        assert_close(layer(x)[0], torch.from_numpy(expected))


def test_layers_of_an_alphabetical_file_go_by_their_numbers():
    paths = ["model/lstm/cell", *(f"model/lstm_{k}/cell" for k in range(1, 12))]
    cells = [arrays("lstm", k, H) for k in range(len(paths))]
    x, named = normal(T, B, H, seed=1, grad=False), named_arrays(paths, cells)
    expected = x.numpy()
    for w in cells:
        expected, _ = keras_walk("lstm", w, expected)
    for order in (named, dict(sorted(named.items()))):
        layer = cw.from_keras_weights("lstm", order, engine="reference")
        assert_close(layer(x)[0], torch.from_numpy(expected))


def test_layers_without_numbers_go_as_they_are_listed():
    cells, x = [arrays("lstm", 1), arrays("lstm", 2, H)], inputs()
    expected = keras_walk("lstm", cells[1], keras_walk("lstm", cells[0], x.numpy())[0])
    for paths in (("encoder", "decoder"), ("a", "b"), ("lstm_1", "lstm")):
        named = named_arrays(paths, cells)
        layer = cw.from_keras_weights("lstm", named, engine="reference")
        assert_close(layer(x)[0], torch.from_numpy(expected[0]))


def square(*paths):
    return named_arrays(paths, [arrays("lstm", k, H) for k in range(len(paths))])


@pytest.mark.parametrize(
    ("paths", "bidirectional", "message"),
    [
        (("left", "right"), True, r"which cell is which direction; received 'left'"),
        (("a/forward", "b/backward"), True, r"one forward and one backward cell"),
        (("a/forward", "b/forward"), True, r"pairs that differ in this alone"),
        (("b/forward_l", "b/backward_l"), False, r"expected .* bidirectional=True"),
        (("bottom", "top"), False, r"do not say which layer .* expected numbers"),
        (("lstm_1", "lstm"), False, r"numbers and their order in the mapping differ"),
    ],
)
def test_paths_that_leave_the_order_open_are_refused(paths, bidirectional, message):
    with pytest.raises(cw.ArgumentError, match=message):
        cw.from_keras_weights("lstm", square(*paths), bidirectional=bidirectional)


# -- Keras, with other activations -----------------------------------------------


def hard(v):
    """Keras 1 and 2's hard_sigmoid."""
    return np.clip(0.2 * v + 0.5, 0, 1)


def hard_in_the_language(v):
    return cw.minimum(cw.maximum(0.2 * v + 0.5, 0), 1)


def softsign(v):
    return v / (1 + np.abs(v))


def other_lstm(activation):
    def step(w, x, h, c):
        z = x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
        i, f, g, o = np.split(z, 4, axis=1)
        c = hard(f) * c + hard(i) * activation(g)
        return hard(o) * activation(c), c

    return step


def other_gru(reset_after, gate, activation):
    def step(w, x, h):
        inward, recurrent = w["bias"] if reset_after else (w["bias"], 0 * w["bias"])
        x_z, x_r, x_h = np.split(x @ w["kernel"] + inward, 3, axis=1)
        u_z, u_r, u_h = np.split(w["recurrent_kernel"], 3, axis=1)
        b_z, b_r, b_h = np.split(recurrent, 3)
        z, r = gate(x_z + h @ u_z + b_z), gate(x_r + h @ u_r + b_r)
        inner = r * (h @ u_h + b_h) if reset_after else (r * h) @ u_h
        return (z * h + (1 - z) * activation(x_h + inner),)

    return step


@cw.cell
def own_lstm(W, x, s, m):
    """Another's names and order; the activations of each kind are alike."""
    new, keep = cw.softsign(W.new(x, s)), hard_in_the_language(W.keep(s, x))
    m = new * hard_in_the_language(W.write(s, x)) + m * keep
    return cw.softsign(m) * hard_in_the_language(W.read(x, s)), m


@cw.cell
def own_gru(W, x, h):
    """z keeps the old state, so that it needs no symmetric activation."""
    z, r = cw.tanh(W.a(h, x)), cw.tanh(W.b(h, x))
    return (1 - z) * cw.sin(W.c(r * h, x)) + h * z


HARD_LSTM = cw.cells.lstm.replace(**dict.fromkeys("ifo", hard_in_the_language))
OTHERS = [
    (HARD_LSTM, "lstm", other_lstm(np.tanh)),
    (own_lstm, "lstm", other_lstm(softsign)),
    (
        cw.cells.gru_reset_after.replace(
            z=hard_in_the_language, r=hard_in_the_language, n=cw.relu
        ),
        "gru_reset_after",
        other_gru(True, hard, lambda v: np.maximum(v, 0)),
    ),
    (
        cw.cells.gru_bias.replace(
            z=hard_in_the_language, r=hard_in_the_language, n=cw.identity
        ),
        "gru_bias",
        other_gru(False, hard, lambda v: v),
    ),
    (own_gru, "gru_bias", other_gru(False, np.tanh, np.sin)),
    (
        cw.cells.rnn.replace(h=cw.softplus),
        "rnn",
        keras_simple_rnn(lambda v: np.log1p(np.exp(v))),
    ),
]


@pytest.mark.parametrize(("cell", "kind", "step"), OTHERS)
def test_other_activations_leave_the_weights_in_their_places(cell, kind, step):
    w, x = arrays(kind), inputs()
    layer = cw.from_keras_weights(cell, w)
    for given in (w, cw.to_keras_weights(layer)):
        expected, _ = keras_walk(kind, given, x.numpy(), step=step)
        assert_close(layer(x)[0], torch.from_numpy(expected))


@pytest.mark.parametrize("gates", ["f", "g", "fg", "ifo", "fio"])
def test_any_activation_replaced_by_itself_keeps_the_names(gates):
    """Where i and g could change places, what stands there and its name decide."""
    cell = cw.cells.lstm.replace(**dict.fromkeys(gates, cw.hard_sigmoid))
    layer, w = cw.from_keras_weights(cell, arrays("lstm")), arrays("lstm")
    plain = cw.from_keras_weights("lstm", w)
    for name, value in plain.cells[0].named_parameters():
        assert torch.equal(layer.cells[0].get_parameter(name), value), name


def test_activations_that_leave_the_places_open_are_refused():
    @cw.cell
    def odd(W, x, h, c):
        c = cw.sigmoid(W.keep(h, x)) * c + cw.sin(W.one(h, x)) * cw.cos(W.two(h, x))
        return cw.sigmoid(W.read(h, x)) * cw.tanh(c), c

    with pytest.raises(cw.ArgumentError, match="do not tell which of its weights is"):
        cw.from_keras_weights(odd, arrays("lstm"))


@pytest.mark.parametrize(
    "cell",
    [
        cw.cells.gru_bias.replace(z=cw.tanh),  # tanh(−v) is not 1 − tanh(v)
        cw.cells.coupled,
        cw.cells.mgu,
        cw.cells.rnn.replace(h=lambda v: 1 - cw.sigmoid(v)),
    ],
)
def test_other_equations_are_no_other_activation(cell):
    with pytest.raises(cw.ArgumentError, match=r"\[Keras\] has no layer"):
        cw.to_keras_weights(cw.Recurrent(cell, X, H))


# -- CuDNNLSTM and CuDNNGRU ------------------------------------------------------


def as_cudnn(w, gates, biases):
    """What Keras' CuDNN layers keep: under the kernels' shapes, cuDNN's own order."""

    def turned(matrix):
        blocks = [matrix[:, k * H : (k + 1) * H] for k in range(gates)]
        return np.concatenate([b.T.reshape(b.shape) for b in blocks], axis=1)

    kernels = {name: turned(w[name]) for name in ("kernel", "recurrent_kernel")}
    return {**kernels, "bias": np.concatenate(biases)}


def test_a_cudnn_lstm_is_an_lstm_whose_biases_are_summed():
    w, x = arrays("lstm"), inputs()
    other = np.random.default_rng(9).normal(size=4 * H)
    given = as_cudnn(w, 4, [w["bias"] - other, other])
    layer = cw.from_keras_weights("lstm", given)
    assert_close(layer(x)[0], torch.from_numpy(keras_walk("lstm", w, x.numpy())[0]))


def test_a_cudnn_gru_is_one_with_the_reset_after_the_matrix():
    w, x = arrays("gru_reset_after"), inputs()
    given = as_cudnn(w, 3, w["bias"])
    layer = cw.from_keras_weights("gru_reset_after", given)
    expected, _ = keras_walk("gru_reset_after", w, x.numpy())
    assert_close(layer(x)[0], torch.from_numpy(expected))
    with pytest.raises(cw.ArgumentError, match=r"gru_reset_after', and so is a CuDNN"):
        cw.from_keras_weights("gru_bias", given)


def test_a_wrong_bias_is_refused_in_words_about_its_own_layer():
    for name, hint in (("lstm", "a CuDNNLSTM's"), ("rnn", r"\(4,\)$")):
        with pytest.raises(cw.ArgumentError, match=hint) as error:
            cw.from_keras_weights(name, {**arrays(name), "bias": np.zeros(3 * H)})
        assert "GRU" not in str(error.value)


def test_the_documented_example_of_another_activation_runs():
    page = Path(__file__).parents[1] / "docs" / "conversion.md"
    source = re.search(r"```python\n(def keras2.*?)```", page.read_text(), re.DOTALL)
    assert source
    w, x = arrays("lstm"), inputs()
    found = {"cw": cw, "weights": w}
    exec(source[1], found)
    expected, _ = keras_walk("lstm", w, x.numpy(), step=other_lstm(np.tanh))
    assert_close(found["layer"](x)[0], torch.from_numpy(expected))


# -- layers that torch.compile has wrapped ---------------------------------------


def compiled(module):
    return torch.compile(module, backend="eager")


def test_compiled_modules_are_converted_as_what_they_wrap():
    module = randomise(nn.LSTM(X, H, dtype=torch.float64))
    layer = cw.from_torch(compiled(module))
    back = cw.to_torch(compiled(layer))
    for (name, value), other in zip(
        back.state_dict().items(), cw.to_torch(layer).state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    w = arrays("lstm", 5)
    assert isinstance(cw.from_keras_weights(compiled(layer), w), cw.Recurrent)
    found = cw.to_keras_weights(compiled(layer))
    assert all(np.array_equal(found[name], w[name]) for name in w)


def test_a_compiled_layer_is_initialised_stepped_and_recorded_as_the_one_in_it():
    layer = cw.Recurrent("lstm", X, H, learn_initial_state=True, dtype=torch.float64)
    wrapped, x = compiled(layer), inputs()
    assert cw.init.forget_bias_(wrapped, 2.0) is wrapped
    assert bool((layer.cells[0].f.bias == 2).all())
    cw.init.chrono_(wrapped, 10)
    cw.init.orthogonal_(wrapped)
    cw.init.glorot_(wrapped)
    cw.init.identity_(wrapped, 0.5)
    cw.init.initial_state_(wrapped, h=0.5)
    with torch.no_grad():
        y, state = layer(x)
        step = wrapped.stepper(batch_size=B)
        assert_close(torch.stack([step(x_t) for x_t in x]), y)
        rows = torch.tensor([True, False, True])
        for one, other in zip(
            cw.reset_rows(wrapped, state, rows),
            cw.reset_rows(layer, state, rows),
            strict=True,
        ):
            assert torch.equal(one, other)
    with cw.record(wrapped) as values:
        layer(x)
    assert_close(values["0.h"], y)
