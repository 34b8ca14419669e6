r"""A graph as LaTeX, in the notation of the lectures: one line a statement.

f_t = σ(W_f · [h_{t−1}, x_t] + b_f); t and t−1 are placed by the graph. A tree's node is
j, its children are k: f_{jk} = σ(W_f · [h_k, x_j] + b_f). An item is s, what a step
computes for it t, s: α_{t,s} = softmax_s(e_{t,s}). Products element by element are *,
matrix products \cdot. A name may end in an accent, C_tilde, and log_f is log f.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .canonical import shown_statements
from .graph import (
    AFFINE,
    ATTENTION,
    CHILDREN,
    ITEM,
    TOTAL,
    Graph,
    Node,
    Weight,
    before_steps,
)
from .hyperparameters import Known
from .ops import OPS, Op

_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma "
    "tau phi chi psi omega"
)
_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
GREEK: dict[str, str] = {
    **dict(zip(_NAMES.split(), "αβγδεζηθκλμνξπρστφχψω", strict=True)),
    **dict(zip(_CAPITALS.split(), "ΓΔΘΛΞΠΣΥΦΨΩ", strict=True)),
}
ACCENTS = {
    "tilde": r"\tilde{{{}}}",
    "hat": r"\hat{{{}}}",
    "bar": r"\bar{{{}}}",
    "prime": "{}'",
}
_SUM, _PRODUCT, _ATOM = 1, 2, 3
_CHILD = r"k \in C(j)"
_TALL = (r"\frac", r"\sum_", r"\begin", r"\sqrt")


class EquationWriter:
    """Writes the statements of a graph, with the brackets that precedence asks for.

    In LaTeX; a subclass of another notation, as MathML in `look`, has its own pieces.

    Args:
        graph: the cell's.
        known: its constants that are hyperparameters: these are written by name.
    """

    def __init__(self, graph: Graph, known: Mapping[int, Known] | None = None) -> None:
        self.graph = graph
        self.known = known or {}
        self.symbols: dict[int, str] = {}
        self.unnamed = 0  # statements so far that have no name
        named = [n for n, _ in graph.names] + [i.name for i in graph.inputs]
        letters = {split(name).head for name in named}
        self.spare = next((c for c in "uvqsa" if c not in letters), "u")
        self.sets, self.before_steps = graph.sets, before_steps(graph.nodes)
        spare = [c for c in "srpmn" if c not in {*letters, self.spare}]
        names = dict.fromkeys(item.set for item in graph.items)
        #: What an item of each set, or a child, is called as a subscript.
        self.members = {CHILDREN: "k", **dict(zip(names, spare, strict=False))}

    def block(self) -> str:
        """All equations, aligned."""
        lines = " \\\\\n".join(self.equations())
        return f"\\begin{{aligned}}\n{lines}\n\\end{{aligned}}"

    # -- the pieces ----------------------------------------------------------------

    def at(self, name: str, time: str) -> str:
        """A value at time t or t−1; of a tree's node j, its child k or j2, or both; of
        an item s.

        LaTeX allows one subscript, so time joins the name's own.
        """
        base = symbol(name)
        time = time if is_index(time) else symbol(time)
        if split(name).below:
            return f"{base[:-1]}, {time}}}"
        return f"{base}_{time}" if len(time) == 1 else f"{base}_{{{time}}}"

    def symbol(self, name: str) -> str:
        """A name without a time: a weight."""
        return symbol(name)

    def literal(self, value: float) -> str:
        """A number, powers of ten written out."""
        text, _, exponent = f"{value:g}".replace("inf", r"\infty").partition("e")
        if not exponent:
            return text
        power = f"10^{{{int(exponent)}}}"
        return power if text == "1" else rf"{text} \cdot {power}"

    def bracket(self, text: str) -> str:
        return rf"\left({text}\right)"

    def concatenation(self, parts: list[str]) -> str:
        return rf"\left[{', '.join(parts)}\right]"

    def matrix(self, weight: Weight) -> str:
        """W with the weight's name below, or what is made of it."""
        text = self.below("W", weight.name)
        if weight.antisymmetric:
            return rf"\left({text} - {text}^\top\right)"
        return OPS[weight.columns].latex.format(text) if weight.columns else text

    def below(self, letter: str, weight: str) -> str:
        """W or b with a weight's name below; alone where a notation has it so."""
        return f"{letter}_{{{symbol(weight)}}}" if weight else letter

    def product(self, matrix: str, operand: str, bias_of: str | None) -> str:
        """W · v + b"""
        bias = "" if bias_of is None else f" + {self.below('b', bias_of)}"
        return rf"{matrix} \cdot {operand}{bias}"

    def apply(self, op: Op, parts: list[str]) -> str:
        return op.latex.format(*parts)

    def scaled(self, parts: list[str]) -> str:
        """A number times a value."""
        return r"\, ".join(parts)

    def total(self, text: str, member: str) -> str:
        """The sum over a node's children k, or over the items s."""
        return rf"\sum_{{{_CHILD if member == 'k' else member}}} {text}"

    def attention(self, text: str, member: str) -> str:
        """The softmax over the items, or the children."""
        under = _CHILD if member == "k" else member
        return rf"\operatorname{{softmax}}_{{{under}}}\left({text}\right)"

    def equation(self, symbol: str, text: str) -> str:
        """Brackets grow with what is in them where that is taller than a line."""
        if not any(tall in text for tall in _TALL):
            text = re.sub(r"\\(left|right)(?![a-z])", "", text)
        return f"{symbol} &= {text}"

    # -- the equations ---------------------------------------------------------------

    def equations(self) -> list[str]:
        """Every statement, in the order written."""
        return [self.statement(number) for number in shown_statements(self.graph)]

    def now(self, number: int) -> str:
        """The subscript of a value of this step: its time, its node, or its item."""
        name = self.sets[number]
        if self.graph.children:
            return "j" if name is None else "jk"
        if name is None:
            return "t"
        member = self.members.get(name, name)
        return member if self.before_steps[number] else f"t,{member}"

    def before(self, node: Node) -> str:
        """The subscript of an old state: the time before, or the child."""
        if not self.graph.children:
            return "t-1"
        return "k" if self.graph.many else child(node["child"])

    def statement(self, number: int) -> str:
        text, _ = self.expression(number)
        labels = [name for name, node in self.graph.names if node == number]
        states = [s.name for s in self.graph.states]
        label = next(iter([n for n in labels if n in states] + labels), None)
        if label is None:
            own = number == self.graph.output
            self.unnamed += not own
            label = "y" if own else f"{self.spare}{self.unnamed}"
        self.symbols[number] = self.at(self.label(number, label), self.now(number))
        return self.equation(self.symbols[number], text)

    def label(self, number: int, name: str) -> str:
        """A value's name as papers write it: attention weights are α."""
        is_attention = self.graph.nodes[number].op == ATTENTION
        return name.replace("attention", "alpha", 1) if is_attention else name

    def expression(self, number: int) -> tuple[str, int]:
        """The text of a node, and how strongly it binds."""
        if number in self.symbols:
            return self.symbols[number], _ATOM
        node = self.graph.nodes[number]
        if node.op == "constant":
            return self.constant(number)
        if node.op == AFFINE:
            return self.affine(node)
        if node.op == TOTAL:
            member = self.member(node.args[0])
            return self.total(self.operand(node.args[0], _PRODUCT), member), _PRODUCT
        if node.op == ATTENTION:
            inner = self.operand(node.args[0])
            return self.attention(inner, self.member(number)), _ATOM
        if node.op == "weight":
            return self.symbol(node["weight"]), _ATOM
        if node.op in ("input", "state", ITEM):
            time = self.before(node) if node.op == "state" else self.now(number)
            return self.at(node["name"], time), _ATOM
        return self.operation(node, OPS[node.op])

    def member(self, number: int) -> str:
        """What a member of the set that a value varies over is called."""
        name = str(self.sets[number])
        return self.members.get(name, name)

    def operand(self, number: int, needed: int = 0) -> str:
        """The text of a node, in brackets where it binds less than is needed."""
        text, binding = self.expression(number)
        return text if binding >= needed else self.bracket(text)

    def constant(self, number: int) -> tuple[str, int]:
        known, value = self.known.get(number), self.graph.nodes[number]["value"]
        if known is None:
            return self.literal(value), _SUM if value < 0 else _ATOM
        name = self.symbol(known.name)
        if known.rest:
            return self.apply(OPS["sub"], [self.literal(1), name]), _SUM
        return name, _ATOM

    def affine(self, node: Node) -> tuple[str, int]:
        weight = self.graph.weight(node["weight"])
        if len(node.args) == 1:
            operand = self.operand(node.args[0], _ATOM)
        else:
            operand = self.concatenation([self.operand(a) for a in node.args])
        matrix = self.matrix(weight)
        if weight.bias:
            return self.product(matrix, operand, weight.name), _SUM
        return self.product(matrix, operand, None), _PRODUCT

    def operation(self, node: Node, op: Op) -> tuple[str, int]:
        if op.copies:  # it shows in sizes alone
            return self.expression(node.args[0])
        if op.kind == "matrix":
            # What is scaled stands beside diag(v), which has brackets of its own.
            needs = [_ATOM, 0 if op.name.startswith("scale_") else _ATOM]
            pairs = zip(node.args, needs, strict=True)
            return self.apply(op, [self.operand(*pair) for pair in pairs]), _PRODUCT
        if not op.symbol or op.name == "div":  # functions and fractions bracket
            return self.apply(op, [self.operand(a) for a in node.args]), _ATOM
        if op.kind == "comparison":
            return self.apply(op, [self.operand(a) for a in node.args]), _SUM
        own = _PRODUCT if op.name == "mul" else _SUM
        needs = [own, own + 1 if op.name == "sub" else own]
        if op.arity == 1:
            own, needs = _SUM, [_PRODUCT]
        elif op.name == "add" and self.is_negative(node.args[1]):
            needs[1] = _PRODUCT
        pairs = zip(node.args, needs, strict=False)
        texts = [self.operand(a, need) for a, need in pairs]
        if op.name == "mul" and any(map(self.is_number, node.args)):
            return self.scaled(texts), own
        return self.apply(op, texts), own

    def is_number(self, number: int) -> bool:
        """A constant, or one weight for an item: what scales a value."""
        node = self.graph.nodes[number]
        return node.op == "constant" or (node.op == ATTENTION and node.size == 1)

    def is_negative(self, number: int) -> bool:
        """Whether its text starts with a minus sign."""
        node = self.graph.nodes[number]
        if number in self.symbols or node.op == AFFINE:
            return False
        if node.op == "constant":
            return number not in self.known and node["value"] < 0
        if node.op in ("add", "sub", "mul"):
            return self.is_negative(node.args[0])
        return node.op == "neg"


