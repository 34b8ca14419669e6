"""Traced values: a cell's function runs once on values that record what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from torch import Tensor

from . import evaluate
from .arguments import plain
from .builder import Builder
from .errors import CellError, TraceError, did_you_mean, user_location
from .ops import FUNCTIONS, Op
from .sizes import MatrixSize, Size
from .values import INFIX, OPS, Value

_REMEDIES = {
    "bool": "Python cannot branch on it; write where(a > b, u, v), maximum or minimum",
    "len": "its size is known to the layer only; use sum(v) or layer_norm(v)",
    "iter": "a value is a whole row of units; write the equation for the row",
    "index": "a value is a whole row of units; to select units use a matrix, W.p(v)",
    "@": "write the matrix as a weight: W.a(v), or W.a(u, v) on a concatenation",
    "**": "write v * v, or exp(a * log(v))",
    "in-place": "write c = c + v instead of c += v",
    "number": "a traced value has no number yet; keep to the operations of cellwright",
    "rounding": "nothing is rounded in a step; write u / v, or step(v) for a jump",
    "bits": "nest conditions, as in where(a > b, where(c > d, u, v), v)",
}
_NUMPY_NAMES = {"sub": "subtract", "mul": "multiply", "div": "divide"}
_UFUNCS = {_NUMPY_NAMES.get(op.name, op.name): op for op in INFIX.values()}


def _refused(what: str, remedy: str) -> Callable[..., NoReturn]:
    """A method that refuses."""

    def method(self: Recorded, *unused: Any) -> NoReturn:
        raise TraceError(
            f"[{user_location()}] {what} on a traced value; received a recurrent "
            "cell's equation, expected cellwright's operations. Remedy: "
            f"{_REMEDIES[remedy]}"
        )

    return method


def _refuse_function(library: str, expected: str, function: Any) -> NoReturn:
    name = getattr(function, "__name__", str(function))
    here = f"cellwright.{name}" if name in FUNCTIONS else "cellwright's operations"
    raise TraceError(
        f"[{user_location()}] {library}.{name} cannot be recorded; received a traced "
        f"value, expected {expected}. Remedy: use {here}; the set is "
        f"{', '.join(sorted(FUNCTIONS))}"
    )


class Recorded(Value):
    """What values and weights share: operators are recorded, the rest is refused."""

    builder: Builder

    def _node(self, partner: Recorded | None) -> int:
        """The node of this value; a weight takes the size of its `partner`."""
        raise NotImplementedError

    def _apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Traced:
        traced = next((a for a in args if isinstance(a, Traced)), None)
        nodes = [as_node(self.builder, a, traced) for a in args]
        attrs = {name: plain(value) for name, value in attrs.items()}
        return Traced(self.builder, self.builder.apply(op, nodes, **attrs))

    __bool__ = _refused("if, and, or, not, max(), min() or bool()", "bool")
    __len__ = _refused("len()", "len")
    __iter__ = _refused("iteration or unpacking", "iter")
    __contains__ = _refused("`in`", "iter")
    __getitem__ = _refused("indexing", "index")
    __setitem__ = _refused("assignment to an index", "index")
    __matmul__ = __rmatmul__ = _refused("@", "@")
    __pow__ = __rpow__ = _refused("**", "**")

    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refused("// or %", "rounding")
    __divmod__ = __rdivmod__ = __ifloordiv__ = __imod__ = __floordiv__

    __and__ = __or__ = __xor__ = _refused("&, |, ^, ~, << or >>", "bits")
    __rand__ = __ror__ = __rxor__ = __iand__ = __ior__ = __ixor__ = __and__
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = __invert__ = __and__
    __ilshift__ = __irshift__ = __and__

    __iadd__ = __isub__ = __imul__ = _refused("an in-place change", "in-place")
    __itruediv__ = __imatmul__ = __ipow__ = __iadd__

    __float__ = __int__ = __index__ = __complex__ = __array__ = __round__ = _refused(
        "a conversion to a number or an array", "number"
    )

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        _refuse_function("torch", "a tensor", func)

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any
    ) -> Any:
        """NumPy's numbers use our operators (`np.float64(2) * v`); the rest fails."""
        op = _UFUNCS.get(ufunc.__name__)
        if op is None or method != "__call__" or kwargs:
            _refuse_function("numpy", "an array", ufunc)
        return self._apply(op, inputs, {})

    def __array_function__(
        self, func: Any, types: Any, args: Any, kwargs: Any
    ) -> NoReturn:
        _refuse_function("numpy", "an array", func)


