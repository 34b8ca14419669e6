"""A picture: an SVG that a notebook shows and a file keeps."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.sax.saxutils import unescape

from ...extras import require
from ...language.errors import CellwrightError

PIXELS, SIDE = 100_000_000, 65_000  # of a PNG, and of its longer side


class DrawingError(CellwrightError):
    """A picture cannot be written as asked."""


class Picture:
    """An SVG. A notebook shows it, whole; `save` writes it to a file.

    Attributes:
        svg: the text of the file.
    """

    def __init__(self, svg: str) -> None:
        self.svg = svg

    def png(self, scale: float = 2.0) -> bytes:
        """The picture as a PNG file, `scale` pixels for one of the SVG.

        Raises:
            DrawingError: a scale that is not more than 0, or gives more than 100
                million pixels.
            MissingExtraError: the extra `draw` is not installed.
        """
        self._check_scale(scale)
        require("diagram, PNG", "draw")
        import resvg_py

        return bytes(resvg_py.svg_to_bytes(svg_string=self.svg, zoom=scale))

    def _check_scale(self, scale: float) -> None:
        width, height = self._size()
        most = min(math.sqrt(PIXELS / (width * height)), SIDE / max(width, height))
        if not 0 < scale <= most:
            largest = math.floor(100 * most) / 100
            raise DrawingError(
                f"[scale] a picture of {width:g} × {height:g} as PNG; received "
                f"{scale}, expected more than 0 and at most {largest:g}"
            )

    def _size(self) -> tuple[float, float]:
        """Width and height, in pixels of the SVG; so many 96ths of an inch."""
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.svg)
        assert found is not None
        return float(found[1]), float(found[2])

    def pdf(self) -> bytes:
        """The picture as a PDF file of one page, its lines and letters as such.

        Raises:
            MissingExtraError: the extra `pdf` is not installed.
        """
        require("diagram, PDF", "pdf")
        import typst

        width, height = map(str, self._size())
        given = {"svg": self.svg, "width": width, "height": height}
        return typst.compile(_PAGE, format="pdf", sys_inputs=given)

    def save(self, path: str | Path, scale: float = 2.0) -> None:
        """Write the picture to a file, as its name ends: `.svg`, `.png` or `.pdf`.

        Args:
            path: the file.
            scale: of a PNG: its pixels for one of the SVG.

        Raises:
            DrawingError: another ending.
            MissingExtraError: PNG without the extra `draw`, PDF without `pdf`.
        """
        path = Path(path)
        if path.suffix == ".svg":
            path.write_text(self.svg, encoding="utf-8")
        elif path.suffix == ".png":
            path.write_bytes(self.png(scale))
        elif path.suffix == ".pdf":
            path.write_bytes(self.pdf())
        else:
            raise DrawingError(
                f"[diagram] a picture is SVG, PNG or PDF; received {path.name!r}, "
                "expected a name that ends in .svg, .png or .pdf"
            )

    @property
    def title(self) -> str:
        """What the picture shows."""
        found = re.search("<title>(.*?)</title>", self.svg)
        return unescape(found[1]) if found else ""

    def __repr__(self) -> str:
        return f"<picture: {self.title}>"

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        """The same; where a page is narrower, the picture shrinks to it."""
        return f'<div class="cw-fit">{_FIT}{self.svg}</div>'


_FIT = "<style>.cw-fit > svg { max-width: 100%; height: auto }</style>"

# A page as large as the picture, 0.75 points for a 96th of an inch.
_PAGE = b"""
#let points(name) = float(sys.inputs.at(name)) * 0.75pt
#set page(width: points("width"), height: points("height"), margin: 0pt, fill: none)
#image(bytes(sys.inputs.svg), format: "svg", width: 100%)
"""
