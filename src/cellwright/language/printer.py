"""Graphs as text in the cell language; `parser` reads it.

The text is the language itself, one statement a line, under a versioned header. It is
what a saved model stores of its cell.
"""

from __future__ import annotations

import keyword
import math
import unicodedata

from .canonical import statements, unwritten_spreads
from .graph import AFFINE, ATTENTION, TOTAL, Graph, Item, Node, Weight
from .ops import FUNCTIONS, OPS, Op
from .sizes import MatrixSize, Size

VERSION = 3  # the newest; `_version` says which one a graph is printed as
HEADER = "# cellwright cell "
_BINDING = {"comparison": 0, "+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "atom": 4}


def print_graph(graph: Graph) -> str:
    """The graph as a function in the cell language, under a versioned header."""
    return f"{HEADER}{_version(graph)}\n" + "\n".join(_Printer(graph).lines()) + "\n"


def _version(graph: Graph) -> int:
    """The oldest that can say it: 1 sequences, 2 trees, 3 items and matrices."""
    attends = any(node.op == ATTENTION for node in graph.nodes)
    if graph.items or attends or graph.has_matrices:
        return 3
    return 2 if graph.children else 1


def print_equations(graph: Graph) -> list[str]:
    """The graph's statements alone, `f = sigmoid(W.f(h, x))`, one each."""
    printer = _Printer(graph)
    return [*printer.body(), f"return {printer.results()}"]


class _Printer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.explicit = graph.explicit_names
        self.unwritten = unwritten_spreads(graph)
        self.variables: dict[int, str] = {}  # filled as statements are printed

    def lines(self) -> list[str]:
        return [
            *self.decorator(),
            f"def {self.graph.name}({self.signature()}):",
            *(f"    {line}" for line in self.body()),
            f"    return {self.results()}",
        ]

    def decorator(self) -> list[str]:
        """What a tree cell's children are, and their states."""
        graph = self.graph
        if not graph.children:
            return []
        arity = "" if graph.many else f"arity={len(graph.children)}, "
        states = ", ".join(f'"{s.name}"' for s in graph.states)
        states = f"({states},)" if len(graph.states) == 1 else f"({states})"
        if any(s.size != "hidden_size" for s in graph.states):
            sizes = (f'"{s.name}": {_size(s.size)}' for s in graph.states)
            states = "{" + ", ".join(sizes) + "}"
        return [f"@tree_cell({arity}states={states})"]

    def signature(self) -> str:
        x, *named = self.graph.inputs
        parts = ["W", _annotated("x", x.size, "input_size"), *self.graph.children]
        defaults = False  # from the first on all have one, or Python refuses them
        for state in () if self.graph.children else self.graph.states:
            text = _annotated(state.name, state.size, "hidden_size")
            defaults = defaults or _number(state.init) != "0"
            if defaults:
                text += ("=" if ":" not in text else " = ") + _number(state.init)
            parts.append(text)
        if named or self.graph.items:
            parts.append("*")
            parts += [_annotated(i.name, i.size, f"{i.name}_size") for i in named]
            parts += [_annotated_items(i) for i in self.graph.items]
        return ", ".join(parts)

    def body(self) -> list[str]:
        self.variables = {}
        olds = self.graph.children or [s.name for s in self.graph.states]
        arguments = (*self.graph.inputs, *self.graph.items)
        taken = {"W", *(i.name for i in arguments), *olds}
        taken |= {*FUNCTIONS, "name", "inf", "total", "attend", *keyword.kwlist}
        lines = []
        for number in statements(self.graph):
            text, _ = self.expression(number, top=True)
            for label in self.explicit.get(number, ()):
                text = f'name("{label}", {text})'
            label = self.label(number)
            while label in taken:
                label += "_new"
            taken.add(label)
            self.variables[number] = label
            lines.append(f"{label} = {text}")
        return lines

    def label(self, number: int) -> str:
        """The Python variable of a statement: its value's name, or v<number>."""
        labels = [label for label, n in self.graph.names if n == number]
        gates = [label for label in labels if label in self.graph.gates]
        best = next(iter([*gates, *labels]), f"v{number}")
        return unicodedata.normalize("NFKC", best.replace(".", "_"))  # as Python reads

    def results(self) -> str:
        nodes = self.graph.returned
        text = ", ".join(self.expression(n)[0] for n in nodes)
        return text + ("," if len(nodes) == 1 and not self.graph.states else "")

    def expression(self, number: int, top: bool = False) -> tuple[str, int]:
        """Text of a node, and how strongly it binds."""
        if number in self.variables and not top:
            return self.variables[number], _BINDING["atom"]
        node = self.graph.nodes[number]
        if node.op in OPS:
            return self.operation(node, OPS[node.op])
        if node.op == "constant":
            text = self.number(node["value"])
            return text, _BINDING["neg" if text.startswith("-") else "atom"]
        if node.op == TOTAL:
            text = self.total(node)
        elif node.op == "weight":
            text = _parameter(self.graph.weight(node["weight"]))
        else:
            text = self.affine(node) if node.op == AFFINE else node.label
        return text, _BINDING["atom"]

    def total(self, node: Node) -> str:
        """A sum over a set; as `attend`, which makes every attention there is."""
        nodes, product = self.graph.nodes, self.graph.nodes[node.args[0]]
        if product.args and nodes[product.args[0]].op == ATTENTION:
            attention, values = product.args
            (scores,) = nodes[attention].args
            read = (self.expression(number)[0] for number in (scores, values))
            return f"attend({', '.join(read)})"
        return f"total({self.expression(node.args[0])[0]})"

    def number(self, value: float) -> str:
        """A number; infinity has another spelling where an argument is called inf."""
        text = _number(value)
        graph = self.graph
        leaves = {v.name for v in (*graph.inputs, *graph.items, *graph.states)}
        arguments = leaves.union(graph.children)
        return text.replace("inf", "1e999") if "inf" in arguments else text

    def affine(self, node: Node) -> str:
        weight = self.graph.weight(node["weight"])
        parts = [self.expression(a)[0] for a in node.args]
        if weight.size != "hidden_size":
            parts.append(f"size={_size(weight.size)}")
        if weight.bias_option is not True:
            parts.append(f"bias={weight.bias_option}")
        if weight.heads != 1:
            parts.append(f"heads={weight.heads}")
        if weight.columns:
            parts.append(f"columns={weight.columns}")
        if weight.antisymmetric:
            parts.append("antisymmetric=True")
        return f"W.{weight.name}({', '.join(parts)})"

    def operation(self, node: Node, op: Op) -> tuple[str, int]:
        args = [self.operand(a, node) for a in node.args]
        if not op.symbol:
            written = () if op.implies else node.attrs
            options = [f"{k}={v!r}" for k, v in written if op.attrs[k] != v]
            inner = ", ".join([text for text, _ in args] + options)
            return f"{op.name}({inner})", _BINDING["atom"]
        if op.arity == 1:
            own = _BINDING["neg"]
            return f"-{_bracket(args[0], own)}", own
        own = _BINDING["comparison" if op.kind == "comparison" else op.symbol]
        left = _bracket(args[0], own)
        right = _bracket(args[1], own + 1)  # the right-hand side of a - (b + c)
        return f"{left} {op.symbol} {right}", own

    def operand(self, number: int, reader: Node) -> tuple[str, int]:
        """As `expression`, but `W.p` alone where its partner gives a vector's size."""
        node = self.graph.nodes[number]
        if number in self.unwritten:
            return self.expression(node.args[0])
        if node.op == "weight":
            weight = self.graph.weight(node["weight"])
            partners = [self.graph.nodes[a] for a in reader.args]
            first = next((n for n in partners if n.op != "weight"), node)
            given = first.op not in ("weight", "constant") and first.size == weight.size
            short = weight.init is None and _is_attribute(weight.name)
            short = short and not isinstance(weight.size, MatrixSize)
            if weight.kind == "vector" and short and given:
                return f"W.{weight.name}", _BINDING["atom"]
        return self.expression(number)


def _bracket(part: tuple[str, int], least: int) -> str:
    text, binding = part
    return text if binding >= least else f"({text})"


def _parameter(weight: Weight) -> str:
    options = "" if weight.init is None else f", init={_number(weight.init)}"
    kind = "matrix" if isinstance(weight.size, MatrixSize) else weight.kind
    if weight.kind == "vector" and weight.size != "hidden_size":
        options += f", size={_size(weight.size)}"
    return f'W.{kind}("{weight.name}"{options})'


def _is_attribute(name: str) -> bool:
    """Whether Python reads `W.name` as the weight of just that name."""
    return not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name


def _annotated(label: str, size: Size, default: str) -> str:
    return label if size == default else f"{label}: {_size(size)}"


def _annotated_items(item: Item) -> str:
    given = "" if item.size == f"{item.name}_size" else f"[{_size(item.size)}]"
    return f"{item.name}: Items{given}"


def _size(size: Size) -> str:
    if isinstance(size, MatrixSize):
        heads = () if size.heads == 1 else (size.heads,)
        return f"({', '.join(map(_size, (size.rows, size.columns, *heads)))})"
    return f'"{size}"' if isinstance(size, str) else str(size)


def _number(value: float) -> str:
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return "-0.0" if math.copysign(1, value) < 0 and value == 0 else str(int(value))
    return repr(value)
