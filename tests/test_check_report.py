"""What `check` says beside its verdict: a yardstick, lines, and what to write."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

import cellwright as cw
from cellwright import cell, tanh
from cellwright.cli import app
from cellwright.language.load import load_cells
from cellwright.language.suggest import WRITTEN, no_such_name, operations

SIZES = {"input_size": 3, "hidden_size": 4, "steps": 12}

FILE = """
import cellwright as cw
from cellwright import cell, tanh

@cell
def good(W, x, h):
    return tanh(W.h(h, x))

@cell
def bad(W, x, h):
    return tanh(h @ x)

@cw.tree_cell
def unknown(W, x, child):
    return cw.gelu(W.h(child.h, x))

@cell(inputs={"dt": 1})
def broken(W, x, h, dt):
    return tanh(1 / 0 * W.h(h, x))

def plain(W, x, h):
    return tanh(W.h(h, x))
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_cells.py"
    path.write_text(FILE)
    return path


# -- the yardstick


def test_the_factor_stands_beside_those_of_common_cells():
    found = cw.check(cw.cells.mgu, **SIZES)
    names = ["rnn", "gru", "lstm", "lstm, forget bias 1"]
    assert list(found.yardstick) == names
    for name in names[:3]:  # measured as a cell's own is
        assert cw.check(name, **SIZES).growth == found.yardstick[name]
    assert found.yardstick["lstm, forget bias 1"] > found.yardstick["lstm"]
    shown = str(found)
    assert f"    mgu                  × {found.growth:.4f}\n" in shown
    assert f"    gru                  × {found.yardstick['gru']:.4f}\n" in shown
    assert str(cw.check("lstm", **SIZES)).count("    lstm  ") == 1
    assert found.to_dict()["yardstick"] == found.yardstick


def test_the_forget_bias_of_the_yardstick_is_one():
    @cell
    def biased(W, x, h, c):
        f = cw.sigmoid(W.f(h, x, bias=1.0))
        i = cw.sigmoid(W.i(h, x))
        g = tanh(W.g(h, x))
        c = f * c + i * g
        return cw.sigmoid(W.o(h, x)) * tanh(c), c

    found = cw.check(biased, **SIZES)
    assert found.growth == pytest.approx(found.yardstick["lstm, forget bias 1"])


@pytest.mark.parametrize("name", ["child_sum_lstm", "bahdanau_gru"])
def test_trees_and_items_have_no_yardstick(name):
    found = cw.check(name, **SIZES)
    assert found.yardstick == {}
    assert "beside those of common cells" not in str(found)


def test_an_overflow_is_not_the_lack_of_a_gradient():
    @cell
    def overflows(W, x, h):
        return cw.exp(h * h + W.a(h, x) + 2)

    @cell
    def explodes(W, x, h):
        return 1e30 * h + W.a(x)

    for each, steps in ((overflows, 12), (explodes, 20)):
        found = cw.check(each, **SIZES | {"steps": steps})
        said = " ".join(found.remarks)
        assert "no gradient reaches" not in said
        first = next(k for k, n in enumerate(found.gradient_norms) if not n < math.inf)
        assert f"the gradient overflows {first} steps back" in said


# -- what nothing reads


def test_what_nothing_reads_is_named_by_its_line():
    @cell
    def idle(W, x, h):
        unused = cw.sigmoid(W.u(h, x))
        twice = 2 * h  # no weight in it
        twice = tanh(twice)
        kept = cw.name("kept", 3 * h)
        assert unused is not twice is not kept
        return tanh(W.h(h, x))

    found = cw.check(idle, **SIZES)
    start = idle.function.__code__.co_firstlineno
    assert found.unused == [f"{__file__}:{start + line}" for line in (2, 4)]
    assert any(
        r.endswith("nothing reads: unused = cw.sigmoid(W.u(h, x))")
        for r in found.remarks
    )
    assert "parameter 'u.weight' gets no gradient" in found.problems


def test_every_cell_of_the_zoo_reads_what_it_computes():
    zoo = cw.cells.all() | cw.cells.all_with_items() | cw.cells.all_of_trees()
    assert {n: c.unused_lines() for n, c in zoo.items() if c.unused_lines()} == {}
    assert cw.Cell.from_text(cw.cells.lstm.to_text()).unused_lines() == []


