"""Figures of nets: which nodes their arrows join, and that nothing overlaps."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cellwright.look.diagram import DrawingError
from cellwright.look.figures import FIGURES, figure

Arrow = tuple[str, str]
NETS = [name for name in FIGURES if name != "lstm"]  # that one is a cell's picture


def arrows(name: str, kind: str) -> Counter[Arrow]:
    """The arrows of a kind, as pairs of nodes' names."""
    root = ElementTree.fromstring(figure(name).svg)
    return Counter(
        (path.attrib["data-from"], path.attrib["data-to"])
        for path in root.iter()
        if "data-from" in path.attrib and path.attrib["class"] == f"cw-{kind}"
    )


def reached(ways: Counter[Arrow], end: str) -> set[str]:
    """Every node from which arrows lead to `end`."""
    found, new = {end}, {end}
    while new:
        new = {a for a, b in ways if b in new} - found
        found |= new
    return found


@pytest.mark.parametrize("name", NETS)
def test_a_figure_lies_within_its_borders(name: str):
    root = ElementTree.fromstring(figure(name).svg)
    wide, high = map(float, root.attrib["viewBox"].split()[2:])
    ways = [e.get("d") or e.get("points", "") for e in root.iter()]
    places = re.findall(r"(-?[\d.]+) (-?[\d.]+)", " ".join(ways))
    assert len(places) > 20
    assert all(0 <= float(x) <= wide and 0 <= float(y) <= high for x, y in places)


def test_a_figure_is_saved(tmp_path: Path):
    figure("lstm").save(tmp_path / "lstm.svg")
    figure("gradients").save(tmp_path / "bptt.png")
    assert (tmp_path / "bptt.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NETS)
def test_nodes_lie_apart(name: str):
    root = ElementTree.fromstring(figure(name).svg)
    boxes = [
        [float(node.attrib[k]) for k in ("x", "y", "width", "height")]
        for node in root.iter()
        if "data-node" in node.attrib
    ]
    for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(boxes, 2):
        assert x + w < x2 or x2 + w2 < x or y + h < y2 or y2 + h2 < y


def test_the_gradient_goes_back_where_the_values_came_from():
    forward = {(a, b) for a, b in arrows("gradients", "wire") if a[0] != "x"}
    back = arrows("gradients", "gradient")
    assert {(b, a) for a, b in back} >= forward
    steps = {f"step_{n}" for n in (1, 2, 3)}
    assert reached(back, "gradient") >= steps  # every copy adds to that of W
    assert max(back.values()) == 1


def test_the_receptive_field_of_the_convolution():
    seen = reached(arrows("convolution", "path"), "y_9")
    assert {n for n in seen if n[0] == "x"} == {f"x_{n}" for n in range(2, 10)}
    assert {f"x_{n}" for n in range(1, 6)} <= reached(
        arrows("convolution", "path"), "y_5"
    )


def test_the_tree_and_the_chain_have_the_same_leaves():
    ways = arrows("trees", "wire")
    children = Counter(b for _, b in ways if b.startswith("node"))
    assert set(children.values()) == {2}
    assert {n for n in reached(ways, "root") if n.startswith("leaf")} == {
        f"leaf_{n}" for n in range(1, 5)
    }
    assert {n for n in reached(ways, "step_4") if n[0] == "x"} == {
        f"x_{n}" for n in range(1, 5)
    }


def test_only_generating_feeds_outputs_back():
    assert arrows("teacher-forcing", "path") == {("ŷ_1", "ŷ_1"): 1, ("ŷ_2", "ŷ_2"): 1}


def test_an_unknown_figure_is_explained():
    with pytest.raises(DrawingError, match=r"no 'gradient'.*'gradients'"):
        figure("gradient")
