"""Test the checker: a small mistake, planted on purpose, must be caught.

Each mutant is put before the very comparison that the other tests use.
"""

import dataclasses

import pytest
import torch

import cellwright as cw
import oracles
from cellwright.language import OPS
from cellwright.look.check import check_cell
from oracles import (
    STEPS,
    affine,
    assert_close,
    assert_same_values_and_gradients,
    gradients,
    leaves_of,
    logistic,
    normal,
    random_cotangents,
    randomise,
)
from strategies import table_gradients

T, B, X, H = 4, 3, 5, 4


def lstm_layer():
    layer = cw.Recurrent("lstm", X, H, engine="reference", dtype=torch.float64)
    states = (normal(1, B, H, seed=50), normal(1, B, H, seed=51))
    return randomise(layer), normal(T, B, X, seed=1), states


def compare(step, cell="lstm", layer=None):
    made, x, states = lstm_layer()
    layer = made if layer is None else layer
    assert_same_values_and_gradients(
        lambda: layer(x, states),
        lambda: oracles.layers(step, layer.cells, x, states),
        leaves_of(layer, x, states),
    )


def test_the_comparison_accepts_the_right_step():
    compare(STEPS["lstm"])


@pytest.mark.parametrize(
    ("one", "other"), [("i", "f"), ("i", "o"), ("f", "o"), ("i", "g"), ("f", "g")]
)
def test_two_swapped_gates_are_caught(one, other):
    names = {**dict(zip("ifgo", "ifgo", strict=True)), one: other, other: one}

    def swapped(W, x, h, c):
        v = {n: affine(getattr(W, names[n]), h, x) for n in "ifgo"}
        c = logistic(v["f"]) * c + logistic(v["i"]) * torch.tanh(v["g"])
        h = logistic(v["o"]) * torch.tanh(c)
        return h, [h, c]

    with pytest.raises(AssertionError, match="result 0: error"):
        compare(swapped)


def test_swapped_columns_of_a_weight_are_caught():
    class Swapped:
        def __init__(self, gate):
            self.weight, self.bias = gate.weight.roll(X, dims=1), gate.bias

    class Gates:
        def __init__(self, W):
            self.W = W

        def __getattr__(self, name):
            return Swapped(getattr(self.W, name))

    with pytest.raises(AssertionError, match="error"):
        compare(lambda W, *rest: STEPS["lstm"](Gates(W), *rest))


def test_an_update_gate_the_other_way_round_is_caught():
    layer = cw.Recurrent("gru_bias", X, H, engine="reference", dtype=torch.float64)
    randomise(layer)
    x, h = normal(T, B, X, seed=1), normal(1, B, H, seed=50)

    def keeps_the_old(W, x, h):
        z, r = logistic(affine(W.z, h, x)), logistic(affine(W.r, h, x))
        h = z * h + (1 - z) * torch.tanh(affine(W.n, r * h, x))
        return h, [h]

    with pytest.raises(AssertionError, match="error"):
        assert_same_values_and_gradients(
            lambda: layer(x, h),
            lambda: oracles.layers(keeps_the_old, layer.cells, x, [h]),
            leaves_of(layer, x, [h]),
        )


class WrongSigmoid(torch.autograd.Function):
    """The right value, a derivative wrong by 0.1 %."""

    @staticmethod
    def forward(ctx, v):
        y = torch.sigmoid(v)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return 1.001 * g * y * (1 - y)


def test_an_autograd_derivative_wrong_by_a_thousandth_is_caught():
    def wrong(W, x, h, c):
        f = WrongSigmoid.apply(affine(W.f, h, x))
        i, o = logistic(affine(W.i, h, x)), logistic(affine(W.o, h, x))
        c = f * c + i * torch.tanh(affine(W.g, h, x))
        h = o * torch.tanh(c)
        return h, [h, c]

    with pytest.raises(AssertionError, match="gradient of"):
        compare(wrong)


def test_a_gradient_cut_off_from_one_state_is_caught():
    def detached(W, x, h, c):
        return STEPS["lstm"](W, x, h.detach(), c)

    with pytest.raises(AssertionError, match="gradient of"):
        compare(detached)


def test_a_dropped_bias_gradient_is_caught():
    def frozen(W, x, h, c):
        class Gate:
            weight, bias = W.f.weight, W.f.bias.detach()

        class Gates:
            f, i, g, o = Gate, W.i, W.g, W.o

        return STEPS["lstm"](Gates, x, h, c)

    with pytest.raises(AssertionError, match=r"does not use cells\.0\.f\.bias"):
        compare(frozen)


