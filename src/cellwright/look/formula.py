"""A cell's equations as MathML, as a LaTeX document, and for a notebook.

MathML Core, which every browser renders without a script or a font of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

from ..language.cell import Cell
from ..language.graph import Weight
from ..language.latex import GREEK, EquationWriter, is_index, split
from ..language.notation import notated
from ..language.ops import OPS, Op
from .diagram.text import ACCENTS, number


def mathml(cell: Cell, names: Mapping[str, str] | None = None) -> str:
    """The equations as one MathML `<math>` element, aligned at their signs.

    Args:
        cell: the cell.
        names: what values are called, as in `Cell.latex`.
    """
    rows = "\n".join(MathmlWriter(*notated(cell, names)).equations())
    return (
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">\n'
        f'<mtable displaystyle="true">\n{rows}\n</mtable>\n</math>\n'
    )


def tex_document(cell: Cell, names: Mapping[str, str] | None = None) -> str:
    """The equations as a LaTeX document that compiles by itself."""
    return "\n".join(
        [
            r"\documentclass[border=8pt, varwidth=60cm]{standalone}",
            r"\usepackage{amsmath, amssymb}",
            r"\begin{document}",
            r"\[",
            cell.latex(names=names),
            r"\]",
            r"\end{document}",
            "",
        ]
    )


_THIN = '<mspace width="0.17em"></mspace>'


class MathmlWriter(EquationWriter):
    """The equations as rows of a MathML table."""

    def at(self, name: str, time: str) -> str:
        """One subscript, as in LaTeX: time joins the name's own."""
        below = [_identifier(part) for part in split(name).below]
        below += [_operator(",")] if below else []
        if time == "t-1":
            below += [_identifier("t"), _operator("−"), "<mn>1</mn>"]
        else:
            below += map(_subscript, _subscripts(time))
        return _symbol(name, below)

    def symbol(self, name: str) -> str:
        return _symbol(name, [_identifier(part) for part in split(name).below])

    def literal(self, value: float) -> str:
        mantissa, _, exponent = f"{value:g}".partition("e")
        if not exponent:
            return _signed(value)
        base = f"<mn>10</mn>{_row([_signed(int(exponent))])}"
        power = f"<msup>{base}</msup>"
        if mantissa == "1":
            return power
        return _row([_signed(float(mantissa)), _operator("·"), power])

    def bracket(self, text: str) -> str:
        return _fenced("(", text, ")")

    def concatenation(self, parts: list[str]) -> str:
        return _fenced("[", _operator(",").join(parts), "]")

    def matrix(self, weight: Weight) -> str:
        text = self.below("W", weight.name)
        if weight.antisymmetric:
            transposed = f"<msup>{text}{_operator('⊤')}</msup>"
            return _fenced("(", _row([text, _operator("−"), transposed]), ")")
        return self.apply(OPS[weight.columns], [text]) if weight.columns else text

    def below(self, letter: str, weight: str) -> str:
        if not weight:
            return _identifier(letter)
        return f"<msub>{_identifier(letter)}{self.symbol(weight)}</msub>"

    def product(self, matrix: str, operand: str, bias_of: str | None) -> str:
        parts = [matrix, _operator("·"), operand]
        if bias_of is not None:
            parts += [_operator("+"), self.below("b", bias_of)]
        return _row(parts)

    def apply(self, op: Op, parts: list[str]) -> str:
        match op.name:
            case "mul":
                return _row([parts[0], _operator("∗"), parts[1]])
            case "neg":
                return _row([_operator("−"), parts[0]])
            case "div":
                return f"<mfrac>{''.join(map(_row, ([p] for p in parts)))}</mfrac>"
            case "sqrt":
                return f"<msqrt>{parts[0]}</msqrt>"
            case "abs":
                return _fenced("|", parts[0], "|")
            case "sum":
                return _row([_operator("∑"), parts[0]])
            case "identity":
                return parts[0]
            case "where":
                return _cases(*parts)
            case "outer":
                transposed = f"<msup>{_row([parts[1]])}{_operator('⊤')}</msup>"
                return _row([parts[0], _THIN, transposed])
            case "matvec":
                return _row([parts[0], _THIN, parts[1]])
            case "vecmat":
                transposed = f"<msup>{_row([parts[1]])}{_operator('⊤')}</msup>"
                return _row([transposed, _THIN, parts[0]])
            case "scale_rows":
                return _row([_diagonal(parts[1]), _THIN, parts[0]])
            case "scale_columns":
                return _row([parts[0], _THIN, _diagonal(parts[1])])
        if op.symbol:
            return _row([parts[0], _operator(op.glyph), parts[1]])
        name = f"<mi>{op.glyph}</mi><mo>&#x2061;</mo>"
        return _row([name, _fenced("(", _operator(",").join(parts), ")")])

    def scaled(self, parts: list[str]) -> str:
        return _row([parts[0], _THIN, parts[1]])

    def total(self, text: str, member: str) -> str:
        return _row([f"<munder>{_operator('∑')}{_members(member)}</munder>", text])

    def attention(self, text: str, member: str) -> str:
        sign = f"<msub><mi>softmax</mi>{_members(member)}</msub><mo>&#x2061;</mo>"
        return _row([sign, _fenced("(", text, ")")])

    def equation(self, symbol: str, text: str) -> str:
        cells = (("right", symbol), ("center", _operator("=")), ("left", text))
        inner = "".join(
            f'<mtd style="text-align: {side}">{content}</mtd>'
            for side, content in cells
        )
        return f"<mtr>{inner}</mtr>"


