"""Products in bf16, on the compiled core: values, gradients, how they are asked for.

The oracle is the reference in float64 whose matrix products round what they read to
bf16, forward (operand, matrix) and backward (cotangent, matrix, operand), and whose
autograd rounds every tensor that it saves. Two numbers that differ by a hair may round
to different ones, so a result of the core is not the oracle's; and the core saves other
values than autograd does. Its error against the exact reference, as a root of mean
squares, must be at most four times that which rounding makes in the oracle, and
float32's own; of the output, that of its own rounding. Where every operand is exact in
bf16, the oracle's forward error is 0.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

import cellwright as cw
from cellwright.engine import native
from cellwright.engine.native.core import memory, run_core
from cellwright.engine.schedule import SequenceBatch
from cellwright.nn import weights
from native_cases import (
    make_layer,
    make_leaves,
    replace_programs,
    run_engine,
)
from oracles import normal, randomise
from strategies import HIDDEN, INPUT, make_cell, sources

pytestmark = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")
ISAS = native.info().get("isas", [])
F32, BF16 = torch.float32, torch.bfloat16


def rounded(t):
    return t.to(BF16).to(t.dtype)


def half(t):
    """What a backward pass is left of a tensor."""
    return t.to(BF16) if t.is_floating_point() else t


def float64(t):
    return t.double() if t.is_floating_point() else t


class RoundedProduct(torch.autograd.Function):
    """x @ matrixᵀ + bias of what bf16 leaves of both factors, also in its gradient."""

    @staticmethod
    def forward(ctx, x, matrix, bias):
        x, matrix = rounded(x), rounded(matrix)
        ctx.save_for_backward(x, matrix)
        ctx.bias = bias.shape
        return x @ matrix.mT + bias

    @staticmethod
    def backward(ctx, g):
        (x, matrix), g = ctx.saved_tensors, rounded(g)
        of_matrix = torch.atleast_2d(g).mT @ torch.atleast_2d(x)
        of_matrix = of_matrix.sum_to_size(matrix.shape)
        return g @ matrix, of_matrix, g.sum_to_size(ctx.bias)


def rounded_affine(operands, matrix, bias, heads):
    bias = matrix.new_zeros(1) if bias is None else bias
    if heads == 1:
        return RoundedProduct.apply(weights.concatenate(operands), matrix, bias)
    blocks = [o.unflatten(-1, (heads, -1)).transpose(-2, -3) for o in operands]
    product = RoundedProduct.apply(weights.concatenate(blocks), matrix, bias[:0].sum())
    return product.transpose(-2, -3).flatten(-2) + bias


def values(layer, leaves, engine, reverse=False):
    """Results and gradients, under the same cotangents in every type."""
    wanted = {**leaves, **dict(layer.cells[0].named_parameters())}
    results = run_engine(layer, leaves, engine, reverse)
    cotangents = [
        rounded(normal(*r.shape, seed=70 + n, grad=False)).to(r.dtype)
        for n, r in enumerate(results)
    ]
    found = torch.autograd.grad(
        results, list(wanted.values()), cotangents, allow_unused=True
    )
    named = {f"result {n}": r.detach() for n, r in enumerate(results)}
    for (name, leaf), gradient in zip(wanted.items(), found, strict=True):
        named[f"d.{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return named


def three(layer, leaves, monkeypatch, reverse=False, **options):
    """Results and gradients: the core's, the oracle's, and exact ones."""
    cell, sizes = layer.cell, (layer.input_size, layer.hidden_size)
    double = make_layer(cell, *sizes)
    double.load_state_dict({n: v.double() for n, v in layer.state_dict().items()})
    wide = {n: v.detach().double().requires_grad_() for n, v in leaves.items()}
    exact = values(double, wide, "reference", reverse)
    with monkeypatch.context() as patch, saved_tensors_hooks(half, float64):
        patch.setattr(weights, "affine", rounded_affine)
        oracle = values(double, wide, "reference", reverse)
    replace_programs(layer, precision="bf16", **options)
    return values(layer, leaves, "native", reverse), oracle, exact


def assert_within(found, oracle, exact):
    eps = torch.finfo(F32).eps
    for name, value in exact.items():
        norm = value.numel() ** 0.5
        off = float((found[name] - value).norm()) / norm
        allowed = 4 * float((oracle[name] - value).norm()) / norm
        most = max(float(value.abs().max()), 1e-2)
        allowed += 16 * eps * most
        if found[name].dtype is BF16:
            allowed += 2**-8 * float(value.norm()) / norm
        if (
            name.startswith("d.") and value.dim() < 2
        ):  # a vector's: a sum of rounded ones
            allowed += 2**-7 * most
        assert off <= allowed, f"{name}: error {off:.1e}, allowed {allowed:.1e}"


def exact_leaves(layer, *size, seed=0):
    """Leaves, and weights, that bf16 holds."""
    with torch.no_grad():
        for p in layer.parameters():
            if p.dim() > 1 and p.shape[-1] > 100:
                p.sub_(p.mean())  # else every gate is saturated
            p.copy_(rounded(p))
    leaves = make_leaves(layer, *size, dtype=F32)
    return {n: rounded(v.detach()).requires_grad_() for n, v in leaves.items()}


# -- numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("cell", cw.cells.all())
def test_one_step_on_exact_operands_and_twelve(cell, monkeypatch):
    for steps in (1, 12):
        layer = make_layer(cell, 8, 8, F32)
        leaves = exact_leaves(layer, steps, 3)
        found, oracle, exact = three(layer, leaves, monkeypatch)
        assert_within(found, oracle, exact)
        if steps == 1 and cell == "lstm":  # its operands are exact: so is the oracle
            assert torch.equal(oracle["result 0"], exact["result 0"])


SIZES = [(1, 1, 4, 3), (3, 2, 3, 33), (2, 5, 131, 70), (3, 40, 40, 24), (2, 1, 300, 17)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("reverse", [False, True])
def test_sizes_and_instruction_sets(cell, size, isa, reverse, monkeypatch):
    T, B, X, H = size
    layer = make_layer(cell, X, H, F32, isa=isa)
    leaves = exact_leaves(layer, T, B)
    assert_within(*three(layer, leaves, monkeypatch, reverse))


@pytest.mark.parametrize("rows", [1, 2, 40])  # few: converted as they are read
def test_weights_too_large_for_floats(rows, monkeypatch):
    layer = make_layer("lstm", 600, 500, F32)
    leaves = exact_leaves(layer, 1, rows)
    assert_within(*three(layer, leaves, monkeypatch))


@pytest.mark.parametrize("pair", [(0, 1), (6, 7)])
@pytest.mark.parametrize("H", [8, 500])
def test_a_swapped_pair_is_caught(pair, H, monkeypatch):
    """Weights lie in pairs of columns: the core computes with two of them swapped."""
    layer = make_layer("lstm", 600 if H > 8 else 8, H, F32)
    leaves = exact_leaves(layer, 1, 1)
    found, oracle, exact = three(layer, leaves, monkeypatch)
    assert_within(found, oracle, exact)
    with torch.no_grad():
        matrix = layer.cells[0].g.weight
        matrix[:, list(pair)] = matrix[:, list(pair[::-1])]
    with pytest.raises(AssertionError, match=r"result [01]"):
        assert_within(values(layer, leaves, "native"), oracle, exact)


@pytest.mark.parametrize("cell", ["gru", "peephole"])
def test_values_recomputed_from_rounded_states(cell, monkeypatch):
    layer = make_layer(cell, 9, 13, F32)
    leaves = exact_leaves(layer, 7, 3)
    assert_within(*three(layer, leaves, monkeypatch, recompute=True))


def saved_bytes(layer, x, enabled):
    """What training keeps beside x and the weights."""
    given = {t.shape for t in (x, *layer.parameters())}
    kept = []

    def keep(t):
        if t.shape not in given:
            kept.append(t.numel() * t.element_size())
        return t

    half = torch.autocast("cpu", BF16, enabled=enabled)
    with half, saved_tensors_hooks(keep, lambda t: t):
        y, _ = layer(x)
    assert y.requires_grad
    return sum(kept)


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("rows", [2, 20])  # few: loops stand apart
@pytest.mark.parametrize("cell", ["lstm", "gru", "min_gru", "peephole"])
def test_training_keeps_half_the_bytes(cell, rows, memory):
    layer, x = cw.Recurrent(cell, 8, 64, memory=memory), torch.randn(100, rows, 8)
    whole = saved_bytes(layer, x, False)
    assert whole >= 100 * rows * 64 * 4
    assert 2 * saved_bytes(layer, x, True) == whole
    assert 2 * saved_bytes(layer.to(BF16), x.to(BF16), False) == whole


def test_the_core_refuses_bf16_where_it_knows_float_alone():
    layer, x = make_layer("lstm", 4, 6, F32), torch.randn(3, 2, 4)
    programs, h = layer.direction(0).bound.programs, torch.zeros(3, 2, 6)
    c, initial = torch.zeros(2, 2, 6), torch.zeros(2, 6)
    own, output = list(layer.cells[0].parameters()), []
    schedule = SequenceBatch(3, 2).schedule(False).core

    def run(of_x, of_h, of_initial, of_weights):
        arrays = [*of_x, *of_h, *of_initial, *memory([c]), None, *output]
        given = programs.compiled("inference"), schedule, 4, arrays, (of_weights, ())
        run_core(*given, (), "", [])

    wide = [memory(t) for t in ([x], [h], [initial], own)]
    halves = [t.to(BF16) for t in (x, h, initial)]
    half = [*(memory([t]) for t in halves), memory([w.to(BF16) for w in own])]
    run(*wide)
    with pytest.raises(ValueError, match=r"\[x\] received bf16, .* read no other"):
        run(half[0], *wide[1:])
    with pytest.raises(ValueError, match=r"parameter 0\] received bf16"):
        run(*wide[:3], half[3])
    programs = programs.variant(precision="bf16")  # y is apart from h there
    y, rolling = torch.zeros(3, 2, 6, dtype=BF16), torch.zeros(2, 2, 6, dtype=BF16)
    output = memory([y])
    run(half[0], [None], wide[2], wide[3])
    with pytest.raises(ValueError, match=r"\[h\] received bf16, .* its initial rows"):
        run(wide[0], memory([rolling]), *wide[2:])
    with pytest.raises(
        ValueError, match=r"\[h.initial\] received bf16, .* that follow"
    ):
        run(wide[0], [None], half[2], wide[3])


@pytest.mark.parametrize("cell", ["lstm", "gru", "min_gru"])
def test_bits_depend_on_no_other_row_and_no_thread(cell):
    layer = make_layer(cell, 64, 130, F32)
    replace_programs(layer, precision="bf16")
    leaves = make_leaves(layer, 9, 40, F32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = values(layer, leaves, "native")
        torch.set_num_threads(2)
        together = values(layer, leaves, "native")
    finally:
        torch.set_num_threads(before)
    for name, value in alone.items():
        assert torch.equal(value, together[name]), name
    few = {n: v[..., 5:7, :].detach() for n, v in leaves.items()}
    with torch.no_grad():
        part = run_engine(layer, few, "native")[0]
    assert torch.equal(part, alone["result 0"][:, 5:7])


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(sources())
def test_random_cells(source):
    layer = make_layer(make_cell(source), INPUT, HIDDEN, F32)
    leaves = exact_leaves(layer, 1, 3)
    with pytest.MonkeyPatch.context() as patch:
        found, oracle, exact = three(layer, leaves, patch)
    for (
        name,
        value,
    ) in exact.items():  # kinks and cancelling sums: to 2 % of the largest
        scale = max(float(value.abs().max()), 1.0)
        off = float((found[name] - oracle[name]).abs().max())
        assert off <= 0.02 * scale, f"{name}: {off} of {scale}\n{source}"


@pytest.mark.parametrize("name", ["child_sum_lstm", "child_sum_gru"])
def test_trees(name):
    torch.manual_seed(0)
    layer = cw.TreeRecurrent(name, 6, 8)
    forest = cw.Forest.from_parents([-1, 0, 0, 1, 1, -1, 5])
    x = torch.randn(7, 6)
    y, _ = layer(x, forest)
    with torch.autocast("cpu", BF16):
        z, _ = layer(x, forest)
    assert z.dtype == BF16
    torch.testing.assert_close(z.float(), y, rtol=0.02, atol=0.02)
    g = torch.randn_like(z)
    parameters = list(layer.parameters())
    pairs = zip(
        torch.autograd.grad(z, parameters, g),
        torch.autograd.grad(y, parameters, g.float()),
        strict=True,
    )
    for found, expected in pairs:
        assert 0 < (found - expected).norm() < 0.03 * expected.norm()


# -- how it is asked for -----------------------------------------------------------


def dtypes(results):
    return {t.dtype for t in tree_leaves(results)}


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_autocast_answers_as_torch_s_layers(kind):
    torch.manual_seed(0)
    ours, theirs = getattr(cw, kind)(9, 16, 2), getattr(nn, kind)(9, 16, 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(11, 3, 9, requires_grad=True)
    exact, _ = ours(x)
    with torch.autocast("cpu", BF16):
        assert "products of bf16" in ours.engine_reason
        y, state = ours(x)
    assert dtypes((y, state)) == {BF16}
    g = torch.randn_like(y)
    y.backward(g)
    found = {n: p.grad.clone() for n, p in ours.named_parameters()}
    assert dtypes([*found.values(), x.grad]) == {F32}
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.02)
    ours.zero_grad()
    exact.backward(g.float())
    for name, p in ours.named_parameters():
        off = (found[name] - p.grad).norm() / p.grad.norm()
        assert 0 < off < 0.03, name
    assert "products" not in ours.engine_reason


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_layer_in_bf16_is_bf16_throughout(kind):
    torch.manual_seed(0)
    ours = getattr(cw, kind)(9, 16)
    exact = copy.deepcopy(ours)
    ours = ours.to(BF16)
    exact.load_state_dict({n: v.float() for n, v in ours.state_dict().items()})
    assert ours.engine == "native"
    x = torch.randn(11, 3, 9).to(BF16).requires_grad_()
    wide = x.detach().float().requires_grad_()
    y, state = ours(x)
    expected, _ = exact(wide)
    assert dtypes((y, state)) == {BF16}
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02)
    g = torch.randn_like(y)
    y.backward(g)
    expected.backward(g.float())
    pairs = zip([x, *ours.parameters()], [wide, *exact.parameters()], strict=True)
    for narrow, full in pairs:
        assert narrow.grad.dtype == BF16
        assert (narrow.grad.float() - full.grad).norm() < 0.03 * full.grad.norm()


def test_lengths_resets_and_given_states():
    torch.manual_seed(0)
    layer = cw.Recurrent("lstm", 5, 8, bidirectional=True)
    x, states = torch.randn(9, 4, 5), (torch.randn(2, 4, 8), torch.randn(2, 4, 8))
    resets = torch.rand(9, 4) < 0.3
    for options in ({"lengths": [9, 0, 4, 7]}, {"resets": resets}):
        y, _ = layer(x, states, **options)
        with torch.autocast("cpu", BF16):
            z, news = layer(x, states, **options)
            z.float().sum().backward()
        torch.testing.assert_close(z.float(), y, rtol=0.02, atol=0.02)
        assert dtypes(news) == {BF16}
    with torch.autocast("cpu", BF16):  # what it gave can be given
        layer(x, news)


def test_a_stepper_carries_float32():
    torch.manual_seed(0)
    layer = cw.Recurrent("gru_reset_after", 6, 8).to(BF16)
    x = torch.randn(5, 3, 6).to(BF16)
    y, h = layer(x)
    step = layer.stepper(3)
    assert torch.equal(torch.stack([step(row) for row in x]), y)
    assert step.state.dtype == F32
    assert torch.equal(step.state.to(BF16), h)
    step.state = h
    step.state = step.state
    out = torch.empty(3, 8, dtype=BF16)
    assert step(x[0], out=out) is out
    with pytest.raises(cw.ArgumentError, match=r"bfloat16 on .* expected .*float32"):
        layer.stepper(weights="int8")


@pytest.mark.full
def test_compiled_and_exported_as_one_op():
    torch.manual_seed(0)
    layer, x = cw.LSTM(5, 8), torch.randn(4, 3, 5)

    def run(x):
        with torch.autocast("cpu", BF16):
            return layer(x)[0]

    y = torch.compile(run, backend="aot_eager", fullgraph=True)(x)
    assert torch.equal(y, run(x))
    narrow = copy.deepcopy(layer).to(BF16)
    program = torch.export.export(narrow, (x.to(BF16),))
    assert torch.equal(program.module()(x.to(BF16))[0], narrow(x.to(BF16))[0])


def test_second_derivatives_and_records():
    torch.manual_seed(0)
    layer, x = cw.Recurrent("gru", 5, 8), torch.randn(4, 3, 5, requires_grad=True)
    with torch.autocast("cpu", BF16), cw.record(layer) as values:
        y, _ = layer(x)
    (first,) = torch.autograd.grad(y.float().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.isfinite().all()
    assert values["z"].shape == (4, 3, 8)


def test_other_types_stay_as_they_are():
    layer, x = cw.Recurrent("peephole", 5, 8), torch.randn(4, 3, 5)
    expected, _ = layer(x)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(layer(x)[0], expected)
    half = copy.deepcopy(layer).half()
    assert half.engine == "reference"
    assert "it computes in float32, float64 and bfloat16" in half.engine_reason
    assert "float16" in half.engine_reason
    double, wide = copy.deepcopy(layer).double(), x.double()
    with torch.autocast("cpu", BF16):
        assert double(wide)[0].dtype == torch.float64


def test_what_is_not_finite_stays_so():
    layer, x = cw.Recurrent("rnn_relu", 3, 4), torch.randn(2, 3, 3)
    randomise(layer)
    x[1, 2, 1] = float("nan")
    with torch.autocast("cpu", BF16):
        y, _ = layer(x)
    assert y[1, 2].isnan().all()
    assert y[:, :2].isfinite().all()


def test_training_ends_where_float32_does():
    """A small one; benchmarks/bf16_training.py is the long one."""
    losses = {}
    for enabled in (False, True):
        torch.manual_seed(0)
        layer, head = cw.LSTM(4, 24), nn.Linear(24, 4)
        optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], 0.02)
        ids = torch.randint(4, (40, 16))
        x, target = F.one_hot(ids, 4).float(), ids.roll(2, 0)[2:]
        for _ in range(60):
            optimiser.zero_grad()
            with torch.autocast("cpu", BF16, enabled=enabled):
                y = head(layer(x)[0])[2:]
            loss = F.cross_entropy(y.float().flatten(0, 1), target.flatten())
            loss.backward()
            optimiser.step()
        losses[enabled] = float(loss.detach())
    assert losses[False] < 0.7
    assert abs(losses[True] - losses[False]) < 0.05
