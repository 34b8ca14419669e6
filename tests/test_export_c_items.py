"""Exported C of cells that look at sets of items, compiled and run."""

import ctypes
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from torch import nn

import cellwright as cw
from oracles import normal, randomise
from strategies import HIDDEN, INPUT, ITEM_SIZES, make_cell, sources
from test_export_c import GCC, STRICT, InC, _argument, library, shell
from test_onnx_items import CELLS, FEW, NAMES, SIZES, USUAL, two_sets

pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is not installed")
SELF_TESTS = [pytest.param(n, marks=FEW[k].marks) for k, n in enumerate(NAMES)]
CLANG = shutil.which("clang")
X, H, MOST = 5, 4, 6


def layer_of(cell, **options):
    name = cell if isinstance(cell, str) else cell.name
    options = {"items": SIZES.get(name, {"source": H}), **options}
    return randomise(cw.Recurrent(cell, X, H, **options)).eval()


def room(layer, most=MOST):
    return {name: most + k for k, name in enumerate(layer.item_sizes)}


def exported(layer, folder, name="model", **options):
    cw.export_c(layer, folder, name=name, max_items=room(layer), **options)
    return Attending(library(folder), name, layer)


class Attending(InC):
    """A model in C, given its items as a stepper is."""

    def __init__(self, built, name, layer):
        super().__init__(built, name, layer.output_size)
        self.function_of_items = getattr(built, f"{name}_attend")
        self.names = list(layer.item_sizes)

    def attend_to(self, **items):
        pairs = [(_argument(v), len(v)) for v in (items[n] for n in self.names)]
        given = [word for pair in pairs for word in pair]
        return self.function_of_items(self.state, *given)


def exact(layer, x, items):
    """What the layer gives in float64, by the reference."""
    wide = cw.Recurrent(
        layer.cell, layer.input_size, layer.hidden_size, layer.num_layers,
        engine="reference", dtype=torch.float64, items=layer.item_sizes,
        **layer.sizes,
    )  # fmt: skip
    wide.load_state_dict({k: v.double() for k, v in layer.state_dict().items()})
    with torch.no_grad():
        given = {name: values.double() for name, values in items.items()}
        return wide(x.double(), **given)[0].numpy()


def items_of(layer, counts):
    pairs = zip(layer.item_sizes.items(), counts, strict=True)
    return {
        name: normal(count, size, seed=50 + n, grad=False).float()
        for n, ((name, size), count) in enumerate(pairs)
    }


def check(layer, step, tolerance=2e-6):
    x = normal(12, layer.input_size, seed=7, grad=False).float()
    most = list(room(layer).values())
    few = [max(0, 2 - n) for n in range(len(most))]
    for counts in (most, few, [0] * len(most)):
        items = items_of(layer, counts)
        assert step.attend_to(**items) == 0
        step.reset()
        expected = exact(layer, x, items)
        found = np.stack([step(row) for row in x])
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, request):
    """Every cell that the run asks for in C: two layers of it."""
    folder = tmp_path_factory.mktemp("zoo")
    every = any(
        item.path == request.path and item.get_closest_marker("full")
        for item in request.session.items
    )
    for name, cell in zip(NAMES, CELLS, strict=True):
        if name not in USUAL and not every:
            continue
        layer = layer_of(cell, num_layers=2)
        cw.export_c(layer, folder, name=name, max_items=room(layer), self_test=True)
    return folder, library(folder)


@pytest.mark.parametrize("cell", FEW)
def test_every_cell(zoo, cell):
    layer = layer_of(cell, num_layers=2)
    name = NAMES[CELLS.index(cell)]
    step = Attending(zoo[1], name, layer)
    x = normal(X, seed=7, grad=False).float()
    assert np.abs(step(x)).max() > 1e-3
    check(layer, step)


@pytest.mark.parametrize("compiler", [c for c in (GCC, CLANG) if c])
@pytest.mark.parametrize("name", SELF_TESTS)
def test_the_self_test(zoo, name, compiler, tmp_path):
    files = [zoo[0] / f"{name}.c", zoo[0] / f"{name}_test.c"]
    shell(compiler, *STRICT, "-O1", *files, "-o", tmp_path / "test")
    assert "largest error" in shell(tmp_path / "test")


