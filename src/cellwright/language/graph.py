"""The graph of a cell's step: frozen data, comparable, with symbolic sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

from .sizes import MatrixSize, Size, names_of

# Node kinds that are no operation of the table.
ITEM = "item"  # a leaf that has a value for each item of a set
LEAVES = ("input", "state", "constant", "weight", ITEM)
AFFINE = "affine"  # W·[operands] + b
TOTAL = "total"  # the sum over a set: of what each child has, or each item
ATTENTION = "attention"  # the softmax over a set, unit by unit; of no items: none
COTANGENT = "cotangent"  # of a result; a leaf (in derivatives)
EACH = "each"  # one value, for each member of a set (in derivatives)
TRANSPOSED = "transposed"  # one operand's cotangent, g·W's columns (in derivatives)

CHILDREN = "(children)"  # the set of a node's children: no set of items has this name


class Written:
    """A record that knows the user's line; pickled, it keeps the file's bare name."""

    source: str

    def __getstate__(self) -> dict[str, Any]:
        # A stored layer travels; the directories of whoever wrote it do not.
        name = self.source.rpartition(os.sep)[2]
        return {**self.__dict__, "source": name}


@dataclass(frozen=True)
class Node(Written):
    """One value of the step.

    Attributes:
        op: `"input"`, `"state"`, `"item"`, `"constant"`, `"weight"` (a vector or
            scalar), `"affine"`, `"transposed"`, `"total"`, `"attention"`, or a name of
            the operation table.
        args: the nodes it reads, by position in the graph.
        attrs: its options, as sorted pairs: `name` of an input, state or item, `child`
            of a tree cell's state, `set` of an item that is not of the set of its own
            name (and of what derivatives have for each item), `value` of a constant,
            `weight` of an affine or weight, the operation's own options.
        size: how many units a row of it has; a matrix's, see `MatrixSize`.
        source: `file:line` of the user's code that wrote it (not compared).
    """

    op: str
    args: tuple[int, ...] = ()
    attrs: tuple[tuple[str, Any], ...] = ()
    size: Size = 1
    source: str = field(default="", compare=False, repr=False)

    def __getitem__(self, key: str) -> Any:
        return dict(self.attrs)[key]

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.attrs)

    def on(self, args: tuple[int, ...]) -> Node:
        """The same of other arguments."""
        return Node(self.op, args, self.attrs, self.size, self.source)

    @property
    def label(self) -> str:
        """What an input, a state or a cotangent is called: `x`, `h`, `left.h`."""
        child = self.options.get("child")
        return f"{child}.{self['name']}" if child else self["name"]


def reachable(nodes: Sequence[Node], results: Iterable[int]) -> set[int]:
    """The nodes that some results follow from, themselves among them."""
    found: set[int] = set()
    stack = [*results]
    while stack:
        number = stack.pop()
        if number not in found:
            found.add(number)
            stack.extend(nodes[number].args)
    return found


def select(
    nodes: Sequence[Node], order: Iterable[int]
) -> tuple[tuple[Node, ...], dict[int, int]]:
    """Some nodes in another order, and the position of each."""
    new = {old: position for position, old in enumerate(order)}
    chosen = (nodes[old] for old in new)
    return tuple(n.on(tuple(new[a] for a in n.args)) for n in chosen), new


def sets(nodes: Sequence[Node], many: bool) -> list[str | None]:
    """The set that each node's value varies over; `None`: it has one value.

    A set's name where there is a value for each of its items, `CHILDREN` where there is
    one for each child. `total` makes one value of them again; what there is once is the
    same for every member.

    Args:
        many: of a tree's cell whose one child stands for any number.
    """
    found: list[str | None] = []
    for node in nodes:
        found.append(set_of(node, found, many))
    return found


def set_of(node: Node, before: Sequence[str | None], many: bool) -> str | None:
    """The same for one node, from what is known of the nodes before it."""
    if node.op == TOTAL:
        return None
    if node.op == "state":
        return CHILDREN if many else None
    if node.op == ITEM:
        return node.options.get("set", node["name"])
    if node.op in (EACH, COTANGENT):
        return node.options.get("set", CHILDREN if node.op == EACH else None)
    return next(iter(read_sets(node, before)), None)


def read_sets(node: Node, before: Sequence[str | None]) -> list[str]:
    """The sets that a node's arguments vary over; more than one is an error."""
    found = dict.fromkeys(before[a] for a in node.args)
    return [name for name in found if name is not None]


