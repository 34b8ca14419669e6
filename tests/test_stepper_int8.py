"""Steppers with weights of 8 or 16 bits: against float64 on the rounded weights."""

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

import cellwright as cw
from cellwright.engine import native
from cellwright.nn.weights import affines_of
from native_cases import make_layer
from oracles import randomise

pytestmark = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")
ISAS = native.info().get("isas", [])
# Alike but for products in less than full precision.
WIDE = [isa for isa in ISAS if isa not in ("baseline", "avx2")]
F32 = torch.float32


def int8(matrix):
    """Each row to whole numbers times the row's scale, 127 at most."""
    scale = matrix.abs().amax(1, keepdim=True) / 127
    return (matrix / scale.where(scale > 0, 1.0)).round() * scale


ROUNDED = {"int8": int8, "bf16": lambda m: m.bfloat16().to(m.dtype)}


def rounded(layer, kind):
    """The layer in float64, with the weights that so few bits hold."""
    layer = copy.deepcopy(layer)
    for weights in layer.cells:
        for gate in affines_of(weights).values():
            if not gate.maps_its_weight:
                continue  # the matrix is made of the weight, and then rounded
            with torch.no_grad(), gate.changing_blocks() as operands:
                for matrix in (m for heads in operands for m in heads):
                    matrix.copy_(ROUNDED[kind](matrix))
    return layer.double()


def begin(layer, kind, B, whole=False):
    """A stepper and the exact layer, in one random state, and a step's inputs."""
    graph = layer.graphs[0]
    generator = torch.Generator().manual_seed(5)

    def values(size):
        v = torch.randn(B, size, generator=generator).clamp(-1, 1)
        return v.round() if whole else v

    step = layer.stepper(B, weights=kind)
    states = [values(int(s.size)).abs()[None] for s in graph.states]
    step.state = states[0] if len(states) == 1 else tuple(states)
    return step, states, {i.name: values(int(i.size)) for i in graph.inputs}


def both(layer, kind, B, **options):
    """What a step gives, y and states, and what the exact one gives."""
    step, states, given = begin(layer, kind, B, **options)
    exact = rounded(layer, kind)
    wide = {n: v[None].double() for n, v in given.items()}
    states = tuple(s.double() for s in states)
    with torch.no_grad():
        y, news = exact(
            wide.pop("x"), states[0] if len(states) == 1 else states, **wide
        )
    x = given.pop("x")
    found = [step(x, **given), *tree_leaves(step.state)]
    return found, [y[0], *tree_leaves(news)], step


def error(found, expected):
    return max(
        float(((f - e).abs() / e.abs().amax().clamp(min=1)).max())
        for f, e in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("kind", ["int8", "bf16"])
@pytest.mark.parametrize(
    "cell", [c for c in cw.cells.all() if not cw.cells.get(c).graph.items]
)
def test_every_cell_is_the_exact_one_on_rounded_weights(cell, kind):
    layer = make_layer(cell, 8, 8, F32)
    found, expected, step = both(layer, kind, 3)
    assert step.engine == "native"
    assert step.precision == kind
    assert kind in repr(step)
    # Operands have 16 bits beside weights of 8, and 8 beside those of 16.
    allowed = {"int8": 1e-3, "bf16": 5e-2}[kind]
    if cell == "mc_lstm":  # its exact weights are not rounded
        allowed = 5e-2
    assert error(found, expected) < allowed


@pytest.mark.parametrize("kind", ["int8", "bf16"])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "size", [(1, 8, 8), (1, 3, 33), (2, 300, 16), (1, 131, 70), (9, 1, 1), (17, 40, 24)]
)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_operands_that_are_whole_lose_nothing(cell, size, isa, kind, monkeypatch):
    monkeypatch.setenv("CELLWRIGHT_ISA", isa)
    B, X, H = size
    found, expected, _ = both(make_layer(cell, X, H, F32), kind, B, whole=True)
    allowed = 4e-6
    if cell == "gru":  # its second product reads r * h
        allowed = {"int8": 2e-4, "bf16": 1e-2}[kind]
    assert error(found, expected) < allowed


def whole(matrix, most):
    """Rows of whole numbers, `most` at most, and their scales; NumPy, float64."""
    scale = np.abs(matrix).max(1, keepdims=True) / most
    return np.rint(matrix / np.where(scale > 0, scale, 1)), scale


def far_from_ties(shape, most, generator):
    """Numbers whose rounding to whole ones no float32 error changes."""
    noise = generator.uniform(-0.3, 0.3, shape)
    numbers = (generator.integers(-most, most + 1, shape) + noise) / most
    numbers[:, -1] = -1  # the largest, whatever the noise
    return (numbers.clip(-1, 1) * generator.uniform(0.1, 9, (shape[0], 1))).astype("f4")


