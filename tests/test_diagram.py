"""The picture of a cell: the graph read back from its SVG is the cell's own."""

import functools
import io
import re
import string
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import matplotlib
import pytest
from hypothesis import HealthCheck, given, settings
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from PIL import Image

import cellwright as cw
from cellwright.language import Graph
from cellwright.language.notation import notated
from cellwright.look.diagram import Diagram, DrawingError
from cellwright.look.diagram.sketch import Element, sketch
from cellwright.look.diagram.text import Run, as_text, width
from diagram_geometry import SVG, Label, Picture, crossings, flaws, read, recovered
from strategies import make_cell, sources

LARGE = (  # seconds each
    *("mlstm", "rwkv6", "mc_lstm_hydrology"),
    *("delta_net", "gated_delta_net", "selective_ssm"),
)
CELLS = [
    *cw.cells.all(),
    *(
        pytest.param(name, marks=pytest.mark.full) if name in LARGE else name
        for name in cw.cells.all_with_matrices()
    ),
    *cw.cells.all_with_items(),
    *cw.cells.all_of_trees(),
]
matplotlib.use("Agg")


@functools.cache
def picture_of(name: str) -> Picture:
    return read(cw.cells.get(name).diagram().svg)


def expected(elements: tuple[Element, ...]) -> dict[int, Counter[tuple[int, str]]]:
    def text(label):
        return "".join(run.text for run in label)

    return {
        n: Counter((w.source, text(w.mark)) for w in e.inputs)
        for n, e in enumerate(elements)
    }


def measured(label: Label) -> float:
    return label_width(label.text, label.size)


def label_width(text: str, size: float) -> float:
    """A label's width, by the widest of the usual serif fonts."""
    font = FT2Font(findfont(FontProperties(family="DejaVu Serif")))
    font.set_size(1000, 72)
    font.set_text(text.rstrip("₀"))
    return font.get_width_height()[0] / 64 * size / 1000


def contracted(graph: Graph, elements: tuple[Element, ...]) -> None:
    """Every node is in an element; every edge is in one, or is a wire."""
    cover = [(n, e) for n, e in enumerate(elements) if e.covers]
    home = {e.value: n for n, e in cover}
    for number in range(len(graph.nodes)):
        assert any(number in e.covers for _, e in cover), f"node {number} is not drawn"
    for n, element in cover:
        outside = {
            arg
            for node in element.covers
            for arg in graph.nodes[node].args
            if arg not in element.covers
        }
        assert {home[a] for a in outside} == {w.source for w in element.inputs}, n


@pytest.mark.parametrize("name", CELLS)
def test_sketch_is_the_graph_contracted(name):
    graph = cw.cells.get(name).graph
    contracted(graph, sketch(graph))


@pytest.mark.parametrize("name", CELLS)
def test_picture_gives_the_graph_back(name):
    cell, picture = cw.cells.get(name), picture_of(name)
    elements = sketch(*notated(cell))
    assert recovered(picture) == expected(elements)
    for label in picture.labels:
        if label.role in ("inside", "port"):
            assert label.text == as_text(elements[label.element].label).replace("_", "")


@pytest.mark.parametrize("name", CELLS)
def test_nothing_overlaps(name):
    assert flaws(picture_of(name), measured) == []


def bent_state_lines(picture: Picture) -> list[int]:
    return [
        number
        for number, line in enumerate(picture.lines)
        if line.state and len({round(y, 2) for _, y in line.points}) > 1
    ]


@pytest.mark.parametrize("name", CELLS)
def test_state_lines_are_straight(name):
    assert bent_state_lines(picture_of(name)) == []


def state_line_heights(name: str) -> set[float]:
    return {round(line.start[1], 2) for line in picture_of(name).lines if line.state}


def test_states_with_a_pointwise_path_have_a_line():
    names = ("lstm", "gru", "rnn", "lem", "slstm")
    count = {n: len(state_line_heights(n)) for n in names}
    assert count == {"lstm": 1, "gru": 1, "rnn": 0, "lem": 2, "slstm": 3}


def test_lstm_has_one_crossing():
    assert crossings(picture_of("lstm")) == 1
    assert crossings(picture_of("rnn")) == 0


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(sources().filter(lambda source: source.count("\n") < 16))  # else seconds each
def test_random_cells(source):
    cell = make_cell(source)
    elements = sketch(cell.graph)
    contracted(cell.graph, elements)
    picture = read(Diagram(cell).svg)
    assert recovered(picture) == expected(elements)
    assert flaws(picture, measured) == []
    assert bent_state_lines(picture) == []


def test_widths_are_upper_bounds():
    greek = "αβγδεζηθκλμνξπρστφχψω"
    signs = " .,·'|:()[]?⁻⁰¹²³⁴⁵⁶⁷⁸⁹−+×÷=<>≤≥≠~%∞Σ√"
    for character in string.ascii_letters + string.digits + greek + signs:
        bound = width((Run(character),), 17.0)
        assert label_width(character, 17.0) <= bound, character
        assert width((Run(character, sub=True),), 17.0) < bound


