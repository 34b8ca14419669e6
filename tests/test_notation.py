"""Other names for values in formulas and pictures."""

import copy
import pickle
import re
import xml.etree.ElementTree as ET

import pytest
from typer.testing import CliRunner

import cellwright as cw
from cellwright.cells import in_notation
from cellwright.cli import app
from cellwright.look.draw import read_names
from cellwright.look.formula import mathml
from diagram_geometry import SVG, read, text_of

OWN = {"c": "S", "h": "Gamma", "g": "u_hat", "x": "y_bar", "W.g": "k", "f": "log_f"}


def labels(svg: str) -> set[str]:
    return {label.text for label in read(svg).labels}


def test_the_lectures_cells_have_their_notation():
    assert cw.cells.lstm.latex().splitlines()[3:5] == [
        r"\tilde{C}_t &= \tanh(W_{C} \cdot [h_{t-1}, x_t] + b_{C}) \\",
        r"C_t &= f_t * C_{t-1} + i_t * \tilde{C}_t \\",
    ]
    assert r"o_t &= \sigma(W_{o} \cdot [C_t, h_{t-1}" in cw.cells.peephole.latex()
    assert r"+ (1 - f_t) * \tilde{C}_t" in cw.cells.coupled.latex()
    assert cw.cells.gru.latex().splitlines()[3:5] == [
        r"\tilde{h}_t &= \tanh(W \cdot [r_t * h_{t-1}, x_t]) \\",
        r"h_t &= (1 - z_t) * h_{t-1} + z_t * \tilde{h}_t",
    ]
    assert {"Ct−1", "Ct", "C̃t"} <= labels(cw.cells.lstm.diagram().svg)
    assert cw.cells.lstm.equations[2] == "g = tanh(W.g(h, x))"  # the code as it is


def test_names_in_every_form():
    lines = cw.cells.lstm.latex(names=OWN).splitlines()
    assert lines[1].startswith(r"\log f_t &= \sigma(W_{f} \cdot [\Gamma_{t-1}, \bar{y}")
    assert lines[3].startswith(r"\hat{u}_t &= \tanh(W_{k}")
    assert lines[3].endswith(r"+ b_{k}) \\")
    assert r"S_t &= \log f_t * S_{t-1}" in lines[4]
    found = "".join(ET.fromstring(mathml(cw.cells.lstm, OWN)).itertext())
    assert "uˆt=tanh(Wk·[Γt−1,y¯t]+bk)" in found.replace("\u2061", "")
    diagram = cw.cells.lstm.diagram(names=OWN)
    assert {"St", "Γt", "ût", "ȳt", "log ft"} <= labels(diagram.svg)
    step = diagram.steps()[2]
    assert step.equation == "û_t = tanh(W_k · [Γ_t−1, ȳ_t] + b_k)"
    drawn = [text_of(t) for t in ET.fromstring(step.svg).iter(f"{SVG}text")]
    assert "ût = tanh(Wk · [Γt−1, ȳt] + bk)" in drawn


def test_primes_and_logarithms():
    assert r"f'_t &= \exp(u_{1, t} - m_t)" in cw.cells.slstm.latex()
    assert r"\log f_t &= -\operatorname{softplus}(-\tilde{f}_t)" in (
        cw.cells.slstm.latex()
    )
    assert {"i′t", "f′t", "ĩt", "f̃t", "log ft"} <= labels(cw.cells.slstm.diagram().svg)
    assert "<msubsup><mi>f</mi><mrow><mi>t</mi></mrow><mo>′</mo></msubsup>" in (
        mathml(cw.cells.slstm)
    )


def test_trees_hyperparameters_and_items():
    tree = cw.cells.child_sum_lstm.latex(names={"c": "C"})
    assert r"\tilde{h}_j &= \sum_{k \in C(j)} h_k" in tree
    assert r"C_j &= \sum_{k \in C(j)} f_{jk} * C_k" in tree
    leaky = cw.cells.leaky_rnn
    assert r"(1 - \lambda)\, h_{t-1}" in leaky.latex(names={"alpha": "lambda"})
    attentive = cw.cells.bahdanau_gru.diagram(names={"source": "m"})
    assert "ms" in labels(attentive.svg)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"q": "r"}, r"has no value 'q'\. "),
        ({"W.c": "r"}, r"has no value 'W.c'\. Did you mean 'W.o'"),
        ({"c": "2"}, r"c cannot be written as '2'; expected letters"),
        ({"c": ""}, r"c cannot be written as ''"),
        ({"c": "<b>"}, r"c cannot be written as '<b>'"),
        ({"i": "f"}, r"cannot have one name; received f=f, i=f, expected"),
        ({"W.i": "f"}, r"received W.f=f, W.i=f"),
    ],
)
def test_names_that_do_not_fit(names, said):
    for use in (cw.cells.lstm.latex, cw.cells.lstm.diagram):
        with pytest.raises(cw.CellError, match=said):
            use(names=names)


def test_a_cell_of_ones_own_keeps_its_notation():
    @cw.cell(notation={"u": "U_tilde", "b": "beta", "W.u": ""})
    def mine(W, x, h, *, b=0.5):
        u = cw.tanh(W.u(h, x))
        return h + b * u

    line = r"\tilde{U}_t &= \tanh(W \cdot [h_{t-1}, x_t] + b) \\"
    layer = cw.Recurrent(mine, 3, 4, b=0.25)
    for cell in (mine, layer.cell, mine.replace(u=cw.sin), copy.deepcopy(mine)):
        assert r"\tilde{U}_t &=" in cell.latex()
    assert r"+ \beta\, \tilde{U}_t" in mine.latex()
    assert pickle.loads(pickle.dumps(mine)).notation == mine.notation
    assert line in mine.latex()


def test_a_stored_cell_has_the_notation_of_the_zoo():
    stored = cw.Cell.from_text(cw.cells.lstm.to_text())
    assert r"c_t &= f_t * c_{t-1}" in stored.latex()
    assert in_notation(stored).latex() == cw.cells.lstm.latex()

    @cw.cell
    def lstm(W, x, h):
        return cw.tanh(W.h(h, x))

    assert in_notation(lstm) is lstm


def test_draw_command(tmp_path):
    assert read_names("c=C, g=C_tilde,W.n=") == {"c": "C", "g": "C_tilde", "W.n": ""}
    path = tmp_path / "lstm.tex"

    def draw(names: str):
        return CliRunner().invoke(
            app, ["draw", "lstm", "-o", str(path), *names.split()]
        )

    assert draw("--names c=s,g=s_hat").exit_code == 0
    assert r"s_t &= f_t * s_{t-1} + i_t * \hat{s}_t" in path.read_text(encoding="utf-8")
    for names, said in (
        ("c", "received 'c', expected such as"),
        ("q=r", "no value 'q'"),
    ):
        result = draw(f"--names {names}")
        assert result.exit_code == 1
        assert re.search(said, " ".join(result.stderr.split()))
    result = draw("--theme blue")
    assert "received 'blue'" in " ".join(result.stderr.split())