def by_whole_numbers(x, weight):
    """x @ weight.T of 16 and 8 bits, and the size of what is summed."""
    (x, x_scale), (w, w_scale) = whole(x, 32767), whole(weight, 127)
    scale = x_scale * w_scale.T
    return scale * (x @ w.T), scale * (np.abs(x) @ np.abs(w).T)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "size", [(1, 8, 16), (1, 5, 33), (2, 131, 70), (3, 260, 24), (17, 31, 7)]
)
def test_products_are_those_of_whole_numbers(isa, size, monkeypatch):
    monkeypatch.setenv("CELLWRIGHT_ISA", isa)
    B, X, H = size

    @cw.cell
    def affine(W, x, h):
        return W.a(h, x, bias=False)

    generator = np.random.default_rng(B)
    weight = np.hstack([far_from_ties((H, n), 127, generator) for n in (H, X)])
    layer = make_layer(affine, X, H, F32)
    with torch.no_grad():
        layer.cells[0].a.weight.copy_(torch.from_numpy(weight))
    h, x = (far_from_ties((B, n), 32767, generator) for n in (H, X))
    step = layer.stepper(B, weights="int8")
    step.state = torch.from_numpy(h)[None]
    y = step(torch.from_numpy(x)).numpy()
    parts = [
        by_whole_numbers(v.astype("f8"), w.astype("f8"))
        for v, w in zip((h, x), np.split(weight, [H], 1), strict=True)
    ]
    expected, summed = (sum(p[i] for p in parts) for i in (0, 1))
    assert (np.abs(y - expected) <= 4e-7 * summed).all()


@pytest.mark.parametrize("isa", WIDE[1:])
@pytest.mark.parametrize("cell", ["lstm", "gru", "heads"])
def test_instructions_for_bytes_give_the_same_bits(cell, isa, monkeypatch):
    @cw.cell
    def heads(W, x, h):
        return cw.tanh(W.a(h, x, heads=3))

    B, X, H = 5, 141, 54  # a head of x begins at column 47
    layer = make_layer(heads if cell == "heads" else cell, X, H, F32)
    with torch.no_grad():
        next(layer.parameters())[0] = 0
    x = torch.randn(6, B, X, generator=torch.Generator().manual_seed(1))
    x[0, 0], x[1, 1, 3], x[2, 2, 4], x[3, 3] = 0, math.nan, -math.inf, 1e-35
    found = {}
    for name in (WIDE[0], isa):
        monkeypatch.setenv("CELLWRIGHT_ISA", name)
        step = layer.stepper(B, weights="int8")
        ys = [step(row) for row in x[:4]]
        step.reset([1, 4])
        found[name] = torch.stack([*ys, *map(step, x[4:])])
    assert found[isa][:, [0, 3, 4]].isfinite().all()
    assert found[isa][1:4, 1].isnan().all()
    torch.testing.assert_close(
        found[isa], found[WIDE[0]], rtol=0, atol=0, equal_nan=True
    )


def test_heads_have_scales_of_their_own():
    @cw.cell
    def blocks(W, x, h):
        return cw.tanh(W.a(h, x, heads=3))

    layer = make_layer(blocks, 9, 15, F32)
    with torch.no_grad():
        layer.cells[0].a.weight[1] *= 1000  # would drown the others
    found, expected, _ = both(layer, "int8", 2, whole=True)
    assert error(found, expected) < 4e-6


def test_the_error_has_its_bound():
    """|y - exact| ≤ Σ_k |w_k| · max|x| · 2^-16 for each operand, and float32's own."""

    @cw.cell
    def affine(W, x, h):
        return W.a(h, x)

    layer = make_layer(affine, 200, 64, F32)
    step, states, given = begin(layer, "int8", 4)
    given["x"][1] *= torch.logspace(-3, 3, 200)  # a row of very different sizes
    exact = rounded(layer, "int8")
    y, _ = exact(given["x"][None].double(), states[0].double())
    h, x = exact.cells[0].a.weight.split([64, 200], 1)
    bound = 2.0**-16 * (
        states[0][0].abs().amax(1, keepdim=True) * h.abs().sum(1)
        + given["x"].abs().amax(1, keepdim=True) * x.abs().sum(1)
    )
    off = (step(given["x"]) - y[0]).abs()
    assert (off <= 1.01 * bound + 1e-5 * y[0].abs().max()).all()
    assert (off > 0.01 * bound).any()  # the bound is not idle