def before_steps(nodes: Sequence[Node]) -> list[bool]:
    """Which values are the same at every step of a call: they read no input, no state.

    An attention counts as a step's, with which it is recorded.
    """
    found: list[bool] = []
    for node in nodes:
        read = all(found[a] for a in node.args)
        own = node.op in ("input", "state", ATTENTION, COTANGENT)
        found.append(read and not own)
    return found


def per_child(nodes: Sequence[Node], many: bool) -> list[bool]:
    """Which nodes have a value for each child of a node."""
    if not many:
        return [False] * len(nodes)
    return [name == CHILDREN for name in sets(nodes, many)]


@dataclass(frozen=True)
class Weight(Written):
    """A trainable parameter group that the cell names.

    Attributes:
        name: as in `W.name`.
        kind: `"matrix"` (called), `"vector"` or `"scalar"`.
        size: units of the result, or the matrix that it is; a vector with a matrix's
            size is used element by element as one.
        operands: for a matrix, the operands' sizes in the order written.
        heads: for a matrix, how many diagonal blocks.
        bias: for a matrix: whether it has one.
        init: a constant initial value, of the bias where it is a matrix, or `None`
            (uniform).
        columns: for a matrix: the operation that makes its columns of the parameter's
            ("softmax": each column sums to 1), or `None`.
        antisymmetric: for a matrix: W − Wᵀ of the parameter W maps.
        source: `file:line` of its first use (not compared).
    """

    name: str
    kind: str
    size: Size
    operands: tuple[Size, ...] = ()
    heads: int = 1
    bias: bool = True
    init: float | None = None
    columns: str | None = None
    antisymmetric: bool = False
    source: str = field(default="", compare=False, repr=False)

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix element by element: `W.matrix("A", …)`."""
        return self.kind == "vector" and isinstance(self.size, MatrixSize)

    @property
    def made(self) -> bool:
        """Whether its matrix is computed from the parameter, once a call."""
        return self.columns is not None or self.antisymmetric

    @property
    def bias_option(self) -> bool | float:
        """What `bias=` was: `True`, `False`, or the bias's initial value."""
        return self.bias if self.init is None else self.init

    def shapes(self) -> dict[str, tuple[Any, ...]]:
        """Shapes of its parameters: `{"weight": …, "bias": …}` or `{"": …}`."""
        if self.is_matrix:
            return {"": _blocks(self.size.rows, self.size.columns, self.size.heads)}  # type: ignore[union-attr]
        if self.kind != "matrix":
            return {"": (self.size,) if self.kind == "vector" else ()}
        size = self.size
        if isinstance(size, MatrixSize):
            size = (
                int(size) if not names_of(size) else f"({size.rows})·({size.columns})"
            )
        shape = _blocks(size, _total(self.operands), self.heads)
        return {"weight": shape, **({"bias": (size,)} if self.bias else {})}


def _blocks(rows: Size, columns: Size, heads: int) -> tuple[Any, ...]:
    """The shape of a matrix, or of its blocks."""
    if heads == 1:
        return rows, columns
    return heads, *(_quotient(s, heads) for s in (rows, columns))


def _total(sizes: tuple[Size, ...]) -> Size:
    if all(isinstance(s, int) for s in sizes):
        return sum(sizes)  # type: ignore[arg-type]
    return " + ".join(map(str, sizes))


def _quotient(size: Size, heads: int) -> Size:
    return size // heads if isinstance(size, int) else f"({size})/{heads}"


@dataclass(frozen=True)
class State:
    """A state of the cell: its size, and the number every unit starts from.

    A child that a node lacks has states of 0.
    """

    name: str
    size: Size
    init: float = 0.0


@dataclass(frozen=True)
class Input:
    """`x`, or a further named input of the step."""

    name: str
    size: Size


@dataclass(frozen=True)
class Item:
    """What a step sees of each item of a set.

    Attributes:
        name: its argument's.
        size: units of each item.
        set: the set whose items have it, a name: its own, but for what was computed
            from the items of another before the first step.
    """

    name: str
    size: Size
    set: str


