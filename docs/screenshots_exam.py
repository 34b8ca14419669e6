"""Makes the pictures of docs/exam.md: an exam in Chromium, with a clock of its own.

    python docs/screenshots_exam.py          docs/exam-PAGE.png
    python docs/screenshots_exam.py FOLDER   every page, light and dark, wide and narrow

Run it by hand after a change of the pages, and look at what it made.
"""

from __future__ import annotations

import datetime
import math
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from browser import chromium, keep_picture
from playwright.sync_api import Browser, Page, Route

from cellwright.exam.questions import load
from cellwright.exam.server import ExamServer
from cellwright.look.web.serve import served

DOCS = Path(__file__).resolve().parent
SHOWN = ("start", "answer", "examiner", "feedback", "discussion")  # in docs/exam.md
NOON = datetime.datetime(2026, 1, 1, 12)
WIDE, NARROW = (1280, 800), (390, 844)


def main() -> None:
    with chromium() as browser:
        if len(sys.argv) == 1:
            shoot(browser, DOCS, "exam-{}.png", "light", WIDE)
            return
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            for name, size in (("wide", WIDE), ("narrow", NARROW)):
                shoot(browser, folder, f"{{}}-{scheme}-{name}.png", scheme, size)


def shoot(
    browser: Browser, folder: Path, name: str, scheme: str, size: tuple[int, int]
) -> None:
    """Every page of an exam into the folder."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # pyright: ignore[reportArgumentType]
    )
    page = context.new_page()

    def keep(shown: str, at: Page = page, whole: bool = True) -> None:
        if folder != DOCS or shown in SHOWN:
            keep_picture(at, folder / name.format(shown), whole=whole)

    with tempfile.TemporaryDirectory() as kept:
        routes = ExamServer(load(), Path(kept)).routes()
        with served(routes) as address:
            page.clock.install(time=NOON)
            page.goto(address)
            page.clock.pause_at(NOON + datetime.timedelta(minutes=1))
            walk(page, keep)
            alone(page, keep)
    context.close()


def walk(page: Page, keep: Callable[..., None]) -> None:
    """Two questions: back-propagation through time in full, another in passing."""
    page.get_by_role("checkbox").nth(7).wait_for()
    page.get_by_label("Examines first").fill("Ada")
    page.get_by_label("Answers first").fill("Ben")
    keep("start")
    for n in (0, 1, 3, 4, 5, 7):  # what stays: BPTT and the LSTM
        page.get_by_role("checkbox").nth(n).uncheck()
    page.evaluate("Math.random = () => 0.99")  # so that they are asked in this order
    page.get_by_role("button", name="Draw the first question").click()
    keep("ready")
    press(page, "Start the answer")
    sketch(page)
    page.clock.run_for(23_000)
    keep("answer")
    keep("examiner", examine(page))
    page.clock.run_for(1_000)
    press(page, "To the feedback")
    page.clock.run_for(14_000)
    mark(page, "✓ yes", (0, 1, 2, 5, 6, 8))
    mark(page, "~ partly", (3, 7))
    mark(page, "✗ no", (4,))
    page.locator(".points summary").nth(1).click()
    keep("feedback")
    page.mouse.wheel(0, 700)
    page.locator(".tip").nth(3).focus()
    keep("scrolled", whole=False)
    press(page, "To the discussion")
    page.locator(".evidence img").wait_for()
    page.locator(".evidence img").click()
    keep("large", whole=False)
    press(page, "Close")
    page.get_by_label("Notes of the discussion").fill(
        "Truncation: which dependencies are lost? See the plot on the left."
    )
    page.clock.run_for(31_000)
    keep("discussion")
    press(page, "Next question, roles swapped")
    press(page, "Start the answer")
    page.clock.run_for(60_200)
    mark(page, "✓ yes", (0, 1, 3, 6))
    press(page, "End the exam")
    press(page, "End it: to the summary")
    keep("summary")


def examine(page: Page) -> Page:
    """The examiner's page, whose clock is the exam's page's, not the server's."""
    examiner = page.context.new_page()
    now = page.evaluate("Date.now()")

    def told(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"now": now})

    examiner.route("**/api/session", told)
    examiner.goto(f"{page.url}examiner")
    mark(examiner, "✓ yes", (0, 1))
    examiner.locator("figure img").wait_for()
    return examiner


def alone(page: Page, keep: Callable[..., None]) -> None:
    """One question, alone: it is missed."""
    press(page, "A new exam")
    press(page, "Discard this one")
    page.get_by_label("Solo").check()
    page.get_by_label("Name").fill("Ada")
    for n in range(7):  # what stays: the forget gate
        page.get_by_role("checkbox").nth(n).uncheck()
    keep("solo-start")
    page.get_by_role("button", name="Draw the first question").click()
    press(page, "Start the answer")
    keep("solo-answer")
    press(page, "To the feedback")
    mark(page, "✗ no", (0, 1, 2))
    keep("solo-feedback")
    press(page, "To the discussion")
    page.locator(".evidence img").wait_for()
    keep("solo-discussion")
    press(page, "Next question")
    keep("solo-again")


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def mark(page: Page, label: str, rows: tuple[int, ...]) -> None:
    """Choose one of the marks of several key points and criteria."""
    for row in rows:
        page.get_by_label(label).nth(row).check()


# ── a sketch of back-propagation through time ─────────────────────────────────────────


def sketch(page: Page) -> None:
    """The unrolled chain, its losses, and the way back."""
    xs = (0.14, 0.38, 0.62, 0.86)
    for x in xs:
        circle(page, x, 0.5, 0.07)
        arrow(page, (x, 0.92), (x, 0.64))
    for a, b in pairwise(xs):
        arrow(page, (a + 0.06, 0.47), (b - 0.06, 0.47))
    for x in xs[1:]:
        arrow(page, (x, 0.36), (x, 0.14))
        zigzag(page, x, 0.08)
    page.get_by_label("orange pen").click()
    for a, b in pairwise(xs):
        arrow(page, (b - 0.06, 0.55), (a + 0.06, 0.55))
    for x in xs[1:]:
        arrow(page, (x + 0.025, 0.15), (x + 0.025, 0.37))


def stroke(page: Page, points: list[tuple[float, float]]) -> None:
    box = page.locator("canvas.pad").bounding_box()
    assert box is not None
    where = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points
    ]
    page.mouse.move(*where[0])
    page.mouse.down()
    for place in where[1:]:
        page.mouse.move(*place)
    page.mouse.up()


def circle(page: Page, x: float, y: float, radius: float) -> None:
    turns = [2 * math.pi * n / 24 for n in range(26)]
    stroke(
        page,
        [(x + 0.6 * radius * math.cos(t), y + radius * math.sin(t)) for t in turns],
    )


def arrow(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    stroke(page, [start, end])
    (dx, dy) = ((end[0] - start[0]) * 1.6, end[1] - start[1])
    length = math.hypot(dx, dy)
    dx, dy = 0.03 * dx / length, 0.03 * dy / length
    left = (end[0] + (-dx - dy) / 1.6, end[1] - dy + dx)
    right = (end[0] + (-dx + dy) / 1.6, end[1] - dy - dx)
    stroke(page, [left, end, right])


def zigzag(page: Page, x: float, y: float) -> None:
    """An L, for a loss."""
    stroke(page, [(x - 0.012, y - 0.05), (x - 0.012, y + 0.03), (x + 0.02, y + 0.03)])


if __name__ == "__main__":
    main()
