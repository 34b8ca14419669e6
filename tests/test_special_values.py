"""Values and gradients at NaN, infinities, zeros, kinks and overflows are torch's.

A table over all operations: the native engine, and the operation table's own rules.
"""

import inspect
import math

import pytest
import torch

import cellwright as cw
from cellwright.language import OPS
from test_ops import BINARY, COMPARISONS, UNARY, rule_on_tensors

pytest.importorskip("cellwright._core")

DTYPES = {torch.float32: 2e-6, torch.float64: 2e-14}
REDUCTIONS = ("sum", "softmax", "layer_norm")
MAGNITUDES = (
    math.nan,
    math.inf,
    0.0,
    1e-300,
    1e-37,
    1e-7,
    0.5,
    1.0,
    1.5,
    3.0,
    6.0,
    19.9,
    20.0,
    20.5,
    50.0,
    87.0,
    88.0,
    89.0,
    103.0,
    700.0,
    709.0,
    710.0,
    746.0,
    1e5,
    2e5,
    1.7e9,
    1e30,
    1e38,
    1e300,
)
PAIRED = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 2.0, 1e-30, 1e30, -1e30)
ROWS = (
    [math.nan, 1, 2, 3],
    [math.inf, 1, 2, 3],
    [-math.inf, 1, 2, 3],
    [math.inf, -math.inf, 0, 0],
    [-math.inf] * 4,
    [math.inf] * 4,
    [1e30, 1e30, 0, 0],
    [0] * 4,
    [1] * 4,
    [1e3, 0, -1e3, 5],
)


def magnitudes(dtype):
    """Those that the type holds as normal numbers, of both signs."""
    values = torch.tensor([s * m for m in MAGNITUDES for s in (1, -1)], dtype=dtype)
    tiny = torch.finfo(dtype).smallest_normal
    return values[(values == 0) | (values.abs() >= tiny) | values.isnan()]


def cotangent(like):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)


def by_torch(function, arguments):
    leaves = [a.clone().requires_grad_() for a in arguments]
    return differentiate(function(*leaves), leaves)


def by_native(function, arguments):
    """One step of a cell that is the operation alone; h is as wide as the result."""
    size = arguments[0].shape[-1]
    width = function(*arguments).shape[-1]
    names = ["z"][: len(arguments) - 1]
    parameter = inspect.Parameter

    def step(W, x, h, **inputs):
        return function(x, *inputs.values())

    step.__signature__ = inspect.Signature(
        [
            *(parameter(n, parameter.POSITIONAL_OR_KEYWORD) for n in ("W", "x", "h")),
            *(parameter(n, parameter.KEYWORD_ONLY) for n in names),
        ]
    )
    layer = cw.Recurrent(
        cw.cell(step),
        size,
        width,
        inputs=dict.fromkeys(names, size),
        engine="native",
        dtype=arguments[0].dtype,
    )
    x, *others = leaves = [a[None, None].clone().requires_grad_() for a in arguments]
    y, _ = layer(x, **dict(zip(names, others, strict=True)))
    value, *gradients = differentiate(y, leaves)
    return [value[0, 0], *(g[0, 0] for g in gradients)]


def differentiate(y, leaves):
    found = [None] * len(leaves)
    if y.requires_grad:
        found = torch.autograd.grad(y, leaves, cotangent(y), allow_unused=True)
    zeros = [
        torch.zeros_like(v) if g is None else g
        for g, v in zip(found, leaves, strict=True)
    ]
    return [y.detach(), *zeros]


def by_rule(op, arguments):
    y = op.evaluate(*arguments, **op.attrs)
    found = op.derivative(cotangent(y), y, *arguments, **op.attrs)
    zeros = [torch.zeros_like(a) for a in arguments]
    return [z if g is None else g for g, z in zip(found, zeros, strict=True)]


def assert_torchs(found, expected, arguments, what):
    """NaN where it is NaN, else close, relative to the larger of it and 0.1."""
    tolerance = DTYPES[expected.dtype]
    found = found.expand_as(expected)
    close = (found - expected).abs() <= tolerance * expected.abs().clamp_min(0.1)
    right = close | (found == expected) | (found.isnan() & expected.isnan())
    wrong = (~right).nonzero().flatten().tolist()
    rows = [
        [
            *(a[i].item() for a in arguments if a.shape == right.shape),
            found[i].item(),
            expected[i].item(),
        ]
        for i in wrong
    ]
    assert not rows, f"{what}: (arguments, found, torch's): {rows}"


def assert_as_torch(function, in_torch, arguments, op=None):
    expected = by_torch(in_torch, arguments)
    ways = {"native": by_native(function, arguments)}
    if op is not None:
        ways["rule"] = [expected[0], *by_rule(op, arguments)]
    for way, found in ways.items():
        labels = ["value", *(f"gradient {k}" for k in range(len(arguments)))]
        for label, mine, torchs in zip(labels, found, expected, strict=True):
            assert_torchs(mine, torchs, arguments, f"{way} {label}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n in UNARY if n not in REDUCTIONS])
def test_of_one_value(name, dtype):
    function = (lambda v: -v) if name == "neg" else OPS[name]
    assert_as_torch(function, UNARY[name], [magnitudes(dtype)], OPS[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_over_the_units(name, dtype):
    for row in ROWS:
        v = torch.tensor(row, dtype=dtype)
        assert_as_torch(OPS[name], UNARY[name], [v], OPS[name])


def pairs(dtype):
    values = torch.tensor(PAIRED, dtype=dtype)
    return [v.flatten() for v in torch.meshgrid(values, values, indexing="ij")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_of_two_values(name, dtype):
    op = OPS[name]
    function = op.evaluate if op.symbol else op  # as Python's operators
    assert_as_torch(function, BINARY[name], pairs(dtype), op)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", COMPARISONS)
def test_where(name, dtype):
    """A side that is not taken has gradient 0, whatever it is."""

    def chosen(where, compare):
        return lambda a, b: where(compare(a, b), 2 * a, 3 * b)

    mine = chosen(cw.where, OPS[name].evaluate)
    assert_as_torch(mine, chosen(torch.where, COMPARISONS[name]), pairs(dtype))


def test_every_operation_of_the_table_is_here():
    tested = {*UNARY, *BINARY, *COMPARISONS, "where"}
    left = ("internal", "matrix")  # those of matrices are products and sums
    assert tested == {n for n, op in OPS.items() if op.kind not in left}


def test_the_gradient_of_relu_at_nan_is_what_comes_from_above():
    v = torch.tensor([math.nan])
    assert rule_on_tensors(OPS["relu"], torch.ones(1), [v])[0].item() == 1