def _subscripts(time: str) -> list[str]:
    """jk is two letters, j2 a letter and a number; a child's name is a word."""
    return re.findall("[a-z]|[0-9]+|,", time) if is_index(time) else [time]


def _subscript(sign: str) -> str:
    return _operator(sign) if sign == "," else _identifier(sign)


def _members(member: str) -> str:
    """What a sum is over: the children k of node j, or the items s."""
    if member != "k":
        return _identifier(member)
    children = _row([_identifier("k"), _operator("∈"), "<mi>C</mi>"])
    return _row([children, _fenced("(", _identifier("j"), ")")])


def _symbol(name: str, below: list[str]) -> str:
    """A name's letter with its accent, and what stands below it."""
    parts = split(name)
    text = _identifier(parts.head)
    if parts.accent in ACCENTS:
        over = f'<mo stretchy="false">{ACCENTS[parts.accent][1]}</mo>'
        text = f'<mover accent="true">{text}{over}</mover>'
    prime = _operator("′") if parts.accent == "prime" else ""
    match bool(below), bool(prime):
        case True, True:
            text = f"<msubsup>{text}{_row(below)}{prime}</msubsup>"
        case True, False:
            text = f"<msub>{text}{_row(below)}</msub>"
        case False, True:
            text = f"<msup>{text}{prime}</msup>"
    log = ["<mi>log</mi><mo>&#x2061;</mo>", _THIN]
    return _row([*log, text]) if parts.log else text


def _row(parts: object) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"  # type: ignore[arg-type]


def _identifier(name: str) -> str:
    if name.isdigit():
        return f"<mn>{name}</mn>"
    text = GREEK.get(name, name)
    upright = ' mathvariant="normal"' if "Α" <= text <= "Ω" else ""
    return f"<mi{upright}>{escape(text)}</mi>"


def _operator(sign: str) -> str:
    return f"<mo>{escape(sign)}</mo>"


def _fenced(left: str, inner: str, right: str) -> str:
    """Brackets round something: they grow where it is taller than a line."""
    tall = any(f"<{tag}" in inner for tag in ("mfrac", "munder", "mtable", "msqrt"))
    grow = "true" if tall else "false"
    opening = f'<mo form="prefix" stretchy="{grow}">{left}</mo>'
    closing = f'<mo form="postfix" stretchy="{grow}">{right}</mo>' if right else ""
    return _row([opening, inner, closing])


def _diagonal(text: str) -> str:
    return _row(["<mi>diag</mi><mo>&#x2061;</mo>", _fenced("(", text, ")")])


def _signed(value: float) -> str:
    text = number(abs(value))
    digits = f"<mi>{text}</mi>" if text == "∞" else f"<mn>{text}</mn>"
    return _row([_operator("−"), digits]) if value < 0 else digits


def _cases(condition: str, then: str, otherwise: str) -> str:
    rows = [(then, condition), (otherwise, "<mtext>otherwise</mtext>")]
    cells = "".join(
        f'<mtr><mtd style="text-align: left">{value}</mtd>'
        f'<mtd style="text-align: left">{when}</mtd></mtr>'
        for value, when in rows
    )
    return _fenced("{", f"<mtable>{cells}</mtable>", "")