def test_save_says_what_it_writes(tmp_path):
    diagram = cw.cells.lstm.diagram()
    diagram.save(tmp_path / "lstm.svg")
    assert (tmp_path / "lstm.svg").read_text(encoding="utf-8") == diagram.svg
    diagram.save(tmp_path / "lstm.png", scale=1)
    content = (tmp_path / "lstm.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(content[16:20], "big") == round(diagram_width(diagram.svg))
    with pytest.raises(DrawingError, match=r"received 'lstm.gif', expected .*\.svg"):
        diagram.save("lstm.gif")


def diagram_width(svg: str) -> float:
    return float(re.search(r'width="([0-9.]+)"', svg)[1])


def test_png_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(cw.CellwrightError, match=r"pip install 'cellwright\[draw\]'"):
        cw.cells.lstm.diagram().png()


def labels_of(cell: cw.Cell) -> list[str]:
    elements = cell.diagram().layout.elements
    return ["".join(run.text for run in e.label) for e in elements if e.kind == "op"]


def test_hyperparameters_bear_their_names():
    assert {"*α", "*(1−α)"} <= set(labels_of(cw.cells.leaky_rnn))
    assert {"*dt", "1−"} <= set(labels_of(cw.cells.lem))  # although dt is 1.0
    stored = cw.Cell.from_text(cw.cells.leaky_rnn.to_text())
    assert {"*0.1", "*0.9"} <= set(labels_of(stored))


def test_picture_of_the_readme_is_as_drawn():
    committed = Path(__file__).parent.parent / "docs" / "lstm.svg"
    assert committed.read_text(encoding="utf-8") == cw.cells.lstm.diagram().svg


def test_themes():
    auto, light, dark = (
        cw.cells.lstm.diagram(theme=theme).svg for theme in ("auto", "light", "dark")
    )
    assert "prefers-color-scheme" in auto
    assert "prefers-color-scheme" not in light + dark
    assert "#12181f" in dark
    assert "#12181f" not in light
    for svg, theme in ((auto, "auto"), (light, "light"), (dark, "dark")):
        root = ET.fromstring(svg)
        assert root.get("class") == f"cw-{theme}"  # the rules hold within it alone
        rules = re.findall(r"^\.cw.*(?= \{)", root.findtext(f"{SVG}style"), re.M)
        assert rules
        assert all(
            part.startswith(f".cw-{theme} .cw-")
            for rule in rules
            for part in rule.split(", ")
        )
    with pytest.raises(DrawingError, match="received 'blue', expected one of 'auto'"):
        cw.cells.lstm.diagram(theme="blue")


def test_a_png_has_its_theme():
    image = pixels(cw.cells.rnn.diagram(theme="dark").png(1))
    assert image.getpixel((1, 1)) == (0x12, 0x18, 0x1F, 255)
    assert pixels(cw.cells.rnn.diagram().png(1)).getpixel((1, 1)) == (255,) * 4
    clear = pixels(cw.cells.rnn.diagram(theme="dark", transparent=True).png(1))
    assert clear.getpixel((1, 1))[3] == 0
    assert (0x1C, 0x2A, 0x25, 255) in {c for _, c in clear.getcolors(9999)}  # the body


def pixels(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGBA")


def test_pdf_is_vectors(tmp_path):
    diagram = cw.cells.lstm.diagram(transparent=True)
    diagram.save(tmp_path / "lstm.pdf")
    content = (tmp_path / "lstm.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert not re.search(rb"/Subtype ?/Image", content)
    assert b"/FontFile" in content
    box = re.search(rb"/MediaBox ?\[0 0 ([0-9.]+) ([0-9.]+)\]", content)
    assert float(box[1]) == pytest.approx(diagram_width(diagram.svg) * 0.75, abs=0.1)


def test_pdf_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(cw.CellwrightError, match=r"pip install 'cellwright\[pdf\]'"):
        cw.cells.lstm.diagram().pdf()


def test_layers_without_a_bias_look_different():
    def unbiased(cell):
        return cell.diagram(legend=False).svg.count('class="cw-layer cw-unbiased"')

    assert unbiased(cw.cells.gru) == 3
    assert unbiased(cw.cells.gru_bias) == unbiased(cw.cells.layer_norm_lstm) == 0
    assert "layer without bias" in cw.cells.gru.diagram().svg
    assert "layer without bias" not in cw.cells.gru_bias.diagram().svg


def test_legend_can_be_left_out():
    assert "concatenate" in cw.cells.rnn.diagram().svg
    assert "concatenate" not in cw.cells.rnn.diagram(legend=False).svg


def test_what_a_notebook_shows_is_short_or_a_picture():
    from cellwright.lab import load_result

    result = repr(load_result("bptt"))
    assert result.startswith("<result of bptt, 2")
    assert result.endswith(" claims hold>")
    diagram = cw.cells.gru.diagram()
    assert diagram.svg in diagram._repr_html_()
    chain = diagram.unrolled(5)
    assert "> svg { max-width: 100%; height: auto }" in chain._repr_html_()  # not cut
    assert repr(chain) == "<picture: gru over 5 steps>"


def test_notebook_shows_equations_and_picture():
    bundle = cw.cells.gru._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/latex", "text/html", "image/svg+xml"}
    assert "<math" in bundle["text/html"]
    assert cw.cells.gru.diagram()._repr_svg_() in bundle["text/html"]
