"""Steps that are split into loops over levels: values and gradients stay the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cellwright as cw
from cellwright import cell, relu, sigmoid, tanh
from cellwright.compiler import lower
from cellwright.compiler.bindings import own_parameters
from cellwright.compiler.plan import Plan
from cellwright.compiler.schedule import schedule
from cellwright.compiler.verify import verify_groups
from cellwright.engine import native
from cellwright.language import CellError
from native_cases import assert_native, make_layer, make_leaves
from oracles import flat, normal, random_cotangents, randomise
from strategies import make_cell

pytestmark = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")

X, H = 5, 6
LONG = 530  # levels of one row: more than a chunk of them
WIDE, STEPS = 96, 1100  # so much work that threads share it, also of one row


@cell
def lstm_and_trace(W, x, h, c, m):
    """An LSTM, and a state that is linear, with products of its h and of x."""
    f, i = sigmoid(W.f(h, x)), sigmoid(W.i(h, x))
    c = f * c + i * tanh(W.g(h, x))
    h = sigmoid(W.o(h, x)) * tanh(c)
    a = sigmoid(W.a(h, x))
    m = a * m + (1 - a) * W.b(x)
    return h + W.r(m), h, c, m


@cell
def trace_and_rnn(W, x, h, m):
    """The other way round: a net that reads a linear state."""
    m = sigmoid(W.a(x)) * m + W.b(x)
    return tanh(W.h(h, m, x)), m


@cell
def widths(W, x, h, k: 3, past: input_size):  # noqa: F821  # type: ignore
    """Loops of several sizes, one after the other."""
    k = sigmoid(W.a(past, x, size=3)) * k + W.b(x, size=3)
    h = relu(W.u * h + W.c(k, x))
    return h, k, cw.identity(x)


@cell
def one_unit(W, x, h, n=1.0):
    """A number a row counts beside the units, and a sum over units in a loop."""
    n = 0.9 * n + cw.sum(W.p * h) * 0.05
    return h * sigmoid(W.a(x)) + n * W.b(x), n


MIXED = [lstm_and_trace, trace_and_rnn, widths]
NAMES = ["min_gru", "min_lstm", "sru", "qrnn", "rg_lru", "lru", "indrnn", "unicornn"]
CASES = [*(cw.cells.get(name) for name in NAMES), *MIXED]


def plan_of(found: cw.Cell) -> Plan:
    graph = found.graph.bind(**dict.fromkeys(found.graph.size_names, 4))
    return Plan(graph, own_parameters(graph))


def whens(program: Any) -> list[str]:
    return [stage.when for stage in program.stages]


def test_products_stand_outside_of_the_loop():
    plan = plan_of(cw.cells.min_gru)
    for program in (plan.inference, plan.training):
        assert whens(program) == ["chunk", "level"]
    backward = plan.backward(("x",))
    assert whens(backward) == ["level", "chunk", "after_chunk"]
    for program in (plan.inference, plan.training, backward):
        assert not any(s.terms for s in program.stages if s.when == "level")
    assert "before a chunk" in plan.training.disassemble()
    assert "once for a chunk" in backward.disassemble()


def test_what_is_linear_is_split_off_and_the_rest_stays():
    program = plan_of(lstm_and_trace).training
    loops = {s.loop for s in program.stages if s.when == "level"}
    assert len(loops) == 2  # the LSTM's with its products, m's without
    assert [bool(s.terms) for s in program.stages if s.when == "level"] == [True, False]
    assert whens(plan_of(cw.cells.lstm).training) == ["level"]


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "slstm", "star", "mut1"])
def test_a_step_whose_states_all_meet_a_matrix_is_not_split(name):
    plan = plan_of(cw.cells.get(name))
    assert not plan.is_split
    for program in (plan.inference, plan.training):
        assert set(whens(program)) == {"level"}
    assert "chunk" not in whens(plan.backward(("x",)))


def test_the_order_of_loops_is_checked():
    graph = lstm_and_trace.graph.bind(input_size=X, hidden_size=H)
    step = lower.forward_step(graph, lower.forward_memory(graph))
    groups = schedule(step, apart=True)
    verify_groups(step, groups, after="schedule")
    level = next(k for k, g in enumerate(groups) if g.when == "level")
    wrong = replace(groups[level], when="chunk")
    wrong = (*groups[:level], wrong, *groups[level + 1 :])
    with pytest.raises(CellError, match=r"after schedule\].*reads the level before"):
        verify_groups(step, wrong, after="schedule")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("found", [*MIXED, one_unit], ids=lambda c: c.name)
def test_values_and_every_gradient_are_the_references(found, reverse):
    layer = make_layer(found, X, H)
    assert_native(layer, make_leaves(layer, 9, 3), reverse)


def run_long(
    found: cw.Cell, size: tuple[int, int, int], threads: int, **options: Any
) -> list[Any]:
    """Everything of a call of (steps, rows, units), with lengths and resets."""
    steps, rows, units = size
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        options = {"engine": "native", "dtype": torch.float64, **options}
        layer = cw.Recurrent(found, units, units, bidirectional=True, **options)
        randomise(layer, scale=0.9 / units**0.5)
        graph = layer.graphs[0]
        x = normal(steps, rows, units, seed=1)
        states = [
            normal(2, rows, int(s.size), seed=20 + k)
            for k, s in enumerate(graph.states)
        ]
        random = torch.Generator().manual_seed(5)
        lengths = torch.randint(0, steps + 1, (rows,), generator=random)
        lengths[0] = steps
        resets = torch.rand(steps, rows, generator=random) < 0.02
        state = states[0] if len(states) == 1 else tuple(states)
        results = flat(layer(x, state, lengths=lengths, resets=resets))
        leaves = [x, *states, *layer.parameters()]
        return [
            *(r.detach() for r in results),
            *torch.autograd.grad(results, leaves, random_cotangents(results)),
        ]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("found", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("rows", [1, 3])
def test_bits_do_not_depend_on_threads_over_many_chunks(found, rows):
    size = STEPS, rows, WIDE
    one = run_long(found, size, 1)
    for other in (run_long(found, size, 2), run_long(found, size, 3)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    kept = run_long(found, size, 2, memory="recompute")
    assert all(torch.equal(a, b) for a, b in zip(one, kept, strict=True))


@pytest.mark.parametrize("found", [cw.cells.sru, widths], ids=lambda c: c.name)
def test_many_chunks_are_the_reference(found):
    size = LONG, 2, H
    expected = run_long(found, size, 1, engine="reference")
    for value, exact in zip(run_long(found, size, 2), expected, strict=True):
        torch.testing.assert_close(
            value, exact, rtol=0, atol=1e-10 * max(1.0, float(exact.abs().max()))
        )


@pytest.mark.parametrize("found", CASES, ids=lambda c: c.name)
def test_a_stepper_gives_the_same_bits(found):
    layer = cw.Recurrent(found, X, H, engine="native")
    randomise(layer)
    x = torch.randn(7, 2, X)
    step = layer.stepper(batch_size=2)
    with torch.no_grad():
        y, _ = layer(x)
        for row, expected in zip(x, y, strict=True):
            assert torch.equal(step(row), expected)


# -- random cells -------------------------------------------------------------------

_UPDATES = (  # of a state {s} by a gate {g} and a value {u}
    "{g} * {s} + {u}",
    "{s} + {g} * ({u} - {s})",
    "where({u} > 0, {s}, -{s}) / (1 + exp({g}))",
    "tanh(W.d{k} * {s} + {u})",
    "maximum({g} * {s}, {u})",
    "tanh(W.m{k}({s}, x) + {g})",
    "softmax({s}) * {g} + {u}",
    "W.n{k}({r}, x) + 0.5 * {s}",
)


@st.composite
def split_sources(draw: Any) -> str:
    """A cell of some states, each after the ones before it, old or new; and maybe one
    that reads a later one."""
    states = ["h", "c", "m"][: draw(st.integers(1, 3))]
    seen, lines = ["x"], []
    for k, s in enumerate(states):
        late = [*states[k + 1 :], *seen] if draw(st.integers(0, 3)) == 0 else seen
        one, other, r = (draw(st.sampled_from(late)) for _ in range(3))
        update = draw(st.sampled_from(_UPDATES))
        lines += [
            f"    g{k} = sigmoid(W.g{k}({one}, x))",
            f"    u{k} = W.u{k}({other}, bias=False)",
            f"    s{k} = " + update.format(g=f"g{k}", u=f"u{k}", s=s, k=k, r=r),
        ]
        seen = [*seen, s, f"s{k}"]
    results = [f"s{k}" for k in range(len(states))]
    if draw(st.booleans()):
        results.insert(0, f"W.y({', '.join(results)}) * g0")
    body = "\n".join(lines)
    arguments = ", ".join(states)
    return (
        f"def random_cell(W, x, {arguments}):\n{body}\n    return {', '.join(results)}"
    )


@settings(max_examples=40, deadline=None)
@given(split_sources())
def test_random_cells_are_the_references(source):
    layer = make_layer(make_cell(source), X, H)
    assert_native(layer, make_leaves(layer, 6, 2))
