"""What pictures look like: their colours on a light and on a dark page.

Colours are told apart by the colour-blind, too, and never bear a meaning that the shape
does not. No font is required.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .picture import DrawingError

MATHS = "Cambria, 'Times New Roman', 'Liberation Serif', 'DejaVu Serif', serif"
WORDS = "'Segoe UI', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
THEMES = ("auto", "light", "dark")


@dataclass(frozen=True)
class Sheet:
    """Rules of CSS for a picture's classes, and those that differ on a dark page."""

    rules: str
    dark: str


@dataclass(frozen=True)
class Style:
    """How a picture is shown.

    Attributes:
        theme: `"light"`, `"dark"`, or `"auto"`, which follows the viewer's dark mode;
            where there is none, as in PNG and PDF, it is light.
        transparent: whether the page behind the cell shows through.

    Raises:
        DrawingError: no such theme.
    """

    theme: str = "auto"
    transparent: bool = False

    def __post_init__(self) -> None:
        if self.theme not in THEMES:
            raise DrawingError(
                f"[theme] a picture is light, dark, or as its viewer; received "
                f"{self.theme!r}, expected one of {', '.join(map(repr, THEMES))}"
            )

    @property
    def root(self) -> str:
        """The class of a picture's root, so that those of one page stay apart."""
        return f"cw-{self.theme}"

    def css(self, sheets: Iterable[Sheet]) -> str:
        """The rules of some sheets under this theme."""
        rules = "".join(sheet.rules for sheet in sheets)
        dark = "".join(sheet.dark for sheet in sheets) if self.theme != "light" else ""
        if self.theme == "auto":
            dark = f"@media (prefers-color-scheme: dark) {{{dark}}}\n"
        return (rules + dark).replace(".cw-", f".{self.root} .cw-")


CELL = Sheet(
    f"""
.cw-page {{ fill: #ffffff }}
.cw-body {{ fill: #edf5ee; stroke: #b9cfbd }}
.cw-wire {{ fill: none; stroke: #22303c; stroke-width: 1.7; stroke-linejoin: round }}
.cw-state {{ stroke-width: 2.8 }}
.cw-head {{ fill: #22303c; stroke: none }}
.cw-layer {{ fill: #fbe08a; stroke: #8a6400; stroke-width: 1.3 }}
.cw-op {{ fill: #f7cfdd; stroke: #a03a6b; stroke-width: 1.3 }}
.cw-input, .cw-output {{ fill: #cfe4f7; stroke: #1f5f99; stroke-width: 1.3 }}
.cw-text {{ fill: #14202b; font-family: {MATHS} }}
.cw-words {{ fill: #14202b; font-family: {WORDS} }}
.cw-italic {{ font-style: italic }}
.cw-pale {{ opacity: 0.22 }}
""",
    """
.cw-page { fill: #12181f }
.cw-body { fill: #1c2a25; stroke: #3d5548 }
.cw-wire { stroke: #dfe7ee }
.cw-head { fill: #dfe7ee }
.cw-layer { fill: #6b5200; stroke: #f0c64a }
.cw-op { fill: #6a2746; stroke: #f09dbf }
.cw-input, .cw-output { fill: #1b4266; stroke: #8cc2f2 }
.cw-text, .cw-words { fill: #f2f5f8 }
""",
)

# The signs of elements that not every cell has.
SIGNS = {
    "attention": Sheet(
        "\n.cw-attention { fill: #d9d3f2; stroke: #5a3fa8; stroke-width: 1.3 }\n",
        "\n.cw-attention { fill: #3b2b73; stroke: #b9a6f5 }\n",
    ),
    "unbiased": Sheet("\n.cw-unbiased { stroke-dasharray: 4.5 2.5 }\n", ""),
}
