"""The Triton engine in Triton's interpreter, beside the reference; and as machine code
for GPUs that are not there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import cellwright as cw
from cellwright import (
    cell,
    cos,
    exp,
    maximum,
    name,
    relu,
    sigmoid,
    softmax,
    sum,
    tanh,
)
from cellwright.cli import app
from cellwright.engine.triton import Triton
from cellwright.engine.triton.explain import explain_triton
from cellwright.engine.triton.graphs import Captured, Graphs, key_of
from cellwright.engine.triton.parts import cut
from cellwright.engine.triton.target import H100_SHARED, Target, rounding, target_of
from oracles import normal, random_cotangents, randomise
from strategies import HIDDEN, INPUT, make_cell, sources

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(
        not triton.knobs.runtime.interpret, reason="Triton compiles: TRITON_INTERPRET=0"
    ),
    # Units beside a row's last are computed too, and not stored.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

HERE = Path(__file__).parent
T, B, X, H = 4, 3, 3, 5
#: A stage; several, of two widths; scans between stages over all rows.
SAMPLE = ["lstm", "gru", "lstm_projected", "qrnn"]
#: Weights are kept; scans; a kernel each step.
GOLDEN = [("lstm", 5), ("gru", 5), ("min_gru", 5), ("lstm", 40)]


@pytest.fixture(autouse=True)
def _runs_on_the_cpu(monkeypatch):
    monkeypatch.setattr(Triton, "devices", ("cuda", "cpu"))


@pytest.fixture
def by_step(monkeypatch):
    """No weights fit: products are torch's, with kernels at each step."""
    monkeypatch.setattr("cellwright.engine.triton.target.H100_SHARED", 0)


def every_cell(sample=SAMPLE):
    return [
        pytest.param(c, marks=[] if c in sample else [pytest.mark.full])
        for c in cw.cells.all()
    ]


def forms_of(layer, target):
    """How the programs of a layer run: the forms of their parts."""
    programs = layer.direction(0).bound.programs
    wanted = {"inference": (), "training": (), "backward": ("x",)}
    return {
        part.form
        for kind, names in wanted.items()
        for part in cut(programs.program(kind, names), target).parts
    }


def make(definition, engine="triton", dtype=torch.float32, **options):
    definition = cw.cells.get(definition) if isinstance(definition, str) else definition
    extra = {n: 4 for n in ("proj_size",) if n in definition.graph.size_names}
    options = {"input_size": X, "hidden_size": H, **extra, **options}
    layer = cw.Recurrent(definition, engine=engine, dtype=dtype, **options)
    return randomise(layer, scale=0.25)


def copy_of(layer, engine="reference", dtype=torch.float64, **options):
    other = make(
        layer.cell,
        engine,
        dtype,
        input_size=layer.input_size,
        hidden_size=layer.hidden_size,
        num_layers=layer.num_layers,
        bidirectional=layer.bidirectional,
        **options,
    )
    state = layer.state_dict()
    other.load_state_dict({n: v.to(dtype) for n, v in state.items()})
    return other


def call_of(layer, steps=T, batch=B, orders=True):
    """What a call gets: in float64; of sequences with lengths and resets, or plain."""
    graph = layer.graphs[0]
    leaves = {
        i.name: normal(steps, batch, int(i.size), seed=40 + n, grad=False)
        for n, i in enumerate(graph.inputs)
    }
    rows = len(layer.cells)
    states = [
        0.3 + 0.5 * normal(rows, batch, int(s.size), seed=60 + n, grad=False).abs()
        for n, s in enumerate(graph.states)
    ]
    if not orders:
        return leaves, states, {}
    lengths = torch.tensor([steps, 0, *(max(steps - 1, 1) for _ in range(batch - 2))])
    resets = torch.rand(steps, batch, generator=torch.manual_seed(3)) < 0.3
    return leaves, states, {"lengths": lengths[:batch], "resets": resets}


