"""A series of pictures as one page: arrow keys walk through them, as in a lecture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .style import Style

_COLOURS = {
    "light": "color-scheme: light; background: #ffffff; color: #14202b",
    "dark": "color-scheme: dark; background: #12181f; color: #f2f5f8",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{colours}
body {{ margin: 0; height: 100dvh; display: flex; flex-direction: column }}
body, button {{ font: 1rem system-ui, sans-serif }}
main {{ flex: 1; min-height: 0 }}
section {{ height: 100%; box-sizing: border-box; padding: .5rem }}
section:not(:target) {{ display: none }}
main:not(:has(:target)) section:first-child {{ display: block }}
section svg {{ display: block; width: 100%; height: 100% }}
nav {{ display: flex; justify-content: center; align-items: center; gap: 1rem;
       padding: .4rem }}
button {{ min-width: 3rem; padding: .4rem; cursor: pointer }}
output {{ min-width: 4rem; text-align: center }}
@media print {{
  body {{ display: block; height: auto }}
  section, section:not(:target) {{ display: block; height: 100vh; break-after: page }}
  nav {{ display: none }}
}}
</style>
</head>
<body>
<main>
{sections}
</main>
<nav aria-label="Steps">
<button type="button" aria-label="Previous step">←</button>
<output aria-live="polite"></output>
<button type="button" aria-label="Next step">→</button>
</nav>
<script>
const steps = document.querySelectorAll("section");
const [before, after] = document.querySelectorAll("button");
const shown = () => Math.max(1, Number(location.hash.slice(1)) || 1);
const show = (step) => {{
  location.replace("#" + Math.min(Math.max(step, 1), steps.length));
}};
const tell = () => {{
  document.querySelector("output").textContent = `${{shown()}} of ${{steps.length}}`;
  before.disabled = shown() === 1;
  after.disabled = shown() === steps.length;
}};
const keys = {{
  ArrowRight: () => shown() + 1, ArrowDown: () => shown() + 1,
  PageDown: () => shown() + 1, " ": () => shown() + 1,
  ArrowLeft: () => shown() - 1, ArrowUp: () => shown() - 1, PageUp: () => shown() - 1,
  Home: () => 1, End: () => steps.length,
}};
addEventListener("keydown", (event) => {{
  const pressed = event.key === " " && event.target.tagName === "BUTTON";
  if (!keys[event.key] || pressed || event.ctrlKey || event.metaKey || event.altKey)
    return;
  event.preventDefault();
  show(keys[event.key]());
}});
let start = null;
addEventListener("touchstart", (event) => {{ start = event.touches[0].clientX; }});
addEventListener("touchend", (event) => {{
  const moved = event.changedTouches[0].clientX - start;
  if (Math.abs(moved) > 50) show(shown() - Math.sign(moved));
}});
before.onclick = () => show(shown() - 1);
after.onclick = () => show(shown() + 1);
addEventListener("hashchange", tell);
tell();
</script>
</body>
</html>
"""


def deck(pictures: Sequence[str], title: str, style: Style) -> str:
    """A page of its own, without anything from the network.

    Args:
        pictures: SVG, in order.
        title: of the page.
        style: what the pictures' colours are; the page has the same.
    """
    light, dark = _COLOURS["light"], _COLOURS["dark"]
    if style.theme == "auto":
        colours = f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root "
        colours += f"{{ {dark} }} }}"
        colours = colours.replace("color-scheme: light", "color-scheme: light dark")
    else:
        colours = f":root {{ {_COLOURS[style.theme]} }}"
    sections = "\n".join(
        f'<section id="{number}">{picture}</section>'
        for number, picture in enumerate(pictures, 1)
    )
    return _PAGE.format(title=escape(title), colours=colours, sections=sections)
