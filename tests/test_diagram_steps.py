"""A cell step by step, and over time: what the pictures show and say."""

import pickle
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from typer.testing import CliRunner

import cellwright as cw
from cellwright.cli import app
from strategies import make_cell, sources

LARGE = ("mlstm", "rwkv6")  # seconds each
CELLS = [
    *cw.cells.all(),
    *(
        pytest.param(name, marks=pytest.mark.full) if name in LARGE else name
        for name in cw.cells.all_with_matrices()
    ),
    *cw.cells.all_with_items(),
    *cw.cells.all_of_trees(),
]
SVG = "{http://www.w3.org/2000/svg}"


def captions(name: str) -> dict[str, str]:
    """Of each equation, by what it gives."""
    steps = cw.cells.get(name).diagram().steps()
    return {step.equation.split(" = ")[0]: step.caption for step in steps}


@pytest.mark.parametrize("name", CELLS)
def test_every_part_is_lit_once(name):
    diagram = cw.cells.get(name).diagram()
    parts = [
        n for n, e in enumerate(diagram.layout.elements) if e.kind in ("layer", "op")
    ]
    lit = sorted(n for step in diagram.steps() for n in step.lit if n in parts)
    assert lit == parts
    steps = diagram.steps()
    assert len({size_of(step.svg) for step in steps}) == 1  # as slides of one series
    equations = [line for step in steps for line in step.equation.splitlines()]
    assert len(equations) == len(cw.cells.get(name).latex().splitlines()) - 2
    for step in steps:
        assert ET.fromstring(step.svg).tag == f"{SVG}svg"
        assert step.caption.endswith(".")
        assert "  " not in step.caption


def size_of(svg: str) -> tuple[str, str]:
    root = ET.fromstring(svg)
    return root.get("width", ""), root.get("height", "")


def test_steps_of_the_lstm_are_those_of_the_lectures():
    said = captions("lstm")
    assert list(said) == ["f_t", "i_t", "C̃_t", "C_t", "o_t", "h_t"]
    assert "decides what is deleted from C_t−1" in said["f_t"]
    assert "decides which units are updated: how much of C̃_t is stored" in said["i_t"]
    assert "new information that could be stored" in said["C̃_t"]
    assert "delete, times f_t; then add i_t * C̃_t" in said["C_t"]
    assert "decides what is output" in said["o_t"]
    assert "tanh(C_t), as far as o_t lets it through" in said["h_t"]


def test_captions_follow_the_structure_not_the_names():
    @cw.cell
    def renamed(W, x, a, b):
        q = cw.sigmoid(W.q(a, x))
        u = cw.tanh(W.u(a, x))
        b = q * b + (1 - q) * u
        return cw.sigmoid(W.k(a, x)) * b, b

    steps = [step.caption for step in renamed.diagram().steps()]
    assert "how much of b_t−1 is kept and, as 1 − q_t, how much of u_t" in steps[0]
    assert "decides what is output" in steps[3]


def test_captions_of_the_other_cells():
    assert "One gate updates and deletes" in captions("gru")["z_t"]
    assert "how much of h_t−1 the candidate may see" in captions("gru")["r_t"]
    assert "Memory and output are one" in captions("gru")["h_t"]
    assert "only where old is deleted" in captions("coupled")["f_t"]
    assert "Through a peephole it sees C_t−1" in captions("peephole")["f_t"]
    assert "each unit sees its own c_t," in captions("peephole_diagonal")["o_t"]
    assert "the whole state is written anew" in captions("rnn")["h_t"]
    assert "no unit sees another's past" in captions("indrnn")["h_t"]
    assert "Memory and output are one" not in captions("lem")["y_t"]


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(sources())
def test_random_cells_have_steps(source):
    for step in make_cell(source).diagram().steps():
        ET.fromstring(step.svg)


def test_a_series_is_shown_and_saved(tmp_path):
    steps = cw.cells.gru.diagram(theme="dark").steps()
    assert steps._repr_html_().count("<svg") == len(steps) == 4
    assert repr(steps).startswith("<gru step by step: z_t = σ(W_z · [h_t−1, x_t]), r_t")
    assert pickle.loads(pickle.dumps(steps)).title == steps.title
    steps.save(tmp_path / "gru.html")
    page = (tmp_path / "gru.html").read_text(encoding="utf-8")
    assert page.count("<section") == 4
    assert ":root { color-scheme: dark; background: #12181f; color: #f2f5f8 }" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    with pytest.raises(cw.CellwrightError, match=r"received 'a.svg', expected .*html"):
        steps.save("a.svg")


def texts(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")]


def test_chain_numbers_the_times():
    found = texts(cw.cells.lstm.diagram().unrolled(3).svg)
    assert {"x1", "x2", "x3", "h1", "h2", "h3", "f2"} <= set(found)
    assert found.count("C0") == found.count("C3") == 1
    assert not {"C1", "C2"} & set(found)  # they go through
    assert not any(re.search("[a-z]t", text) for text in found if text != "tanh")


@pytest.mark.parametrize(("name", "nodes"), [("recursive", 7), ("child_sum_lstm", 7)])
def test_tree_has_every_node(name, nodes):
    found = texts(cw.cells.get(name).diagram().unrolled(3).svg)
    assert sorted(t for t in found if t.startswith("x")) == [
        f"x{n}" for n in range(1, nodes + 1)
    ]
    assert found.count(name.replace("_", " ")) == nodes
    states = [s.name for s in cw.cells.get(name).states]
    for node in range(1, nodes):  # what goes up from each node to its parent
        assert ", ".join(f"{state}{node}" for state in states) in found
    assert f"h{nodes}" in found


def test_draw_command_writes_the_steps(tmp_path):
    path = str(tmp_path / "gru.svg")
    result = CliRunner().invoke(app, ["draw", "gru", "--steps", "-o", path])
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"gru-{n}.svg" for n in range(1, 5)
    ]
    page = tmp_path / "gru.html"
    result = CliRunner().invoke(app, ["draw", "gru", "-o", str(page)])
    assert result.exit_code == 0, result.output
    assert page.read_text(encoding="utf-8").count("<section") == 4
    refused = CliRunner().invoke(app, ["draw", "gru", "--unroll", "2", "-o", str(page)])
    assert refused.exit_code == 1
    assert "a page shows a cell's steps" in " ".join(refused.stderr.split())
    result = CliRunner().invoke(app, ["draw", "gru", "--unroll", "2", "-o", path])
    assert result.exit_code == 0, result.output
    assert "over 2 steps" in (tmp_path / "gru.svg").read_text(encoding="utf-8")
