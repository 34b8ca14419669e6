"""The core's door: schedules, programs and buffers are checked before they are used."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import cellwright as cw
from cellwright.compiler.bindings import own_parameters
from cellwright.compiler.chunkwise import STEPS
from cellwright.compiler.plan import Plan
from cellwright.compiler.program import EVERY, Piece, View
from cellwright.engine import native, schedule
from cellwright.language import OPS, ArgumentError
from test_matrices import OF_MATRICES

core = pytest.importorskip("cellwright._core")


def make_plan(name="lstm", X=3, H=4, **options):
    graph = cw.cells.get(name).graph.bind(input_size=X, hidden_size=H)
    return Plan(graph, own_parameters(graph), **options)


def test_every_primitive_operation_has_its_opcode():
    pointwise = set(core.Opcode.__members__) - {
        "load",
        "total",
        "store",
        "accumulate",
        "weighted_total",
        "dot_items",
        "outer_items",
        "attention_gradient",
        "attention",
        "load_scaled",
        "add_outer",
        "dot_columns",
        "dot_rows",
        "sum_block",
        "dot_block",
        "store_panel",
        "vector",
        "constant",
    }
    known = {n for n, op in OPS.items() if op.primitive or op.kernel}
    views = {"to_matrix", "to_vector"}  # of one memory
    assert pointwise == known - views - set(OF_MATRICES)  # these read vectors


def test_instruction_sets_by_name():
    assert core.isas()[0] == "baseline"
    assert core.isa() in core.isas()
    with pytest.raises(ValueError, match=r"this machine and build have: .*'mmx'"):
        core.isa("mmx")


def test_the_environment_chooses(monkeypatch):
    monkeypatch.setenv("CELLWRIGHT_ISA", "baseline")
    monkeypatch.setenv("CELLWRIGHT_THREADS", "3")
    assert core.isa() == "baseline"
    assert core.threads(1) == 3


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CELLWRIGHT_ISA", "bogus", "this machine and build have: baseline.*'bogus'"),
        ("CELLWRIGHT_THREADS", "0", "received '0', expected a whole number from 1 to"),
        ("CELLWRIGHT_THREADS", "-2", "four times this machine's processors"),
        ("CELLWRIGHT_THREADS", "3x", "received '3x'"),
        ("CELLWRIGHT_THREADS", "2.5", "received '2.5'"),
        ("CELLWRIGHT_THREADS", "1000000", "received '1000000'"),
        ("CELLWRIGHT_THREADS", "9" * 30, "received '999"),
    ],
)
def test_a_senseless_environment_is_an_error_of_ours(
    monkeypatch, variable, value, message
):
    x = torch.ones(2, 1, 2)
    recurrent = cw.Recurrent("gru", 2, 3, engine="native")
    monkeypatch.setenv(variable, value)
    for run in (native.check_environment, lambda: recurrent(x)):
        with pytest.raises(ArgumentError, match=rf"\[{variable}\] .*{message}"):
            run()
    monkeypatch.setenv(variable, "")  # as good as none
    native.check_environment()
    recurrent(x)


# -- programs ----------------------------------------------------------------------


def test_a_program_reads_like_the_equations():
    text = make_plan().training.disassemble()
    assert "stage 0: 4 units" in text
    assert "+= [o.weight, f.weight, i.weight, g.weight] · h[previous]" in text
    assert "= sigmoid r" in text
    assert "store c" in text
    backward = make_plan().backward(("x",)).disassemble()
    assert "last level to first" in backward
    assert "d[f.bias] += Σ panel.0[0]" in backward


def test_explain_shows_equations_stages_and_cost():
    from typer.testing import CliRunner

    from cellwright.cli import app

    result = CliRunner().invoke(app, ["explain", "lstm", "--hidden", "8"])
    assert result.exit_code == 0
    for text in (
        "f = sigmoid(W.f(h, x))",
        "kept a row and step for training, in float32: 192",
        "lstm training: first level",
        "lstm backward: last level",
        "FLOPs a row",
    ):
        assert text in result.output


def test_what_training_saves():
    """Four gates beside the two states: tanh(c) follows from c."""
    plan = make_plan()
    names = {n for n, i in plan.graph.names if i in plan.saved}
    assert names == {"f", "i", "g", "o"}


def test_a_second_stage_only_where_this_steps_values_meet_a_matrix():
    assert len(make_plan("lstm").inference.stages) == 1
    assert len(make_plan("gru").inference.stages) == 2
    assert len(make_plan("gru_reset_after").inference.stages) == 1
    assert len(make_plan("peephole").inference.stages) == 2


def broken(program, **stage):
    first = replace(program.stages[0], **stage)
    return replace(program, stages=(first, *program.stages[1:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"units": 0}, "units must be positive"),
        (lambda s: {"units": 5}, r"width|reaches past|does not fit"),
        (lambda s: {"tiles": 2}, "register|tile"),
        (lambda s: {"views": (View(99), *s.views[1:])}, "array 99 is not among"),
        (lambda s: {"views": s.views[:1]}, "view 1 is not among"),
        (
            lambda s: {"vectors": (Piece(0, 10**6, 1), *s.vectors[1:])},
            "reaches past parameter 0",
        ),
        (
            lambda s: {"code": (replace(s.code[0], args=(77,)), *s.code[1:])},
            "register 77 is not among",
        ),
        (
            lambda s: {"code": (replace(s.code[0], op="softmax"), *s.code[1:])},
            "spans all units",
        ),
        (lambda s: {"when": "after_chunk"}, "only a backward scan has work after"),
    ],
)
def test_a_program_that_is_none_is_refused(change, message):
    program = make_plan().training
    with pytest.raises(ValueError, match=message):
        broken(program, **change(program.stages[0])).compile()


def test_a_name_that_the_core_does_not_have_is_refused():
    with pytest.raises(KeyError, match="never"):
        broken(make_plan().training, when="never").compile()


VIEW = {"array": 0, "previous": False, "slot": 0, "form": core.Form.whole}


@pytest.mark.parametrize(
    "fields",
    [{"array": 0, "previous": False}, {**VIEW, "row": 1}, {**VIEW, "slot": "first"}],
    ids=["missing", "unknown", "type"],
)
def test_a_struct_takes_all_of_its_fields_and_no_other(fields):
    core.View(**VIEW)
    with pytest.raises(
        TypeError, match="array: int, previous: bool, slot: int, form: "
    ):
        core.View(**fields)


def test_a_struct_takes_its_fields_by_name_alone():
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core.View(0, False, 0)


def test_the_slot_of_every_child_is_the_cores():
    assert core.EVERY_CHILD == EVERY


def test_so_many_steps_go_together_in_the_core():
    assert core.RECURRENCE_STEPS == STEPS


def mask_plan():
    """h = tanh(W.h(h, x)) * m, where m is the same at every step."""

    @cw.cell(inputs={"m": 4})
    def masked(W, x, h, m):
        return cw.tanh(W.g(h, x)) * m

    graph = masked.graph.bind(input_size=3, hidden_size=4)
    return Plan(graph, own_parameters(graph), constant=("m",))


def test_an_array_by_batch_row_is_only_read():
    program = mask_plan().inference
    (stage,) = program.stages
    assert program.arrays[1].rows == "batch"
    views = [View(1) if v == View(2) else v for v in stage.views]  # m for the new h
    with pytest.raises(ValueError, match="'m' is only read"):
        broken(program, views=tuple(views)).compile()


# -- calls -------------------------------------------------------------------------


def make_call(T=3, B=2, X=3, H=4):
    plan = make_plan("rnn", X, H)
    program = plan.inference
    arrays = [np.zeros((T * B, X)), np.zeros((T * B, H)), np.zeros((B, H))]
    parameters = [np.zeros(n) for _, n in program.parameters]
    return program.compile(), arrays, parameters


def run(program, arrays, parameters, order=None, element=8, threads=1, isa=""):
    order = order or schedule.dense(3, 2).core
    core.run(program, order, element, arrays, parameters, (), threads, isa)


def test_numpy_arrays_are_buffers_too():
    program, arrays, parameters = make_call()
    parameters[1][:] = 0.5  # the bias
    run(program, arrays, parameters)
    np.testing.assert_allclose(arrays[1], np.tanh(0.5))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, p: a.pop(), "expected 3 arrays; received 2"),
        (lambda a, p: p.pop(), "expected 2 parameters; received 1"),
        (lambda a, p: a.__setitem__(0, np.zeros((6, 4))), r"\[x\] expected 3 columns"),
        (lambda a, p: a.__setitem__(1, np.zeros((5, 4))), r"\[h\] expected 6 rows"),
        (lambda a, p: a.__setitem__(2, np.zeros((1, 4))), "h.initial. expected 2 rows"),
        (lambda a, p: a.__setitem__(1, np.zeros((6, 4), "f4")), "64-bit floats"),
        (lambda a, p: p.__setitem__(0, np.zeros(27)), "expected 28 elements"),
        (lambda a, p: a.__setitem__(2, a[1][1:3]), r"\[h\] is written and overlaps"),
        (lambda a, p: a.__setitem__(0, (0, 6, 3, 3)), r"\[x\] no memory"),
        (lambda a, p: a.__setitem__(0, (a[0].ctypes.data, 6, 3, 2)), "rows overlap"),
        (lambda a, p: a.__setitem__(0, (a[0].ctypes.data + 3, 6, 3, 3)), "not aligned"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(spoil, message):
    program, arrays, parameters = make_call()
    spoil(arrays, parameters)
    with pytest.raises(ValueError, match=message):
        run(program, arrays, parameters)


def rolling_call(T=3, B=2, X=3, H=4):
    """An LSTM's inference: of c the last two levels are kept."""
    plan = make_plan("lstm", X, H)
    program = plan.inference
    rows = T * B, T * B, B, 2 * B, B  # of x, h, where it starts, c, where it starts
    draw = np.random.default_rng(1).normal
    arrays = [
        draw(size=(n, a.columns)) for n, a in zip(rows, program.arrays, strict=False)
    ]
    assert [a.rows for a in program.arrays[:5]] == [
        "sequence",
        "sequence",
        "initial",
        "rolling",
        "initial",
    ]
    parameters = [np.full(n, 0.3) for _, n in program.parameters]
    return program.compile(), arrays, parameters


