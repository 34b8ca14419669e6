"""Exported C whose matrices are in 8 bits."""

import re
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.export.c.int8 import quantised
from cellwright.text.model import LanguageModel, ModelSizes
from oracles import normal, randomise
from test_export_c import GCC, STRICT, InC, library, make, shell

pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is not installed")


def rounded(matrix):
    """By hand: to 127 steps of each row's greatest value."""
    step = matrix.abs().amax(-1, keepdim=True) / 127
    return torch.where(step > 0, (matrix / step).round() * step, matrix)


def round_matrices(layer):
    """Every operand's columns of every matrix, in place."""
    with torch.no_grad():
        for k, graph in enumerate(layer.graphs):
            for weight in graph.weights:
                if weight.kind == "matrix":
                    own = getattr(layer.cells[k], weight.name).weight
                    widths = [int(o) // weight.heads for o in weight.operands]
                    parts = own.split(widths, -1)
                    new = [rounded(p) if p.shape[-1] > 1 else p for p in parts]
                    own.copy_(torch.cat(new, -1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Some layers in C, with their self-tests."""
    folder, layers = tmp_path_factory.mktemp("int8"), {}
    options = {"lstm": {"num_layers": 2}, "bahdanau_gru": {"items": {"source": 6}}}
    for name, own in options.items():
        layer = layers[name] = randomise(make(name, 9, 20, **own))
        most = {"max_items": {"source": 4}} if layer.item_sizes else {}
        how = {"weights": "int8", "self_test": True, **most}
        cw.export_c(layer, folder, name=name, **how)
    return folder, library(folder, "-O2"), layers


def test_it_is_the_layer_of_rounded_weights(files):
    _, built, layers = files
    layer, step = layers["lstm"], InC(built, "lstm", 20)
    x = normal(20, 9, seed=1, grad=False).float()
    whole = layer(x)[0].detach().numpy()
    round_matrices(layer)
    expected = layer(x)[0].detach().numpy()
    found = np.stack([step(row) for row in x])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - whole).max() > 1e-4  # the rounding is seen


@pytest.mark.parametrize("name", ["lstm", "bahdanau_gru"])
def test_the_self_test(files, name, tmp_path):
    sources = [files[0] / f"{name}.c", files[0] / f"{name}_test.c"]
    shell(GCC, *STRICT, "-O1", *sources, "-o", tmp_path / "test")
    assert "largest error" in shell(tmp_path / "test")


def test_no_function_of_a_library_is_called(files):
    calls = shell(shutil.which("nm"), "-uD", files[0] / "all.so").split()
    assert not {"memset", "memcpy", "memmove"} & {c.partition("@")[0] for c in calls}


def test_bytes_of_a_layer(tmp_path):
    layer = cw.LSTM(8, 16)
    path = cw.export_c(layer, tmp_path, weights="int8")[0]
    found = re.search(r"Weights: (\d+) bytes", path.read_text())
    assert found is not None
    assert int(found[1]) == 64 * (8 + 16) + 4 * (64 + 64 + 64)


@pytest.mark.parametrize("tie", [False, True])
def test_a_language_model(tmp_path, tie):
    torch.manual_seed(3)
    sizes = ModelSizes(vocabulary=31, embedding=12, hidden=12, tie=tie)
    model = LanguageModel(cw.cells.lstm, sizes).eval()
    files = cw.export_c(model, tmp_path, weights="int8", self_test=True)
    shell(GCC, *STRICT, "-O1", *files[1:], "-o", tmp_path / "test")
    shell(tmp_path / "test")
    tables = re.findall(r"static const int8_t \w+\[(\d+)\]", files[1].read_text())
    tables_of_words = [int(n) for n in tables].count(31 * 12)
    assert tables_of_words == (1 if tie else 2)
    step, tokens = InC(library(tmp_path), "model", 31), torch.randint(31, (20, 1))
    round_matrices(model.rnn)
    with torch.no_grad():
        model.head.weight.copy_(rounded(model.head.weight))
        if not tie:
            model.embed.weight.copy_(rounded(model.embed.weight))
        expected = model(tokens)[0][:, 0].numpy()
    found = [step(token) for token in tokens.flatten().tolist()]
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_rows_are_rounded_to_the_nearest_and_zeros_stay():
    matrix = np.array([[[0.0, 0.0], [1.27, -0.634], [-2.54, 0.0]]], np.float32)
    numbers, scale = quantised(matrix)
    np.testing.assert_array_equal(numbers, [[[0, 0], [127, -63], [-127, 0]]])
    np.testing.assert_allclose(scale, [[0, 0.01, 0.02]], rtol=1e-6)


def test_rows_of_the_smallest_floats_keep_their_signs():
    """Their scale is rounded down: 190 of the smallest steps are one of 1.5."""
    smallest = np.float32(2**-149)
    numbers, _ = quantised(np.array([[190, -187, 90]], np.float32) * smallest)
    np.testing.assert_array_equal(numbers, [[127, -127, 90]])


@pytest.mark.parametrize("weights", ["int4", "INT8", None, 8])
def test_other_formats_are_refused(tmp_path, weights):
    model = nn.Sequential(cw.GRU(3, 4))
    with pytest.raises(cw.ArgumentError, match=r"expected 'float32' or 'int8'"):
        cw.export_c(model, tmp_path, weights=weights)
    assert not list(tmp_path.iterdir())
