"""Derived operations: their definitions give their values, on every target."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cellwright as cw
from cellwright.language import FUNCTIONS, OPS
from cellwright.language.evaluate import evaluate
from cellwright.language.expand import PRIMITIVES, expanded
from cellwright.language.ops import Op, exp, maximum, where
from cellwright.look.formula import mathml
from cellwright.look.web.report import layer_data
from oracles import normal, random_cotangents, randomise

ROOT = Path(__file__).parents[1]
DERIVED = [n for n, op in OPS.items() if not op.primitive]
UNITS = 10  # a row of arguments
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
SPECIAL = [
    float("nan"),
    float("inf"),
    -float("inf"),
    0.0,
    -0.0,
    1.0,
    -1.0,
    3.0,
    -3.0,
    20.0,
    -20.0,
    20.5,
    1e-30,
    -1e-30,
    30.0,
    -30.0,
    100.0,
    -100.0,
    0.5,
    1e-4,
]


def arguments(dtype):
    """(rows, UNITS): what is special, and 10,000 random patterns of bits."""
    info = torch.iinfo(INTEGERS[dtype])
    generator = torch.Generator().manual_seed(5)
    bits = torch.randint(
        info.min, info.max, (10_000,), dtype=INTEGERS[dtype], generator=generator
    )
    near = torch.randn(1000, dtype=dtype, generator=generator) * 4
    every = torch.cat([torch.tensor(SPECIAL, dtype=dtype), bits.view(dtype), near])
    return every[: len(every) // UNITS * UNITS].view(-1, UNITS)


def bare(name):
    """A cell whose output is the operation of x; a weight says which dtype it has."""

    @cw.cell
    def apply(W, x, h: "input_size"):  # noqa: F821
        return OPS[name](x), 0.5 * h + W.p

    return apply


def assert_same(found, expected, name):
    """Equal to a few units in the last place, at NaN and infinities too."""
    eps = torch.finfo(expected.dtype).eps
    tiny = torch.finfo(expected.dtype).tiny  # some targets flush what is below it
    rows = OPS[name].reduces
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=expected.dtype),
        expected,
        rtol=(200 if rows else 8) * eps,
        atol=max(tiny, (200 if rows else 0) * eps),
        equal_nan=True,
    )


def usable(name, rows):
    """Rows whose sums of squares do not overflow: there orders of summing differ."""
    if not OPS[name].reduces:
        return rows
    return rows[(rows.abs() < 1e4).all(-1) & (rows.abs() > 1e-4).all(-1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", DERIVED)
def test_the_definition_in_torch(name, dtype):
    graph = bare(name).graph.bind(input_size=UNITS)
    written = expanded(graph)
    assert {n.op for n in written.nodes if n.op in OPS} <= PRIMITIVES
    x = usable(name, arguments(dtype))
    W = SimpleNamespace(p=torch.ones(UNITS, dtype=dtype))
    values = evaluate(written, W, {"x": x}, {"h": torch.zeros_like(x)})
    assert len(x) > 5
    expected = OPS[name].evaluate(x, **OPS[name].attrs)
    assert_same(values[written.output].expand_as(x), expected, name)


def native(name, x):
    x[x.abs() < torch.finfo(x.dtype).tiny] = 0.0  # the core flushes subnormal numbers
    layer = cw.Recurrent(bare(name), UNITS, UNITS, dtype=x.dtype, engine="native")
    with torch.no_grad():
        return layer(x[:, None])[0][:, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", DERIVED)
def test_the_native_engine(name, dtype):
    pytest.importorskip("cellwright._core")
    x = usable(name, arguments(dtype))
    y = native(name, x)
    assert_same(y, OPS[name].evaluate(x, **OPS[name].attrs), name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", DERIVED)
def test_onnx_runtime(name, dtype):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    x = usable(name, arguments(dtype))
    model = cw.export_onnx(cw.Recurrent(bare(name), UNITS, UNITS, dtype=dtype))
    session = runtime.InferenceSession(model.SerializeToString())
    (y,) = session.run(["y"], {"x": x[:, None].numpy()})
    assert_same(y[:, 0], OPS[name].evaluate(x, **OPS[name].attrs), name)


@pytest.mark.browser
@pytest.mark.parametrize("name", DERIVED)
def test_the_browser(name):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node")
    x = usable(name, arguments(torch.float64))[:40]
    layer = cw.Recurrent(bare(name), UNITS, UNITS, dtype=torch.float32)
    x = x[torch.isfinite(x).all(-1)]  # JSON has no other numbers
    cases = [
        {
            "layer": layer_data(layer.graphs[0], layer.cells[0]),
            "x": row.tolist(),
            "states": [[0.0] * UNITS],
        }
        for row in x
    ]
    done = subprocess.run(
        [node, str(ROOT / "web/tests/steps.mjs")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(done.stdout)["results"]
    expected = OPS[name].evaluate(x, **OPS[name].attrs)
    assert results
    for result, row in zip(results, expected, strict=True):
        assert_same(result["output"], row, name)


# -- an operation of one's own is its record -------------------------------------------


@pytest.fixture
def elu(monkeypatch):
    """v where it is positive, exp(v) − 1 elsewhere: nothing but a record."""
    op = Op(
        "elu",
        1,
        torch.nn.functional.elu,
        lambda g, y, v: (where(v > 0, g, g * exp(v)),),
        r"\operatorname{{ELU}}\left({0}\right)",
        glyph="ELU",
        expand=lambda v: where(v > 0, v, exp(where(v > 0, 0, v)) - 1),
        doc="v above 0, exp(v) − 1 below.",
    )
    monkeypatch.setitem(OPS, "elu", op)
    monkeypatch.setitem(FUNCTIONS, "elu", op)
    return op


def test_a_new_operation_is_its_record(elu):
    @cw.cell
    def mine(W, x, h):
        f = elu(W.f(h, x))
        return 0.5 * h + maximum(f, -0.9) * cw.tanh(W.g(x))

    assert cw.Cell.from_text(mine.to_text()).graph == mine.graph
    assert r"\operatorname{ELU}" in mine.latex()
    assert "<mi>ELU</mi>" in mathml(mine)
    assert "ELU" in mine.diagram().svg
    layers = [
        randomise(cw.Recurrent(mine, 3, 4, engine=e, dtype=torch.float64))
        for e in ("reference", "native")
    ]
    x = normal(5, 2, 3, seed=1, grad=False) * 3
    found = []
    for layer in layers:
        leaf = x.clone().requires_grad_()
        y, h = layer(leaf)
        leaves = [leaf, *layer.parameters()]
        cotangents = random_cotangents([y, h])
        found.append([y, h, *torch.autograd.grad([y, h], leaves, cotangents)])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = cw.export_onnx(layers[0])
    session = runtime.InferenceSession(model.SerializeToString())
    (y,) = session.run(["y"], {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), found[0][0].detach())
    single = cw.Recurrent(mine, 3, 4)
    page = layer_data(single.graphs[0], single.cells[0])["graph"]
    assert "elu" not in {node["op"] for node in page["nodes"]}
