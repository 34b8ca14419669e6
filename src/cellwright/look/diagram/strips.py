"""Live values drawn: a strip of all units, and a histogram at its place in the cell.

Colours come in a few levels, so that the scale beneath names each. Every unit has its
column in all strips: one that f deletes stands under the c that it deletes. Histograms
can be read without colours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..saturation import HIGH, LOW
from .layout import Layout
from .live import LABEL, LONGEST, Row, StepValues, percent, short
from .style import Sheet
from .svg import px, spans, words
from .text import plain, width

Box = tuple[float, float, float, float]


def _palette(codes: str) -> list[str]:
    return [f"#{code}" for code in codes.split()]


# Viridis for shares; blue to orange through pale for what has a sign.
SHARES = _palette(
    "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"
)
SIGNED = _palette("054582 3473af 74a7d1 b9d6e8 f6f6f4 f9d4a6 eea358 cf6e1a 964200")
SIGNED_ON_DARK = _palette(
    "9ad0ff 639fd6 40709d 344d66 2a333d 5a4830 8f6427 cf8c30 ffbd63"
)


def _classes(prefix: str, colours: Sequence[str]) -> str:
    return "\n".join(f".cw-{prefix}{n} {{ fill: {c} }}" for n, c in enumerate(colours))


STRIPS = Sheet(
    f"""
{_classes("g", SHARES)}
{_classes("s", SIGNED)}
.cw-frame {{ fill: none; stroke: #5c6b78; stroke-width: 0.8 }}
.cw-bar {{ stroke: #5c6b78; stroke-width: 0.4 }}
.cw-card {{ fill: #ffffff; stroke: #5c6b78; stroke-width: 0.8 }}
""",
    f"""
{_classes("s", SIGNED_ON_DARK)}
.cw-frame, .cw-card, .cw-bar {{ stroke: #9fb0be }}
.cw-card {{ fill: #12181f }}
""",
)

PITCH, HEIGHT = 21.0, 13.0  # of the strips
NUMBERS = 300.0  # width of what stands beside them
WIDEST = 24.0  # of a unit in a strip
SWATCH, BETWEEN = 12.0, 30.0  # of a scale's colours; from scale to scale
WORDS = 12.0
BARS, CHIP_HEIGHT, CLEAR = 40.0, 19.0, 3.0  # a histogram, and what is left free
NAME, LONGEST_NAME = 11.0, 34.0  # of the value, in its histogram; how wide at most
REACH, GRID = 96, 4  # how far from its place a histogram may be, and the search's step
OVER_SHAPE, OVER_LINE = 80.0, 25.0  # see `_prices`


def levels(row: Row) -> np.ndarray:
    """Which colour each value has: tenths of a share; ninths of −limit to limit."""
    if row.share:
        return np.clip((row.values * 10).astype(int), 0, 9)
    part = (row.values / row.limit + 1) / 2
    return np.clip(np.floor(part * 9), 0, 8).astype(int)


# -- the strips ----------------------------------------------------------------------


def panel(values: StepValues, wide: float, y: float) -> tuple[list[str], float]:
    """A strip for each value, and the colours' scales; its SVG and its height."""
    rows, title = values.rows, values.title
    unit = {len(r.values): _unit(len(r.values), wide) for r in rows}
    used = max(count * each for count, each in unit.items())
    left, top = (wide - LONGEST - used - NUMBERS) / 2 + LONGEST, y
    lines = []
    if title:
        lines.append(_words(title, wide / 2, y + 10, "middle"))
        y += PITCH + 3
    by = sorting_row(rows)
    for row in rows:
        same = len(row.values) == len(by.values)
        order = np.argsort((by if same else row).values, kind="stable")
        lines += _strip(row, order, left, y, unit[len(order)])
        lines += _written(row, left, left + used, y + HEIGHT - 2.5)
        y += PITCH
    y += 8
    lines += _scales(rows, wide, y)
    y += PITCH
    if len(rows[-1].values) > 1:
        said = (*plain("A column a unit, the same in each strip; in the order of "),)
        said = spans((*said, *by.label), WORDS)
        lines.append(
            f'<text class="cw-words" x="{px(wide / 2)}" y="{px(y + 10)}" '
            f'font-size="{WORDS:g}" text-anchor="middle">{said}</text>'
        )
        y += PITCH
    return lines, y + 12 - top


def sorting_row(rows: Sequence[Row]) -> Row:
    """Whose values put the units in order: a gate's, else the result's."""
    size = len(rows[-1].values)
    return next((r for r in rows if r.share and len(r.values) == size), rows[-1])


def _unit(count: int, wide: float) -> float:
    """The width of one of so many units: whole pixels where there is room."""
    room = wide - LONGEST - NUMBERS - 40
    return min(math.floor(room / count) or room / count, WIDEST)


def _written(row: Row, left: float, right: float, base: float) -> list[str]:
    """The name before a strip, and the numbers after it."""
    label = (
        f'<text class="cw-text" x="{px(left - 10)}" y="{px(base)}" '
        f'font-size="{LABEL:g}" text-anchor="end">{spans(row.label, LABEL)}</text>'
    )
    mean, rest = _numbers(row)
    ends = "0 to 1" if row.share else f"a = {row.limit:g}"
    columns = ((ends, 8), (mean, 66), (rest, 158))
    return [label, *(_words(text, right + at, base) for text, at in columns)]


def _numbers(row: Row) -> tuple[str, str]:
    value = row.values
    if row.share:
        more, less = percent(value > HIGH), percent(value < LOW)
        return f"mean {short(value.mean())}", f"{more} > {HIGH:g}, {less} < {LOW:g}"
    extent = f"from {short(value.min())} to {short(value.max())}"
    return f"mean |·| {short(np.abs(value).mean())}", extent


def _strip(row: Row, order: np.ndarray, x: float, y: float, unit: float) -> list[str]:
    """All units side by side; one path for each level."""
    paths: dict[int, str] = {}
    start = 0
    for level, same in itertools.groupby(levels(row)[order].tolist()):
        long = len(list(same))
        box = f"M{px(x + start * unit)} {px(y)}h{px(long * unit)}v{HEIGHT:g}"
        paths[level] = paths.get(level, "") + f"{box}h-{px(long * unit)}z"
        start += long
    return [
        f'<g data-strip="{row.element}" data-unit="{px(unit)}">',
        *(
            f'<path class="cw-{_kind(row.share)}{level}" shape-rendering="crispEdges" '
            f'd="{path}"/>'
            for level, path in sorted(paths.items())
        ),
        "</g>",
        _frame(x, y, len(order) * unit),
    ]


def _kind(share: bool) -> str:
    return "g" if share else "s"


def _frame(x: float, y: float, wide: float) -> str:
    return (
        f'<rect class="cw-frame" x="{px(x)}" y="{px(y)}" width="{px(wide)}" '
        f'height="{HEIGHT:g}"/>'
    )


def _scales(rows: Sequence[Row], wide: float, y: float) -> list[str]:
    """Which colour is which value: the scales that are in use, side by side."""
    drawn = [_scale(share) for share in sorted({r.share for r in rows}, reverse=True)]
    x = (wide - sum(w for _, w in drawn) - BETWEEN * (len(drawn) - 1)) / 2
    lines = []
    for scale, long in drawn:
        lines += [f'<g transform="translate({px(x)} {px(y)})">', *scale, "</g>"]
        x += long + BETWEEN
    return lines


def _scale(share: bool) -> tuple[list[str], float]:
    """The colours from low to high between their ends; how long it is."""
    low, high = ("0", "1") if share else ("−a", "a")
    count, base = len(SHARES if share else SIGNED), HEIGHT - 2.5
    x, long = width(plain(low), WORDS) + 4, SWATCH * count
    swatches = [
        f'<rect class="cw-{_kind(share)}{n}" x="{px(x + n * SWATCH)}" y="0" '
        f'width="{SWATCH:g}" height="{HEIGHT:g}"/>'
        for n in range(count)
    ]
    ends = [_words(low, x - 4, base, "end"), _words(high, x + long + 4, base)]
    whole = x + long + 4 + width(plain(high), WORDS)
    return [*swatches, _frame(x, 0, long), *ends], whole


def _words(text: str, x: float, y: float, anchor: str = "start") -> str:
    return words(text, x, y, WORDS, anchor)


# -- histograms in the picture -------------------------------------------------------


def chips(layout: Layout, lit: frozenset[int], rows: Iterable[Row]) -> list[str]:
    """A small histogram at each value's place, clear of all that is lit."""
    busy = list(_lit_boxes(layout, lit))
    pale = list(_prices(layout))
    lines = []
    for row in rows:
        wide = BARS + 4 + _name_width(row)
        box = _free(_places(layout, row.element, wide), busy, pale)
        if box is not None:
            busy.append(box)
            lines += _chip(row, box)
    return lines


def _lit_boxes(layout: Layout, lit: frozenset[int]) -> Iterator[Box]:
    """What a histogram must not cover."""
    operands = {r.source for r in layout.routes if r.reader in lit}
    for number, shape in enumerate(layout.shapes):
        if number in lit and shape.half_width:
            yield shape.box
    for text in layout.texts:
        if text.element in lit or (text.role == "name" and text.element in operands):
            yield text.box
    for route in layout.routes:
        if route.reader in lit:
            yield from _stretches(route.corners)


def _stretches(corners: Sequence[tuple[float, float]]) -> Iterator[Box]:
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        yield min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _prices(layout: Layout) -> Iterator[tuple[Box, float]]:
    """What it costs to cover a thing that is pale, as far as one would go instead."""
    for shape in layout.shapes:
        if shape.half_width:
            yield shape.box, OVER_SHAPE
    for text in layout.texts:
        yield text.box, OVER_SHAPE
    for wire in layout.wires:
        for box in _stretches(wire.corners):
            yield box, OVER_LINE
    left, top, right, bottom = layout.body
    edge = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    for box in _stretches(edge):
        yield box, OVER_LINE


def _name_width(row: Row) -> float:
    """Of a name; what has none is known by its place alone."""
    wide = width(row.label, NAME) + 4
    return wide if wide <= LONGEST_NAME else 0.0


def _places(
    layout: Layout, element: int, wide: float
) -> Iterator[tuple[float, float, Box]]:
    """Boxes round an element: how far from it, and from its middle, each is."""
    shape = layout.shapes[element]
    x, y = shape.x, shape.y
    half_w, half_h = wide / 2, CHIP_HEIGHT / 2
    for dx, dy in itertools.product(range(-REACH, REACH + 1, GRID), repeat=2):
        box = (x + dx - half_w, y + dy - half_h, x + dx + half_w, y + dy + half_h)
        inside = box[0] >= 3 and box[1] >= 3
        if inside and box[2] <= layout.width - 3 and box[3] <= layout.height - 3:
            astray = BARS if _is_astray(layout, element, box) else 0.0
            yield _apart(shape.box, box) + astray, abs(dx) + 0.9 * abs(dy), box


def _is_astray(layout: Layout, element: int, box: Box) -> bool:
    """Whether it is not where the value comes out: over a layer, further on a line."""
    shape, kind = layout.shapes[element], layout.elements[element].kind
    if kind == "layer":
        return box[3] > shape.box[1]
    on_line = any(w.on_state_line and w.source == element for w in layout.wires)
    return kind == "op" and on_line and box[0] < shape.x


def _free(
    places: Iterable[tuple[float, float, Box]],
    busy: list[Box],
    pale: list[tuple[Box, float]],
) -> Box | None:
    """The cheapest place for a histogram: near, and over little that is pale."""
    best, least = None, math.inf
    for far, _, box in sorted(places):
        if far >= least:
            break
        if not any(_overlap(box, other, CLEAR) for other in busy):
            cost = far + sum(p for other, p in pale if _overlap(box, other, CLEAR))
            if cost < least:
                best, least = box, cost
    return best


def _apart(a: Box, b: Box) -> float:
    dx = max(b[0] - a[2], a[0] - b[2], 0.0)
    dy = max(b[1] - a[3], a[1] - b[3], 0.0)
    return round(math.hypot(dx, dy), 3)


def _overlap(a: Box, b: Box, gap: float) -> bool:
    across = a[0] < b[2] + gap and b[0] < a[2] + gap
    return across and a[1] < b[3] + gap and b[1] < a[3] + gap


def _chip(row: Row, box: Box) -> list[str]:
    count = len(SHARES) if row.share else len(SIGNED)
    heights = np.bincount(levels(row), minlength=count)
    heights = heights / heights.max() * (CHIP_HEIGHT - 5)
    name = _name_width(row)
    bar, x, base = BARS / count, box[0] + 2 + name, box[3] - 2
    lines = [
        f'<g data-chip="{row.element}">',
        f'<rect class="cw-card" x="{px(box[0])}" y="{px(box[1])}" '
        f'width="{px(box[2] - box[0])}" height="{CHIP_HEIGHT:g}" rx="3"/>',
    ]
    if name:
        lines.append(
            f'<text class="cw-text" x="{px(box[0] + 4)}" y="{px(base - 4)}" '
            f'font-size="{NAME:g}">{spans(row.label, NAME)}</text>'
        )
    for n, high in enumerate(heights):
        if high:
            lines.append(
                f'<rect class="cw-bar cw-{_kind(row.share)}{n}" '
                f'x="{px(x + n * bar)}" y="{px(base - high)}" '
                f'width="{px(bar)}" height="{px(high)}"/>'
            )
    return [*lines, "</g>"]