def leaves_of(layer, given):
    """The inputs and the initial states by name, in the layer's type."""
    leaves, states, _ = given
    named = {**leaves, **{f"state {n}": s for n, s in enumerate(states)}}
    dtype = next(layer.parameters()).dtype
    return {n: v.to(dtype).requires_grad_() for n, v in named.items()}


def results_of(layer, leaves, given):
    x, *named = given[0]
    states = tuple(v for n, v in leaves.items() if n.startswith("state "))
    state = states[0] if len(states) == 1 else states
    y, finals = layer(leaves[x], state, **{n: leaves[n] for n in named}, **given[2])
    return [y, *(finals if isinstance(finals, tuple) else (finals,))]


def everything(layer, given):
    """Every result and every gradient, by name, in float64."""
    leaves = leaves_of(layer, given)
    results = results_of(layer, leaves, given)
    wanted = {**leaves, **dict(layer.named_parameters())}
    found = torch.autograd.grad(
        results, [*wanted.values()], random_cotangents(results), allow_unused=True
    )
    values = {f"result {n}": r.detach() for n, r in enumerate(results)}
    for (key, leaf), gradient in zip(wanted.items(), found, strict=True):
        values[f"d.{key}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {n: v.double() for n, v in values.items()}


def assert_as_reference(layer, given, relative=1e-5, **options):
    """Values and gradients to `relative` of each one's largest, or of 1."""
    assert layer.engine == "triton"
    exact = everything(copy_of(layer, **options), given)
    found = everything(layer, given)
    with torch.no_grad():
        results = results_of(layer, leaves_of(layer, given), given)
    found |= {f"result {n} alone": r.double() for n, r in enumerate(results)}
    exact |= {f"{n} alone": v for n, v in exact.items() if "result" in n}
    for key, value in exact.items():
        scale = max(float(value.abs().max()), 1.0) if value.numel() else 1.0
        error = float((found[key] - value).abs().max()) if value.numel() else 0.0
        assert error <= relative * scale, f"{key}: {error:.1e} of {scale:.1e}"


# -- values and gradients


@pytest.mark.parametrize("definition", every_cell())
def test_every_cell_with_lengths_and_resets(definition):
    layer = make(definition)
    assert_as_reference(layer, call_of(layer))


@pytest.mark.parametrize("definition", every_cell(["gru"]))
def test_every_cell_step_by_step(definition, by_step):
    layer = make(definition)
    assert "resident" not in forms_of(
        layer, target_of(torch.device("cpu"), torch.float32)
    )
    assert_as_reference(layer, call_of(layer))


@pytest.mark.parametrize("definition", every_cell())
@pytest.mark.full
def test_every_cell_plain(definition):
    layer = make(definition)
    assert_as_reference(layer, call_of(layer, orders=False))


@pytest.mark.parametrize(
    "definition", [pytest.param("gru", marks=pytest.mark.full), "min_lstm"]
)
def test_both_directions_and_layers(definition):
    layer = make(definition, num_layers=2, bidirectional=True)
    assert_as_reference(layer, call_of(layer, steps=3, batch=2))


@pytest.mark.parametrize(("steps", "batch"), [(1, 3), (2, 0)])
@pytest.mark.parametrize("definition", ["lstm", "min_gru"])
def test_one_step_and_no_row(definition, steps, batch):
    layer = make(definition)
    assert_as_reference(layer, call_of(layer, steps, batch, orders=False))


def test_rows_of_length_0_alone():
    layer = make("lstm")
    leaves, states, _ = call_of(layer, batch=2)
    lengths = {"lengths": torch.zeros(2, dtype=torch.int64)}
    assert_as_reference(layer, (leaves, states, lengths))


@cell
def blocks(W, x, h, s, *, gate, alpha=0.3):
    u = tanh(W.u(h, x, heads=2) + W.p * h)
    a = softmax(W.a(h, bias=False)) * sum(W.b(x))
    v = cw.layer_norm(u * W.scalar("k", init=0.7) + a, heads=2)
    return relu(v) - alpha * s * gate, name("m", u + gate * h)


def test_diagonal_blocks_reductions_and_named_inputs():
    layer = make(blocks, hidden_size=6, input_size=4, inputs={"gate": 6})
    assert_as_reference(layer, call_of(layer), inputs={"gate": 6})


@pytest.mark.full
def test_diagonal_blocks_step_by_step(by_step):
    layer = make(blocks, hidden_size=6, input_size=4, inputs={"gate": 6})
    assert_as_reference(layer, call_of(layer), inputs={"gate": 6})


@cell
def one_unit(W, x, h, s: 1, m):
    """Values and a state of one unit, read by stages of more, and multiplied."""
    g = sigmoid(W.g(h, s, size=1) + W.q * s)
    n = tanh(W.n(g * h, g, x))
    k = tanh(W.k(n, size=1))
    u = tanh(W.u(n, k * g)) / (1 + exp(k))
    return (1 - g) * n + 0.5 * k * m, g * s + 0.3 * k, 0.5 * m + u


def test_stages_of_one_unit():
    layer = make(one_unit)
    assert "resident" in forms_of(layer, Target())
    assert_as_reference(layer, call_of(layer))


def test_rows_and_units_beyond_a_block():
    """Two blocks of rows; 18 units in a block of 32."""
    layer = make("gru", hidden_size=18)
    assert_as_reference(layer, call_of(layer, steps=3, batch=19))


@cell
def one_name(W, x, h):
    """Two values of one matrix, kept under one name; a later stage reads both."""
    a, b = cos(W.w(h, x)), tanh(W.v(h, x))
    c, d = cos(W.w(b, x)), tanh(W.u(b))
    return a * h + 0.5 * c + tanh(W.k(d))


def test_values_of_one_name():
    layer = make(one_name)
    assert_as_reference(layer, call_of(layer))


@cell
def infinite_beside(W, x, h):
    """Where there is no unit the gate is 1 / 0: that may reach no product."""
    g = sigmoid(W.g(h, x)) / abs(W.p * (2 + h))
    return tanh(W.n(g * h, x))


def test_what_is_beside_a_rows_units_is_in_no_product():
    layer = make(infinite_beside)
    with torch.no_grad():
        layer.cells[0].p.copy_(torch.linspace(0.5, 1, H))
    assert_as_reference(layer, call_of(layer))


@cell
def no_product(W, x, h, s):
    return W.p * h + x, W.q * s + tanh(h)


def test_a_cell_without_products_is_a_scan():
    layer = make(no_product, input_size=H)
    assert_as_reference(layer, call_of(layer))


@cell
def one_number(W, x, h):
    return tanh(W.n(h, x)) + maximum(W.vector("a", size=1), h)


def test_a_vector_of_one_number():
    layer = make(one_number)
    assert_as_reference(layer, call_of(layer))


@cell
def named_badly(W, x, r0, row, live, *, acc=1.0):
    unit = sigmoid(W.tl(r0, x) + W.here * row)
    return tanh(unit * live), r0 * unit * acc, W.rows(x, row)


@cell
def named_worse(W, x, num_warps, range, *, B):
    """Python's names, and those that Triton's launcher takes as options."""
    T = sigmoid(W.grid(num_warps, x) + W.debug * range)
    u = tanh(W.params(T * num_warps, B) + W.scalar("min", init=0.3) * W.len(x))
    return T * u, name("options", range + u * W.num_warps)


@cell
def named_alike(W, x, h, c):
    """A weight and a state of one name, and labels that a suffix makes the same."""
    x_carried = tanh(W.h_(h, x) + W.c * c + W.x(c))
    h_next, c_previous = sigmoid(W.before(h, x_carried)), W.h_weight * c
    return h_next * x_carried, name("c_carried", c_previous + W.c_stored(x))


@cell
def class_(W, x, before, lambda_):
    """Names of a kernel without products of a state."""
    levels = sigmoid(W.rows(x) + W.block * lambda_)
    return levels * before + W.step(x), W.offsets * lambda_ + tanh(before)


BADLY_NAMED = [named_badly, named_worse, named_alike, class_]


def sizes_of(definition):
    named = {i.name: H for i in definition.graph.inputs[1:]}
    return {"inputs": named} if named else {}


@pytest.mark.parametrize("definition", BADLY_NAMED)
@pytest.mark.parametrize("kept", [True, False])
def test_names_that_are_anothers(definition, kept, monkeypatch):
    """Kernels', Triton's, Python's; one thing's and another's."""
    monkeypatch.setattr(
        "cellwright.engine.triton.target.H100_SHARED", kept * H100_SHARED
    )
    sizes = sizes_of(definition)
    layer = make(definition, **sizes)
    assert_as_reference(layer, call_of(layer), **sizes)


@pytest.mark.parametrize("definition", BADLY_NAMED)
def test_arguments_are_no_options_of_tritons_launcher(definition):
    """Its binder, which no interpreter runs, takes them by name beside its own."""
    layer = make(definition, "reference", **sizes_of(definition))
    programs = layer.direction(0).bound.programs
    for kind, wanted in (("inference", ()), ("training", ()), ("backward", ("x",))):
        for part in cut(programs.program(kind, wanted), Target()).parts:
            for kernel in filter(None, part.kernels):
                names = [argument.name for argument in kernel.arguments]
                assert len({*names}) == len(names)
                assert all(re.search("_ptr_*$", own) for own in names)


def test_an_input_that_is_the_same_at_every_step():
    layer = make(blocks, hidden_size=6, input_size=4, inputs={"gate": 6})
    leaves, states, orders = call_of(layer)
    leaves["gate"] = leaves["gate"][0]
    given = leaves, states, orders
    assert_as_reference(layer, given, inputs={"gate": 6})


@pytest.mark.parametrize(
    "definition", ["gru", pytest.param("min_lstm", marks=pytest.mark.full)]
)
def test_states_alone_are_kept(definition):
    layer = make(definition, memory="recompute")
    assert_as_reference(layer, call_of(layer))


def test_torchs_weights():
    torch.manual_seed(1)
    ours, torchs = cw.GRU(X, H, 2, engine="triton"), torch.nn.GRU(X, H, 2)
    ours.load_state_dict(torchs.state_dict())
    x = torch.randn(T, B, X)
    assert ours.engine == "triton"
    for mine, expected in zip(ours(x), torchs(x), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.full
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(sources())
def test_random_cells(source):
    check_random_cell(source)


def check_random_cell(source):
    """Rounding flips comparisons and grows: the reference's own error says how much."""
    layer = make(make_cell(source), input_size=INPUT, hidden_size=HIDDEN)
    given_ = call_of(layer, steps=3, batch=2)
    exact = everything(copy_of(layer), given_)
    own = everything(copy_of(layer, dtype=torch.float32), given_)
    found = everything(layer, given_)
    for key, value in exact.items():
        scale = max(float(value.abs().max()), 1.0)
        allowed = 1e-5 * scale + 10 * float((own[key] - value).abs().max())
        error = float((found[key] - value).abs().max())
        assert error <= allowed, f"{key}: {error:.1e}\n{source}"


# -- 16 bits


@pytest.mark.full
def test_products_of_16_bits_step_by_step(by_step):
    test_products_of_16_bits(torch.bfloat16)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.full)]
)
def test_products_of_16_bits(dtype):
    """Weights and sources are rounded, sums and states are not."""
    layer = make("lstm", dtype=dtype)
    given_ = call_of(layer)
    leaves, states, orders = given_
    given_ = {n: v.to(dtype) for n, v in leaves.items()}, states, orders
    exact, found = everything(copy_of(layer), given_), everything(layer, given_)
    eps = torch.finfo(dtype).eps
    for key, value in exact.items():
        error = float((found[key] - value).abs().max())
        assert error <= 4 * eps * max(float(value.abs().max()), 1.0), key