# -- files of cells


def test_a_faulty_cell_does_not_block_the_others(file):
    assert cw.load_cell(f"{file}:good").graph == cw.cells.rnn.graph
    with pytest.raises(cw.TraceError, match=r"my_cells\.py:11\] @ on a traced value"):
        cw.load_cell(f"{file}:bad")
    with pytest.raises(cw.CellError, match=r"my_cells\.py:15\] cellwright has no 'gel"):
        cw.load_cell(f"{file}:unknown")
    with pytest.raises(cw.CellError, match=r"py:19\] failed .*: ZeroDivisionError"):
        cw.load_cell(f"{file}:broken")
    assert list(load_cells(file)) == ["good", "bad", "unknown", "broken"]
    file.write_text(FILE + "\nlayer = bad.replace(h=tanh)\n")
    with pytest.raises(cw.TraceError, match="@ on a traced value"):
        cw.load_cell(f"{file}:good")
    with pytest.raises(cw.TraceError):  # outside of a file that is loaded
        cell(lambda W, x, h: h @ x)


def test_every_cell_of_a_file_is_checked(file):
    ended = call("check", file, "--steps", 5)
    assert ended.exit_code == 1
    assert ended.stdout.count("The cell is sound.") == 1
    for name in ("bad", "unknown", "broken"):
        assert f"error: {name}: [{file}:" in ended.stderr
    found = json.loads(call("check", file, "--steps", 5, "--json").stdout)
    assert [report["cell"] for report in found["cells"]] == ["good"]
    assert list(found["errors"]) == ["bad", "unknown", "broken"]
    file.write_text(FILE[: FILE.index("@cell\ndef bad")])
    ended = call("check", file, "--steps", 5, "--json")
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["cell"] == "good"


def test_a_function_without_its_decorator_gets_the_hint(file):
    with pytest.raises(cw.CellError, match="'plain' is a function: write @cell above"):
        cw.load_cell(f"{file}:plain")
    file.write_text(FILE[: FILE.index("@cell")] + FILE[FILE.index("def plain") :])
    with pytest.raises(cw.CellError, match=r"but functions of W: .*above plain"):
        cw.load_cell(str(file))

    def plain(W, x, h):
        return h

    with pytest.raises(cw.ArgumentError, match="Write @cell above plain, from"):
        cw.check(plain)
    with pytest.raises(cw.ArgumentError, match="received int 3, expected a cell"):
        cw.check(3)


# -- names that cellwright does not have


def test_an_operation_that_is_not_there_lists_those_that_are(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from cellwright import cell, gelu\n")
    with pytest.raises(cw.CellError, match=r"mine\.py:1\] cellwright has no 'gelu'"):
        cw.load_cell(f"{path}:mine")
    with pytest.raises(AttributeError, match=r"'sigmod'; .*Did you mean 'sigmoid'\?"):
        cw.sigmod  # noqa: B018
    assert "hard_tanh" in no_such_name("anything")
    assert not hasattr(cw, "gelu")
    with pytest.raises(ImportError, match="Write it in these: def gelu"):
        exec("from cellwright import gelu")


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_what_is_written_instead_is_the_function(name):
    known = {n: getattr(cw, n) for n in operations()} | {"low": -0.5, "high": 0.7}
    function = eval(f"lambda v: {WRITTEN[name]}", known)
    F = torch.nn.functional
    exact = {
        **dict.fromkeys(("clamp", "clip"), lambda v: v.clamp(-0.5, 0.7)),
        **dict.fromkeys(("log_sigmoid", "logsigmoid"), F.logsigmoid),
        **dict.fromkeys(("silu", "swish"), F.silu),
        "gelu": lambda v: F.gelu(v, approximate="tanh"),
        "square": torch.square,
    }
    v = torch.linspace(-3, 3, 41, dtype=torch.float64)
    expected = exact.get(name) or getattr(F, name)
    torch.testing.assert_close(function(v), expected(v), atol=1e-6, rtol=1e-6)
    made = cell(lambda W, x, h: function(W.a(h, x)))
    assert cw.Recurrent(made, 3, 4)(torch.randn(2, 1, 3))[0].shape == (2, 1, 4)
