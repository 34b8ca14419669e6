"""The page of a cell's steps: keys, buttons and addresses walk through it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import cellwright as cw


@pytest.mark.browser
def test_arrow_keys_walk_through_the_steps(page: Page, tmp_path: Path):
    cw.cells.gru.diagram().steps().save(tmp_path / "gru.html")
    address = (tmp_path / "gru.html").as_uri()
    page.goto(address)
    told, shown = page.locator("output"), page.locator("section:visible")
    expect(told).to_have_text("1 of 4")
    expect(shown).to_have_count(1)
    expect(page.get_by_label("Previous step")).to_be_disabled()
    for key, place in (
        ("ArrowRight", 2),
        (" ", 3),
        ("PageDown", 4),
        ("ArrowRight", 4),
        ("ArrowLeft", 3),
        ("Home", 1),
        ("End", 4),
    ):
        page.keyboard.press(key)
        expect(told).to_have_text(f"{place} of 4")
        expect(shown).to_have_id(str(place))
        expect(shown).to_have_count(1)
    page.get_by_label("Previous step").click()
    expect(told).to_have_text("3 of 4")

    page.goto(f"{address}#3")
    page.reload()
    expect(shown).to_have_id("3")

    page.set_viewport_size({"width": 360, "height": 640})
    page.wait_for_function("innerWidth === 360")
    box = page.locator("section:visible svg").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    page.emulate_media(media="print")
    expect(page.locator("section:visible")).to_have_count(4)