@pytest.mark.full
def test_autocast_rounds_the_factors_of_products():
    layer = make("gru")
    given_ = call_of(layer, orders=False)
    plain = everything(layer, given_)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = everything(layer, given_)
    for key, value in plain.items():
        error = float((narrow[key] - value).abs().max())
        assert error <= 0.03 * max(float(value.abs().max()), 1.0), key
    error = (narrow["result 0"] - plain["result 0"]).abs().max()
    assert error > 1e-4  # they are rounded


# -- who looks


def test_torch_compile_sees_one_op():
    layer = make("gru")
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    x = normal(T, B, X, seed=1, grad=False).float()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    with torch.no_grad():
        y, _ = compiled(x)
        torch.testing.assert_close(y, layer(x)[0])
    (graph,) = graphs
    calls = [n for n in graph.graph.nodes if "triton_scan" in str(n.target)]
    assert len(calls) == 1


@pytest.mark.full
def test_gradients_through_the_op():
    check_gradients_through_the_op(make("gru"))


def check_gradients_through_the_op(layer):
    x = normal(T, B, X, seed=1, grad=False).float().requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    wanted = [x, *layer.parameters()]
    found, expected = (
        torch.autograd.grad((run(x)[0] ** 2).sum(), wanted) for run in (compiled, layer)
    )
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.full
def test_gradients_of_gradients_are_the_references():
    layer = make("lstm")
    other = copy_of(layer, dtype=torch.float32)
    x = normal(2, 2, X, seed=1, grad=False).float().requires_grad_()

    def twice(run):
        (g,) = torch.autograd.grad((run(x)[0] ** 2).sum(), x, create_graph=True)
        return torch.autograd.grad((g**2).sum(), x)[0]

    torch.testing.assert_close(twice(layer), twice(other))


