"""A whole exam in the browser, with a clock of our own."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from cellwright import lab
from cellwright.exam.questions import load
from cellwright.exam.server import ExamServer

from .axe import assert_accessible

pytestmark = pytest.mark.browser
NOON = datetime.datetime(2026, 1, 1, 12)


@pytest.fixture
def opened(page: Page, serve_routes: Callable, tmp_path: Path) -> Page:
    page.clock.install(time=NOON)
    page.goto(serve_routes(ExamServer(load(), tmp_path).routes()))
    page.clock.pause_at(NOON + datetime.timedelta(minutes=1))
    return page


def begin(page: Page, questions: int = 8) -> None:
    boxes = page.get_by_role("checkbox")
    expect(boxes).to_have_count(8)
    for n in range(questions, 8):
        boxes.nth(n).uncheck()
    page.get_by_label("Examines first").fill("Ada")
    page.get_by_label("Answers first").fill("Ben")
    page.get_by_role("button", name="Draw the first question").click()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def draw(page: Page) -> None:
    box = page.locator("canvas.pad").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 90, steps=5)
    page.mouse.up()


def dark_pixels(page: Page) -> int:
    return page.locator("canvas.pad").evaluate(
        """canvas => canvas.getContext("2d")
        .getImageData(0, 0, canvas.width, canvas.height)
        .data.filter((v, n) => n % 4 === 0 && v < 128).length"""
    )


def test_a_whole_exam(opened: Page):
    begin(opened, questions=2)
    for number, (answers, last) in enumerate([("Ben", False), ("Ada", True)], 1):
        expect(opened.get_by_text(f"Question {number} of 2")).to_be_visible()
        expect(opened.locator(".role.answers")).to_have_text(f"{answers} answers")
        press(opened, "Start the answer")
        draw(opened)
        expect(opened.get_by_role("timer")).to_have_text("1:00")
        opened.clock.run_for(30_000)
        expect(opened.get_by_role("timer")).to_have_text("0:30")
        opened.clock.run_for(30_200)  # the minute is over: feedback begins by itself
        expect(opened.get_by_role("heading", name="Key points")).to_be_visible()
        for mark in opened.get_by_label("✓ yes").all():
            mark.check()
        press(opened, "To the discussion")
        opened.get_by_label("Notes of the discussion").fill(f"note {number}")
        press(opened, "To the summary" if last else "Next question, roles swapped")
    expect(opened.locator(".summary h2")).to_have_count(2)
    expect(opened.locator(".summary")).to_contain_text("Ben answered in 60 s")
    expect(opened.locator(".summary")).to_contain_text("Precise? ✓")
    expect(opened.locator(".summary")).to_contain_text("note 2")
    expect(opened.get_by_alt_text("The sketch")).to_have_count(2)
    with opened.expect_download() as download:
        press(opened, "Keep as a file")
    assert "note 1" in download.value.path().read_text()
    press(opened, "A new exam")
    press(opened, "Discard this one")
    expect(opened.get_by_role("heading", name="Pair exam")).to_be_visible()


def test_a_reload_loses_nothing_and_stops_no_clock(opened: Page):
    begin(opened)
    press(opened, "Start the answer")
    question = opened.locator("h1").inner_text()
    draw(opened)
    before = dark_pixels(opened)
    assert before > 100
    opened.clock.run_for(20_000)
    opened.reload()
    expect(opened.locator("h1")).to_have_text(question)
    expect(opened.get_by_role("timer")).to_have_text("0:40")
    assert dark_pixels(opened) == before
    opened.clock.run_for(45_000)
    opened.reload()  # the next phase began at its own time, 5 s ago
    expect(opened.get_by_role("timer")).to_have_text("0:55")
    expect(opened.get_by_role("heading", name="Key points")).to_be_visible()


def test_pause_holds_the_clock(opened: Page):
    begin(opened)
    press(opened, "Start the answer")
    opened.clock.run_for(10_000)
    press(opened, "Pause")
    opened.clock.run_for(300_000)
    expect(opened.get_by_role("timer")).to_have_text("0:50")
    press(opened, "Resume")
    opened.clock.run_for(10_000)
    expect(opened.get_by_role("timer")).to_have_text("0:40")


def test_the_discussion_goes_on_beyond_its_time(opened: Page):
    begin(opened)
    for button in ("Start the answer", "To the feedback", "To the discussion"):
        press(opened, button)
    timer = opened.get_by_role("timer")
    opened.clock.run_for(75_000)
    expect(timer).to_have_text("+0:15")
    expect(opened.get_by_label("Notes of the discussion")).to_be_visible()
    press(opened, "Pause")
    opened.clock.run_for(60_000)
    expect(timer).to_have_text("+0:15")
    press(opened, "Resume")
    opened.clock.run_for(5_000)
    expect(timer).to_have_text("+0:20")
    press(opened, "Next question, roles swapped")
    expect(opened.get_by_text("Question 2 of 8")).to_be_visible()


def test_a_question_whose_experiment_fails_is_red(
    page: Page, serve_routes: Callable, tmp_path: Path
):
    result = json.loads((lab.SHIPPED / "standout.json").read_text())
    failing = next(c for c in result["claims"] if c["name"].startswith("MLP on a"))
    failing |= {"low": 1.0, "high": None}
    folder = tmp_path / "lab" / "standout"
    folder.mkdir(parents=True)
    (folder / "standout.json").write_text(
        json.dumps(result | {"date": "2999-01-01", "quick": True})
    )
    page.goto(serve_routes(ExamServer(load(), tmp_path).routes()))
    red = "rgb(163, 58, 0)"
    listed = page.locator(".questions li")
    expect(listed.first.locator(".verdict")).to_have_text("✗ standout, 2999-01-01")
    expect(listed.first.locator(".verdict")).to_have_css("color", red)
    expect(page.locator(".verdict.fails")).to_have_count(1)

    begin(page, questions=1)
    alarm = page.get_by_text("✗ The key points need another look")
    expect(alarm).to_contain_text("its experiment, standout, failed on 2999-01-01")
    expect(alarm).to_have_css("color", red)
    press(page, "Start the answer")
    press(page, "To the feedback")
    expect(alarm).to_be_visible()
    first = page.locator(".points li").first
    expect(first).to_contain_text("✗ fails: standout measured")
    expect(first).to_contain_text("(expected at least 1; quick form, seed 0, 2999")
    expect(first.locator(".fails")).to_have_css("color", red)


def test_sketches_can_be_undone_redone_erased(opened: Page):
    begin(opened)
    press(opened, "Start the answer")
    draw(opened)
    drawn = dark_pixels(opened)
    press(opened, "Undo")
    assert dark_pixels(opened) == 0
    press(opened, "Redo")
    assert dark_pixels(opened) == drawn
    press(opened, "Eraser")
    draw(opened)
    assert dark_pixels(opened) < drawn / 10
    opened.locator("canvas.pad").focus()
    opened.keyboard.press("Control+z")
    assert dark_pixels(opened) == drawn
    with opened.expect_download() as download:
        press(opened, "PNG")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    press(opened, "Clear")
    assert dark_pixels(opened) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible(opened: Page, scheme):
    opened.clock.resume()  # axe waits by the page's clock
    opened.emulate_media(color_scheme=scheme)
    expect(opened.get_by_role("heading", name="Pair exam")).to_be_visible()
    assert_accessible(opened)
    begin(opened)
    for button in ("Start the answer", "To the feedback", "To the discussion"):
        assert_accessible(opened)
        press(opened, button)
    expect(opened.get_by_role("button", name="Run it")).to_be_visible()
    assert_accessible(opened)
    press(opened, "End the exam")
    press(opened, "End it: to the summary")
    assert_accessible(opened)