@dataclass(frozen=True)
class Graph:
    """A cell's step, as data.

    Two graphs are equal when they compute the same thing in the same written order
    under the same names; the cell's own name and source lines do not count.

    Attributes:
        nodes: in an order where arguments come first.
        inputs: `x` first.
        states: in the order of the cell's arguments.
        weights: in the order of first use.
        updates: the node of each state's new value.
        output: the node that is the step's output (the first state's new value, or
            the extra first value that the cell returns).
        names: (name, node) of every value that has a name, states included.
        explicit: the names that were given by `cellwright.name`.
        items: what it sees of sets of items.
        children: the children that a tree cell sees, by name; none in a sequence.
        many: there may be any number of the one child, for `total` to sum over.
        name: the cell's.
        doc: the cell's docstring.
    """

    # Functions above this module, which the package makes methods for its users.
    bind: ClassVar[Callable[..., Graph]]
    to_text: ClassVar[Callable[..., str]]
    from_text: ClassVar[Callable[[str], Graph]]

    nodes: tuple[Node, ...]
    inputs: tuple[Input, ...]
    states: tuple[State, ...]
    weights: tuple[Weight, ...]
    updates: tuple[int, ...]
    output: int
    names: tuple[tuple[str, int], ...] = ()
    explicit: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    children: tuple[str, ...] = ()
    many: bool = False
    name: str = field(default="cell", compare=False)
    doc: str = field(default="", compare=False)

    def __deepcopy__(self, memo: Any) -> Graph:
        return self

    @property
    def values(self) -> dict[str, int]:
        """Every named value's node: gates, explicit names, and states' new values."""
        return dict(self.names)

    @property
    def gates(self) -> dict[str, int]:
        """The named values that are no state's."""
        states = {s.name for s in self.states}
        return {n: i for n, i in self.names if n not in states}

    @property
    def explicit_names(self) -> dict[int, list[str]]:
        """The names that `cellwright.name` gave, by node."""
        found: dict[int, list[str]] = {}
        for name, number in self.names:
            if name in self.explicit:
                found.setdefault(number, []).append(name)
        return found

    @property
    def sets(self) -> list[str | None]:
        """The set that each node's value varies over, or `None`: see `sets`."""
        return sets(self.nodes, self.many)

    @property
    def item_sets(self) -> tuple[str, ...]:
        """The sets of its items, in order."""
        return tuple(dict.fromkeys(item.set for item in self.items))

    @property
    def per_child(self) -> list[bool]:
        """Which nodes have a value for each child, rather than one for the node."""
        return per_child(self.nodes, self.many)

    @property
    def output_is_state(self) -> bool:
        """Whether the cell's output is the new value of its first state."""
        return bool(self.updates) and self.output == self.updates[0]

    @property
    def returned(self) -> tuple[int, ...]:
        """The nodes that the cell returns."""
        return self.updates if self.output_is_state else (self.output, *self.updates)

    @property
    def output_size(self) -> Size:
        return self.nodes[self.output].size

    @property
    def size_names(self) -> tuple[str, ...]:
        """The symbolic sizes that `bind` wants, in order of appearance."""
        sizes: list[Size] = [i.size for i in (*self.inputs, *self.items)]
        sizes += [s.size for s in self.states]
        sizes += [s for w in self.weights for s in (w.size, *w.operands)]
        return tuple(dict.fromkeys(name for s in sizes for name in names_of(s)))

    @cached_property
    def has_matrices(self) -> bool:
        """Whether a value is a matrix, or has one number a head of another."""
        return any(
            isinstance(node.size, MatrixSize)
            or node.op == "spread"
            or (node.op == "sum" and node["heads"] != 1)
            for node in self.nodes
        )

    def with_nodes(
        self, nodes: Sequence[Node], new: Mapping[int, int], **changes: Any
    ) -> Graph:
        """The graph of other nodes; `new` says where each old one's value is."""
        return replace(
            self,
            nodes=tuple(nodes),
            updates=tuple(new[n] for n in self.updates),
            output=new[self.output],
            names=tuple((name, new[n]) for name, n in self.names),
            **changes,
        )

    def results(self, values: Sequence[Any]) -> Any:
        """What the cell returns, of the values of all nodes: bare if it is one."""
        found = [values[n] for n in self.returned]
        return found[0] if len(found) == 1 else tuple(found)

    def weight(self, name: str) -> Weight:
        return next(w for w in self.weights if w.name == name)

    def uses(self) -> list[int]:
        """How often each node is read, the returned values included."""
        counts = [0] * len(self.nodes)
        for number in chain(*(n.args for n in self.nodes), self.returned):
            counts[number] += 1
        return counts

    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """Shape of every parameter: `f.weight`, `f.bias`, `p`, …"""
        return {
            ".".join(filter(None, (w.name, part))): shape
            for w in self.weights
            for part, shape in w.shapes().items()
        }

    def __str__(self) -> str:
        return self.to_text()