def child(name: str) -> str:
    """A child as a subscript: the second of several is j2."""
    head, _, number = name.partition("_")
    return f"j{number}" if head == "child" and number.isdigit() else name


def is_index(time: str) -> bool:
    """t, t−1, a tree's j, k, jk and j2, or an item's s and t,s; no child's name."""
    return re.fullmatch("t(-1)?|jk|j[0-9]*|(t,)?[a-z]", time) is not None


def symbol(name: str) -> str:
    """A name as a LaTeX symbol: Greek, one letter, a letter's subscript, or upright."""
    parts = split(name)
    text = _letter(parts.head)
    if parts.accent:
        text = ACCENTS[parts.accent].format(text)
    if parts.below:
        text = f"{text}_{{{' '.join(map(symbol, parts.below))}}}"
    return rf"\log {text}" if parts.log else text


def _letter(head: str) -> str:
    if head in GREEK:
        return "\\" + head
    word = head.replace(" ", r"\ ")
    return head if len(head) == 1 else rf"\mathrm{{{word}}}"


@dataclass(frozen=True)
class Parts:
    """A name taken apart, as it is written.

    Attributes:
        head: its letter or word.
        accent: over it, a key of `ACCENTS`, or nothing.
        below: its subscripts.
        log: whether it is the logarithm of that.
    """

    head: str
    accent: str = ""
    below: tuple[str, ...] = ()
    log: bool = False


def split(name: str) -> Parts:
    """A name's parts: p_f is p with f below, a1 is a with 1, C_tilde is C with an
    accent, log_f the logarithm of f."""
    head, *below = re.split("[._]", name)
    log = head == "log" and bool(below)
    if log:
        head, *below = below
    numbered = re.fullmatch("([A-Za-z])([0-9]+)", head)
    if numbered:
        head, below = numbered[1], [numbered[2], *below]
    accent = next((part for part in below if part in ACCENTS), "")
    if accent:
        below.remove(accent)
    if len(head) > 1 and head not in GREEK and any(len(part) > 1 for part in below):
        return Parts(" ".join([head, *below]), accent, (), log)  # words
    return Parts(head, accent, tuple(below), log)
