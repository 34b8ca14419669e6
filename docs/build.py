"""Builds the API reference from the docstrings, and the gallery of cells, into _site/.

make docs
"""

import shutil
from pathlib import Path

import pdoc
import pdoc.render_helpers
from gallery import gallery

DOCS = Path(__file__).resolve().parent
OUTPUT = DOCS.parent / "_site"
PARTS = ["language", "compiler", "engine", "nn", "train", "text", "look", "lab"]
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>The inspector</title>
<style>body {{ max-width: 60rem; margin: 2rem auto; font: 1rem/1.5 sans-serif; }}
img {{ max-width: 100%; }} pre {{ background: #f3f3ee; padding: 0.6rem; }}</style>
<body>{body}</body></html>
"""


def main() -> None:
    pdoc.render.configure(docformat="google", math=True)
    modules = ["cellwright", *(f"cellwright.{part}" for part in PARTS)]
    pdoc.pdoc(*modules, output_directory=OUTPUT)
    (OUTPUT / "gallery.html").write_text(gallery(), encoding="utf-8")
    _inspector()
    pages = sum(1 for _ in OUTPUT.rglob("*.html"))
    print(f"{pages} pages in {OUTPUT.name}/")


def _inspector() -> None:
    """The inspector's page with its pictures, which are committed."""
    text = (DOCS / "inspector.md").read_text(encoding="utf-8")
    body = pdoc.render_helpers.to_html(text)
    (OUTPUT / "inspector.html").write_text(PAGE.format(body=body), encoding="utf-8")
    shutil.copytree(DOCS / "inspector", OUTPUT / "inspector", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