class Traced(Recorded):
    """A value of the step, being recorded."""

    def __init__(self, builder: Builder, node: int) -> None:
        self.builder = builder
        self.node = node

    def _node(self, partner: Recorded | None) -> int:
        return self.node

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        function = f"{name}(v)" if name in OPS else "an operation of cellwright"
        raise TraceError(
            f"[{user_location()}] a traced value has no attribute {name!r}; received "
            f".{name}, expected {function}"
        )

    def __repr__(self) -> str:
        node = self.builder.nodes[self.node]
        return f"<traced {node.op} of size {node.size}>"


class Child(Recorded):
    """A child while its parent's step is traced: its attributes are its states."""

    def __init__(self, builder: Builder, name: str) -> None:
        self.builder = builder
        self.name = name

    def __getattr__(self, state: str) -> Traced:
        if state.startswith("_"):
            raise AttributeError(state)
        known = [s.name for s in self.builder.states]
        if not self.builder.states_open and state not in known:
            raise TraceError(
                f"[{user_location()}] a child has no state {state!r}; received "
                f"{self.name}.{state}. {did_you_mean(state, known)}"
            )
        return Traced(self.builder, self.builder.child_state(self.name, state))

    def _node(self, partner: Recorded | None) -> NoReturn:
        raise TraceError(
            f"[{user_location()}] {self.name!r} is a child, not a value; received "
            f"{self.name} itself, expected one of its states, as in {self.name}.h"
        )


#: What an affine map may be asked for.
_OPTIONS = ("size", "bias", "heads", "columns", "antisymmetric")


class WeightReference(Recorded):
    """`W.name`, not yet known to be a matrix (called) or a vector (multiplied)."""

    def __init__(self, builder: Builder, name: str) -> None:
        self.builder = builder
        self.name = name

    def __call__(self, *operands: Any, **options: Any) -> Traced:
        """`W.name(h, x, size=, bias=, heads=, …)`: an affine map of [h, x]."""
        unknown = options.keys() - set(_OPTIONS)
        if unknown:
            raise CellError(
                f"[{user_location()}] W.{self.name} received the option "
                f"{sorted(unknown)!r}, expected "
                f"{', '.join(f'{name}=' for name in _OPTIONS)}"
            )
        traced = next((o for o in operands if isinstance(o, Traced)), None)
        nodes = tuple(as_node(self.builder, o, traced) for o in operands)
        options = {name: plain(value) for name, value in options.items()}
        return Traced(self.builder, self.builder.affine(self.name, nodes, **options))

    def _node(self, partner: Recorded | None) -> int:
        size: Size = "hidden_size"
        if isinstance(partner, Traced):
            size = self.builder.nodes[partner.node].size
        if isinstance(size, MatrixSize):
            raise CellError(
                f"[{user_location()}] W.{self.name} beside a matrix; received a weight "
                "without a size, expected W.matrix"
                f'("{self.name}", size=…), or scale_rows(C, W.vector("{self.name}"))'
            )
        known = self.builder.weights.get(self.name)
        if known is not None and known.kind != "matrix":
            size, kind, init = known.size, known.kind, known.init
            return self.builder.parameter(self.name, kind, size, init)
        return self.builder.parameter(self.name, "vector", size)


class MatrixReference(WeightReference):
    """`W.matrix`: makes a weight of a given name; else it is one of its own name, as
    cells may have that are older than it."""

    def __call__(self, *operands: Any, **options: Any) -> Traced:
        """`W.matrix("A", init=, size=)`, or an affine map as of any other name."""
        if operands and isinstance(operands[0], Recorded):
            return super().__call__(*operands, **options)
        return self._elementwise(*operands, **options)

    def _elementwise(
        self,
        name: str,
        init: float | None = None,
        size: Sequence[Any] = ("hidden_size", "hidden_size"),
    ) -> Traced:
        """A weight matrix that is used element by element, as a matrix state is.

        Args:
            name: as in `W.name`.
            init: what every element starts from; without it as every weight.
            size: rows, columns, and (1 without it) heads: so many blocks of
                (rows/heads × columns/heads).
        """
        check_weight_name(name)
        whole = self.builder.matrix_size(f"W.{name}", size)
        node = self.builder.parameter(name, "vector", whole, init)
        return Traced(self.builder, node)


