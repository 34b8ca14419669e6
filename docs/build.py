"""Builds the documentation into _site/: the pages of docs/, the gallery of cells, and
the API reference from the docstrings.

make docs
"""

import re
import shutil
from pathlib import Path

import pdoc
import pdoc.render_helpers
from gallery import gallery, page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
OUTPUT = ROOT / "_site"
PARTS = ["language", "compiler", "engine", "nn", "train", "text", "look", "lab"]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)]*)?\)")  # to a file of ours


def main() -> None:
    pdoc.render.configure(docformat="google", math=True)
    modules = ["cellwright", *(f"cellwright.{part}" for part in PARTS)]
    pdoc.pdoc(*modules, output_directory=OUTPUT)
    (OUTPUT / "gallery.html").write_text(gallery(), encoding="utf-8")
    texts = {p.stem: p.read_text(encoding="utf-8") for p in sorted(DOCS.glob("*.md"))}
    for name, text in texts.items():
        write_page(name, text, list(texts))
    pages = sum(1 for _ in OUTPUT.rglob("*.html"))
    print(f"{pages} pages in {OUTPUT.name}/")


def write_page(name: str, text: str, names: list[str]) -> None:
    """A page of docs/, with a way to every other; what it shows is copied."""
    body = pdoc.render_helpers.to_html(LINK.sub(_link, text))
    others = " ".join(
        f'<a href="{other}.html">{other}</a>'
        for other in [*names, "gallery", "cellwright"]
    )
    title = text.partition("\n")[0].removeprefix("# ")
    whole = page(f"{title}: cellwright", f"<nav>{others}</nav>\n{body}")
    (OUTPUT / f"{name}.html").write_text(whole, encoding="utf-8")


def _link(found: re.Match[str]) -> str:
    """Where the target of a link in docs/ is in _site/."""
    target, anchor = DOCS / found[1], found[2] or ""
    if target.suffix == ".md":
        if not target.exists():
            raise FileNotFoundError(f"[docs] a link to {found[1]}, which is not there")
        return f"]({target.stem}.html{anchor})"
    place = target.resolve().relative_to(ROOT)
    (OUTPUT / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(target, OUTPUT / place)
    return f"]({place.as_posix()})"


if __name__ == "__main__":
    main()
