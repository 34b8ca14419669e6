"""What a cell's function computes with beside tensors: values with operators.

A traced value records what is done to it (`trace.py`); a `Matrix` does it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .sizes import MatrixSize, Size

#: Every operation by its name, and those that have one by their sign; `ops` fills both.
OPS: dict[str, Any] = {}
INFIX: dict[str, Any] = {}


def _infix(symbol: str, swapped: bool = False) -> Callable[[Any, Any], Any]:
    """The method of an operator; `swapped`, where this value is on its right."""

    def method(self: Value, other: Any) -> Any:
        args = (other, self) if swapped else (self, other)
        return self._apply(INFIX[symbol], args, {})

    return method


class Value:
    """What operations and Python's operators are applied to, but for tensors."""

    __hash__ = object.__hash__

    def _apply(self, op: Any, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        raise NotImplementedError

    __add__, __radd__ = _infix("+"), _infix("+", swapped=True)
    __sub__, __rsub__ = _infix("-"), _infix("-", swapped=True)
    __mul__, __rmul__ = _infix("*"), _infix("*", swapped=True)
    __truediv__, __rtruediv__ = _infix("/"), _infix("/", swapped=True)
    __gt__, __ge__ = _infix(">"), _infix(">=")
    __lt__, __le__ = _infix("<"), _infix("<=")
    __eq__, __ne__ = _infix("=="), _infix("!=")  # type: ignore[assignment]

    def __neg__(self) -> Any:
        return self._apply(OPS["neg"], (self,), {})

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Any:
        return self._apply(OPS["abs"], (self,), {})


class Matrix(Value):
    """A matrix where a cell's function runs on tensors.

    A tensor that knows its heads, so that `f * C` means the same as in a trace.

    Attributes:
        flat: (…, elements), as `MatrixSize` lays them out.
        heads: how many blocks it has.
    """

    def __init__(self, flat: Tensor, heads: int = 1) -> None:
        self.flat, self.heads = flat, heads

    def _apply(self, op: Any, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        heads = self.heads
        if op.size == "broadcast":
            args = tuple(self._spread(a) for a in args)
        sizes = [running_size(a) for a in args]
        attrs = {**attrs, **op.implied(sizes)}
        is_matrix = isinstance(op.result_size(sizes, attrs), MatrixSize)
        flat = [a.flat if isinstance(a, Matrix) else a for a in args]
        value = op.on_tensors(flat, attrs)
        return Matrix(value, heads) if is_matrix else value

    def _spread(self, value: Any) -> Any:
        """One number a head, for each element of its block."""
        if spreads(running_size(value), running_size(self)):
            value = OPS["spread"].on_tensors((value, self.flat), {"heads": self.heads})
            return Matrix(value, self.heads)
        return value

    def __repr__(self) -> str:
        heads = f", heads={self.heads}" if self.heads > 1 else ""
        return f"Matrix({self.flat}{heads})"


def running_size(value: Any) -> Size:
    """The size of a value of a running function, as far as it is known."""
    if isinstance(value, Matrix):
        return MatrixSize("rows", "columns", value.heads)
    dimensions = value.dim() if isinstance(value, Tensor) else 0
    return value.shape[-1] if dimensions else 1


def spreads(size: Size, partner: Size) -> bool:
    """Whether a value is one number a head of its partner, a matrix."""
    return isinstance(partner, MatrixSize) and size == partner.heads > 1


def matrix_among(sizes: Sequence[Size]) -> MatrixSize | None:
    """The first that is a matrix's."""
    return next((s for s in sizes if isinstance(s, MatrixSize)), None)
