"""What the inspector shows first, and in which colours."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from cellwright import cells
from cellwright.look.cell_picture import cell_picture
from cellwright.look.inspection import Inspection
from web.runs import TEXT, make_run


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    run = make_run(tmp_path_factory.mktemp("inspection"), layers=1)
    return Inspection(run, TEXT[:400], steps=400)


def test_the_best_unit_tells_the_largest_share_of_a_class(inspection: Inspection):
    best = inspection.best()
    assert best is not None
    told = inspection.interesting(best["detector"])
    assert told["units"][0] == {k: best[k] for k in ("key", "unit", "bits")}
    shares = {
        name: found["units"][0]["bits"] / found["entropy"]
        for name in inspection.describe()["detectors"]
        if (found := inspection.interesting(name))["units"]
    }
    assert max(shares, key=lambda name: shares[name]) == best["detector"]
    assert inspection.describe()["best"] == best


def test_a_text_of_one_class_has_no_interesting_unit(inspection: Inspection):
    looked = inspection.reread("yes is no " * 20)
    for name in ("inside quotes", "bracket depth", "indentation"):
        assert looked.interesting(name)["units"] == []
        assert looked.interesting(name)["entropy"] == 0
    assert all(
        u["bits"] >= 0.01 for u in looked.interesting("position in line")["units"]
    )
    assert inspection.reread("ab").best() is None


def test_unknown_characters_are_shown_as_they_were_typed(inspection: Inspection):
    other = inspection.reread("say(é) élan")
    assert "".join(other.pieces) == "say(é) élan"
    assert [other.pieces[n] for n in other.unknown] == ["é", "é"]
    assert other.describe()["unknown"] == other.unknown


def test_colours_and_levels_are_of_the_middle_and_of_each_unit(inspection: Inspection):
    own = inspection.reread(TEXT[:400])
    values = own.values("0.c")
    values[:] = np.random.default_rng(2).normal(size=values.shape)
    low, high = own.usual("0.c")
    assert np.mean((values >= low) & (values <= high)) == pytest.approx(0.98, abs=1e-3)
    told = own.ranges("0.c")
    inside = (values >= told["from"]) & (values <= told["to"])
    np.testing.assert_allclose(inside.mean(0), 0.98, atol=5e-3)
    lows, highs = np.array(told["low"]), np.array(told["high"])
    levels = own.quantised("0.c").T / 255
    shown = lows + levels * (highs - lows)
    assert (np.abs(shown - values) <= (highs - lows) / 500).all()


def test_one_huge_unit_takes_no_colours_from_the_others(inspection: Inspection):
    own = inspection.reread(TEXT[:100])
    values = own.values("0.c")
    before = own.quantised("0.c")[1:]
    other = inspection.reread(TEXT[:100])
    other.values("0.c")[:, 0] = 1e4 * values[:, 0]
    np.testing.assert_array_equal(other.quantised("0.c")[1:], before)


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "coupled"])
def test_every_named_value_has_a_box_of_its_own_in_the_picture(name: str):
    found = cell_picture(cells.get(name))
    assert found is not None
    boxes = found["boxes"]
    assert set(boxes) == set(cells.get(name).graph.values)
    for left, top, width, height in boxes.values():
        assert min(left, top) >= 0
        assert max(left + width, top + height) <= 1
    for one, other in combinations(boxes.values(), 2):
        assert not all(
            one[side] < other[side] + other[side + 2]
            and other[side] < one[side] + one[side + 2]
            for side in (0, 1)
        )
