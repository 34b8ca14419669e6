"""Equations as LaTeX and MathML, and `cellwright draw`."""

import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest
from matplotlib.mathtext import MathTextParser
from typer.testing import CliRunner

import cellwright as cw
from cellwright.cli import app
from cellwright.language.latex import EquationWriter
from cellwright.language.notation import notated
from cellwright.look.formula import mathml, tex_document

CELLS = [
    *cw.cells.all(),
    *cw.cells.all_with_matrices(),
    *cw.cells.all_with_items(),
    *cw.cells.all_of_trees(),
]
MATHML = "{http://www.w3.org/1998/Math/MathML}"
matplotlib.use("Agg")


@pytest.mark.parametrize("name", CELLS)
def test_latex_is_balanced_and_typesets(name):
    text = cw.cells.get(name).latex()
    assert text.count(r"\left") == text.count(r"\right")
    assert text.count("{") == text.count("}")
    parser = MathTextParser("agg")
    for line in text.splitlines()[1:-1]:
        equation = line.removesuffix(r" \\").replace("&", "")
        equation = equation.replace(r"\textstyle", "")  # which mathtext lacks
        assert parser.parse(f"${equation}$").width > 0


@pytest.mark.parametrize("name", CELLS)
def test_mathml_says_what_latex_says(name):
    cell = cw.cells.get(name)
    rows = ET.fromstring(mathml(cell)).findall(f".//{MATHML}mtr")
    lines = cell.latex().splitlines()[1:-1]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert signs("".join(row.itertext())) == signs(plain(line))


def signs(text: str) -> list[str]:
    """What both forms write alike: letters and digits, in order."""
    return sorted(re.findall("[a-zA-Z0-9]", text))


def plain(latex: str) -> str:
    latex = re.sub(r"\\(operatorname|mathrm){([^}]*)}", r"\2", latex)
    latex = re.sub(r"\\(ln|log|tanh|exp|max|min|cos|sin)", r"\1", latex)
    return re.sub(r"\\[a-z]+", "", latex)


def test_mathml_in_the_notation_of_the_lectures():
    text = "".join(ET.fromstring(mathml(cw.cells.gru_bias)).itertext())
    lines = [line.replace("\u2061", "") for line in text.split()]
    assert lines[0] == "zt=σ(Wz·[ht−1,xt]+bz)"
    assert lines[-1] == "ht=(1−zt)∗ht−1+zt∗nt"


def test_hyperparameters_bear_their_names():
    assert cw.cells.leaky_rnn.latex().splitlines()[2] == (
        r"h_t &= (1 - \alpha)\, h_{t-1} + \alpha\, n_t"
    )
    words = "".join(ET.fromstring(mathml(cw.cells.leaky_rnn)).itertext())
    assert "ht=(1−α)ht−1+αnt" in words.replace("\u2061", "")
    assert r"= \mathrm{dt}\, s_t" in cw.cells.lem.latex()  # although dt is 1.0
    stored = cw.Cell.from_text(cw.cells.leaky_rnn.to_text())
    assert r"h_t &= 0.9\, h_{t-1} + 0.1\, n_t" in stored.latex()


def test_what_has_no_name_takes_no_other_letter():
    assert "u_j &=" in cw.cells.child_sum_lstm.latex()

    @cw.tree_cell
    def mean(W, x, child):
        seen = cw.total(child.h)
        u = cw.tanh(W.u(seen, x))
        return u * seen

    assert r"v_{1, j} &= \sum_{k \in C(j)} h_k" in mean.latex()


@pytest.mark.parametrize("name", CELLS)
def test_a_new_state_is_told_from_the_old(name):
    """Every symbol is given once, and no old state is ever given."""
    cell = cw.cells.get(name)
    given = [line.split(" &= ")[0] for line in cell.latex().splitlines()[1:-1]]
    assert len(set(given)) == len(given)
    graph, known = notated(cell)
    for state in graph.states:
        time = "j" if graph.children else "t"
        now = EquationWriter(graph, known).at(state.name, time)
        assert now in given
        assert not [g for g in given if g.endswith(("t-1}", "left}", "_k"))]


def test_mathml_of_every_operation():
    @cw.cell
    def odd(W, x, h):
        a = cw.where(W.a(x) > 0.5, cw.sqrt(cw.abs(h)), -h) / (1 + cw.exp(h))
        return cw.maximum(a, 1e-5 * cw.softplus(W.b(h, x))) - (2 - cw.sum(h))

    text = mathml(odd)
    root = ET.fromstring(text)
    tags = {item.tag.removeprefix(MATHML) for item in root.iter()}
    assert {"mfrac", "msqrt", "msup", "mtext"} <= tags
    words = "".join(root.itertext()).replace("\u2061", "")
    assert "max(" in words
    assert "otherwise" in words
    assert "−(2−∑ht−1)" in words


def test_tex_document_stands_alone():
    text = tex_document(cw.cells.lstm)
    for word in (r"\documentclass", r"\usepackage{amsmath", r"\end{document}"):
        assert word in text
    assert cw.cells.lstm.latex() in text


@pytest.mark.parametrize(
    ("ending", "start"),
    [("svg", "<svg"), ("tex", r"\documentclass"), ("mathml", "<math")],
)
def test_draw_command(tmp_path, ending, start):
    path = tmp_path / f"cell.{ending}"
    result = CliRunner().invoke(app, ["draw", "gru", "-o", str(path)])
    assert result.exit_code == 0, result.output
    assert path.read_text(encoding="utf-8").startswith(start)
    assert str(path) in result.output.replace("\n", "")


def test_draw_command_refuses_other_endings(tmp_path):
    result = CliRunner().invoke(app, ["draw", "gru", "-o", str(tmp_path / "gru.gif")])
    assert result.exit_code == 1
    assert "[draw] a cell is drawn as a picture or as equations" in result.stderr
    assert "received 'gru.gif', expected a name that ends in .svg" in result.stderr