# -- the operation table's rules -----------------------------------------------

_MUTABLE = [
    n for n, op in OPS.items() if op.kind == "activation" and n not in ("step",)
]


def scaled_rule(monkeypatch, name, factor=1.001):
    """Make one derivative of the table wrong by a factor, for this test."""
    rule = OPS[name].derivative

    def wrong(g, y, *args, **attrs):
        return tuple(
            None if d is None else d * factor for d in rule(g, y, *args, **attrs)
        )

    monkeypatch.setitem(OPS, name, dataclasses.replace(OPS[name], derivative=wrong))


def gate_cell(name):
    op = OPS[name]

    @cw.cell
    def gated(W, x, h):
        inner = cw.softplus(W.a(h, x)) + 0.1 if name in ("log", "sqrt") else W.a(h, x)
        return op(inner) * h + cw.tanh(W.b(x))

    return gated


def table_against_autograd(cell):
    layer = cw.Recurrent(cell, X, H, engine="reference", dtype=torch.float64)
    W = randomise(layer).cells[0]
    leaves = {"x": normal(B, X, seed=1), "h": normal(B, H, seed=2)}
    wanted = {**leaves, **dict(W.named_parameters())}
    results, expected = gradients(lambda: cell(W, leaves["x"], leaves["h"]), wanted)
    found = table_gradients(layer.graphs[0], W, leaves, random_cotangents(results))
    for name, by_autograd in expected.items():
        assert_close(found[name], by_autograd, f"gradient of {name}")


@pytest.mark.parametrize("name", _MUTABLE)
def test_a_rule_wrong_by_a_thousandth_is_caught_by_the_comparison(monkeypatch, name):
    cell = gate_cell(name)
    table_against_autograd(cell)
    scaled_rule(monkeypatch, name)
    with pytest.raises(AssertionError, match="gradient of"):
        table_against_autograd(cell)


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "mul", "add"])
def test_a_rule_wrong_by_a_thousandth_is_caught_by_check_cell(monkeypatch, name):
    cell = gate_cell(name if name in ("sigmoid", "softmax") else "tanh")
    assert check_cell(cell, X, H, steps=4).sound
    scaled_rule(monkeypatch, name)
    found = check_cell(cell, X, H, steps=4)
    assert found.autograd_error > 1e-4
    assert not found.sound
    assert any("derivatives differ" in p for p in found.problems)


def test_a_rule_that_mixes_up_its_arguments_is_caught(monkeypatch):
    rule = OPS["div"].derivative
    monkeypatch.setitem(
        OPS,
        "div",
        dataclasses.replace(
            OPS["div"], derivative=lambda g, y, a, b: rule(g, y, a, b)[::-1]
        ),
    )

    @cw.cell
    def divided(W, x, h):
        return W.a(h, x) / (2 + cw.exp(W.b(x)))

    with pytest.raises(AssertionError, match="gradient of"):
        table_against_autograd(divided)


# -- the comparison itself -----------------------------------------------------


def test_the_comparison_refuses_a_gradient_that_is_zero_everywhere():
    """All-zero gradients would agree, and test nothing."""
    x = normal(3, seed=1)
    with pytest.raises(AssertionError, match="tests nothing"):
        assert_same_values_and_gradients(lambda: x * 0, lambda: x * 0, {"x": x})


def test_the_comparison_refuses_other_shapes_and_dtypes():
    v = normal(2, 3, seed=1, grad=False)
    with pytest.raises(AssertionError, match="shape"):
        assert_close(v, v[:1])
    with pytest.raises(AssertionError, match="float32"):
        assert_close(v.float(), v)
    with pytest.raises(AssertionError, match="not finite"):
        assert_close(v, v / 0)


def test_the_comparison_sees_a_difference_in_the_tenth_digit():
    v = normal(2, 3, seed=1, grad=False)
    assert_close(v * (1 + 1e-12), v)
    with pytest.raises(AssertionError, match="error"):
        assert_close(v * (1 + 1e-9), v)


def test_cotangents_are_not_alike():
    """All-ones cotangents hide swapped gates."""
    y, c = random_cotangents([torch.zeros(3, 4), torch.zeros(3, 4)])
    assert y.unique().numel() == 12
    assert not torch.equal(y, c)
