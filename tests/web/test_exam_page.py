"""A whole exam in the browser, with a clock of our own."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from cellwright import lab
from cellwright.exam.questions import load
from cellwright.exam.server import ExamServer

from .axe import assert_accessible

pytestmark = pytest.mark.browser
NOON = datetime.datetime(2026, 1, 1, 12)


@pytest.fixture
def opened(page: Page, serve_routes: Callable, tmp_path: Path) -> Iterator[Page]:
    page.clock.install(time=NOON)
    page.goto(serve_routes(ExamServer(load(), tmp_path).routes()))
    page.clock.pause_at(NOON + datetime.timedelta(hours=1))
    yield page
    for shown in page.context.pages:  # they ask the server as long as they are open
        shown.goto("about:blank")


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


def wait_until_saved(page: Page, folder: Path, told: str) -> None:
    """Return when the file of the session has this: saving does not wait."""
    session = folder / "session.json"
    for _ in range(6000):
        if session.exists() and told in session.read_text():
            return
        page.wait_for_timeout(10)
    raise AssertionError(f"{told} was not saved")


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
        expect(opened.locator(".role.acts")).to_have_text(f"{answers} answers")
        press(opened, "Start the answer")
        draw(opened)
        expect(opened.get_by_role("timer")).to_have_text("1:00")
        opened.clock.run_for(30_000)
        expect(opened.get_by_role("timer")).to_have_text("0:30")
        opened.clock.run_for(30_200)  # the minute is over: feedback begins by itself
        expect(opened.get_by_role("heading", name="Key points")).to_be_visible()
        expect(opened.locator(".role.acts")).to_contain_text("examines")
        for mark in opened.get_by_label("✓ yes").all():
            mark.check()
        press(opened, "To the discussion")
        expect(opened.locator(".role.acts")).to_have_count(2)
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


def test_a_reload_loses_nothing_and_stops_no_clock(opened: Page, tmp_path: Path):
    begin(opened)
    press(opened, "Start the answer")
    question = opened.locator("h1").inner_text()
    draw(opened)
    before = dark_pixels(opened)
    assert before > 100
    wait_until_saved(opened, tmp_path, '"tool": "pen"')
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
    expect(first).to_contain_text("✗ Far beyond the length of training, the MLP on a")
    expect(first).to_contain_text("gets 34% of the steps wrong. Expected: at least 1.")
    first.locator(".tip").hover()
    expect(first.get_by_role("tooltip")).to_have_text(
        "cellwright lab standout, quick form, seed 0, 2999-01-01. Expected: at least 1."
    )
    expect(first.locator(".fails")).to_have_css("color", red)


def test_a_late_look_at_the_laboratory_does_not_hide_that_it_runs(opened: Page):
    begin(opened, questions=1)
    given = opened.evaluate("fetch('/api/exam').then((answer) => answer.json())")
    known = next(iter(given["evidence"].values()))
    held: list[Route] = []

    def answer(route: Route) -> None:
        if route.request.method == "GET":
            held.append(route)
        else:
            route.fulfill(json={**known, "running": True})

    opened.route("**/api/evidence/*", answer)
    for button in ("Start the answer", "To the feedback", "To the discussion"):
        press(opened, button)
    opened.get_by_role("button", name="Run it again").click()
    working = opened.get_by_role("button", name="The laboratory is at work")
    expect(working).to_be_visible()
    with opened.expect_response("**/api/evidence/*"):
        held[0].continue_()
    opened.evaluate("fetch('/api/session').then((answer) => answer.json())")
    expect(working).to_be_visible()


def test_solo_and_what_was_missed_comes_again(opened: Page):
    boxes = opened.get_by_role("checkbox")
    expect(boxes).to_have_count(8)
    for n in (0, 1, 3, 4, 5, 6, 7):  # what stays: back-propagation through time
        boxes.nth(n).uncheck()
    opened.get_by_label("Solo").check()
    expect(opened.get_by_label("Answers first")).to_be_hidden()
    opened.get_by_label("Name").fill("Ada")
    press(opened, "Draw the first question")
    expect(opened.locator(".role")).to_have_text(["Ada answers"])
    press(opened, "Start the answer")
    press(opened, "To the feedback")
    for mark in opened.locator(".points").get_by_label("✗ no").all():
        mark.check()
    press(opened, "To the discussion")
    state, weights = opened.locator("math").all()
    assert [m.locator("mfrac").count() for m in (state, weights)] == [4, 3]
    assert weights.locator("munderover > *").all_text_contents()[0] == "∑"
    again = opened.get_by_text("this question comes again at the end")
    expect(again).to_be_visible()
    press(opened, "Next question")
    expect(opened.get_by_text("Again: 1 of 1")).to_be_visible()
    for button in ("Start the answer", "To the feedback", "To the discussion"):
        press(opened, button)
    expect(again).to_be_hidden()
    press(opened, "To the summary")
    expect(opened.locator(".summary h1")).to_have_text("Exam of Ada")
    expect(opened.locator(".summary h2")).to_have_count(2)


def test_keys_go_on_pause_and_mark(opened: Page):
    begin(opened)
    opened.keyboard.press("n")
    expect(opened.get_by_role("timer")).to_be_visible()
    opened.keyboard.press("p")
    expect(opened.get_by_role("button", name="Resume")).to_be_visible()
    opened.keyboard.press("p")
    opened.keyboard.press("n")
    marks = opened.locator('input[name="points-1"]')
    for expected in (0, 1, 2, 0):  # said, partly, missed, and again
        opened.keyboard.press("2")
        expect(marks.nth(expected)).to_be_checked()
    opened.keyboard.press("b")
    expect(opened.locator('input[name="criteria-precise"]').first).to_be_checked()
    opened.get_by_label("Keys").uncheck()
    opened.keyboard.press("n")
    expect(opened.get_by_role("heading", name="Key points")).to_be_visible()
    opened.get_by_label("Keys").check()
    opened.keyboard.press("n")
    notes = opened.get_by_label("Notes of the discussion")
    notes.fill("")
    notes.press_sequentially("no pause")  # letters in a note are no keys
    expect(notes).to_have_value("no pause")
    expect(opened.get_by_role("button", name="Pause")).to_be_visible()


def test_the_examiners_page_has_the_key_points_and_marks_them(
    opened: Page, tmp_path: Path
):
    examiner = opened.context.new_page()
    begin(opened)
    wait_until_saved(opened, tmp_path, '"phase": "ready"')
    examiner.goto(f"{opened.url}examiner")
    expect(examiner.get_by_text("Ada examines next")).to_be_visible()
    expect(examiner.get_by_role("heading", name="Key points")).to_be_hidden()
    press(opened, "Start the answer")
    wait_until_saved(opened, tmp_path, '"phase": "answer"')
    # Once round: the page does not look for marks again while it waits for an answer.
    with opened.expect_response("**/api/marks"):
        opened.clock.run_for(1_100)
    expect(examiner.get_by_role("heading", name="Key points")).to_be_visible()
    expect(examiner.locator("h1")).to_have_text(opened.locator("h1").inner_text())
    expect(opened.get_by_role("heading", name="Key points")).to_be_hidden()
    with examiner.expect_response("**/api/marks"):
        examiner.locator('input[name="points-2"][value="partly"]').check()
    with opened.expect_response("**/api/marks"):
        opened.clock.run_for(1_100)
    press(opened, "To the feedback")
    marked = 'input[name="points-2"][value="partly"]'
    expect(opened.locator(marked)).to_be_checked()
    with examiner.expect_response("**/api/marks"):
        examiner.locator('input[name="criteria-sketch"][value="said"]').check()
    opened.clock.run_for(1_100)
    expect(
        opened.locator('input[name="criteria-sketch"][value="said"]')
    ).to_be_checked()


def test_the_clock_stays_in_view_and_pictures_open_large(opened: Page):
    opened.set_viewport_size({"width": 390, "height": 844})
    begin(opened, questions=3)
    for button in ("Start the answer", "To the feedback"):
        press(opened, button)
    assert opened.evaluate("document.body.scrollWidth") <= 390
    opened.locator(".foot").scroll_into_view_if_needed()
    assert opened.evaluate("scrollY") > 300
    expect(opened.get_by_role("timer")).to_be_in_viewport()
    figure = opened.locator("figure img")
    expect(figure).to_have_js_property("complete", True)
    assert figure.evaluate("image => image.naturalWidth") > 200
    figure.click()
    large = opened.get_by_role("dialog").locator("img")
    expect(large).to_have_js_property("complete", True)
    width = "image => image.getBoundingClientRect().width"
    assert large.evaluate(width) > figure.evaluate(width)
    press(opened, "Close")
    expect(opened.get_by_role("dialog")).to_have_count(0)
    expect(opened.locator("details p").first).to_be_hidden()
    opened.locator("summary").first.click()
    expect(opened.locator("details p").first).to_be_visible()


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
    for step in ("Answer", "Feedback", "Discussion"):
        opened.get_by_label(step, exact=True).fill("3600")  # no step ends meanwhile
    begin(opened)
    for button in ("Start the answer", "To the feedback", "To the discussion"):
        assert_accessible(opened)
        press(opened, button)
    examiner = opened.context.new_page()
    examiner.emulate_media(color_scheme=scheme)
    examiner.goto(f"{opened.url}examiner")
    expect(examiner.get_by_role("heading", name="Key points")).to_be_visible()
    assert_accessible(examiner)
    expect(opened.get_by_role("button", name="Run it")).to_be_visible()
    assert_accessible(opened)
    opened.locator(".evidence img").click()
    assert_accessible(opened)
    press(opened, "Close")
    press(opened, "End the exam")
    press(opened, "End it: to the summary")
    assert_accessible(opened)
