"""Cells with matrices on the Triton engine, in Triton's interpreter, beside the
reference; and as machine code."""

# ruff: noqa: F821  # sizes are annotations
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import cellwright as cw
from cellwright import cell, matvec, outer, sigmoid, tanh, vecmat
from cellwright.engine.triton import Triton, table
from cellwright.engine.triton.explain import explain_triton
from cellwright.engine.triton.parts import cut
from cellwright.engine.triton.target import Target
from strategies import sources
from test_matrices import everything as every_operation
from test_matrices import rewritten
from test_native_matrices import BLOCKS
from test_native_matrices import CELLS as OWN
from test_triton import (
    assert_as_reference,
    call_of,
    check_gradients_through_the_op,
    check_random_cell,
    copy_of,
    everything,
    make,
    triton,
)

pytestmark = [
    pytest.mark.skipif(
        not triton.knobs.runtime.interpret, reason="Triton compiles: TRITON_INTERPRET=0"
    ),
    # What is beside a matrix is computed too, and not stored.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

HERE = Path(__file__).parent
H = 6  # no power of two, in two heads or one
#: Two heads, all levels in a kernel; kernels each step; a matrix of weights.
SAMPLE = ["mlstm", "delta_net", "selective_ssm"]


@pytest.fixture(autouse=True)
def _runs_on_the_cpu(monkeypatch):
    monkeypatch.setattr(Triton, "devices", ("cuda", "cpu"))


@pytest.fixture
def small_blocks(monkeypatch):
    """No matrix fits: a program goes through its lines, 4 at a time; or has 1 or 2."""
    for name, number in {
        "MATRIX_REGISTERS": 1,
        "MOST_MATRIX_WARPS": 1,
        "APART_ELEMENTS": 8,
    }.items():
        monkeypatch.setattr(table, name, number)


def every_cell(sample=SAMPLE):
    return [
        pytest.param(c, marks=[] if c in sample else [pytest.mark.full])
        for c in cw.cells.all_with_matrices()
    ]


def make_heads(definition, **options):
    """A layer with two heads, where its cell has heads."""
    used = cw.cells.get(definition) if isinstance(definition, str) else definition
    if "heads" in used.keywords:
        options = {"heads": 2, **options}
    return make(used, **{"hidden_size": H, **options})


def parts_of(layer):
    """Of each kernel of matrices of a layer, its form and what it computes."""
    programs = layer.direction(0).bound.programs.level_by_level
    kinds = {"inference": (), "training": (), "backward": ("x",)}
    for kind, wanted in kinds.items():
        for part in cut(programs.program(kind, wanted), Target()).parts:
            for kernel in part.kernels:
                if kernel is not None and kernel.matrix is not None:
                    yield part.form, kernel


# -- values and gradients


@pytest.mark.parametrize("definition", every_cell())
def test_every_cell_with_lengths_and_resets(definition):
    layer = make_heads(definition)
    assert_as_reference(layer, call_of(layer))


@pytest.mark.parametrize("definition", every_cell(["gla"]))
def test_every_cell_with_one_head(definition):
    layer = make(definition)
    assert_as_reference(layer, call_of(layer, orders=False))


@pytest.mark.parametrize("definition", every_cell([]))
def test_every_cell_in_small_blocks(definition, small_blocks):
    layer = make_heads(definition, hidden_size=10)
    assert_as_reference(layer, call_of(layer, steps=3))


def test_a_matrix_in_small_blocks(small_blocks):
    """Forward programs share 5 lines, and walk; backward one has 4, then 1."""
    layer = make_heads("mlstm", hidden_size=10)
    found = {
        (form, kernel.matrix.apart, table.block_of(kernel, 3).rows)
        for form, kernel in parts_of(layer)
        if kernel.matrix.rows == 5
    }
    assert found == {("scan", True, 1), ("level", False, 4)}
    assert_as_reference(layer, call_of(layer, steps=3))


@pytest.mark.parametrize(
    "used",
    [
        pytest.param(c, marks=[] if c is every_operation else [pytest.mark.full])
        for c in (*OWN, every_operation, rewritten)
    ],
    ids=lambda c: c.name,
)
def test_own_cells(used):
    sizes = {"key_size": 4} if "key_size" in used.graph.size_names else {}
    layer = make_heads(used, **sizes)
    assert_as_reference(layer, call_of(layer), **sizes)


@cell
def over_all_heads(W, x, C: BLOCKS, s, z: 1, *, heads=2):
    """Numbers of all heads; a weight that waits for no state; a vector that is read
    and made as one of columns; and one of two forms."""
    A = W.matrix("A", size=("hidden_size", "hidden_size", heads))
    u = matvec(tanh(A + outer(W.u(x), W.w(x), heads=heads)), W.k(x))
    C = sigmoid(W.f(x, size=1)) * C + outer(s, W.k(x), heads=heads) * A
    z = 0.5 * z + 0.1 * cw.sum(C * C)
    return u + matvec(C, W.q(x)), C, tanh(vecmat(W.v(x), C)) + 0.5 * s, z


def test_sums_over_all_heads():
    layer = make_heads(over_all_heads)
    kernels = [kernel.matrix for _, kernel in parts_of(layer)]
    assert any(m.together and m.heads == 2 for m in kernels)
    assert_as_reference(layer, call_of(layer))


@pytest.mark.full
def test_sums_over_all_heads_in_small_blocks(small_blocks):
    layer = make_heads(over_all_heads, hidden_size=10)
    assert_as_reference(layer, call_of(layer))


@cell
def handed_on(W, x, C: ("hidden_size", "hidden_size"), s):
    """s is made as numbers of lines, and read as such: registers hand it on."""
    C = 0.5 * C + outer(s, W.v(x))
    return tanh(W.o(x)) * matvec(C, W.q(x)), C, matvec(C, W.p(x))


@cell
def turned(W, x, C: ("hidden_size", "hidden_size"), s):
    """s is made as numbers of lines, and read as numbers of columns: no walk."""
    C = 0.5 * C + 0.2 * outer(W.v(x), s)
    return tanh(W.o(x)) * matvec(C, W.q(x)), C, matvec(C, W.p(x))


@pytest.mark.parametrize(
    ("used", "form"),
    [pytest.param(handed_on, "scan", marks=pytest.mark.full), (turned, "level")],
    ids=lambda c: getattr(c, "name", c),
)
def test_a_vector_that_a_matrix_makes_and_reads(used, form):
    layer = make_heads(used)
    assert next(parts_of(layer))[0] == form
    assert_as_reference(layer, call_of(layer))


@cell
def beside(W, x, h):
    """A matrix of weights that no level waits for: its gradient adds up over them."""
    A = W.matrix("A", size=("hidden_size", 2))
    return sigmoid(W.f(x)) * h + matvec(tanh(A), W.k(x, size=2))


@pytest.mark.full
@pytest.mark.parametrize("blocks", ["", "small_blocks"])
def test_a_weights_gradient_adds_up_over_levels(blocks, request):
    if blocks:
        request.getfixturevalue(blocks)
    layer = make_heads(beside, hidden_size=19)
    forms = {form for form, kernel in parts_of(layer) if not kernel.matrix.apart}
    assert forms == {"level" if blocks else "scan"}
    assert_as_reference(layer, call_of(layer))


@pytest.mark.parametrize(("steps", "batch"), [(1, 3), (2, 0)])
@pytest.mark.parametrize("definition", ["mlstm", "delta_net"])
def test_one_step_and_no_row(definition, steps, batch):
    layer = make_heads(definition)
    assert_as_reference(layer, call_of(layer, steps, batch, orders=False))


@pytest.mark.full
def test_both_directions_and_layers():
    layer = make_heads("mlstm", num_layers=2, bidirectional=True)
    assert_as_reference(layer, call_of(layer, steps=3, batch=2))


@pytest.mark.parametrize(
    "definition", ["delta_net", pytest.param("mlstm", marks=pytest.mark.full)]
)
def test_states_alone_are_kept(definition):
    layer = make_heads(definition, memory="recompute")
    assert_as_reference(layer, call_of(layer))


@pytest.mark.full
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(sources(matrices=True))
def test_random_cells(source):
    check_random_cell(source)


@pytest.mark.full
def test_products_of_16_bits():
    """Matrices are float32; weights and sources of products are rounded."""
    layer = make_heads("mlstm", dtype=torch.bfloat16)
    leaves, states, orders = call_of(layer)
    given_ = {n: v.bfloat16() for n, v in leaves.items()}, states, orders
    exact, found = everything(copy_of(layer), given_), everything(layer, given_)
    for key, value in exact.items():
        error = float((found[key] - value).abs().max())
        assert error <= 4 * 2**-7 * max(float(value.abs().max()), 1.0), key


@pytest.mark.full
def test_gradients_through_the_op():
    check_gradients_through_the_op(make_heads("mlstm"))


# -- the text, and machine code


def test_the_text_of_kernels():
    """A golden file: CELLWRIGHT_WRITE_GOLDEN=1 writes it anew; read the difference."""
    path = HERE / "triton_fast_weights_5.txt"
    text = explain_triton(cw.cells.get("fast_weights"), 3, 5) + "\n"
    if os.environ.get("CELLWRIGHT_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's assembler is for Linux")
def test_kernels_as_machine_code():
    """No register spills on an A100 and an H100."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, HERE / "triton_machine_matrices.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name.split()[3] for name in found} == {"sm_80", "sm_90"}
    assert {name.split()[4] for name in found} == {"rows", "level", "scan"}
    for kernel, (_, spills, _) in found.items():
        assert spills == 0, kernel


@cell
def named_badly(W, x, C: ("hidden_size", 3), *, over):
    """`over_columns` is a function of kernels, and what they could call this input."""
    C = 0.5 * C + outer(W.head(x), over)
    return matvec(C, tanh(over)), C


def test_names_of_a_kernels_own():
    sizes = {"inputs": {"over": 3}}
    layer = make(named_badly, **sizes)
    assert_as_reference(layer, call_of(layer), **sizes)
