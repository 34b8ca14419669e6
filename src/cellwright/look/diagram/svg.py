"""A layout as SVG: shapes, wires with round corners and bridges, labels, a legend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from typing import NamedTuple
from xml.sax.saxutils import escape

from .layout import RADIUS, XY, Layout, Shape, Text, Wire
from .plan import JOIN
from .route import Heading
from .style import CELL, SIGNS, Sheet, Style
from .text import ACCENTS, SUBSCRIPT, Label, Run, combined, plain, width

HEAD = 7.0  # an arrow's length
BRIDGE = 5.0  # its radius
STACK = 2.5  # from one item of a set to the next


def sheets_of(layout: Layout) -> list[Sheet]:
    """What a cell and its signs look like."""
    signs = {element.sign for element in layout.elements}
    return [CELL, *(sheet for sign, sheet in SIGNS.items() if sign in signs)]


def draw(layout: Layout, title: str, style: Style, legend: bool = True) -> str:
    """The picture as the text of an SVG file."""
    content = [*body(layout), *picture(layout)]
    wide, high = layout.width, layout.height
    if legend:
        key, key_width, key_height = draw_legend({e.sign for e in layout.elements})
        shift = max(0.0, (key_width - wide) / 2)
        content = [f'<g transform="translate({px(shift)} 0)">', *content, "</g>"]
        wide = max(wide, key_width)
        left = (wide - key_width) / 2
        content += [f'<g transform="translate({px(left)} {px(high)})">', *key, "</g>"]
        high += key_height
    return document(content, (wide, high), title, style, sheets_of(layout))


def document(
    content: Iterable[str],
    size: XY,
    title: str,
    style: Style,
    sheets: Sequence[Sheet] = (CELL,),
) -> str:
    """The text of an SVG file."""
    wide, high = map(px, size)
    page = '<rect class="cw-page" width="100%" height="100%"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
            f'width="{wide}" height="{high}" class="{style.root}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{style.css(sheets)}</style>",
            *([] if style.transparent else [page]),
            *content,
            "</svg>\n",
        ]
    )


def body(layout: Layout) -> list[str]:
    x0, y0, x1, y1 = layout.body
    return [
        f'<rect class="cw-body" x="{px(x0)}" y="{px(y0)}" width="{px(x1 - x0)}" '
        f'height="{px(y1 - y0)}" rx="14"/>'
    ]


def picture(layout: Layout) -> list[str]:
    """Wires, shapes and labels."""
    wires = [
        line for wire in layout.wires for line in draw_wire(wire, _joins(layout, wire))
    ]
    shapes = [
        line
        for number, shape in enumerate(layout.shapes)
        for line in draw_shape(layout, number, shape)
    ]
    return [*wires, *shapes, *map(draw_text, layout.texts)]


def lit_picture(layout: Layout, lit: set[int]) -> list[str]:
    """The whole picture pale; over it the lit elements and the ways to them."""
    found = ['<g class="cw-pale">', *picture(layout), "</g>"]
    for route in layout.routes:
        if route.reader in lit:
            found += draw_wire(route, _joins(layout, route))
    for number, shape in enumerate(layout.shapes):
        if number in lit:
            found += draw_shape(layout, number, shape)
    operands = {r.source for r in layout.routes if r.reader in lit}
    return found + [
        draw_text(text)
        for text in layout.texts
        if text.element in lit or (text.role == "name" and text.element in operands)
    ]


def _joins(layout: Layout, wire: Wire) -> bool:
    return layout.elements[wire.reader].kind == JOIN


# -- shapes and labels -----------------------------------------------------------


def draw_shape(layout: Layout, number: int, shape: Shape) -> list[str]:
    element = layout.elements[number]
    if not shape.half_width:
        return []
    radius = 5.0 if element.kind == "layer" else shape.half_height
    kind = element.sign if element.sign == "attention" else element.kind
    if element.sign == "unbiased":
        kind += " cw-unbiased"
    own = rectangle(shape, kind, radius, f' data-element="{number}"')
    if element.sign != "items":
        return [own]
    return [*(rectangle(back, kind, radius) for back in _stacked(shape)), own]


def _stacked(shape: Shape) -> list[Shape]:
    """The items behind the first: a set is a stack."""
    return [replace(shape, x=shape.x + d, y=shape.y + d) for d in (2 * STACK, STACK)]


def rectangle(shape: Shape, kind: str, radius: float, more: str = "") -> str:
    x, y, _, _ = shape.box
    return (
        f'<rect class="cw-{kind}" x="{px(x)}" y="{px(y)}" '
        f'width="{px(2 * shape.half_width)}" height="{px(2 * shape.half_height)}" '
        f'rx="{px(radius)}"{more}/>'
    )


def draw_text(text: Text) -> str:
    return (
        f'<text class="cw-text" x="{px(text.x)}" y="{px(text.y)}" '
        f'font-size="{px(text.size)}" text-anchor="{text.anchor}" '
        f'data-role="{text.role}" data-element="{text.element}">'
        f"{spans(text.label, text.size)}</text>"
    )


LOW, STAR, RISE = 0.25, 0.2, -0.2  # of a size: how far below the line, and above


def spans(label: Label, size: float) -> str:
    """A label's runs, each raised or lowered to its place.

    Signs that not every font has are made of others: * is lowered to the middle of the
    line, and an accent is drawn back over its letter.
    """
    parts, at = [], 0.0
    for piece in _pieces(label):
        options = ' class="cw-italic"' if piece.run.italic else ""
        if piece.back:
            options += f' dx="{px(piece.back * size)}"'
        if piece.down != at:
            options += f' dy="{px((piece.down - at) * size)}"'
        if piece.run.sub:
            options += f' font-size="{px(size * SUBSCRIPT)}"'
        parts.append(f"<tspan{options}>{escape(piece.run.text)}</tspan>")
        at = piece.down
    return "".join(parts)


class _Piece(NamedTuple):
    """A run, how far below the line it is, and where from the end of the one before."""

    run: Run
    down: float = 0.0
    back: float = 0.0


def _pieces(label: Label) -> Iterator[_Piece]:
    back = 0.0
    for run in label:
        down = LOW if run.sub else 0.0
        for text in re.split(r"(\*)", combined(run) if _is_in_fonts(run) else run.text):
            if text:
                star = STAR if text == "*" else 0.0
                yield _Piece(run._replace(text=text), down + star, back)
                back = 0.0
        if run.accent and not _is_in_fonts(run):
            over = _Piece(run._replace(text=ACCENTS[run.accent][1]), down, 0.0)
            letter = _advance(run.text)
            tall = run.text.isupper() or run.text in "bdfhklt"
            slant = 0.08 if tall else 0.03
            yield over._replace(
                down=down + (RISE if tall else 0.0),
                back=slant - (letter + ACCENT) / 2,
            )
            back = (letter - ACCENT) / 2 - slant


def _is_in_fonts(run: Run) -> bool:
    """Whether serif fonts have the letter with its accent."""
    return len(combined(run)) == 1 and combined(run) < "\u0180"


ACCENT = 0.333  # the width of an accent, for a letter of Times's italic


def _advance(letter: str) -> float:
    """About how wide a letter of that font is."""
    if letter.isupper():
        return 0.65
    return next((w for w, some in _ADVANCES if letter in some), 0.5)


_ADVANCES = ((0.28, "ijlft"), (0.39, "rsz"), (0.44, "cekvxy"), (0.7, "mw"))


def words(text: str, x: float, y: float, size: float, anchor: str = "start") -> str:
    """Text that is no formula."""
    return (
        f'<text class="cw-words" x="{px(x)}" y="{px(y)}" font-size="{px(size)}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


# -- wires -----------------------------------------------------------------------


def draw_wire(wire: Wire, joins: bool = False) -> list[str]:
    """A line and its arrow; one that joins another has none."""
    kind = "cw-wire cw-state" if wire.on_state_line else "cw-wire"
    lines = [f'<path class="{kind}" data-line="" d="{path_data(wire, joins)}"/>']
    if not joins:
        lines.append(_head(*wire.corners[-2:]))
    return lines


def path_data(wire: Wire, joins: bool) -> str:
    """The wire's line: it leaves another in a curve, and joins one in a curve."""
    corners = list(wire.corners)
    first, last = _direction(*corners[:2]), _direction(*corners[-2:])
    parts = []
    if wire.came is None:
        parts.append(f"M{_at(corners[0])}")
    else:
        start = _moved(corners[0], wire.came, -RADIUS)
        parts.append(f"M{_at(start)}")
        if first != wire.came:
            after = _moved(corners[0], first, RADIUS)
            parts.append(f"Q{_at(corners[0])} {_at(after)}")
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        inward, outward = _direction(before, corner), _direction(corner, after)
        parts += _straight(
            _moved(corner, inward, -RADIUS), inward, wire.bridges, before
        )
        parts.append(f"Q{_at(corner)} {_at(_moved(corner, outward, RADIUS))}")
    end, before = corners[-1], corners[-2]
    if not joins:
        parts += _straight(_moved(end, last, -HEAD + 2), last, wire.bridges, before)
    elif last == (1, 0):
        parts += _straight(end, last, wire.bridges, before)
    else:
        parts += _straight(_moved(end, last, -RADIUS), last, wire.bridges, before)
        parts.append(f"Q{_at(end)} {_at(_moved(end, (1, 0), RADIUS))}")
    return "".join(parts)