def address(a):
    return a.ctypes.data, a.size


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_arrays_left_to_the_core_and_final_rows(steps):
    """Without memory a state starts from zeros, and rolls in the core's own."""
    program, arrays, parameters = rolling_call(T=steps)
    for zeros in arrays[2], arrays[4]:
        zeros[:] = 0
    walk = schedule.dense(steps, 2)
    run(program, arrays, parameters, walk.core)
    y = arrays[1].copy()
    last = arrays[3][2 * walk.last_rolling :][:2]
    arrays[1][:] = 7
    final = np.full((2, 4), 7.0)
    given = [address(arrays[0]), address(arrays[1]), None, None, None]
    finals = [(3, 2 * walk.last_rolling, *address(final))]
    core.run(program, walk.core, 8, given, parameters, (), 1, "", finals)
    assert np.array_equal(arrays[1], y)
    assert np.array_equal(final, last)


@pytest.mark.parametrize(
    ("final", "message"),
    [
        (lambda a, out: (5, 0, *address(out)), "array is not among them"),
        (lambda a, out: (99, 0, *address(out)), "array is not among them"),
        (lambda a, out: (1, 5, *address(out)), "not so many final rows"),
        (lambda a, out: (3, 3, *address(out)), "not so many final rows"),
        (lambda a, out: (1, -1, *address(out)), "not so many final rows"),
        (lambda a, out: (2, 0, *address(out)), "not so many final rows"),
        (lambda a, out: (1, 0, *address(a[1][:2])), r"\[h\] is written and overlaps"),
        (lambda a, out: (1, 0, a[0].ctypes.data, 8), "overlaps"),
        (lambda a, out: (1, 0, 0, out.size), "no memory"),
        (lambda a, out: (1, 0, out.ctypes.data, 7), "whole rows"),
        (lambda a, out: (1, 0, out.ctypes.data, -8), "whole rows"),
    ],
)
def test_final_rows_that_do_not_fit_are_refused(final, message):
    program, arrays, parameters = rolling_call()
    out = np.full((2, 4), 7.0)
    given = [address(arrays[0]), address(arrays[1]), None, None, None]
    order = schedule.dense(3, 2).core
    with pytest.raises(ValueError, match=message):
        core.run(program, order, 8, given, parameters, (), 1, "", [final(arrays, out)])
    assert (out == 7).all()


