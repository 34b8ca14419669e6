"""A cell step by step, as lectures explain it: one picture an equation.

Each shows the part of the cell that the equation computes, the rest pale, over the
equation and a sentence on what it decides; with the values of a trained model, where
they are given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...language.canonical import shown_statements
from ...language.graph import Graph, Weight
from ...language.hyperparameters import Known
from ...language.latex import EquationWriter
from ...language.ops import OPS, Op
from .captions import CaptionWriter
from .layout import Layout
from .live import Live, StepValues
from .moment import Moment, Values
from .picture import Picture
from .plan import JOIN, Plan
from .sketch import RESULTS
from .strips import STYLE, chips, panel
from .svg import body, document, lit_picture, spans, style_of
from .text import Label, Run, as_text, number, symbol, width

EQUATION, CAPTION = 19.0, 15.0  # sizes of the two
LEAST, LEAST_LIVE = 560.0, 740.0  # width of a picture, for captions and strips
NOTHING = StepValues([], "")  # of a cell without values


class Step(Picture):
    """One equation of a cell: its picture, and what it says.

    Attributes:
        equation: the equation, as plain text.
        caption: what it decides, as plain text.
        lit: the elements that it computes, and what feeds them.
        values: of one step of a trained cell: those of the equation's operands, of what
            is made on the way, and of its result, by their names as plain text.
    """

    def __init__(
        self,
        svg: str,
        equation: str,
        caption: str,
        lit: frozenset[int],
        values: Mapping[str, Values],
    ) -> None:
        super().__init__(svg)
        self.equation, self.caption = equation, caption
        self.lit, self.values = lit, dict(values)


def walkthrough(
    graph: Graph,
    known: Mapping[int, Known],
    plan: Plan,
    layout: Layout,
    name: str,
    moment: Moment | None = None,
) -> tuple[Step, ...]:
    """A step for every equation that has a part of the picture."""
    writer = _LabelWriter(graph, known)
    equations = {s: _label(writer.statement(s)) for s in shown_statements(graph)}
    names = {node: _label(name) for node, name in writer.symbols.items()}
    captions = CaptionWriter(plan, names)
    live = Live(graph, plan, captions, moment) if moment else None
    steps = []
    for statement, equation in equations.items():
        own = _elements_of(plan, _inlined(graph, statement))
        if own:
            lit = frozenset(own | _around(plan, own))
            top = max(own, key=lambda e: plan.elements[e].value)
            caption = captions.caption(top) + (live.sentence(top) if live else ())
            shown = live.shown(own) if live else NOTHING
            content = _content(layout, lit, equation, caption, shown)
            spoken = f"{name}, {as_text(equation)}"
            style = style_of(layout) + (STYLE if shown.rows else "")
            svg = document(*content, spoken, style)
            values = {as_text(row.label): row.values for row in shown.rows}
            steps.append(Step(svg, as_text(equation), as_text(caption), lit, values))
    return tuple(steps)


def _content(
    layout: Layout,
    lit: frozenset[int],
    equation: Label,
    caption: Label,
    shown: StepValues,
) -> tuple[list[str], float, float]:
    """The lit picture over its equation, caption and values: SVG, width and height."""
    wide = max(layout.width, LEAST_LIVE if shown.rows else LEAST)
    shift = (wide - layout.width) / 2
    lines = [f'<g transform="translate({shift:g} 0)">', *body(layout)]
    lines += lit_picture(layout, set(lit))
    lines += [*chips(layout, lit, shown.rows), "</g>"]
    y = layout.height + 22
    for part in wrapped(equation, EQUATION, wide - 40):
        lines.append(_centred(part, wide, y, EQUATION))
        y += 1.5 * EQUATION
    y += 6
    for part in wrapped(caption, CAPTION, wide - 60):
        lines.append(_centred(part, wide, y, CAPTION))
        y += 1.45 * CAPTION
    if shown.rows:
        strips, height = panel(shown, wide, y)
        lines += strips
        y += height
    return lines, wide, y


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
            italic, sub, text = part[1] == "i", part[2] == "s", part[3:-1]
            runs.append(Run(text, italic, sub))
        elif part:
            runs.append(Run(part))
    return tuple(runs)


class _LabelWriter(EquationWriter):
    """Equations in one line of text, their symbols fenced for `_label`."""

    def mark(self, label: Label) -> str:
        return "".join(
            f"\x02{'i' if r.italic else 'u'}{'s' if r.sub else 'l'}{r.text}\x03"
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
        text = self.mark((Run("W", True), *_lowered(weight.name)))
        if weight.antisymmetric:
            return f"({text} − {text}ᵀ)"
        return f"{OPS[weight.columns].glyph}({text})" if weight.columns else text

    def product(self, matrix: str, operand: str, bias_of: str | None) -> str:
        bias = ""
        if bias_of is not None:
            bias = " + " + self.mark((Run("b", True), *_lowered(bias_of)))
        return f"{matrix} · {operand}{bias}"

    def apply(self, op: Op, parts: list[str]) -> str:
        if op.name == "div":
            above, below = (f"({p})" if " " in p else p for p in parts)
            return f"{above} ∕ {below}"
        if op.name == "neg":
            return f"−{parts[0]}"
        if op.symbol:
            sign = "*" if op.name == "mul" else op.glyph
            return f"{parts[0]} {sign} {parts[1]}"
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


def _lowered(name: str) -> Label:
    """A weight's name as a subscript."""
    text = "".join(run.text for run in symbol(name))
    return (Run(text, len(text) == 1 and text.isalpha(), True),)
