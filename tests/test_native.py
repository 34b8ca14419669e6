"""The native engine against the reference: values and every gradient.

`make test` runs a fixed pairwise sample of cells × types × threads × instruction sets ×
sizes; `-m full` runs all of it.
"""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import cellwright as cw
from cellwright import sigmoid, tanh
from native_cases import (
    assert_as_expected,
    assert_dynamics_carry,
    assert_native,
    expectation,
    make_layer,
    make_leaves,
    replace_programs,
    run_engine,
)
from strategies import HIDDEN, INPUT, make_cell, sources

native = pytest.importorskip("cellwright._core")

CELLS = tuple(cw.cells.all())
DTYPES = (torch.float64, torch.float32)
THREADS = (1, 2)
ISAS = tuple(native.isas())
SIZES = (  # T, B, I, H: no multiples of a vector, and some
    (1, 1, 1, 1),
    (3, 2, 5, 7),
    (5, 70, 3, 17),
    (4, 7, 33, 50),
    (2, 33, 64, 70),
    (40, 3, 2, 16),
    (6, 13, 70, 31),
    (3, 64, 16, 64),
)
FACTORS = (CELLS, DTYPES, THREADS, ISAS, SIZES, (False, True))


def pairwise(factors):
    """A few cases among which every two values of two factors meet: greedily."""
    spots = list(itertools.combinations(range(len(factors)), 2))
    open_pairs = {
        (i, j, a, b)
        for i, j in spots
        for a in range(len(factors[i]))
        for b in range(len(factors[j]))
    }
    cases = []
    while open_pairs:
        i, j, a, b = min(open_pairs)
        case = [0] * len(factors)
        fixed = {i: a, j: b}
        for spot in range(len(factors)):
            if spot in fixed:
                case[spot] = fixed[spot]
                continue
            gains = [
                sum(
                    (*sorted((spot, k)), *((v, w) if spot < k else (w, v)))
                    in open_pairs
                    for k, w in fixed.items()
                )
                for v in range(len(factors[spot]))
            ]
            case[spot] = fixed[spot] = gains.index(max(gains))
        cases.append(tuple(f[c] for f, c in zip(factors, case, strict=True)))
        open_pairs -= {(i, j, case[i], case[j]) for i, j in spots}
    return cases


def check(cell, dtype, ways, size, reverse):
    """On each of `ways`, threads and instruction sets, what the reference gives."""
    T, B, X, H = size
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layer = make_layer(cell, X, H, dtype)
        leaves = make_leaves(layer, T, B, dtype)
        expected = expectation(layer, leaves, reverse)
        for threads, isa in ways:
            torch.set_num_threads(threads)
            layer = make_layer(cell, X, H, dtype, isa)
            assert_as_expected(layer, leaves, expected, reverse)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", pairwise(FACTORS), ids=str)
def test_native_is_the_reference(case):
    cell, dtype, threads, isa, size, reverse = case
    check(cell, dtype, [(threads, isa)], size, reverse)