def test_the_self_test_has_teeth(zoo, tmp_path):
    text = (zoo[0] / "bahdanau_gru.c").read_text()
    wrong = text.replace("/= sum;", "/= 1.01f * sum;")
    assert wrong != text
    (tmp_path / "wrong.c").write_text(wrong)
    files = [tmp_path / "wrong.c", zoo[0] / "bahdanau_gru_test.c"]
    shell(GCC, f"-I{zoo[0]}", *files, "-o", tmp_path / "wrong")
    with pytest.raises(AssertionError):
        shell(tmp_path / "wrong")


def test_too_many_items_are_refused_and_nothing_changes(tmp_path):
    layer = layer_of(two_sets)
    step = exported(layer, tmp_path)
    x = normal(X, seed=1, grad=False).float()
    items = items_of(layer, (3, 2))
    assert step.attend_to(**items) == 0
    before = step(x)
    step.reset()
    for counts in ((MOST + 1, 1), (1, MOST + 2)):
        assert step.attend_to(**items_of(layer, counts)) == 1
    null = ctypes.POINTER(ctypes.c_float)()
    assert step.function_of_items(step.state, null, -1, null, 0) == 1
    np.testing.assert_array_equal(step(x), before)


def test_reset_keeps_the_items_and_init_has_none(tmp_path):
    layer = layer_of("bahdanau_gru")
    step = exported(layer, tmp_path)
    x = normal(X, seed=1, grad=False).float()
    without = step(x)
    step.attend_to(**items_of(layer, (4,)))
    step.reset()
    first = step(x)
    step.reset()
    np.testing.assert_array_equal(step(x), first)
    assert np.abs(first - without).max() > 1e-3
    again = Attending(ctypes.CDLL(str(tmp_path / "all.so")), "model", layer)
    np.testing.assert_array_equal(again(x), without)


def test_the_header_counts_what_items_take(tmp_path):
    layer = cw.Recurrent("bahdanau_gru", X, H, items={"source": 3})
    head = nn.Linear(H, 2)
    model = nn.Sequential(layer, head)
    text = cw.export_c(model, tmp_path, max_items={"source": 50})[0].read_text()
    assert f"State: {4 * (H + 1 + 50 * 3 + 50 * H)} bytes" in text
    products = H * H + 3 * H * (H + X + 3) + 2 * H
    assert f"A step: {products} multiply-adds." in text
    assert f"An item: {H} more; once {3 * H}, by attend." in text
    assert "#define MODEL_ITEMS_SOURCE_SIZE 3" in text
    assert "#define MODEL_ITEMS_SOURCE_MAX 50" in text


@pytest.mark.parametrize(
    ("cell", "most", "message"),
    [
        ("bahdanau_gru", None, "max_items={'source': 100}"),
        ("bahdanau_gru", {"facts": 3}, "received max_items={'facts': 3}"),
        ("bahdanau_gru", {"source": 0}, "received 0, expected a positive"),
        ("bahdanau_gru", {"source": 2.5}, "received 2.5, expected a positive"),
        ("gru", {"source": 3}, "no cell looks at items"),
    ],
)
def test_numbers_of_items_are_checked(tmp_path, cell, most, message):
    items = {"items": {"source": 4}} if cell != "gru" else {}
    layer = cw.Recurrent(cell, X, H, **items)
    with pytest.raises(cw.ArgumentError, match=message):
        cw.export_c(layer, tmp_path, max_items=most)
    assert not list(tmp_path.iterdir())


@given(sources(items=True))
@settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow])
def test_random_cells(tmp_path_factory, source):
    random = make_cell(source)
    sizes = {i.name: ITEM_SIZES[i.name] for i in random.graph.items}
    layer = randomise(cw.Recurrent(random, INPUT, HIDDEN, items=sizes))
    assume(len(layer.graphs[0].inputs) == 1)
    check(layer, exported(layer, tmp_path_factory.mktemp("cell")), 1e-4)
