"""A cell step by step, as lectures explain it: one picture an equation.

Each shows the part of the cell that the equation computes, the rest pale, over the
equation and a sentence on what it decides; with the values of a trained model, where
they are given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...language.canonical import shown_statements
from ...language.graph import Graph, Weight
from ...language.hyperparameters import with_hyperparameters
from ...language.latex import EquationWriter
from ...language.ops import OPS, Op
from .captions import CaptionWriter
from .layout import Layout
from .live import Live, StepValues
from .moment import Moment
from .picture import DrawingError, Picture
from .plan import JOIN, Plan
from .sketch import RESULTS
from .strips import STRIPS, chips, panel
from .style import Style
from .svg import body, document, lit_picture, px, sheets_of, spans
from .text import Label, Run, as_text, number, subscripted, symbol, width

if TYPE_CHECKING:
    from . import Diagram

EQUATION, CAPTION = 19.0, 15.0  # sizes of the two
LEAST, LEAST_LIVE = 560.0, 740.0  # width of a picture, for captions and strips
NOTHING = StepValues([], "")  # of a cell without values


class Step(Picture):
    """One equation of a cell: its picture, and what it says.

    Attributes:
        equation: the equation, as plain text, after those of symbols that it alone
            reads and that have no part of the picture; one a line.
        caption: what it decides, as plain text.
        lit: the elements that it computes, and what feeds them.
        values: of one step of a trained cell: those of the equation's operands, of what
            is made on the way, and of its result, by their names as plain text.
    """

    def __init__(self, part: _Part, svg: str) -> None:
        super().__init__(svg)
        self.equation = "\n".join(map(as_text, part.equations))
        self.caption = as_text(part.caption)
        self.lit = part.lit
        self.values = {as_text(row.label): row.values for row in part.shown.rows}


class Steps(tuple[Step, ...]):
    """A cell step by step. A notebook shows the pictures one below the other.

    Attributes:
        title: of the series.
        style: its colours.
    """

    title: str
    style: Style

    def __new__(cls, steps: Iterable[Step], title: str, style: Style) -> Steps:
        made = super().__new__(cls, steps)
        made.title, made.style = title, style
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.title, self.style

    def html(self) -> str:
        """A page that shows one step at a time; arrow keys walk through them."""
        from .deck import deck

        return deck([step.svg for step in self], self.title, self.style)

    def save(self, path: str | Path) -> None:
        """Write `html()` to a file; `for step in steps: step.save(…)` writes pictures.

        Raises:
            DrawingError: a name that does not end in .html.
        """
        path = Path(path)
        if path.suffix != ".html":
            raise DrawingError(
                f"[diagram] a series of steps is one page; received {path.name!r}, "
                "expected a name that ends in .html. Each step has a save(path) of its "
                "own, for .svg, .png and .pdf"
            )
        path.write_text(self.html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        return "\n".join(step._repr_html_() for step in self)

    def __repr__(self) -> str:
        return f"<{self.title}: {', '.join(step.equation for step in self)}>"


@dataclass(frozen=True)
class _Part:
    """What one step shows."""

    lit: frozenset[int]
    equations: list[Label]
    caption: Label
    shown: StepValues


def walkthrough(diagram: Diagram, moment: Moment | None = None) -> Steps:
    """A step for every equation that has a part of the picture, all of one size."""
    layout, name, style = diagram.layout, diagram.cell.name, diagram.style
    parts = _parts(diagram, moment)
    live = any(part.shown.rows for part in parts)
    wide = max(layout.width, LEAST_LIVE if live else LEAST)
    contents = [_content(layout, part, wide) for part in parts]
    size = wide, max((high for _, high in contents), default=0.0)
    sheets = [*sheets_of(layout), *([STRIPS] if live else [])]
    found = []
    for part, (lines, _) in zip(parts, contents, strict=True):
        title = f"{name}, {as_text(part.equations[-1])}"
        found.append(Step(part, document(lines, size, title, style, sheets)))
    return Steps(found, f"{name} step by step", style)


def _parts(diagram: Diagram, moment: Moment | None) -> list[_Part]:
    graph, plan = diagram.graph, diagram.plan
    writer = _LabelWriter(graph, diagram.known)
    equations = {s: _label(writer.statement(s)) for s in shown_statements(graph)}
    names = {node: _label(name) for node, name in writer.symbols.items()}
    captions = CaptionWriter(plan, names)
    written, _ = with_hyperparameters(diagram.cell)  # under the names of the moment
    live = Live(written, plan, captions, moment) if moment else None
    parts, waiting = [], []  # equations without a part of the picture
    for statement, equation in equations.items():
        waiting.append(equation)
        own = _elements_of(plan, _inlined(graph, statement))
        if own:
            lit = frozenset(own | _around(plan, own))
            top = max(own, key=lambda e: plan.elements[e].value)
            caption = captions.caption(top) + (live.sentence(top) if live else ())
            shown = live.shown(own) if live else NOTHING
            parts.append(_Part(lit, waiting, caption, shown))
            waiting = []
    if parts:
        parts[-1].equations[-1:-1] = waiting  # of values that nothing drawn reads
    return parts


def _content(layout: Layout, part: _Part, wide: float) -> tuple[list[str], float]:
    """The lit picture over its equation, caption and values: SVG, and its height."""
    shift = (wide - layout.width) / 2
    lines = [f'<g transform="translate({px(shift)} 0)">', *body(layout)]
    lines += lit_picture(layout, set(part.lit))
    lines += [*chips(layout, part.lit, part.shown.rows), "</g>"]
    y = layout.height + 22
    for equation in part.equations:
        for line in wrapped(equation, EQUATION, wide - 40):
            lines.append(_centred(line, wide, y, EQUATION))
            y += 1.5 * EQUATION
    y += 6
    for line in wrapped(part.caption, CAPTION, wide - 60):
        lines.append(_centred(line, wide, y, CAPTION))
        y += 1.45 * CAPTION
    if part.shown.rows:
        strips, height = panel(part.shown, wide, y)
        lines += strips
        y += height
    return lines, y


def _inlined(graph: Graph, statement: int) -> set[int]:
    """The nodes that a statement writes out."""
    others = set(shown_statements(graph)) - {statement}
    found, front = {statement}, [statement]
    while front:
        args = set(graph.nodes[front.pop()].args) - others - found
        found |= args
        front += args
    return found


def _elements_of(plan: Plan, nodes: set[int]) -> set[int]:
    return {
        number
        for number, element in enumerate(plan.elements)
        if element.kind in ("layer", "op") and element.value in nodes
    }


def _around(plan: Plan, own: set[int]) -> set[int]:
    """The joins that feed these elements, and the results that they are."""
    readers = plan.readers()
    found = {r for e in own for r, _ in readers[e] if plan.elements[r].kind in RESULTS}
    front = list(own)
    while front:
        for wire in plan.elements[front.pop()].inputs:
            if plan.elements[wire.source].kind == JOIN:
                found.add(wire.source)
                front.append(wire.source)
            elif plan.elements[wire.source].kind in ("input", "state"):
                found.add(wire.source)
    return found


# -- equations and captions as lines -----------------------------------------------


def wrapped(label: Label, size: float, wide: float) -> list[Label]:
    """A label in lines of at most a width, broken between words."""
    lines: list[list[Run]] = [[]]
    used = 0.0
    for word in _words(label):
        need = width(tuple(word), size)
        if used and used + need > wide:
            lines.append([])
            used = 0.0
            word = [Run(word[0].text.lstrip(), *word[0][1:]), *word[1:]]
        lines[-1] += word
        used += need
    return [tuple(line) for line in lines]


def _words(label: Label) -> list[list[Run]]:
    """Runs cut before each space; a symbol stays with the word that it touches."""
    words: list[list[Run]] = [[]]
    for run in label:
        for place, part in enumerate(re.split("(?= )", run.text)):
            if words[-1] and (place or part.startswith(" ")):
                words.append([])
            if part:
                words[-1].append(run._replace(text=part))
    return [word for word in words if word]


def _centred(label: Label, wide: float, y: float, size: float) -> str:
    return (
        f'<text class="cw-text" x="{wide / 2:g}" y="{y:g}" font-size="{size:g}" '
        f'text-anchor="middle">{spans(label, size)}</text>'
    )


def _label(marked: str) -> Label:
    """Runs of a text in which symbols are fenced: see `_LabelWriter.mark`."""
    runs: list[Run] = []
    for part in re.split("(\x02[^\x03]*\x03)", marked):
        if part.startswith("\x02"):
            accent, _, text = part[3:-1].partition(":")
            runs.append(Run(text, part[1] == "i", part[2] == "s", accent))
        elif part:
            runs.append(Run(part))
    return tuple(runs)


class _LabelWriter(EquationWriter):
    """Equations in one line of text, their symbols fenced for `_label`."""

    def mark(self, label: Label) -> str:
        return "".join(
            f"\x02{'i' if r.italic else 'u'}{'s' if r.sub else 'l'}{r.accent}:{r.text}"
            "\x03"
            for r in label
        )

    def at(self, name: str, time: str) -> str:
        return self.mark(symbol(name, time))

    def symbol(self, name: str) -> str:
        return self.mark(symbol(name))

    def literal(self, value: float) -> str:
        return number(value)

    def bracket(self, text: str) -> str:
        return f"({text})"

    def concatenation(self, parts: list[str]) -> str:
        return f"[{', '.join(parts)}]"

    def matrix(self, weight: Weight) -> str:
        text = self.below("W", weight.name)
        if weight.antisymmetric:
            return f"({text} − {text}ᵀ)"
        return f"{OPS[weight.columns].glyph}({text})" if weight.columns else text

    def below(self, letter: str, weight: str) -> str:
        return self.mark(subscripted(letter, weight))

    def product(self, matrix: str, operand: str, bias_of: str | None) -> str:
        bias = "" if bias_of is None else f" + {self.below('b', bias_of)}"
        return f"{matrix} · {operand}{bias}"

    def apply(self, op: Op, parts: list[str]) -> str:
        if op.name == "div":
            above, below = (f"({p})" if " " in p else p for p in parts)
            return f"{above} ∕ {below}"
        if op.name == "neg":
            return f"−{parts[0]}"
        if op.symbol:
            return f"{parts[0]} {op.glyph} {parts[1]}"
        if op.name == "identity":
            return parts[0]
        glyph = op.name if op.name == "abs" else op.glyph  # whose bars hold nothing
        return f"{glyph}({', '.join(parts)})"

    def scaled(self, parts: list[str]) -> str:
        return " · ".join(parts)

    def total(self, text: str, member: str) -> str:
        return f"Σ{self.mark((Run(member, True, True),))} {text}"

    def attention(self, text: str, member: str) -> str:
        return f"softmax{self.mark((Run(member, True, True),))}({text})"

    def equation(self, symbol: str, text: str) -> str:
        return f"{symbol} = {text}"
