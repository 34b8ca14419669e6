"""Graphs as text in the cell language, and back, without running any of it as code.

The text is the language itself, one statement a line, under a versioned header. It is
what a saved model stores of its cell.
"""

from __future__ import annotations

import ast
import keyword
import math
import unicodedata
from typing import Any, NoReturn

from .builder import Builder
from .errors import CellError
from .graph import AFFINE, TOTAL, Graph, Node, Size, Weight
from .ops import FUNCTIONS, INFIX, OPS, Op
from .order import statements
from .trace import Child, Traced, Weights, as_node, name, total

VERSION = 2  # cells of trees; cells of sequences are still printed as version 1
_HEADER = "# cellwright cell "
_BINDING = {"comparison": 0, "+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "atom": 4}


# -- graph to text -------------------------------------------------------------


def print_graph(graph: Graph) -> str:
    """The graph as a function in the cell language, under a versioned header."""
    version = VERSION if graph.children else 1
    return f"{_HEADER}{version}\n" + "\n".join(_Printer(graph).lines()) + "\n"


def print_equations(graph: Graph) -> list[str]:
    """The graph's statements alone, `f = sigmoid(W.f(h, x))`, one each."""
    printer = _Printer(graph)
    return [*printer.body(), f"return {printer.results()}"]


class _Printer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.explicit: dict[int, list[str]] = {}
        for label, node in graph.names:
            if label in graph.explicit:
                self.explicit.setdefault(node, []).append(label)
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
        if named:
            parts.append("*")
            parts += [_annotated(i.name, i.size, f"{i.name}_size") for i in named]
        return ", ".join(parts)

    def body(self) -> list[str]:
        self.variables = {}
        olds = self.graph.children or [s.name for s in self.graph.states]
        taken = {"W", *(i.name for i in self.graph.inputs), *olds}
        taken |= {*FUNCTIONS, "name", "inf", "total", *keyword.kwlist}
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
        nodes = list(self.graph.updates)
        if not self.graph.output_is_state:
            nodes.insert(0, self.graph.output)
        text = ", ".join(self.expression(n)[0] for n in nodes)
        return text + ("," if len(nodes) == 1 and not self.graph.states else "")

    def expression(self, number: int, top: bool = False) -> tuple[str, int]:
        """Text of a node, and how strongly it binds."""
        if number in self.variables and not top:
            return self.variables[number], _BINDING["atom"]
        node = self.graph.nodes[number]
        if node.op in ("input", "state"):
            return node.label, _BINDING["atom"]
        if node.op == TOTAL:
            return f"total({self.expression(node.args[0])[0]})", _BINDING["atom"]
        if node.op == "constant":
            text = self.number(node["value"])
            return text, _BINDING["neg" if text.startswith("-") else "atom"]
        if node.op == "weight":
            return _parameter(self.graph.weight(node["weight"])), _BINDING["atom"]
        if node.op == AFFINE:
            return self.affine(node), _BINDING["atom"]
        return self.operation(node, OPS[node.op])

    def number(self, value: float) -> str:
        """A number; infinity has another spelling where an argument is called inf."""
        text = _number(value)
        leaves = {leaf.name for leaf in (*self.graph.inputs, *self.graph.states)}
        arguments = leaves.union(self.graph.children)
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
        return f"W.{weight.name}({', '.join(parts)})"

    def operation(self, node: Node, op: Op) -> tuple[str, int]:
        args = [self.operand(a, node) for a in node.args]
        if not op.symbol:
            options = [f"{k}={v!r}" for k, v in node.attrs if op.attrs[k] != v]
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
        if node.op == "weight":
            weight = self.graph.weight(node["weight"])
            others = [self.graph.nodes[a] for a in reader.args]
            partner = next((n for n in others if n.op != "weight"), None)
            known = partner is not None and partner.op != "constant"
            same = known and partner.size == weight.size  # type: ignore[union-attr]
            short = weight.init is None and _is_attribute(weight.name)
            if weight.kind == "vector" and short and same:
                return f"W.{weight.name}", _BINDING["atom"]
        return self.expression(number)


def _bracket(part: tuple[str, int], least: int) -> str:
    text, binding = part
    return text if binding >= least else f"({text})"


def _parameter(weight: Weight) -> str:
    if weight.kind == "scalar":
        init = "" if weight.init is None else f", init={_number(weight.init)}"
        return f'W.scalar("{weight.name}"{init})'
    options = "" if weight.init is None else f", init={_number(weight.init)}"
    if weight.size != "hidden_size":
        options += f", size={_size(weight.size)}"
    return f'W.vector("{weight.name}"{options})'


def _is_attribute(name: str) -> bool:
    """Whether Python reads `W.name` as the weight of just that name."""
    return not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name


def _annotated(label: str, size: Size, default: str) -> str:
    return label if size == default else f"{label}: {_size(size)}"


def _size(size: Size) -> str:
    return f'"{size}"' if isinstance(size, str) else str(size)


def _number(value: float) -> str:
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return "-0.0" if math.copysign(1, value) < 0 and value == 0 else str(int(value))
    return repr(value)


def checked(graph: Graph) -> Graph:
    """`graph` itself, which its text says again: a saved model stores the text alone.

    Raises:
        CellError: the text is no cell, or another one.
    """
    try:
        again = parse_graph(print_graph(graph))
    except CellError as error:
        _unprintable(graph, f"is refused: {error}")
    if again != graph:
        _unprintable(graph, "is another cell")
    return graph


def _unprintable(graph: Graph, what: str) -> NoReturn:
    raise CellError(
        f"[{graph.nodes[graph.output].source}, cell {graph.name!r}] the printed form, "
        f"which a saved model stores, {what}. Received a name or a number that cannot "
        "be written; expected the names of Python and numbers of float64"
    )


# -- text to graph -------------------------------------------------------------


def parse_graph(text: str) -> Graph:
    """See `Graph.from_text`."""
    _check_header(text)
    try:
        (function,) = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CellError(f"[printed cell] is no printed cell: {error}") from None
    if not isinstance(function, ast.FunctionDef):
        _unreadable(function)
    try:
        return _Parser(function).graph()
    except CellError:
        raise
    except RecursionError:
        raise CellError("[printed cell] a line of it is nested too deep") from None
    except (TypeError, ValueError) as error:  # a call with arguments it does not take
        raise CellError(
            f"[printed cell] is not of the cell language: {error}"
        ) from None


def _check_header(text: str) -> None:
    first = text.split("\n", 1)[0]
    version = first.removeprefix(_HEADER)
    if not first.startswith(_HEADER) or not version.isdigit():
        raise CellError(
            f"[printed cell] the text does not start as a printed cell; received "
            f"{first[:40]!r}, expected '{_HEADER}1'"
        )
    if int(version) > VERSION:
        raise CellError(
            f"[printed cell] was written by a newer cellwright; received version "
            f"{version}, expected at most {VERSION}. Update cellwright"
        )


def _unreadable(node: ast.AST) -> NoReturn:
    line = getattr(node, "lineno", "?")
    raise CellError(
        f"[printed cell, line {line}] is not of the cell language; received "
        f"{ast.unparse(node)[:60]!r}"
    )


_COMPARES = {
    ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=",
    ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_BINARIES = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class _Parser:
    """Replays the syntax tree of a printed cell on a builder."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.function = function
        self.builder = Builder(function.name)
        self.weights = Weights(self.builder)
        self.variables: dict[str, Any] = {}

    def graph(self) -> Graph:
        self.arguments(self.function.args)
        *body, last = self.function.body
        for statement in body:
            self.statement(statement)
        if not isinstance(last, ast.Return) or last.value is None:
            _unreadable(last)
        self.at(last)
        value = last.value
        results = value.elts if isinstance(value, ast.Tuple) else [value]
        nodes = tuple(as_node(self.builder, self.expression(r), None) for r in results)
        if len(nodes) - len(self.builder.states) not in (0, 1):
            _unreadable(last)
        return self.builder.finish(nodes)

    def at(self, node: ast.AST) -> None:
        self.builder.source = f"printed cell, line {getattr(node, 'lineno', '?')}"

    def arguments(self, args: ast.arguments) -> None:
        self.at(self.function)
        if len(args.args) < 2 or args.vararg or args.kwarg or args.posonlyargs:
            _unreadable(self.function)
        if self.function.returns:
            _unreadable(self.function)
        children = self.tree()
        states = () if children else args.args[2:]
        missing = len(states) - len(args.defaults)
        if missing < 0:
            _unreadable(self.function)
        inits = [0.0] * missing + [self.literal(d) for d in args.defaults]
        for arg, default in [
            (args.args[1], "input_size"),
            *((a, f"{a.arg}_size") for a in args.kwonlyargs),
        ]:
            node = self.builder.add_input(arg.arg, self.size(arg.annotation, default))
            self.variables[arg.arg] = Traced(self.builder, node)
        for arg, init in zip(states, inits, strict=True):
            size = self.size(arg.annotation, "hidden_size")
            node = self.builder.add_state(arg.arg, size, init)
            self.variables[arg.arg] = Traced(self.builder, node)

    def tree(self) -> bool:
        """Whether it is a tree's cell; its children and their states are declared."""
        if not self.function.decorator_list:
            return False
        match self.function.decorator_list:
            case [ast.Call(func=ast.Name(id="tree_cell"), args=[], keywords=keywords)]:
                options = {k.arg: k.value for k in keywords}
            case _:
                _unreadable(self.function)
        if not {"states"} <= options.keys() <= {"states", "arity"}:
            _unreadable(self.function)
        args = self.function.args
        children = tuple(a.arg for a in args.args[2:])
        arity = self.literal(options["arity"]) if "arity" in options else None
        bare = not args.defaults and not any(a.annotation for a in args.args[2:])
        if not bare or len(children) != (1 if arity is None else arity):
            _unreadable(self.function)
        states = self.states(options["states"])
        self.builder.add_children(children, arity is None, states)
        self.builder.close_states()
        self.variables.update((c, Child(self.builder, c)) for c in children)
        return True

    def states(self, node: ast.expr) -> dict[str, Size]:
        match node:
            case ast.Tuple(elts=names):
                found = {self.literal(n): "hidden_size" for n in names}
            case ast.Dict(keys=names, values=sizes):
                found = {
                    self.literal(n) if n else None: self.size(s, "")
                    for n, s in zip(names, sizes, strict=True)
                }
            case _:
                _unreadable(node)
        if not found or not all(isinstance(n, str) and n.isidentifier() for n in found):
            _unreadable(node)
        return found  # type: ignore[return-value]

    def size(self, annotation: ast.expr | None, default: str) -> Size:
        size = default if annotation is None else self.literal(annotation)
        whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
        if not (whole or (isinstance(size, str) and size.isidentifier())):
            _unreadable(annotation or self.function)
        return size

    def literal(self, node: ast.expr) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.literal(node.operand)
        if isinstance(node, ast.Name) and node.id == "inf":
            return math.inf
        if isinstance(node, ast.Constant) and isinstance(
            node.value, bool | int | float | str
        ):
            return node.value
        _unreadable(node)

    def option(self, keyword: ast.keyword) -> Any:
        match keyword:
            case ast.keyword(arg="columns", value=ast.Name(id=label)) if (
                label in FUNCTIONS
            ):
                return FUNCTIONS[label]
        return self.literal(keyword.value)

    def statement(self, statement: ast.stmt) -> None:
        self.at(statement)
        match statement:
            case ast.Assign(targets=[ast.Name(id=label)], value=value):
                self.variables[label] = self.expression(value)
            case _:
                _unreadable(statement)

    def expression(self, node: ast.expr) -> Any:
        match node:
            case ast.Name(id=label) if label in self.variables:
                return self.variables[label]
            case ast.Constant() | ast.Name(id="inf"):
                return Traced(self.builder, self.builder.constant(self.literal(node)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.negation(node, operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARIES:
                return self.infix(_BINARIES[type(op)], left, right)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if (
                type(op) in _COMPARES
            ):
                return self.infix(_COMPARES[type(op)], left, right)
            case ast.Attribute(value=ast.Name(id="W"), attr=attr) if attr[0] != "_":
                return getattr(self.weights, attr)
            case ast.Attribute(value=ast.Name(id=child), attr=attr) if (
                child in self.builder.children and attr[0] != "_"
            ):
                return getattr(self.variables[child], attr)
            case ast.Call(func=ast.Name(id="total"), args=[arg], keywords=[]):
                return total(self.expression(arg))
            case ast.Call(func=func, args=args, keywords=keywords):
                options = {k.arg or "": self.option(k) for k in keywords}
                return self.call(func, args, options)
        _unreadable(node)

    def negation(self, node: ast.expr, operand: ast.expr) -> Any:
        is_number = isinstance(operand, ast.Constant) or (
            isinstance(operand, ast.Name) and operand.id == "inf"
        )
        if is_number:
            return Traced(self.builder, self.builder.constant(self.literal(node)))
        return -self.expression(operand)

    def infix(self, symbol: str, left: ast.expr, right: ast.expr) -> Any:
        a, b = self.expression(left), self.expression(right)
        return a._apply(INFIX[symbol], (a, b), {})

    def call(
        self, func: ast.expr, args: list[ast.expr], options: dict[str, Any]
    ) -> Any:
        match func:
            case ast.Attribute(value=ast.Name(id="W"), attr="vector" | "scalar"):
                make = getattr(self.weights, func.attr)
                return make(*(self.literal(a) for a in args), **options)
            case ast.Attribute(value=ast.Name(id="W"), attr=attr) if attr[0] != "_":
                weight = getattr(self.weights, attr)
                return weight(*(self.expression(a) for a in args), **options)
            case ast.Name(id="name") if len(args) == 2:
                return name(self.literal(args[0]), self.expression(args[1]))
            case ast.Name(id=label) if label in FUNCTIONS:
                return FUNCTIONS[label](*(self.expression(a) for a in args), **options)
        _unreadable(func)
