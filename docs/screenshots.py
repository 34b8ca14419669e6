"""Pictures of the inspector's pages for docs/inspector.md, by hand:

    python docs/screenshots.py [RUN]

It trains a small model for a minute unless it is given a run; it needs Chromium and the
extra `test`, and writes docs/inspector/*.png.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from browser import chromium, keep_picture
from playwright.sync_api import Browser, Page

from cellwright.look.inspection import Inspection
from cellwright.look.web.inspect import InspectServer
from cellwright.look.web.report import write_report
from cellwright.look.web.serve import served
from cellwright.text.run import Run

OUT = Path(__file__).parent / "inspector"
TRAIN = ("train", "stdlib", "--hidden", "128", "--minutes", "1")


def pointed_token(page: Page) -> None:
    page.locator('.text span[data-step="120"]').hover()


def selected_span(page: Page) -> None:
    """Some tokens, by keys; their units stand beside the text."""
    page.locator('.text span[data-step="45"]').hover()
    page.locator(".text").focus()
    for _ in range(7):
        page.keyboard.press("Shift+ArrowRight")
    page.locator(".text[data-span]").wait_for()
    page.locator(".tabs").evaluate("tabs => tabs.scrollIntoView()")


def pointed_map(page: Page) -> None:
    page.locator("canvas.heat").hover(position={"x": 480, "y": 120})


def surprising(page: Page) -> None:
    page.locator('.text span[data-step="120"]').hover()


def typed(page: Page) -> None:
    page.get_by_role("textbox", name="Type here").focus()
    page.keyboard.type("The king")
    page.locator('.typed[data-shown^="8 "]').wait_for()


def silenced(page: Page) -> None:
    page.get_by_label("all units").check()
    page.get_by_role("button", name="Read again").click()
    page.locator(".guide").wait_for()


VIEWS = {
    "text": pointed_token,
    "heat": pointed_map,
    "saturation": None,
    "flow": None,
    "next": surprising,
    "live": typed,
    "intervene": silenced,
}
DARK = ("text", "heat", "flow")


def shoot(
    page: Page,
    address: str,
    view: str,
    name: str,
    scheme: str,
    then: Callable[[Page], None] | None = None,
) -> None:
    """Keep what a view shows, once its act, or `then`, is done."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto("about:blank")
    page.goto(f"{address}#{view}")
    page.locator("#panel section").first.wait_for()
    page.wait_for_load_state("networkidle")
    if act := then or VIEWS[view]:
        act(page)
        page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)
    keep_picture(page, OUT / f"{name}.png")


def shoot_all(browser: Browser, address: str, report: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    for view in VIEWS:
        shoot(page, address, view, view, "light")
    for view in DARK:
        shoot(page, address, view, f"{view}-dark", "dark")
    shoot(page, report, "live", "report", "light")
    shoot(page, address, "text", "span", "light", selected_span)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(sys.argv[1]) if sys.argv[1:] else Path(folder) / "run"
        if not sys.argv[1:]:
            command = [sys.executable, "-m", "cellwright", *TRAIN, "--out", str(run)]
            subprocess.run(command, check=True)
        trained = Run(run)
        inspection = Inspection(trained, trained.held_out_text(1500), steps=1500)
        report = Path(folder) / "report.html"
        write_report(inspection, report)
        routes = InspectServer(inspection).routes()
        with served(routes) as address, chromium() as browser:
            shoot_all(browser, address, report.as_uri())


if __name__ == "__main__":
    main()
