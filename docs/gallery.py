"""The gallery: a page of all cells with equations, picture, parameters and source."""

from __future__ import annotations

import inspect
from html import escape

import cellwright as cw
from cellwright.look.formula import mathml

STYLE = """
:root { color-scheme: light dark }
body { font-family: system-ui, sans-serif; line-height: 1.45; max-width: 72rem;
       margin: 2rem auto; padding: 0 1rem }
nav a { display: inline-block; margin: 0 .8rem .3rem 0 }
section { border-top: 1px solid #8886; padding: 1rem 0 2rem }
svg, img { max-width: 100%; height: auto }
math { margin: 1rem 0; width: max-content }
table { border-collapse: collapse; font-size: .9rem; display: block; overflow-x: auto }
td, th { padding: .15rem .8rem .15rem 0; text-align: left }
pre { overflow-x: auto; font-size: .85rem }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

SECTION = """<section id="{name}">
<h2>{name}</h2>
<p>{doc}</p>
{equations}{picture}<table><tr><th>parameter</th><th>shape</th></tr>
{parameters}</table>
<pre>{source}</pre>
</section>"""


def gallery() -> str:
    """The page as HTML."""
    zoo = cw.cells
    cells = {
        **zoo.all(),
        **zoo.all_with_matrices(),
        **zoo.all_with_items(),
        **zoo.all_of_trees(),
    }
    links = "\n".join(f'<a href="#{name}">{name}</a>' for name in cells)
    sections = "\n".join(_section(name, cell) for name, cell in cells.items())
    body = f"<h1>All cells</h1>\n<nav>{links}</nav>\n{sections}"
    return page("All cells of cellwright", body)


def page(title: str, body: str) -> str:
    """A page of the documentation."""
    return PAGE.format(title=escape(title), style=STYLE, body=body)


def _section(name: str, cell: cw.Cell) -> str:
    rows = (
        f"<tr><td><code>{escape(parameter)}</code></td>"
        f"<td>{' × '.join(map(_size, shape)) or 'one number'}</td></tr>"
        for parameter, shape in cell.graph.parameters().items()
    )
    return SECTION.format(
        name=name,
        doc="<br>".join(escape(cell.__doc__ or "").split("\n\n")),
        equations=mathml(cell),
        picture=cell.diagram(legend=False).svg,
        parameters="\n".join(rows),
        source=escape(inspect.getsource(cell.function)) if cell.function else "",
    )


def _size(size: int | str) -> str:
    return f"({size})" if " + " in str(size) else str(size)