@pytest.mark.full
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_native_is_the_reference_everywhere(cell, dtype, reverse):
    for size in SIZES:
        check(cell, dtype, list(itertools.product(THREADS, ISAS)), size, reverse)


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_after", "peephole"])
def test_long_sequences_that_carry_gradient(cell):
    layer = make_layer(cell, 3, 8, scale=0.8)
    leaves = make_leaves(layer, 120, 2)
    assert_dynamics_carry(layer, make_leaves(layer, 10, 2))
    assert_native(layer, leaves, relative=1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(sources())
def test_random_cells(source):
    """1–3 states, 1–8 gates, shared weights, heads, reductions, several stages."""
    layer = make_layer(make_cell(source), INPUT, HIDDEN)
    assert_native(layer, make_leaves(layer, 3, 3), relative=1e-9)


@pytest.mark.parametrize("H", [1, 12, 40])
@pytest.mark.parametrize("isa", ISAS)
def test_heads_norms_named_inputs_and_an_output_of_its_own(H, isa):
    heads = 4 if H % 4 == 0 else 1

    @cw.cell
    def gated(W, x, dt, h, c):
        z = cw.sigmoid(cw.layer_norm(W.z(h, x, heads=heads)) * W.gain + dt)
        n = cw.tanh(W.n(z * h, c, x) - cw.exp(W.a) * c)
        c = c + dt * (cw.softmax(n) - c) / 2
        y = W.y(c, h, size=5)
        return y, (1 - z) * h + z * n, c

    layer = make_layer(gated.with_inputs({"dt": 1}), 4, H, isa=isa)
    assert_native(layer, make_leaves(layer, 5, 9))


def test_one_weight_in_two_places_gets_both_gradients():
    @cw.cell
    def twice(W, x, h):
        return cw.tanh(W.f(h, x)) + 0.5 * cw.sigmoid(W.f(cw.tanh(W.f(h, x)), x))

    layer = make_layer(twice, 5, 19)
    assert_native(layer, make_leaves(layer, 4, 6))


@pytest.mark.parametrize("recompute", [False, True])
def test_operands_of_two_products_in_two_orders(recompute):
    """Each is the same sum in inference, in training and when computed again."""

    @cw.cell
    def crossed(W, x, h):
        a, b = cw.sigmoid(W.a(x)), cw.tanh(W.b(h))
        u, v = cw.tanh(W.u(b, a)), cw.sigmoid(W.v(a, b))
        return u * v + 0.5 * cw.sigmoid(W.u(h, v)) * h

    layer = make_layer(crossed, 5, 19)
    replace_programs(layer, recompute=recompute)
    assert_native(layer, make_leaves(layer, 4, 6))


# -- one unit, and weights as operands -----------------------------------------------

ONE_UNIT = {  # what of one unit meets what of many
    "a vector and an input": lambda W, x, h, dt: tanh(W.f(h, x) - W.p * dt),
    "their activation": lambda W, x, h, dt: sigmoid(W.p * dt) * tanh(W.f(h, x)),
    "as an operand": lambda W, x, h, dt: tanh(W.f(h, x, abs(dt - W.p))),
    "two vectors": lambda W, x, h, dt: tanh(W.f(h, x)) * cw.exp(-abs(W.p * dt + W.q)),
    "old and new": lambda W, x, h, dt: h + sigmoid(W.p * dt) * (tanh(W.f(h, x)) - h),
    "a vector alone": lambda W, x, h, dt: tanh(
        W.f(h, x) + dt * sigmoid(W.vector("q", size=1))
    ),
    "an affine": lambda W, x, h, dt: tanh(W.f(h, x)) * (W.p * sigmoid(W.s(dt, size=1))),
    "a sum": lambda W, x, h, dt: tanh(W.f(h, x) + dt * W.p * cw.sum(h)),
    "only once": lambda W, x, h, dt: dt * W.p + 0.5 * h,
}


@pytest.mark.parametrize("what", ONE_UNIT)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("H", [1, 19])
def test_what_has_one_unit_meets_what_has_many(what, isa, H):
    @cw.cell
    def meets(W, x, h, *, dt):
        return ONE_UNIT[what](W, x, h, dt)

    layer = make_layer(meets.with_inputs({"dt": 1}), 5, H, isa=isa)
    assert_native(layer, make_leaves(layer, 4, 3))


def test_a_state_of_one_unit_takes_its_size_from_the_layers_sizes():
    @cw.cell
    def single(W, x, h: 1):
        return tanh(W.f(h, x, size=1) + W.p * x)

    layer = make_layer(single, 1, 4)
    assert_native(layer, make_leaves(layer, 4, 3))


OPERANDS = {  # of a product, that no row has to itself
    "of the stage's size": lambda W, x, h: tanh(W.g(W.vector("v"), x, h)),
    "of a size of its own": lambda W, x, h: tanh(W.g(W.vector("v", size=3), x, h)),
    "of one unit": lambda W, x, h: tanh(W.g(W.vector("v", size=1), x, h)),
    "computed": lambda W, x, h: tanh(W.g(sigmoid(W.vector("v", size=3)), x, h)),
    "a number": lambda W, x, h: tanh(W.g(2 * W.scalar("v"), x, h)),
    "alone": lambda W, x, h: tanh(W.g(W.vector("v", size=3))) + 0.5 * h,
    "twice": lambda W, x, h: tanh(W.g(W.v, x) + W.k(W.vector("v"))) + W.v * h,
}


@pytest.mark.parametrize("what", OPERANDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_weight_vector_as_the_operand_of_a_product(what, recompute):
    """It stands in memory before the product reads it, at the first level too."""

    @cw.cell
    def mapped(W, x, h):
        if what == "twice":
            W.vector("v")
        return OPERANDS[what](W, x, h)

    layer = make_layer(mapped, 5, 19)
    replace_programs(layer, recompute=recompute)
    for T in (1, 4):
        assert_native(layer, make_leaves(layer, T, 3))


# -- the same bits -------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru", "peephole"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_rows_result_is_the_same_bits_in_every_batch_and_on_every_thread_count(
    cell, isa
):
    # Few rows sum up their inputs ahead, 64 rows at a time: several times in 80 steps.
    layer = make_layer(cell, 6, 37, torch.float32, isa)
    leaves = make_leaves(layer, 80, 71, torch.float32)
    whole = run_engine(layer, leaves, "native")[0]
    for first, last in ((0, 1), (5, 18), (64, 71)):
        part = {
            n: (v[:, first:last] if v.dim() == 3 else v[first:last]).detach()
            for n, v in leaves.items()
        }
        assert torch.equal(run_engine(layer, part, "native")[0], whole[:, first:last])


def gradients_of(layer, leaves):
    y = run_engine(layer, leaves, "native")[0]
    weights = list(layer.parameters())
    return torch.autograd.grad(y, [*leaves.values(), *weights], torch.ones_like(y))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("size", [(9, 3, 5, 40), (50, 40, 8, 32)])
def test_gradients_are_the_same_bits_at_every_thread_count(cell, size):
    T, B, X, H = size
    layer = make_layer(cell, X, H, torch.float32)
    leaves = make_leaves(layer, T, B, torch.float32)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        found.append(gradients_of(layer, leaves))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# -- the checker is checked --------------------------------------------------------


def test_a_wrong_packing_index_would_be_noticed():
    from dataclasses import replace

    layer = make_layer("lstm", 5, 7)
    right = layer.direction(0).bound.programs
    matrices = dict(right.binding.matrices)
    piece = matrices["f", 1]
    matrices["f", 1] = replace(piece, offset=piece.offset - 1)
    wrong = replace(right.binding, matrices=matrices)
    replace_programs(layer, wrong)
    with pytest.raises(AssertionError, match="allowed"):
        assert_native(layer, make_leaves(layer, 3, 2))


def test_a_wrong_derivative_rule_would_be_noticed(monkeypatch):
    op = cw.language.OPS["tanh"]

    def rule(g, y, v):
        return (g * (1 - y * y) * 1.001,)

    right = op.derivative
    object.__setattr__(op, "derivative", rule)
    try:
        layer = make_layer("lstm", 5, 7)
        with pytest.raises(AssertionError, match="allowed"):
            assert_native(layer, make_leaves(layer, 3, 2))
    finally:
        object.__setattr__(op, "derivative", right)