def eager(layer, *args, **given_):
    return layer(*args, **given_)


def as_an_op(layer, *args, **given_):
    with FlopCounterMode(display=False):
        return layer(*args, **given_)


def compiled(layer, *args, **given_):
    return torch.compile(layer, backend="aot_eager")(*args, **given_)


# Dynamo reads .grad of what it goes on with after a break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("orders", [False, True], ids=["plain", "cut"])
@pytest.mark.parametrize(
    "way", [eager, as_an_op, pytest.param(compiled, marks=pytest.mark.full)]
)
def test_arguments_may_change_before_backward(way, orders):
    """The gradients are those of the call, or torch says what was changed."""
    layer = make("min_lstm", bidirectional=True)

    def gradients(change):
        """Those of the weights, or the error."""
        named, states, more = call_of(layer, 3, 2, orders)
        x, state = named["x"].float(), tuple(s.float() for s in states)
        y, finals = way(layer, x, state, **more)
        loss = torch.cat([r.flatten() for r in (y, *finals)]).square().sum()
        for tensor in {"x": (x,), "state": state}.get(change, ()):
            tensor.add_(1)
        if change in more:
            more[change].copy_(more[change].flip(0))
        try:
            return torch.autograd.grad(loss, [*layer.parameters()])
        except RuntimeError as error:
            return str(error)

    expected = gradients(None)
    for change in ("x", "state", *(("lengths", "resets") if orders else ())):
        found = gradients(change)
        if isinstance(found, str):
            assert change in ("x", "state"), found
            assert "modified by an inplace operation" in found
        else:
            torch.testing.assert_close(found, expected)


