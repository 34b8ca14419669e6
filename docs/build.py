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
PARTS = [
    *("language", "compiler", "engine", "nn", "export"),
    *("train", "text", "look", "lab"),
]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)]*)?\)")  # to a file of ours


def main() -> None:
    pdoc.render.configure(docformat="google", math=True)
    modules = ["cellwright", *(f"cellwright.{part}" for part in PARTS)]
    pdoc.pdoc(*modules, output_directory=OUTPUT)
    (OUTPUT / "gallery.html").write_text(gallery(), encoding="utf-8")
    pages = [*sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("dev/*.md"))]
    for path in pages:
        write_page(path, [p for p in pages if p.parent == DOCS])
    count = sum(1 for _ in OUTPUT.rglob("*.html"))
    print(f"{count} pages in {OUTPUT.name}/")


def write_page(path: Path, others: list[Path]) -> None:
    """A page of docs/, with a way to every other; what it shows is copied."""
    text = path.read_text(encoding="utf-8")
    body = pdoc.render_helpers.to_html(LINK.sub(lambda m: _link(path, m), text))
    names = [*(_name(other) for other in others), "dev-README", "gallery", "cellwright"]
    links = " ".join(f'<a href="{name}.html">{_label(name)}</a>' for name in names)
    title = text.partition("\n")[0].removeprefix("# ")
    whole = page(f"{title}: cellwright", f"<nav>{links}</nav>\n{body}")
    (OUTPUT / f"{_name(path)}.html").write_text(whole, encoding="utf-8")


def _name(path: Path) -> str:
    """What a page of docs/ is called in _site/: dev/engine.md is dev-engine."""
    return "-".join(path.relative_to(DOCS).with_suffix("").parts)


def _label(name: str) -> str:
    return {"dev-README": "developers"}.get(name, name)


def _link(page: Path, found: re.Match[str]) -> str:
    """Where the target of a link in docs/ is in _site/."""
    target, anchor = (page.parent / found[1]).resolve(), found[2] or ""
    if not target.exists():
        raise FileNotFoundError(f"[docs] a link to {found[1]}, which is not there")
    if target.suffix == ".md" and target.is_relative_to(DOCS):
        return f"]({_name(target)}.html{anchor})"
    place = target.relative_to(ROOT)
    (OUTPUT / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(target, OUTPUT / place)
    return f"]({place.as_posix()})"


if __name__ == "__main__":
    main()
