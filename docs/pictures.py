"""Pictures of the documentation in its light and its dark theme."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes

PLOTS = "lab/results/"  # black on white; the style sheet inverts them


def follow_the_theme(app, doctree: nodes.document) -> None:
    """Show NAME-dark.png beside NAME.png in the dark theme, and mark plots."""
    for picture in list(doctree.findall(nodes.image)):
        path = Path(picture["uri"])
        if PLOTS in path.as_posix():
            picture["classes"].append("plot")
        dark = path.with_name(f"{path.stem}-dark{path.suffix}")
        if (Path(app.srcdir) / dark).exists():
            other = picture.deepcopy()
            other["uri"], other["candidates"] = dark.as_posix(), {"*": dark.as_posix()}
            picture["classes"].append("only-light")
            other["classes"].append("only-dark")
            picture.parent.insert(picture.parent.index(picture) + 1, other)
            app.env.images.add_file(app.env.docname, dark.as_posix())