def _straight(
    end: XY, heading: Heading, bridges: tuple[XY, ...], start: XY
) -> list[str]:
    """A line to `end`, over the bridges that lie on it."""
    parts = []
    if heading[1]:
        low, high = sorted((start[1], end[1]))
        over = [b for b in bridges if b[0] == end[0] and low < b[1] < high]
        for bridge in sorted(over, key=lambda b: b[1] * heading[1]):
            sweep = 0 if heading[1] > 0 else 1
            before, after = (_moved(bridge, heading, d) for d in (-BRIDGE, BRIDGE))
            parts.append(
                f"L{_at(before)}A{BRIDGE:g} {BRIDGE:g} 0 0 {sweep} {_at(after)}"
            )
    return [*parts, f"L{_at(end)}"]


def _head(before: XY, end: XY) -> str:
    heading = _direction(before, end)
    side = (-heading[1], heading[0])
    back = _moved(end, heading, -HEAD)
    points = [end, _moved(back, side, 3.6), _moved(back, side, -3.6)]
    return f'<polygon class="cw-head" points="{" ".join(map(_at, points))}"/>'


def _direction(a: XY, b: XY) -> Heading:
    return (b[0] > a[0]) - (b[0] < a[0]), (b[1] > a[1]) - (b[1] < a[1])


