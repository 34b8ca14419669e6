"""Cells with matrix states on the native core, against the reference."""

# ruff: noqa: F821  # sizes are annotations
import math

import pytest
import torch

import cellwright as cw
from cellwright import (
    cell,
    exp,
    matvec,
    maximum,
    outer,
    scale_columns,
    scale_rows,
    sigmoid,
    softplus,
    spread,
    tanh,
)
from cellwright.engine.native import segments
from native_cases import assert_native, make_layer, make_leaves
from oracles import flat, normal, random_cotangents, randomise

BLOCKS = ("hidden_size", "hidden_size", "heads")


@cell
def gated_memory(W, x, C: BLOCKS, n, m=-math.inf, *, heads=2):
    """The mLSTM's: exponential gates, a number a head."""
    q, k, v = W.q(x), W.k(x), W.v(x)
    i, f = W.i(x), -softplus(-W.f(x))
    new = maximum(f + m, i)
    i, f = exp(i - new), exp(f + m - new)
    n = f * n + i * k
    C = scale_rows(C, f) + outer(i * v, k, heads=heads)
    down = maximum(abs(spread(cw.sum(n * q, heads=heads), q)), exp(-new))
    return sigmoid(W.o(x)) * matvec(C, q) / down, C, n, new


@cell
def numbers_of_heads(W, x, C: BLOCKS, *, heads=2):
    i, f = sigmoid(W.i(x, size=heads)), sigmoid(W.f(x, size=heads))
    C = f * C + i * outer(W.v(x), W.k(x), heads=heads)
    return tanh(W.o(x)) * matvec(C, W.q(x)), C


@cell
def delta(W, x, C: BLOCKS, *, heads=2):
    k, b = cw.softmax(W.k(x)), sigmoid(W.b(x))
    C = 0.9 * C + outer(b * (W.v(x) - matvec(C, k)), k, heads=heads)
    return matvec(C, W.q(x)), C


@cell
def columns(W, x, C: ("hidden_size", "input_size")):
    C = scale_columns(C, sigmoid(W.a(x, size="input_size"))) - outer(W.v(x), x)
    return tanh(matvec(C, W.q(x, size="input_size"))), C


@cell
def selective(W, x, h: ("hidden_size", 5)):
    A = W.matrix("A", size=("hidden_size", 5), init=None)
    step, u = softplus(W.step(x)), W.u(x)
    h = exp(scale_rows(-exp(A), step)) * h + outer(step * u, W.b(x, size=5))
    return matvec(h, W.c(x, size=5)) + W.d * u, h


@cell
def mixed(W, x, h, C: BLOCKS, *, heads=2):
    """Its gates read a state, and a function is applied to the matrix."""
    C = tanh(sigmoid(W.f(h, x, size=heads)) * C + outer(W.v(h, x), W.k(x), heads=heads))
    read = matvec(C * C - 0.5 * C, W.q(h, x))
    return tanh(read + W.r(h, x)), C


@cell
def matrix_is_output(W, x, C: ("hidden_size", 3)):
    return scale_rows(C, sigmoid(W.f(x))) - 2 * outer(W.v(x), W.k(x, size=3))


@cell
def two_matrices(W, x, A: (4, 3), C: BLOCKS, n, *, heads=2):
    A = scale_rows(0.5 * A, W.vector("a", size=4)) + outer(
        W.u(x, size=4), W.w(x, size=3)
    )
    C = W.scalar("g", init=0.7) * C + outer(W.v(x), W.k(x) * W.p, heads=heads)
    n = 0.9 * n + W.g2(matvec(A, W.l(x, size=3)))
    return matvec(C, n), A, C, n


@cell
def vector_is_state(W, x, C: ("hidden_size", 3), s: 3):
    """The state s is stored where the matrix is, and the matrix reads it."""
    C = 0.5 * C + 0.2 * outer(W.v(x), s + W.k(x, size=3))
    return matvec(C, W.q(x, size=3)), C, cw.vecmat(W.p(x), C)


CELLS = [
    gated_memory,
    numbers_of_heads,
    delta,
    columns,
    selective,
    mixed,
    matrix_is_output,
    two_matrices,
    vector_is_state,
]
by_cell = pytest.mark.parametrize("used", CELLS, ids=lambda c: c.name)


