"""What the scripts that make pictures of the pages share: a browser, and small files.

Needs Chromium and the extra `test` (playwright, pillow).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

COLOURS = 256  # of a picture: a third of the size, and text stays sharp


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or the one that CHROMIUM names."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def keep_picture(page: Page, path: Path, *, whole: bool = False) -> None:
    """Write what the page shows, or all of it, as a PNG of few colours."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path, full_page=whole)
    picture = Image.open(path).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
