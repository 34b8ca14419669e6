"""What docs/gallery.md ends with: every cell's equations, picture, weights, source."""

from __future__ import annotations

import inspect
import re

import cellwright as cw
from cellwright.look.formula import mathml

SETS = {
    "Of sequences": cw.cells.all,
    "With matrices": cw.cells.all_with_matrices,
    "That look at items": cw.cells.all_with_items,
    "Of trees": cw.cells.all_of_trees,
}
CELL = """
### {name}

{doc}

```{{raw}} html
<div class="cell">
{equations}
{picture}
</div>
```

| weight | shape |
|---|---|
{weights}

```python
{source}
```
"""
SMALLEST = 0.6  # of a picture's size: its letters can be read, and a phone scrolls
STYLE = re.compile(r"<style>(.*?)</style>\n?", re.DOTALL)
DARK = re.compile(r"@media \(prefers-color-scheme: dark\) \{(.*?)\n\}", re.DOTALL)
THEMES = """
```{{raw}} html
<style>
{light}
body[data-theme="dark"] {{{dark}}}
@media (prefers-color-scheme: dark) {{ body:not([data-theme="light"]) {{{dark}}} }}
</style>
```
"""


def page() -> str:
    """The cells by kind, as Markdown; the pictures' style once, for both themes."""
    sections, styles = [], {}
    for heading, cells in SETS.items():
        found = cells()
        links = " · ".join(f"[{name}](#{name})" for name in found)
        sections.append(f"\n## {heading}\n\n{links}\n")
        for name, cell in found.items():
            picture = cell.diagram(legend=False, transparent=True).svg
            styles |= dict.fromkeys(STYLE.findall(picture))
            sections.append(_section(name, cell, _shrinking(STYLE.sub("", picture))))
    return "".join([*sections, _themes("\n".join(styles))])


def _shrinking(picture: str) -> str:
    """A picture that shrinks to a narrow page, but not further than it can be read."""
    width = re.search(r'width="([\d.]+)"', picture)
    assert width is not None
    least = f'style="min-width: {SMALLEST * float(width[1]):.0f}px"'
    return picture.replace("<svg ", f"<svg {least} ", 1)


def _section(name: str, cell: cw.Cell, picture: str) -> str:
    weights = (
        f"| `{weight}` | {' × '.join(map(_size, shape)) or 'one number'} |"
        for weight, shape in cell.graph.parameters().items()
    )
    source = inspect.getsource(cell.function) if cell.function else cell.to_text()
    return CELL.format(
        name=name,
        doc=re.sub(r"([*_\[\]<>|])", r"\\\1", inspect.cleandoc(cell.__doc__ or "")),
        equations=mathml(cell),
        picture=picture,
        weights="\n".join(weights),
        source=source.rstrip(),
    )


def _themes(style: str) -> str:
    """The pictures' style: dark where the site is, not only where the system is."""
    dark = "\n".join(DARK.findall(style))
    return THEMES.format(light=DARK.sub("", style), dark=dark)


def _size(size: int | str) -> str:
    return f"({size})" if " + " in str(size) else str(size)