def _moved(point: XY, heading: Heading, distance: float) -> XY:
    return point[0] + heading[0] * distance, point[1] + heading[1] * distance


def _at(point: XY) -> str:
    return f"{px(point[0])} {px(point[1])}"


def px(value: float) -> str:
    """Pixels as text."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


# -- the legend --------------------------------------------------------------------


def draw_legend(signs: Set[str] = frozenset()) -> tuple[list[str], float, float]:
    """What the shapes and lines mean; its lines, width and height.

    Args:
        signs: those of elements that not every cell has.
    """
    items = [
        ("layer", '<rect class="cw-layer" x="1" y="3" width="30" height="20" rx="4"/>'),
        (
            "pointwise operation",
            '<rect class="cw-op" x="6" y="3" width="20" height="20" rx="10"/>',
        ),
        ("vector transfer", _sample("M0 13L28 13", (0, 13), (32, 13))),
        ("concatenate", _sample("M0 6L32 6M0 22L12 22Q19 22 19 14L19 13Q19 6 26 6")),
        ("copy", _sample("M0 6L32 6M0 6L6 6Q13 6 13 13L13 15Q13 22 20 22L32 22")),
    ]
    items[1:1] = [_UNBIASED] if "unbiased" in signs else []
    items += [(name, sign) for own, name, sign in _LEGEND_OF_SIGNS if own in signs]
    lines, x = [], 16.0
    for name, sign in items:
        wide = width(plain(name), 12) * 0.95
        lines.append(
            f'<g transform="translate({px(x)} 2)">{sign}'
            f'<text class="cw-words" x="40" y="17" font-size="12">{name}</text></g>'
        )
        x += 40 + wide + 18
    return lines, x, 40.0


_UNBIASED = (
    "layer without bias",
    '<rect class="cw-layer cw-unbiased" x="1" y="3" width="30" height="20" rx="4"/>',
)
_CIRCLE = '<rect class="cw-{}" x="{}" y="{}" width="{}" height="18" rx="9"/>'
_LEGEND_OF_SIGNS = (
    (
        "items",
        "set of items",
        "".join(_CIRCLE.format("input", 5 + d, 2 + d, 18) for d in (5, 2.5, 0)),
    ),
    ("attention", "attention over them", _CIRCLE.format("attention", 2, 4, 28)),
)


def _sample(d: str, *arrow: XY) -> str:
    return f'<path class="cw-wire" d="{d}"/>' + (_head(*arrow) if arrow else "")
