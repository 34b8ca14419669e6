"""Graphs from text that `printer` wrote, without running any of it as code."""

from __future__ import annotations

import ast
import math
from typing import Any, NoReturn

from .builder import Builder
from .errors import CellError
from .graph import Graph
from .ops import FUNCTIONS, INFIX
from .printer import HEADER, VERSION, print_graph
from .sizes import Size
from .trace import Child, Traced, Weights, as_node, attend, name, total


def parse_graph(text: str) -> Graph:
    """Read what `print_graph` wrote, without running any of it as code.

    Raises:
        CellError: the text is not a printed cell, or of a newer version.
    """
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
    version = first.removeprefix(HEADER)
    if not first.startswith(HEADER) or not version.isdigit():
        raise CellError(
            f"[printed cell] the text does not start as a printed cell; received "
            f"{first[:40]!r}, expected '{HEADER}1'"
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


_SYMBOLS = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


def _is_items(annotation: ast.expr | None) -> bool:
    match annotation:
        case ast.Name(id="Items") | ast.Subscript(value=ast.Name(id="Items")):
            return True
    return False


def _is_text(args: list[ast.expr]) -> bool:
    """Whether a name is given: `W.matrix(h, x)` is an affine map called matrix."""
    match args:
        case [ast.Constant(value=str()), *_]:
            return True
    return False


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
        starred = args.vararg or args.kwarg or args.posonlyargs
        if len(args.args) < 2 or starred or self.function.returns:
            _unreadable(self.function)
        children = self.tree()
        states = () if children else args.args[2:]
        missing = len(states) - len(args.defaults)
        if missing < 0:
            _unreadable(self.function)
        inits = [0.0] * missing + [self.literal(d) for d in args.defaults]
        inputs = [(args.args[1], "input_size")]
        for arg in args.kwonlyargs:
            if _is_items(arg.annotation):
                self.items(arg)
            else:
                inputs.append((arg, f"{arg.arg}_size"))
        for arg, default in inputs:
            node = self.builder.add_input(arg.arg, self.size(arg.annotation, default))
            self.variables[arg.arg] = Traced(self.builder, node)
        for arg, init in zip(states, inits, strict=True):
            size = self.size(arg.annotation, "hidden_size")
            node = self.builder.add_state(arg.arg, size, init)
            self.variables[arg.arg] = Traced(self.builder, node)

    def items(self, arg: ast.arg) -> None:
        if self.builder.children:
            _unreadable(arg)
        size: Size = f"{arg.arg}_size"
        if isinstance(arg.annotation, ast.Subscript):
            size = self.size(arg.annotation.slice, "")
        node = self.builder.add_item(arg.arg, size)
        self.variables[arg.arg] = Traced(self.builder, node)

    def tree(self) -> bool:
        """Whether it is a tree's cell; its children and their states are declared."""
        match self.function.decorator_list:
            case []:
                return False
            case [ast.Call(func=ast.Name(id="tree_cell"), args=[], keywords=keywords)]:
                options = {k.arg: k.value for k in keywords}
            case _:
                _unreadable(self.function)
        args = self.function.args
        children = tuple(a.arg for a in args.args[2:])
        bare = not args.defaults and not any(a.annotation for a in args.args[2:])
        if not bare or not {"states"} <= options.keys() <= {"states", "arity"}:
            _unreadable(self.function)
        arity = self.literal(options["arity"]) if "arity" in options else None
        if len(children) != (1 if arity is None else arity):
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
        if isinstance(annotation, ast.Tuple):
            parts = (self.literal(part) for part in annotation.elts)
            return self.builder.matrix_size("a printed matrix", tuple(parts))
        size = default if annotation is None else self.literal(annotation)
        whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
        if not (whole or (isinstance(size, str) and size.isidentifier())):
            _unreadable(annotation or self.function)
        return size

    def literal(self, node: ast.expr) -> Any:
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.literal(operand)
            case ast.Name(id="inf"):
                return math.inf
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return value
        _unreadable(node)

    def option(self, keyword: ast.keyword) -> Any:
        function = getattr(keyword.value, "id", None)
        if keyword.arg == "columns" and function in FUNCTIONS:
            return FUNCTIONS[function]
        if keyword.arg == "size" and isinstance(keyword.value, ast.Tuple):
            return tuple(self.literal(part) for part in keyword.value.elts)
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
            case ast.UnaryOp(
                op=ast.USub(), operand=ast.Constant() | ast.Name(id="inf")
            ):
                return Traced(self.builder, self.builder.constant(self.literal(node)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.expression(operand)
            case (
                ast.BinOp(left=left, op=op, right=right)
                | ast.Compare(left=left, ops=[op], comparators=[right])
            ) if type(op) in _SYMBOLS:
                a, b = self.expression(left), self.expression(right)
                return a._apply(INFIX[_SYMBOLS[type(op)]], (a, b), {})
            case ast.Attribute(value=ast.Name(id="W"), attr=attr) if attr[0] != "_":
                return getattr(self.weights, attr)
            case ast.Attribute(value=ast.Name(id=child), attr=attr) if (
                child in self.builder.children and attr[0] != "_"
            ):
                return getattr(self.variables[child], attr)
            case ast.Call(func=ast.Name(id="total"), args=[arg], keywords=[]):
                return total(self.expression(arg))
            case ast.Call(
                func=ast.Name(id="attend"), args=[scores, values], keywords=[]
            ):
                return attend(self.expression(scores), self.expression(values))
            case ast.Call(func=func, args=args, keywords=keywords):
                options = {k.arg or "": self.option(k) for k in keywords}
                return self.call(func, args, options)
        _unreadable(node)

    def call(
        self, func: ast.expr, args: list[ast.expr], options: dict[str, Any]
    ) -> Any:
        match func:
            case ast.Attribute(
                value=ast.Name(id="W"), attr="matrix" | "vector" | "scalar"
            ) if func.attr != "matrix" or _is_text(args):
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


def checked(graph: Graph) -> Graph:
    """`graph` itself, which its text says again: a saved model stores the text alone.

    Raises:
        CellError: the text is no cell, or another one.
    """
    try:
        problem = "" if parse_graph(print_graph(graph)) == graph else "is another cell"
    except CellError as error:
        problem = f"is refused: {error}"
    if problem:
        raise CellError(
            f"[{graph.nodes[graph.output].source}, cell {graph.name!r}] the printed "
            f"form, which a saved model stores, {problem}. Received a name or a number "
            "that cannot be written; expected the names of Python and numbers of "
            "float64"
        )
    return graph
