"""Builds graphs node by node, checking every size as it goes.

Everything that makes a graph goes through here: tracing a function, reading a printed
graph, binding sizes, replacing a gate. So each check exists once.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .canonical import canonical
from .errors import CellError, SizeError, user_location
from .graph import (
    AFFINE,
    ATTENTION,
    CHILDREN,
    ITEM,
    TOTAL,
    Graph,
    Input,
    Item,
    Node,
    State,
    Weight,
    read_sets,
    set_of,
)
from .ops import CONDITIONS, OPS, Op
from .sizes import MatrixSize, Misfit, Size, common, fits
from .values import matrix_among, spreads
from .verify import verify

_SIDES = ("rows", "columns")
#: What every use of one weight must agree on.
_SHARED = (
    "kind",
    "operands",
    "size",
    "heads",
    "bias",
    "init",
    "columns",
    "antisymmetric",
)
MOST_NODES = 10_000  # of one step: ten times the largest that was ever of use


class Builder:
    """Nodes, states, inputs and weights of one graph in the making."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.inputs: list[Input] = []
        self.items: list[Item] = []
        self.states: list[State] = []
        self.weights: dict[str, Weight] = {}
        self.explicit: dict[str, int] = {}
        self.children: tuple[str, ...] = ()
        self.many = False
        self.states_open = False  # a tree's states are found as they are read
        self.source: str | None = None  # overrides the caller's line, when replaying
        self.most: float = MOST_NODES
        self._leaves: dict[tuple[str, str], int] = {}
        self._attentions: dict[int, int] = {}  # by their scores
        self._sets: list[str | None] = []

    # -- leaves ----------------------------------------------------------------

    def add_input(self, name: str, size: Size) -> int:
        size = self.size(name, size)
        self.inputs.append(Input(name, size))
        return self.leaf("input", size, name=name)

    def add_item(self, name: str, size: Size, of: str | None = None) -> int:
        """What the step sees of each item of a set: of its own, or of that named."""
        size, of = self.size(name, size), of or name
        self.items.append(Item(name, size, of))
        attrs = {} if of == name else {"set": of}
        return self.leaf(ITEM, size, name=name, **attrs)

    def add_state(self, name: str, size: Size, init: float) -> int:
        size = self.size_of_state(name, size)
        self.states.append(State(name, size, self.number(name, init)))
        return self.leaf("state", size, name=name)

    def add_children(
        self, children: Sequence[str], many: bool, states: Mapping[str, Size] | None
    ) -> None:
        """Make it a tree's. Without `states` they are the ones that are read."""
        self.children, self.many = tuple(children), many
        sizes = {name: self.size(name, size) for name, size in (states or {}).items()}
        self.states = [State(name, size) for name, size in sizes.items()]
        self.states_open = states is None

    def child_state(self, child: str, name: str) -> int:
        """The leaf of a child's state."""
        known = {s.name: s.size for s in self.states}
        if self.states_open and name not in known:
            self.states.append(State(name, "hidden_size"))
        size = known.get(name, "hidden_size")
        return self.leaf("state", size, child=child, name=name)

    def close_states(self) -> None:
        """Every child has every state, whether it is read or not."""
        self.states_open = False
        for child in self.children:
            for state in self.states:
                self.child_state(child, state.name)

    def constant(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise CellError(
                f"[{self.where()}] a cell computes with values and Python numbers; "
                f"received {value!r} ({type(value).__name__})"
            )
        return self.leaf("constant", 1, value=self.number("a constant", value))

    def number(self, what: str, value: Any) -> float:
        """A number of the step as float64 has it: not NaN, not beyond its range."""
        try:
            found = float(value)
        except CellError:  # a traced value says what it is
            raise
        except (OverflowError, TypeError, ValueError):
            found = math.nan
        if math.isnan(found):
            raise CellError(
                f"[{self.where()}] {what} is a number of float64; received "
                f"{str(value)[:40]}, expected a number or an infinity"
            )
        return found

    def size(self, what: str, size: Any) -> int | str:
        """A size as Python has it: a count of units, or the name of one."""
        whole = isinstance(size, numbers.Integral) and not isinstance(size, bool)
        if whole and int(size) > 0:
            return int(size)
        if isinstance(size, str) and size.isidentifier():
            return size
        raise SizeError(
            f"[{self.where()}] the size of {what} is a count of units or a name for "
            f"one; received {size!r}, expected such as 3 or 'memory_size'"
        )

    def size_of_state(self, what: str, size: Any) -> Size:
        """A size, or a matrix's: (rows, columns) or (rows, columns, heads)."""
        if isinstance(size, tuple | list | MatrixSize):
            return self.matrix_size(what, size)
        return self.size(what, size)

    def matrix_size(self, what: str, size: Any) -> MatrixSize:
        """A matrix's size as Python has it: two sizes, and how many heads."""
        if not isinstance(size, MatrixSize):
            parts = tuple(size) if isinstance(size, tuple | list) else ()
            if len(parts) not in (2, 3):
                raise SizeError(
                    f"[{self.where()}] the size of the matrix {what} is its rows, its "
                    f"columns and how many heads; received {size!r}, expected such as "
                    '("hidden_size", 16) or ("hidden_size", "hidden_size", 4)'
                )
            size = MatrixSize(*parts)
        found = MatrixSize(
            *(self.size(f"{what}'s {part}", getattr(size, part)) for part in _SIDES),
            heads=size.heads,
        )
        self._check_heads(what, (found.rows, found.columns), size.heads)
        return found

    def leaf(self, op: str, size: Size, **attrs: Any) -> int:
        """One node for each leaf: a weight or a number may be written many times."""
        known = op, repr(attrs)
        if known not in self._leaves:
            node = Node(op, (), tuple(sorted(attrs.items())), size, self.line())
            self._leaves[known] = self.append(node)
        return self._leaves[known]

    def append(self, node: Node) -> int:
        if len(self.nodes) >= self.most:
            raise CellError(
                f"[{self.where()}] a step is too long to compile; received more than "
                f"{self.most:,} operations, expected at most that many. Is it a "
                "loop over time? The layer does that one: a cell is a single step"
            )
        self.nodes.append(node)
        number = len(self.nodes) - 1
        if self.many or self.items:
            self._check_sets(node, number)
        return number

    def set_of(self, number: int) -> str | None:
        """The set that a node's value varies over; `None`: it has one value."""
        if not (self.many or self.items):
            return None
        for node in self.nodes[len(self._sets) : number + 1]:
            self._sets.append(set_of(node, self._sets, self.many))
        return self._sets[number]

    def _check_sets(self, node: Node, number: int) -> None:
        self.set_of(number)
        names = read_sets(node, self._sets)
        if len(names) > 1:
            shown = " and ".join(self.set_name(name) for name in names)
            raise CellError(
                f"[{self.where()}] a value varies over one set; received what is "
                f"computed from {shown} at once, expected one of them. Make one value "
                "of the others first, as in total(v) or attend(scores, values)"
            )

    def set_name(self, name: str) -> str:
        """What a message calls a set."""
        return repr(self.children[0] if name == CHILDREN else name)

    # -- weights ---------------------------------------------------------------

    def parameter(
        self, name: str, kind: str, size: Size = 1, init: float | None = None
    ) -> int:
        """A weight vector or scalar, used element by element."""
        init = None if init is None else self.number(f"W.{name}'s init", init)
        size = self.size_of_state(f"W.{name}", size)
        options: dict[str, Any] = {"bias": False, "init": init, "source": self.line()}
        self._declare(Weight(name, kind, size, **options))
        return self.leaf("weight", size, weight=name)

    def affine(
        self,
        name: str,
        args: tuple[int, ...],
        *,
        size: Size = "hidden_size",
        bias: bool | float = True,
        heads: int = 1,
        columns: Op | None = None,
        antisymmetric: bool = False,
    ) -> int:
        """`W.name(*args)`: a matrix on the concatenation, and a bias."""
        if not args:
            raise CellError(
                f"[{self.where()}] W.{name}() maps nothing; received no operand, "
                f"expected at least one, as in W.{name}(h, x)"
            )
        for arg in args:
            self._check_operand(name, self.nodes[arg])
        size = self.size_of_state(f"W.{name}", size)
        operands = tuple(self.nodes[a].size for a in args)
        init = None if isinstance(bias, bool) else self.number(f"W.{name}'s bias", bias)
        self._check_heads(f"W.{name}", (size, *operands), heads)
        if isinstance(size, MatrixSize) and (heads, size.heads) != (1, 1):
            raise SizeError(
                f"[{self.where()}] W.{name} gives a whole matrix; received heads, "
                "expected a size of rows and columns, as in "
                f'W.{name}(x, size=("hidden_size", "hidden_size"))'
            )
        made_by = None if columns is None else self._check_columns(name, columns)
        self._check_antisymmetric(name, antisymmetric, operands, size, made_by)
        made = made_by, antisymmetric
        options = heads, bias is not False, init, *made, self.line()
        self._declare(Weight(name, "matrix", size, operands, *options))
        return self.append(Node(AFFINE, args, (("weight", name),), size, self.line()))

    def _check_operand(self, name: str, node: Node) -> None:
        """A matrix maps rows of units; a number alone has none."""
        if isinstance(node.size, MatrixSize):
            raise SizeError(
                f"[{self.where()}] W.{name} maps vectors; received a matrix, "
                f"{node.size}, expected a vector of it, as in matvec(C, q)"
            )
        scalar = self._is_scalar(node)
        if node.op == "constant" or scalar:
            received = "a W.scalar" if scalar else f"the number {node['value']:g}"
            raise CellError(
                f"[{self.where()}] W.{name} maps values of the step; received "
                f"{received}, expected inputs, states and what is computed from them"
            )

    def _is_scalar(self, node: Node) -> bool:
        return node.op == "weight" and self.weights[node["weight"]].kind == "scalar"

    def _check_columns(self, name: str, columns: Any) -> str:
        """A function of one value that keeps its size can act on a column."""
        if not (isinstance(columns, Op) and columns.keeps_size):
            raise CellError(
                f"[{self.where()}] W.{name}: columns= is what every column of the "
                f"matrix goes through; received {columns!r}, expected a function of "
                "one value that keeps its size, such as softmax"
            )
        return columns.name

    def _check_antisymmetric(
        self,
        name: str,
        wanted: Any,
        operands: tuple[Size, ...],
        size: Size,
        columns: str | None,
    ) -> None:
        """W − Wᵀ needs a square: one operand, of the result's size."""
        if not isinstance(wanted, bool):
            raise CellError(
                f"[{self.where()}] W.{name}: antisymmetric= says whether W − Wᵀ maps; "
                f"received {wanted!r}, expected True or False"
            )
        if wanted and (operands != (size,) or columns):
            also = f" and columns={columns}" if columns else ""
            raise SizeError(
                f"[{self.where()}] W.{name}: an antisymmetric matrix is square, and "
                f"nothing else makes it; received operands of {_show(operands)} for a "
                f"size of {size}{also}, expected one of that size, as in "
                f"W.{name}(h, antisymmetric=True) + W.{name}2(x)"
            )

    def _check_heads(self, name: str, sizes: tuple[Size, ...], heads: int) -> None:
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
            raise CellError(
                f"[{self.where()}] {name}: heads is a count of blocks; "
                f"received {heads!r}, expected a positive integer"
            )
        for size in sizes:
            if isinstance(size, int) and size % heads:
                raise SizeError(
                    f"[{self.where()}] {name} is cut into {heads} heads; "
                    f"received a size of {size}, expected a multiple of {heads}"
                )

    def _declare(self, weight: Weight) -> None:
        """One name is one weight: a second use must agree with the first."""
        known = self.weights.setdefault(weight.name, weight)
        if known == weight:
            return
        first = f"first used at {known.source}"
        if "matrix" in (known.kind, weight.kind) and known.kind != weight.kind:
            raise CellError(
                f"[{self.where()}] W.{weight.name} is used in two ways; received a "
                f"{weight.kind}, expected the {known.kind} it already is ({first}). "
                f"Give the two uses two names, as in W.{weight.name} and "
                f"W.{weight.name}2"
            )
        for what in _SHARED:
            matrix = weight.kind == known.kind == "matrix"
            option = "bias_option" if what == "bias" and matrix else what
            old, new = getattr(known, option), getattr(weight, option)
            if repr(old) != repr(new):  # Python says True == 1.0
                raise SizeError(
                    f"[{self.where()}] W.{weight.name} is one shared weight, and its "
                    f"{what} must be the same at every use; received {_show(new)}, "
                    f"expected {_show(old)} ({first}). "
                    "For two different weights, give two names"
                )

    # -- operations ------------------------------------------------------------

    def apply(self, op: Op, args: Iterable[int], **attrs: Any) -> int:
        """Record an operation of the table on nodes."""
        args, attrs = tuple(args), {**op.attrs, **attrs}
        if op.name == "neg" and self.nodes[args[0]].op == "constant":
            return self.constant(-self.nodes[args[0]]["value"])  # as it is written
        self._check_conditions(op, args)
        if op.size == "broadcast":
            args = self._spread_heads(args)
        sizes = [self.nodes[a].size for a in args]
        if "heads" in attrs and op.implies is None:
            self._check_heads(op.name, (), attrs["heads"])
        for key, implied in op.implied(sizes).items():
            self._check_implied(op, key, attrs.get(key), implied)
            attrs[key] = implied
        size = self._result_size(op, args, sizes, attrs)
        if "heads" in attrs and op.size == "first":
            self._check_heads(op.name, (size,), attrs["heads"])
        for key, default in op.attrs.items():
            if isinstance(default, float):
                attrs[key] = self.number(f"{op.name}'s {key}", attrs[key])
        options = tuple(sorted(attrs.items()))
        return self.append(Node(op.name, args, options, size, self.line()))

    def _spread_heads(self, args: tuple[int, ...]) -> tuple[int, ...]:
        """One number a head beside a matrix, for each element of its block."""
        matrix = next((a for a in args if self._is_matrix(a)), None)
        if matrix is None:
            return args
        of = self.nodes[matrix].size
        return tuple(
            self.apply(OPS["spread"], (a, matrix))
            if spreads(self.nodes[a].size, of)
            else a
            for a in args
        )

    def _is_matrix(self, number: int) -> bool:
        return isinstance(self.nodes[number].size, MatrixSize)

    def _check_implied(self, op: Op, key: str, given: Any, implied: Any) -> None:
        if given not in (None, implied):
            raise SizeError(
                f"[{self.where()}] {op.name}: {key} follows from its arguments' sizes; "
                f"received {key}={given!r}, expected {implied!r}, or none"
            )

    def _result_size(
        self, op: Op, args: tuple[int, ...], sizes: list[Size], attrs: dict[str, Any]
    ) -> Size:
        """The size of an operation's result; says which of its arguments do not fit."""
        matrix = matrix_among(sizes)
        if op.size == "broadcast":
            return self.broadcast(op, sizes)
        if op.reduces and isinstance(op.size, str) and matrix:
            raise SizeError(
                f"[{self.where()}] {op.name} looks at the units of a vector; received "
                f"a matrix, {matrix}, expected a vector of it, as in matvec(C, q)"
            )
        if op.kind == "matrix":
            self._check_rows(op, args)
        try:
            return op.result_size(sizes, attrs)
        except Misfit as error:
            raise SizeError(f"[{self.where()}] {error}") from None

    def _check_rows(self, op: Op, args: tuple[int, ...]) -> None:
        """A matrix and its vectors are no single numbers."""
        for node in (self.nodes[a] for a in args):
            # The derivative of the sum of one number spreads over that.
            single = self._is_scalar(node) and op.name != "spread"
            if node.op == "constant" or single:
                raise CellError(
                    f"[{self.where()}] {op.name} takes values of the step; received "
                    "a single number, expected a vector or a matrix; a number is "
                    "multiplied, as in 0.9 * C"
                )

    def _check_conditions(self, op: Op, args: tuple[int, ...]) -> None:
        for position, arg in enumerate(args):
            is_condition = self.nodes[arg].op in CONDITIONS
            if is_condition != (op.name == "where" and position == 0):
                raise CellError(
                    f"[{self.where()}] comparisons stand inside where(...) only; "
                    f"received {self.nodes[arg].op} as argument {position + 1} of "
                    f"{op.name}. Write where(a > b, u, v)"
                )

    def broadcast(self, op: Op, sizes: list[Size]) -> Size:
        """The common size: equal sizes, or 1. Symbols are compared when bound."""
        matrix = matrix_among(sizes)
        wide = [s for s in sizes if s != 1]
        numbers_ = {s for s in wide if isinstance(s, int)}
        alike = all(fits(matrix, s) for s in wide) if matrix else len(numbers_) < 2
        if not alike:
            shown = " and ".join(str(s) for s in sizes)
            wanted, remedy = (
                "equal sizes, or 1",
                "To change a size use a matrix, as in W.p(v)",
            )
            if matrix:
                wanted = f"{matrix}, one number, or one number a head"
                remedy = "For a vector write scale_rows(C, v), scale_columns(C, v)"
            raise SizeError(
                f"[{self.where()}] {op.symbol or op.name} works element by element; "
                f"received sizes {shown}, expected {wanted}. {remedy}"
            )
        return common(wide, frozenset(i.size for i in self.inputs))  # type: ignore[arg-type]

    def total(self, arg: int) -> int:
        """Record a sum over a set: of what each child has, or each item."""
        self._check_conditions(OPS["identity"], (arg,))
        if self.set_of(arg) is None:
            inner = self.nodes[arg].op == TOTAL
            raise CellError(
                f"[{self.where()}] total(…) sums what each {self._member()} has; "
                f"received {'another total' if inner else self._single()}, expected "
                + self._computed("total({0}.h)", "total({0})")
            )
        size = self.nodes[arg].size
        return self.append(Node(TOTAL, (arg,), (), size, self.line()))

    def attend(self, scores: int, values: int) -> int:
        """Record the sum of a set's values, weighted by the softmax of its scores."""
        for what, arg in (("scores", scores), ("values", values)):
            self._check_conditions(OPS["identity"], (arg,))
            if self.set_of(arg) is None:
                raise CellError(
                    f"[{self.where()}] attend(scores, values): each {self._member()} "
                    f"has its {what}; received {self._single()}, expected "
                    + self._computed("attend(W.e({0}.h), {0}.h)", "attend(e, {0})")
                )
        size, of_values = self.nodes[scores].size, self.nodes[values].size
        if of_values == 1 != size:
            raise SizeError(
                f"[{self.where()}] attend(scores, values) has one score for a member, "
                f"or one for each unit of its value; received scores of size {size} "
                f"and values of size {of_values}. For one score write size=1, as in "
                "W.e(v, size=1)"
            )
        weights = self.attention(scores)
        return self.total(self.apply(OPS["mul"], (weights, values)))

    def attention(self, scores: int) -> int:
        """The softmax over a set; the same scores are the same weights."""
        if scores not in self._attentions:
            size = self.nodes[scores].size
            node = Node(ATTENTION, (scores,), (), size, self.line())
            self._attentions[scores] = self.append(node)
        return self._attentions[scores]

    # What messages call the sets of this cell.

    def _member(self) -> str:
        return "item" if self.items else "child"

    def _single(self) -> str:
        return f"a value that the {'step' if self.items else 'node'} has once"

    def _computed(self, of_child: str, of_items: str) -> str:
        """What is expected of a value that has to vary over a set."""
        if self.items:
            name = self.items[0].name
            return f"a value computed from {name!r}, as in {of_items.format(name)}"
        whose = "its one child" if self.many else "any number of children"
        return (
            f"a value computed from the states of {whose}, as in "
            f"{of_child.format('child')} under @tree_cell without arity; or one "
            f"computed from items, as in {of_items.format('source')} under "
            "`*, source: Items`"
        )

    # -- where -----------------------------------------------------------------

    def line(self) -> str:
        return user_location() if self.source is None else self.source

    def where(self) -> str:
        return f"{self.line()}, cell {self.name!r}"

    # -- the end ---------------------------------------------------------------

    def finish(self, results: tuple[int, ...], doc: str = "") -> Graph:
        """Check the returned values, name what has a name, put into printed order."""
        self._check_matrix()
        for result in results:
            self._check_conditions(OPS["identity"], (result,))
            self._check_summed(result)
        extra = len(results) - len(self.states)
        updates = results[1:] if extra else results
        for state, node in zip(self.states, updates, strict=True):
            self._check_update(state, node)
        graph = Graph(
            nodes=tuple(self.nodes),
            inputs=tuple(self.inputs),
            states=tuple(self.states),
            weights=tuple(self.weights.values()),
            updates=updates,
            output=results[0],
            names=tuple(self.explicit.items()),
            explicit=tuple(self.explicit),
            items=tuple(self.items),
            children=self.children,
            many=self.many,
            name=self.name,
            doc=doc,
        )
        return verify(canonical(graph), after="build")

    def _check_matrix(self) -> None:
        """`W.matrix` is a weight of that name, in older cells, or makes weights."""
        own = self.weights.get("matrix")
        made = next((w for w in self.weights.values() if w.is_matrix), None)
        if own and made:
            raise CellError(
                f"[{own.source}, cell {self.name!r}] a weight is called matrix, and "
                f'W.matrix("{made.name}") makes another; received both, expected '
                "another name for the first, as in W.matrix2"
            )

    def _check_summed(self, result: int) -> None:
        name = self.set_of(result)
        if name is None:
            return
        child = name == CHILDREN
        shown = self.children[0] if child else name
        raise CellError(
            f"[{self.nodes[result].source or self.where()}, cell {self.name!r}] a "
            f"returned value has one value for each {'child' if child else 'item'}; "
            f"received what is computed from {shown!r} outside total(…), expected one "
            f"value for the {'node' if child else 'step'}. Sum over the "
            f"{'children' if child else 'items'}, as in "
            f"total({shown}{'.h' if child else ''})"
        )

    def _check_update(self, state: State, node: int) -> None:
        new = self.nodes[node]
        if new.op == "state" and new["name"] == state.name and not self.children:
            raise CellError(
                f"[{self.where()}] state {state.name!r} is returned unchanged, so it "
                f"never leaves its initial value; received the old {state.name!r}, "
                f"expected its new value. Compute it, or make it a named input"
            )
        if not fits(new.size, state.size):
            raise SizeError(
                f"[{new.source or self.where()}, cell {self.name!r}] the new value of "
                f"state {state.name!r} has another size than the state; received "
                f"{new.size}, expected {state.size}. Annotate the state's size, as in "
                f'`{state.name}: "proj_size"`, or map it with a matrix'
            )


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(str(v) for v in value) + ")"
    return str(value)