def both(used, dtype=torch.float64, sizes=(4, 6), **options):
    """The same layer on the core and in torch."""
    layers = [
        cw.Recurrent(used, *sizes, engine=engine, dtype=dtype, **options)
        for engine in ("native", "reference")
    ]
    randomise(layers[0], scale=0.4)
    layers[1].load_state_dict(layers[0].state_dict())
    assert layers[0].engine == "native"
    return layers


def results(layer, x, states=None, **call):
    """Outputs, states, and every gradient, under random cotangents."""
    leaves = [x, *(states or [])]
    leaves = [v.clone().requires_grad_() for v in leaves]
    given = tuple(leaves[1:]) if states and len(states) > 1 else leaves[1:]
    given = None if not states else given if len(states) > 1 else given[0]
    y, finals = layer(leaves[0], given, **call)
    found = flat([y, *(finals if isinstance(finals, tuple) else [finals])])
    wanted = [*leaves, *layer.parameters()]
    gradients = torch.autograd.grad(
        found, wanted, random_cotangents(found), allow_unused=True
    )
    zeros = (torch.zeros_like(w) for w in wanted)
    pairs = zip(gradients, zeros, strict=True)
    return [*(r.detach() for r in found), *(z if g is None else g for g, z in pairs)]


def assert_equal(layers, *args, relative=1e-10, **call):
    found, expected = (results(layer, *args, **call) for layer in layers)
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        allowed = relative * max(float(b.abs().max()), 1e-3)
        assert float((a - b).abs().max()) <= allowed, f"result {n}"


def states_of(layer, batch):
    own = layer.num_layers * layer.directions
    sizes = [int(s.size) for s in layer.graphs[0].states]
    return [normal(own, batch, s, seed=k, grad=False) for k, s in enumerate(sizes)]


@by_cell
def test_values_and_gradients(used):
    layers = both(used)
    x = normal(7, 3, 4, seed=1, grad=False)
    assert_equal(layers, x, states_of(layers[0], 3))


@by_cell
def test_lengths_and_resets(used):
    layers = both(used, bidirectional=True)
    x = normal(6, 5, 4, seed=1, grad=False)
    lengths = torch.tensor([3, 6, 0, 1, 5])
    resets = torch.rand(6, 5, generator=torch.Generator().manual_seed(3)) < 0.3
    states = states_of(layers[0], 5)
    assert_equal(layers, x, states, lengths=lengths, resets=resets)
    assert_equal(layers, x, states, lengths=lengths)


@pytest.mark.parametrize("isa", cw.engine.native.core._core.isas())
@pytest.mark.parametrize("used", [numbers_of_heads, delta], ids=lambda c: c.name)
def test_instruction_sets_and_odd_sizes(isa, used):
    for H, heads in ((10, 2), (34, 1), (5, 1)):
        for dtype in (torch.float64, torch.float32):
            layer = make_layer(used, 3, H, dtype, isa, heads=heads)
            if dtype == torch.float64:
                assert_native(layer, make_leaves(layer, 5, 2, dtype))
            else:
                relative_to_double(layer, used, H, heads)


def relative_to_double(layer, used, H, heads):
    wide = cw.Recurrent(
        used, 3, H, engine="reference", dtype=torch.float64, heads=heads
    )
    wide.load_state_dict({n: v.double() for n, v in layer.state_dict().items()})
    x = normal(5, 2, 3, seed=2, grad=False)
    for a, b in zip(results(layer, x.float()), results(wide, x), strict=True):
        assert float((a - b).abs().max()) <= 2e-5 * max(1.0, float(b.abs().max()))


@by_cell
def test_training_in_segments_gives_the_same(used, monkeypatch):
    layers = both(used, bidirectional=True)
    x = normal(11, 4, 4, seed=1, grad=False)
    lengths = torch.tensor([4, 11, 0, 8])
    resets = torch.rand(11, 4, generator=torch.Generator().manual_seed(3)) < 0.3
    monkeypatch.setattr(segments, "AT_ONCE", 0)
    monkeypatch.setattr(segments, "LEAST_STEPS", 3)
    monkeypatch.setattr(segments, "UNCUT", 1)
    states = states_of(layers[0], 4)
    assert_equal(layers, x, states)
    assert_equal(layers, x, states, lengths=lengths, resets=resets)