def test_rows_do_not_depend_on_one_another():
    layer = make_layer("lstm", 20, 24, F32)
    x = torch.randn(5, 20)
    together = layer.stepper(5, weights="int8")(x)
    for b in range(5):
        alone = layer.stepper(1, weights="int8")(x[b : b + 1])
        assert torch.equal(alone[0], together[b])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so_in_its_row(bad):
    @cw.cell
    def affine(W, x, h):
        return W.a(h, x)

    layer = make_layer(affine, 20, 24, F32)
    x = torch.randn(3, 20)
    x[1, 7] = bad
    y = layer.stepper(3, weights="int8")(x)
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()
    with torch.no_grad():
        layer.cells[0].a.weight[3, 2] = bad
    y = layer.stepper(1, weights="int8")(x[:1])
    assert not y[0, 3].isfinite()
    assert y[0, :3].isfinite().all()


def test_zeros_and_tiny_numbers():
    layer = make_layer("lstm", 6, 5, F32)
    with torch.no_grad():
        layer.cells[0].f.weight.zero_()
    step = layer.stepper(1, weights="int8")
    x = torch.full((1, 6), 1e-38)
    exact, _ = rounded(layer, "int8")(x[None].double())
    assert error([step(x)], [exact[0].detach()]) < 1e-6


def test_items_several_layers_and_drop_ins():
    torch.manual_seed(0)
    layer = cw.Recurrent(cw.cells.bahdanau_gru, 6, 8, items={"source": 5})
    source, x = torch.randn(4, 2, 5), torch.randn(3, 2, 6)
    step = layer.stepper(2, weights="int8")
    step.attend_to(source=source)
    y = layer(x, source=source)[0].detach()
    assert 0 < float((torch.stack([*map(step, x)]) - y).abs().max()) < 2e-2
    for kind in (cw.LSTM, cw.GRU, cw.RNN):
        layer = kind(6, 8, 2)
        step = layer.stepper(2, weights="int8")
        y = layer(x)[0].detach()
        off = float((torch.stack([*map(step, x)]) - y).abs().max())
        assert 0 < off < 2e-2


def test_a_copy_and_a_loaded_one_have_the_same_weights():
    layer = make_layer("lstm", 6, 5, F32)
    step, x = layer.stepper(2, weights="int8"), torch.randn(2, 6)
    others = step.copy(), copy.deepcopy(step), pickle.loads(pickle.dumps(step))
    y = step(x)
    for other in others:
        assert other.precision == "int8"
        assert torch.equal(other(x), y)
    randomise(layer, seed=9)
    assert step.stale
    step.refresh()
    step.reset()
    assert torch.equal(step(x), layer.stepper(2, weights="int8")(x))


def test_perplexity_of_a_small_trained_model():
    """The text of this repository's page on engines, by character."""
    text = (Path(__file__).parents[1] / "docs" / "engine.md").read_text()
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(c) for c in text])
    torch.manual_seed(0)
    layer, head = cw.LSTM(len(letters), 48), torch.nn.Linear(48, len(letters))
    parameters = [*layer.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, 1e-2)
    rows = F.one_hot(ids[: 16 * 400].view(16, 400).T, len(letters)).float()
    for k in range(0, 390, 13):
        y, _ = layer(rows[k : k + 13])
        target = ids[: 16 * 400].view(16, 400).T[k + 1 : k + 14]
        optimiser.zero_grad()
        F.cross_entropy(head(y).flatten(0, 1), target.flatten()).backward()
        optimiser.step()
    held = ids[-401:]
    x = F.one_hot(held[:-1], len(letters)).float()
    loss = {}
    for kind in (None, "int8"):
        step = layer.stepper(weights=kind)
        with torch.no_grad():
            y = torch.cat([step(row[None]) for row in x])
            loss[kind] = float(F.cross_entropy(head(y), held[1:]))
    assert loss[None] < 0.8 * math.log(len(letters))  # it has learned something
    assert abs(math.exp(loss["int8"] - loss[None]) - 1) < 0.005


def test_errors_say_what_can_be_done():
    layer = make_layer("lstm", 6, 5, F32)
    with pytest.raises(cw.ArgumentError, match=r"received weights='int4', expected"):
        layer.stepper(weights="int4")
    with pytest.raises(cw.ArgumentError, match=r"float64 on the engine 'native'"):
        make_layer("lstm", 6, 5).stepper(weights="int8")
    slow = cw.Recurrent("lstm", 6, 5, engine="reference")
    with pytest.raises(cw.ArgumentError, match=r"engine 'reference' \(asked for"):
        slow.stepper(weights="int8")
