"""Weights from and to torch.nn and Keras, against torch, and Keras' equations by hand.

Keras itself is no dependency: its documented equations are written here in NumPy.
"""

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


def keras_walk(name, w, x, reverse=False):
    step, _, count, _ = KERAS[name]
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