# -- what it cannot, and what it says


@pytest.mark.parametrize(
    ("definition", "options", "why"),
    [
        ("bahdanau_gru", {"items": {"source": 4}}, "it takes no sets of items"),
        ("lstm", {"dtype": torch.float64}, "float32, float16 and bfloat16"),
    ],
)
def test_an_obstacle_is_named(definition, options, why):
    with pytest.raises(cw.ArgumentError, match=why):
        make(definition, **options)


def test_auto_takes_torchs_kernels_then_triton(monkeypatch):
    monkeypatch.setattr(Triton, "devices", ("cuda",))
    with pytest.raises(cw.ArgumentError, match="it runs on CUDA, the parameters are"):
        make("peephole")
    monkeypatch.setattr(Triton, "devices", ("meta",))
    layer = cw.Recurrent("peephole", X, H, device="meta")
    assert layer.engine == "triton"
    assert layer.engine_reason.startswith("kernels generated from the equations; ")
    assert "torch: torch has no kernel for this cell" in layer.engine_reason
    assert cw.Recurrent("lstm", X, H, device="meta").engine == "torch"


def test_without_triton_it_is_the_reference(monkeypatch):
    monkeypatch.setattr("cellwright.engine.triton.find_spec", lambda _: None)
    monkeypatch.setattr(Triton, "devices", ("meta",))
    layer = cw.Recurrent("peephole", X, H, device="meta")
    assert layer.engine == "reference"
    assert "triton: Triton is not installed: pip install" in layer.engine_reason


