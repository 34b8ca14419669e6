"""A page in a real browser, served by this process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

pytest.importorskip("starlette", reason="needs cellwright[web]")
pytest.importorskip("playwright", reason="needs playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from cellwright.look.web.serve import served

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A machine may be busy: these only bound how long a test that fails takes.
PATIENCE = 60_000  # milliseconds
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium: apt install chromium, or CHROMIUM=/its/path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=FLAGS, timeout=2 * PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def serve_routes() -> Iterator[Callable[[list], str]]:
    """Serves routes and gives the address."""
    with ExitStack() as running:
        yield lambda routes: running.enter_context(served(routes))


@pytest.fixture
def page(browser: Browser, serve_routes: object) -> Iterator[Page]:
    """A page whose console is silent and that asks nobody but its own server.

    It is closed before its server.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda m: _keep_error(m.type, m.text, problems))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: _stay_home(page, r.url, problems))
    yield page
    context.close()
    assert not problems, problems


def _keep_error(kind: str, text: str, problems: list[str]) -> None:
    # An explained refusal (400) is shown on the page; Chromium notes it here as well.
    if kind == "error" and "status of 400" not in text:
        problems.append(text)


def _stay_home(page: Page, url: str, problems: list[str]) -> None:
    if url.startswith(("data:", "blob:", "file:")):
        return
    home = page.url.split("/")[2] if "://" in page.url else ""
    if home and url.split("/")[2] != home:
        problems.append(f"a request left the origin: {url}")
