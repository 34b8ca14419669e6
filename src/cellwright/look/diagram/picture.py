"""A picture: an SVG that a notebook shows and a file keeps."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ...extras import require
from ...language.errors import CellwrightError

PIXELS, SIDE = 100_000_000, 65_000  # of a PNG, and of its longer side


class DrawingError(CellwrightError):
    """A picture cannot be written as asked."""


class Picture:
    """An SVG. A notebook shows it; `save` writes it to a file.

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
        """Width and height, in pixels of the SVG."""
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.svg)
        assert found is not None
        return float(found[1]), float(found[2])

    def save(self, path: str | Path, scale: float = 2.0) -> None:
        """Write the picture to a file, as its name ends: `.svg` or `.png`.

        Args:
            path: the file.
            scale: of a PNG: its pixels for one of the SVG.

        Raises:
            DrawingError: another ending.
            MissingExtraError: PNG without the extra `draw`.
        """
        path = Path(path)
        if path.suffix == ".svg":
            path.write_text(self.svg, encoding="utf-8")
        elif path.suffix == ".png":
            path.write_bytes(self.png(scale))
        else:
            raise DrawingError(
                f"[diagram] a picture is SVG or PNG; received {path.name!r}, expected "
                "a name that ends in .svg or .png"
            )

    def _repr_svg_(self) -> str:
        return self.svg
