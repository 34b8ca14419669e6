"""Cells with matrix states in ONNX and in C, in several heads."""

import pytest

import cellwright as cw
import test_export_c as in_c
import test_onnx as in_onnx
from oracles import randomise
from test_matrices import rewritten
from test_native_matrices import delta, mixed, numbers_of_heads, selective, two_matrices

CELLS = [numbers_of_heads, delta, selective, mixed, two_matrices, rewritten]
by_cell = pytest.mark.parametrize("used", CELLS, ids=lambda c: c.name)


@by_cell
def test_a_layer_in_onnx(used):
    in_onnx.assert_as_good_as_the_reference(*in_onnx.make(used))


@by_cell
def test_a_layer_in_c(used, tmp_path):
    layer = cw.Recurrent(used, 4, 6)
    randomise(layer, scale=0.4)
    cw.export_c(layer, tmp_path, name="one")
    step = in_c.InC(in_c.library(tmp_path), "one", layer.output_size)
    in_c.check(layer, step)