class Weights:
    """`W`: every attribute is a weight of that name."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __getattr__(self, name: str) -> WeightReference:
        if name.startswith("__"):
            raise AttributeError(name)
        check_weight_name(name)
        return WeightReference(self._builder, name)

    def vector(
        self, name: str, init: float | None = None, size: Size = "hidden_size"
    ) -> Traced:
        """A weight vector with an initial value and a size of its own."""
        check_weight_name(name)
        node = self._builder.parameter(name, "vector", plain(size), init)
        return Traced(self._builder, node)

    @property
    def matrix(self) -> MatrixReference:
        """`W.matrix("A", …)`; in older cells also an affine map of that name."""
        return MatrixReference(self._builder, "matrix")

    def scalar(self, name: str, init: float | None = None) -> Traced:
        """A single trainable number."""
        check_weight_name(name)
        return Traced(self._builder, self._builder.parameter(name, "scalar", 1, init))


_reserved = {"vector", "scalar"}  # methods of W


def reserve_weight_names(names: Iterable[str]) -> None:
    """Refuse these names of weights: the module that holds the weights needs them."""
    _reserved.update(names)


def check_weight_name(name: str) -> None:
    """Refuse a name that is reserved, or none that an attribute can have."""
    if name in _reserved or not name.isidentifier() or name.startswith("_"):
        raise CellError(
            f"[{user_location()}] W.{name} cannot be a weight: the module that holds "
            f"the weights needs that name; received {name!r}, expected another name, "
            f"as in W.{name.strip('_') or 'w'}_gate"
        )


def as_node(builder: Builder, value: Any, partner: Recorded | None) -> int:
    if isinstance(value, Recorded):
        if value.builder is not builder:
            raise TraceError(
                f"[{user_location()}] a traced value is used outside the call that "
                "made it; received a value of another trace. Keep no values between "
                "calls: what a cell remembers is a state"
            )
        return value._node(partner)
    if hasattr(value, "__torch_function__"):
        raise TraceError(
            f"[{user_location()}] a tensor cannot be mixed with traced values; "
            f"received {type(value).__name__}, expected a weight (W.vector), a named "
            "input, or a Python number"
        )
    return builder.constant(value)


def name(label: str, value: Any) -> Any:
    """Name a value of a cell, so that it can be recorded, replaced and looked at.

    Args:
        label: an identifier that no other value of the cell bears.
        value: a traced value (named), or a tensor (returned as it is).

    Raises:
        CellError: the label is taken or is no identifier.
    """
    if not isinstance(value, Traced):
        return value
    explicit = value.builder.explicit
    if not label.isidentifier() or explicit.get(label, value.node) != value.node:
        raise CellError(
            f"[{user_location()}] name({label!r}, …): a name is an identifier that no "
            f"other value bears; received {label!r}"
        )
    explicit[label] = value.node
    return value


def total(value: Any) -> Any:
    """Sum over a set: over all children of a node, or all items; 0 of an empty one.

    Args:
        value: what each child has, computed from the states of the one symbolic child
            of a cell under `@tree_cell`, or what each item has; or a tensor
            (…, members, units).

    Returns:
        One value of the node or step; of a tensor its sum (…, 1, units).

    Raises:
        CellError: the value is the same for all, so there is nothing to sum.
    """
    if isinstance(value, Tensor):
        return evaluate.total(value)
    _check_recorded("total(…) sums what each child has, or each item", value)
    node = as_node(value.builder, value, None)
    return Traced(value.builder, value.builder.total(node))


def attend(scores: Any, values: Any) -> Any:
    """The values of a set, weighted by the softmax of its scores, and summed.

    The softmax is over the items (Bahdanau et al. 2015, equations 5 and 6), not over
    the units; of no items the result is 0. `cellwright.record` has the weights as
    "attention".

    Args:
        scores: one number an item, `W.e(v, size=1)` or `sum(q * k)`; or one for each
            unit of the values. Or a tensor (…, items, 1) or (…, items, units).
        values: what each item has, such as the item itself; or a tensor
            (…, items, units).

    Returns:
        One value of the step; of tensors (…, 1, units).

    Raises:
        CellError: scores or values that there are not for each item.
        SizeError: sizes that do not fit.
    """
    if isinstance(scores, Tensor) and isinstance(values, Tensor):
        return evaluate.total(evaluate.attention(scores) * values)
    for what, value in (("scores", scores), ("values", values)):
        expected = f"attend(scores, values): each item has its {what}"
        _check_recorded(expected, value)
    builder = values.builder
    nodes = (as_node(builder, v, None) for v in (scores, values))
    return Traced(builder, builder.attend(*nodes))


def _check_recorded(fact: str, value: Any) -> None:
    if not isinstance(value, Recorded):
        raise TraceError(
            f"[{user_location()}] {fact}; received {value!r}, expected a value such as "
            "child.h of a tree's child, or source of `*, source: Items`"
        )
