"""Sphinx's configuration of the documentation: `make docs` builds it into _site/.

The pages are Markdown (MyST), and `docs/index.md` says in which order they are read.
The reference is made of the docstrings. The pages of `WRITTEN` end with what Python
writes. Pictures follow the theme (`pictures.py`).
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

import command_line  # noqa: E402
import gallery  # noqa: E402
import operations  # noqa: E402
import pictures  # noqa: E402
from sphinx.errors import ExtensionError  # noqa: E402

from cellwright import __version__  # noqa: E402

project = "cellwright"
author = "The cellwright developers"
version = release = __version__
html_title = "cellwright"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

smartquotes_action = "D"  # dashes alone: quotes in docstrings are code
default_role = "py:obj"  # `name` in a docstring: code, and a link where there is one
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 80

html_theme = "furo"
pygments_dark_style = "a11y-dark"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = False
html_copy_source = False
copybutton_prompt_text = "$ "


def from_root(name: str) -> Callable[[], str]:
    """A page of the repository's root, as a page of docs/."""
    return lambda: (DOCS.parent / name).read_text("utf-8").replace("](docs/", "](")


#: Pages that end with Markdown which is written when they are read.
WRITTEN = {
    "command-line": command_line.page,
    "gallery": gallery.page,
    "reference/operations": operations.page,
    "contributing": from_root("CONTRIBUTING.md"),
    "changes": from_root("CHANGELOG.md"),
}
#: A script, style or picture that a page would load from elsewhere.
FETCHED = re.compile(r"""<(?:script|link|img)\b[^>]*?(?:src|href)="(https?:[^"]+)""")
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}


def complete(app, name: str, source: list[str]) -> None:
    """Add to a page what Python writes, and lead its links to pages."""
    if name in WRITTEN:
        source[0] += WRITTEN[name]()
    for file, page in PAGES.items():
        source[0] = re.sub(
            rf"\]\((?:\.\./)?((?:\.\./)?){file}\)", rf"](\1{page})", source[0]
        )


def read_again(app, env, added, changed, removed) -> list[str]:
    """What Python writes may have changed though its page has not."""
    return list(WRITTEN)


def keep_sentences(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """`Whether …: …` of a property is a sentence, though napoleon reads a type."""
    inline = what in ("attribute", "data", "property") and lines
    if inline and lines[-1].startswith(":type:"):
        head = lines.pop().removeprefix(":type:").strip()
        lines[0] = f"{head}: {lines[0]}"


def check_that_nothing_is_fetched(app, error: Exception | None) -> None:
    """The site is read without a network: no script, style, font from elsewhere."""
    for page in [] if error else Path(app.outdir).rglob("*.html"):
        if found := FETCHED.search(page.read_text("utf-8")):
            raise ExtensionError(f"[docs] {page.name} fetches {found[1]}")


def setup(app) -> None:
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", keep_sentences, priority=600)
    app.connect("env-get-outdated", read_again)
    app.connect("build-finished", check_that_nothing_is_fetched)
    app.connect("doctree-read", pictures.follow_the_theme)