# -- which kernel


A100_SHARED = 163 * 1024


@pytest.mark.parametrize(
    ("definition", "units", "target", "kept"),
    [
        ("lstm", 128, Target(torch.bfloat16), True),
        ("lstm", 129, Target(torch.bfloat16), False),  # padded to 256
        ("lstm", 128, Target(torch.float16, shared=A100_SHARED), True),
        ("lstm", 128, Target(torch.float16, shared=99 * 1024), False),
        ("lstm", 64, Target(precision="tf32"), True),
        ("lstm", 128, Target(precision="tf32"), False),
        ("lstm", 32, Target(), True),
        ("lstm", 33, Target(), False),
        ("fgr", 32, Target(), False),
        ("rnn", 256, Target(torch.bfloat16, shared=A100_SHARED), True),
        # The same block is multiplied six times in a step.
        ("ltc", 64, Target(torch.bfloat16), True),
        ("ltc", 128, Target(torch.bfloat16), False),
        # 21 values of a row's unit are in registers at once.
        ("layer_norm_lstm", 128, Target(torch.bfloat16), False),
        ("layer_norm_lstm", 64, Target(torch.bfloat16), True),
    ],
)
def test_weights_are_kept_where_they_fit(definition, units, target, kept):
    layer = cw.Recurrent(definition, X, units, device="meta")
    forms = forms_of(layer, target)
    assert ("level" not in forms) == kept  # training and backward too


def test_torchs_switch_for_tf32_is_read():
    products = torch.backends.cuda.matmul
    before = products.allow_tf32
    try:
        for on, expected in ((True, "tf32"), (False, "ieee")):
            products.allow_tf32 = on
            assert rounding() == expected
    finally:
        products.allow_tf32 = before


# -- the text, and machine code