@pytest.mark.parametrize("used", [numbers_of_heads, delta], ids=lambda c: c.name)
def test_resets_and_lengths_may_change_before_a_backward_in_segments(used, monkeypatch):
    """A buffer of resets that the next rollout fills is no part of this one."""
    layer = make_layer(used, 4, 6, torch.float64, heads=2, bidirectional=True)
    monkeypatch.setattr(segments, "AT_ONCE", 0)
    monkeypatch.setattr(segments, "LEAST_STEPS", 3)
    monkeypatch.setattr(segments, "UNCUT", 1)
    steps = 60  # some segments are cut again in the backward scan
    x, found = normal(steps, 3, 4, seed=1), []
    for change in (False, True):
        resets = torch.rand(steps, 3, generator=torch.Generator().manual_seed(3)) < 0.2
        lengths, starts = torch.tensor([steps, 40, 0]), torch.tensor([0, 15, 0])
        y, _ = layer(x, resets=resets, lengths=lengths, starts=starts)
        if change:
            resets.logical_not_()
            lengths.fill_(3)
            starts.fill_(1)
        found.append(torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
    assert all(map(torch.equal, *found))


def test_packed_sequences_in_segments(monkeypatch):
    layers = both(numbers_of_heads, bidirectional=True)
    monkeypatch.setattr(segments, "AT_ONCE", 0)
    monkeypatch.setattr(segments, "LEAST_STEPS", 3)
    monkeypatch.setattr(segments, "UNCUT", 1)
    x = normal(11, 4, 4, seed=1, grad=False)
    found = []
    for layer in layers:
        leaf = x.clone().requires_grad_()
        packed = torch.nn.utils.rnn.pack_padded_sequence(leaf, [11, 8, 8, 2])
        y, C = layer(packed)
        parts = [y.data, C]
        wanted = [leaf, *layer.parameters()]
        found.append(
            [*parts, *torch.autograd.grad(parts, wanted, random_cotangents(parts))]
        )
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_long_sequence_saves_little():
    """Whatever the length: the states of all steps would take 1 GB."""
    layer = cw.Recurrent(numbers_of_heads, 3, 64, engine="native", heads=1)
    programs = layer.direction(0).bound.programs
    sizes = []
    for steps in (4096, 65536):
        batch = cw.engine.schedule.SequenceBatch(steps, 1)
        scan = segments.scan_of(programs, batch, False, False, 4)
        nested = scan
        total_bytes = 0
        while isinstance(nested, segments.SegmentedScan):
            total_bytes += 4 * len(nested.segments) * sum(programs.sizes)
            first = nested.segments[0].batch
            nested = segments.scan_of(programs, first, False, False, 4, nested=True)
        steps = nested.schedule.rows
        total_bytes += 4 * segments.saved_numbers(programs, steps, 1, steps, 4)
        sizes.append(total_bytes)
    assert all(size < 64 << 20 for size in sizes)


@by_cell
def test_threads_give_the_same_bits(used, monkeypatch):
    layer = make_layer(used, 4, 24, torch.float32)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for batch in (1, 5):
                x = normal(40, batch, 4, seed=1, grad=False).float()
                found.append(results(layer, x))
    finally:
        torch.set_num_threads(before)
    for k in (2, 4):
        for n in range(2):
            for a, b in zip(found[n], found[k + n], strict=True):
                assert torch.equal(a, b)


@by_cell
def test_stepper_and_record(used):
    layer = both(used, num_layers=1)[0]
    x = normal(4, 2, 4, seed=1, grad=False)
    with torch.no_grad():
        y, finals = layer(x)
        step = layer.stepper(batch_size=2)
        stepped = torch.stack([step(row).clone() for row in x])
        if layer.direction(0).bound.programs.plan.goes_in_steps:
            assert torch.allclose(stepped, y, rtol=1e-12, atol=1e-14)
        else:
            assert torch.equal(stepped, y)
    with cw.record(layer) as values:
        y, finals = layer(x)
    name = layer.graphs[0].states[0].name
    own = finals[0] if isinstance(finals, tuple) else finals
    recorded = next(v for k, v in values.items() if k.rpartition(".")[2] == name)
    assert torch.equal(recorded[-1], own[-1])


@pytest.mark.parametrize("used", [gated_memory, delta])
def test_a_batch_of_no_rows(used):
    shapes = []
    for engine in ("native", "reference"):
        layer = cw.Recurrent(used, 3, 4, engine=engine)
        x = torch.zeros(70, 0, 3, requires_grad=True)
        y, states = layer(x)
        y.sum().backward()
        assert all(not p.grad.any() for p in layer.parameters())
        found = [y, *(states if isinstance(states, tuple) else [states]), x.grad]
        shapes.append([value.shape for value in found])
    assert shapes[0] == shapes[1]