def test_only_what_the_core_can_make_may_be_left_to_it():
    for missing in 0, 1:
        program, arrays, parameters = rolling_call()
        arrays[missing] = None
        with pytest.raises(ValueError, match=r"columns; received 0"):
            run(program, arrays, parameters)


def test_an_empty_array_is_not_one_that_is_left_out():
    program, arrays, parameters = rolling_call()
    arrays[2] = (0, 0)
    with pytest.raises(ValueError, match=r"expected 2 rows; received 0"):
        run(program, arrays, parameters)


def test_an_array_by_batch_row_has_a_row_for_each():
    program = mask_plan().inference
    arrays = [np.zeros((6, 3)), np.zeros((1, 4)), np.zeros((6, 4)), np.zeros((2, 4))]
    parameters = [np.zeros(n) for _, n in program.parameters]
    with pytest.raises(ValueError, match=r"\[m\] expected 2 rows; received 1"):
        core.run(
            program.compile(),
            schedule.dense(3, 2).core,
            8,
            arrays,
            parameters,
            (),
            1,
            "",
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offsets": [0, 3]}, "levels must follow one another"),
        ({"initial_rows": 1}, "too few initial rows"),
    ],
)
def test_a_schedule_that_is_none_is_refused(arguments, message):
    program, arrays, parameters = make_call(T=2)
    order = {"offsets": [0, 2], "counts": [2, 2], "initial_rows": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        run(program, arrays, parameters, core.Schedule(**order))