@pytest.mark.parametrize(("definition", "units"), GOLDEN)
def test_the_text_of_kernels(definition, units):
    """Golden files: CELLWRIGHT_WRITE_GOLDEN=1 writes them anew; read the difference."""
    path = HERE / f"triton_{definition}_{units}.txt"
    text = explain_triton(cw.cells.get(definition), 3, units) + "\n"
    if os.environ.get("CELLWRIGHT_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_text_in_16_bits():
    """128 units are kept in 16 bits, and not in 32."""
    kept = "which keeps the recurrent weights"
    said = CliRunner().invoke(app, ["explain", "lstm", "--triton", "--bf16"]).output
    assert "As for bfloat16 on an H100." in said
    assert said.count(kept) == 3
    assert kept not in explain_triton(cw.cells.lstm)
    refused = CliRunner().invoke(app, ["explain", "lstm", "--bf16"])
    assert refused.exit_code == 2


def test_what_has_no_kernels_is_said():
    said = CliRunner().invoke(app, ["explain", "bahdanau_gru", "--triton"]).output
    assert "does not run bahdanau_gru: it takes no sets of items" in said


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's assembler is for Linux")
def test_kernels_as_machine_code():
    """Few registers that spill, and shared memory as counted, on an A100 and an H100.

    Kernels that keep weights have a GPU's registers for themselves.
    """
    from triton_machine import CASES, MOST_REGISTERS, MOST_SPILLS

    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, HERE / "triton_machine.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name.split()[4] for name in found} == {"sm_80", "sm_90"}
    kept = {name for name in found if name.split()[5] == "resident"}
    assert len(kept) == 2 * 2 * (len(CASES) - 2)
    for kernel, (registers, spills, shared, most) in found.items():
        assert shared <= most, kernel
        if kernel in kept:
            assert spills <= MOST_SPILLS.get(kernel.split()[0], 0), kernel
        else:
            assert registers <= MOST_REGISTERS, kernel
            assert spills == 0, kernel


@pytest.mark.full
def test_the_benchmark_runs_dry(tmp_path):
    """`benchmarks/gpu.py`, which no GPU has run: every line but its clock's."""
    script, found = HERE.parent / "benchmarks" / "gpu.py", tmp_path / "gpu.json"
    command = [sys.executable, script, "--dry-run", "--json", found]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert {row["dtype"] for row in rows} == {"float32", "tf32", "bf16"}
    for row in rows:  # a number, where the values are the reference's
        assert row["triton"] > 0 < row["compiled loop"], row
        assert ("cuDNN / triton" in row) == (row["cell"] in ("lstm", "gru_reset_after"))


def test_the_interpreters_product_of_bf16_is_wrong():
    """So kernels that use `tl.dot` are given float32 there: nobody may trust this."""
    import numpy as np
    import triton.language as tl

    @triton.jit
    def product(a, b, c):
        i = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
        tl.store(c + i, tl.dot(tl.load(a + i), tl.load(b + i)))

    a, b = (torch.randn(16, 16, dtype=torch.bfloat16) for _ in range(2))
    c = torch.zeros(16, 16)
    product[(1,)](a, b, c)
    right = a.float().numpy() @ b.float().numpy()
    assert not np.allclose(c.numpy(), right, rtol=0.1, atol=0.1)


# -- CUDA graphs, without CUDA


def captured(size):
    """Graphs whose replay runs the function once more."""

    def capture(function, tensors):
        inputs = [t if t is None else t.clone() for t in tensors]
        results = function(inputs)

        def replay():
            for own, new in zip(results, function(inputs), strict=True):
                if own is not None:
                    own.copy_(new)

        return Captured(replay, inputs, results, size)

    return capture


def test_a_graph_reads_every_calls_tensors():
    """The second call is captured; results are no graph's memory."""
    calls = []

    def double(tensors):
        calls.append(1)
        return [2 * tensors[0], None]

    graphs = Graphs(10, captured(4))
    found = [graphs.run("key", double, [torch.full((2,), n), None]) for n in range(5)]
    assert [float(y[0]) for y, _ in found] == [0, 2, 4, 6, 8]
    assert len({y.data_ptr() for y, _ in found}) == 5
    assert [*graphs.kept] == ["key"]


@pytest.mark.parametrize(
    ("size", "kept", "captures"), [(4, ["c", "b"], 3), (11, [], 3)]
)
def test_graphs_are_bounded_by_bytes(size, kept, captures):
    """What has gone, or is too large, is not captured again and again."""
    made = []

    def capture(function, tensors):
        made.append(1)
        return captured(size)(function, tensors)

    graphs = Graphs(10, capture)
    for key in "abcab":
        for _ in range(3):
            (y,) = graphs.run(key, lambda t: [t[0] + 1], [torch.ones(1)])
            assert float(y) == 2
    assert ([*graphs.kept], len(made)) == (kept, captures)


def test_what_tells_graphs_apart(monkeypatch):
    """Shapes, streams and the program."""
    stream = SimpleNamespace(cuda_stream=1)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    x = torch.ones(2, 3)
    keys = {key_of([x, None], "a"), key_of([x, x], "a"), key_of([x, None], "b")}
    assert len(keys) == 3
    same = key_of([x], "a")
    assert key_of([x.clone()], "a") == same
    stream.cuda_stream = 2
    assert key_of([x], "a") != same
