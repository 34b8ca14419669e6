"""The operations of the cell language: one record each, and nothing elsewhere.

A record says how an operation's size follows from its arguments' sizes, how to
evaluate it in torch, its derivative (written in these same operations, so that one
rule serves traced values and tensors), how it is written, the range of its values, and
whether it names gates. Values and gradients at ties and kinks are torch's.

A record without `expand` is a primitive: every engine and every export target has it in
a table of its own. One with `expand` is derived: targets get it from its definition
(`language/expand.py`), so its record and its test are all there is of it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .sizes import MatrixSize, Misfit, Size, common, fits, splits
from .values import INFIX, OPS, Matrix, Value

#: The result's size, of arguments of these sizes: `rule(sizes, **attrs)`.
SizeRule = Callable[..., Size]


@dataclass(frozen=True, eq=False)
class Op:
    """One operation. Call it on tensors to run it, on traced values to record it.

    Attributes:
        name: its name in printed equations.
        arity: how many values it takes.
        evaluate: its value in torch, units last: `(*tensors, **attrs) -> tensor`.
        derivative: `(g, y, *args, **attrs) -> cotangents`, one per argument, `None`
            where no gradient flows; `g` is the cotangent of the result `y`.
        latex: a format string over the arguments' LaTeX.
        glyph: its sign in pictures and formulas; its name, where it has no other.
        range: the least and the greatest value it can give, attained or not.
        expand: `(*args, **attrs) -> result` in other operations, where it is derived:
            the same values as `evaluate`, at NaN, ±inf and ties too.
        kernel: the native core has an opcode of its name though it is derived, for
            speed or accuracy.
        copies: its value is its first argument's, unit by unit; the others, if any,
            give it their size alone.
        size: how the result's size follows from the arguments': `"broadcast"` (one
            size, or 1), `"first"` (the first argument's), or a rule,
            `(sizes, **attrs) -> size`, that raises `Misfit` where they do not fit.
        kind: `"activation"` names gates; `"arithmetic"`; `"comparison"` gives a
            condition for `where`; `"normalisation"` is seen through when a gate is
            named; `"reduction"`; `"matrix"`, of or with a matrix; `"internal"` appears
            in derivatives only.
        reduces: it looks at all units of a row (so it ends a stage of the step).
        attrs: the options it takes, with their defaults; `None` where the option is
            never written, as `implies` gives it.
        implies: `sizes -> attrs`: options that follow from the arguments' sizes.
        symbol: its infix spelling, for arithmetic and comparisons.
    """

    name: str
    arity: int
    evaluate: Callable[..., Tensor]
    derivative: Callable[..., tuple[Any, ...]]
    latex: str
    size: str | SizeRule = "broadcast"
    kind: str = "activation"
    reduces: bool = False
    attrs: dict[str, Any] = field(default_factory=dict)
    symbol: str = ""
    glyph: str = ""
    range: tuple[float, float] = (-math.inf, math.inf)
    expand: Callable[..., Any] | None = None
    kernel: bool = False
    copies: bool = False
    implies: Callable[[Sequence[Size]], dict[str, Any]] | None = None
    doc: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "glyph", self.glyph or self.name)
        object.__setattr__(self, "__doc__", self.doc)
        object.__setattr__(self, "__name__", self.name)

    @property
    def primitive(self) -> bool:
        """Whether every target has to know it: no other operations define it."""
        return self.expand is None

    @property
    def keeps_size(self) -> bool:
        """Whether it maps one value to one of the same size: softmax, not sum."""
        return (
            self.arity == 1 and isinstance(self.size, str) and self.kind != "internal"
        )

    def result_size(self, sizes: Sequence[Size], attrs: Mapping[str, Any]) -> Size:
        """The result's size, of arguments of these sizes.

        Raises:
            Misfit: the operation does not take them.
        """
        if not isinstance(self.size, str):
            return self.size(sizes, **attrs)
        return sizes[0] if self.size == "first" else common(sizes)

    def implied(self, sizes: Sequence[Size]) -> dict[str, Any]:
        """The options that follow from the arguments' sizes."""
        return {} if self.implies is None else self.implies(sizes)

    def on_tensors(self, args: Sequence[Any], attrs: Mapping[str, Any]) -> Tensor:
        """Its value on tensors, and numbers beside them; a matrix is flat."""
        return self.evaluate(*_as_tensors(self.name, args), **attrs)

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        if len(args) != self.arity or not attrs.keys() <= self.attrs.keys():
            expected = f"{self.arity} value(s)" + "".join(f", {a}=" for a in self.attrs)
            received = f"{len(args)} value(s)" + "".join(f", {a}=" for a in attrs)
            raise TypeError(
                f"[{self.name}] wrong arguments; received {received}, "
                f"expected {expected}"
            )
        options = {**self.attrs, **attrs}
        for arg in args:
            if isinstance(arg, Value):
                return arg._apply(self, args, options)
        value = self.on_tensors(args, options)
        # Only this makes a matrix of what is none.
        return Matrix(value, options["heads"]) if self.name == "outer" else value

    def __repr__(self) -> str:
        return f"cellwright.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _named, (self.name,)

    def __deepcopy__(self, memo: Any) -> Op:
        return self


def _as_tensors(name: str, args: Sequence[Any]) -> list[Tensor]:
    tensors = [a for a in args if isinstance(a, Tensor)]
    like = next((a for a in tensors if a.is_floating_point()), None)
    if not tensors:
        raise TypeError(
            f"[{name}] needs a tensor or a traced value; received "
            f"{', '.join(type(a).__name__ for a in args)}"
        )
    dtype = None if like is None else like.dtype
    device = tensors[0].device
    return [
        a if isinstance(a, Tensor) else torch.as_tensor(a, dtype=dtype, device=device)
        for a in args
    ]


def _named(name: str) -> Op:
    """Unpickles an operation: as itself."""
    return OPS[name]


def _op(name: str, arity: int, evaluate: Any, derivative: Any, latex: str, **more: Any):
    OPS[name] = Op(name, arity, evaluate, derivative, latex, **more)
    return OPS[name]


# The table: a record is a few lines, not one for each of its fields.
# fmt: off

# -- arithmetic: what Python's operators record --------------------------------

_ARITHMETIC: dict[str, Any] = {"kind": "arithmetic"}

add = _op(
    "add", 2, operator.add, lambda g, y, a, b: (g, g), "{0} + {1}",
    symbol="+", glyph="+", **_ARITHMETIC,
)
sub = _op(
    "sub", 2, operator.sub, lambda g, y, a, b: (g, -g), "{0} - {1}",
    symbol="-", glyph="−", **_ARITHMETIC,
)
mul = _op(
    "mul", 2, operator.mul, lambda g, y, a, b: (g * b, g * a), "{0} * {1}",
    symbol="*", glyph="*", **_ARITHMETIC,
)
div = _op(
    "div", 2, operator.truediv, lambda g, y, a, b: (g / b, -g * (y / b)),
    r"\frac{{{0}}}{{{1}}}", symbol="/", glyph="÷", **_ARITHMETIC,
)
neg = _op(
    "neg", 1, operator.neg, lambda g, y, v: (-g,), "-{0}", symbol="-", glyph="−",
    **_ARITHMETIC,
)

# -- comparisons: only inside `where`, no gradient -----------------------------


for _name, _evaluate, _symbol, _latex, _glyph in (
    ("greater", operator.gt, ">", ">", ">"),
    ("greater_equal", operator.ge, ">=", r"\ge", "≥"),
    ("less", operator.lt, "<", "<", "<"),
    ("less_equal", operator.le, "<=", r"\le", "≤"),
    ("equal", operator.eq, "==", "=", "="),
    ("not_equal", operator.ne, "!=", r"\ne", "≠"),
):
    _op(
        _name, 2, _evaluate, lambda g, y, a, b: (None, None), f"{{0}} {_latex} {{1}}",
        kind="comparison", symbol=_symbol, glyph=_glyph,
    )

# -- activations: unary, element by element; they name gates -------------------

sigmoid = _op(
    "sigmoid", 1, torch.sigmoid,
    lambda g, y, v: (g * y * (1 - y),), r"\sigma\left({0}\right)",
    glyph="σ", range=(0, 1),
    doc="Logistic function σ(v) = 1 / (1 + exp(−v)), in (0, 1).",
)
tanh = _op(
    "tanh", 1, torch.tanh,
    lambda g, y, v: (g * (1 - y * y),), r"\tanh\left({0}\right)", range=(-1, 1),
    doc="Hyperbolic tangent, in (−1, 1).",
)
relu = _op(
    "relu", 1, torch.relu,
    lambda g, y, v: (where(v <= 0, 0, g),),  # of NaN it is g
    r"\operatorname{{ReLU}}\left({0}\right)",
    glyph="ReLU", range=(0, math.inf), expand=lambda v: maximum(v, 0), kernel=True,
    doc="max(v, 0); its gradient at 0 is 0.",
)


def _softplus(v: Any) -> Any:
    """max(v, 0) + log(1 + e), e = exp(−|v|), and the logarithm to the last digit.

    1 + e is rounded to u; e / (u − 1) corrects log(u) for what was lost (Kahan's
    log1p, as in Goldberg 1991, theorem 4).
    """
    e = exp(-abs_(v))
    u = 1 + e
    logarithm = where(u == 1, e, log(u) * e / (u - 1))
    return where(v > 20, v, maximum(v, 0) + logarithm)


softplus = _op(
    "softplus", 1, F.softplus,
    lambda g, y, v: (where(v > 20, g, g * sigmoid(v)),),
    r"\operatorname{{softplus}}\left({0}\right)",
    range=(0, math.inf), expand=_softplus, kernel=True,
    doc="log(1 + exp(v)); v itself above 20, as torch has it.",
)
exp = _op(
    "exp", 1, torch.exp, lambda g, y, v: (g * y,), r"\exp\left({0}\right)",
    range=(0, math.inf),
    doc="Exponential function.",
)
log = _op(
    "log", 1, torch.log, lambda g, y, v: (g / v,), r"\ln\left({0}\right)",
    glyph="ln",
    doc="Natural logarithm; NaN below 0, −inf at 0.",
)
abs_ = _op(
    "abs", 1, torch.abs,
    lambda g, y, v: (where(v > 0, g, where(v < 0, -g, 0)),),
    r"\left|{0}\right|", glyph="| · |", range=(0, math.inf),
    doc="Absolute value; its gradient at 0 is 0.",
)
sqrt = _op(
    "sqrt", 1, torch.sqrt, lambda g, y, v: (g / (2 * y),), r"\sqrt{{{0}}}",
    glyph="√", range=(0, math.inf),
    doc="Square root; NaN below 0.",
)
sin = _op(
    "sin", 1, torch.sin, lambda g, y, v: (g * cos(v),), r"\sin\left({0}\right)",
    range=(-1, 1),
    doc="Sine, v in radians.",
)
cos = _op(
    "cos", 1, torch.cos, lambda g, y, v: (-g * sin(v),), r"\cos\left({0}\right)",
    range=(-1, 1),
    doc="Cosine, v in radians.",
)
softsign = _op(
    "softsign", 1, F.softsign,
    # At ±inf v / |v| is NaN, and so is the slope.
    lambda g, y, v: (where(y == y, g / ((1 + abs_(v)) * (1 + abs_(v))), y),),
    r"\operatorname{{softsign}}\left({0}\right)",
    range=(-1, 1), expand=lambda v: v / (1 + abs_(v)),
    doc="v / (1 + |v|), in (−1, 1).",
)
hard_sigmoid = _op(
    "hard_sigmoid", 1,
    lambda v: F.hardtanh(v / 3) / 2 + 0.5,  # F.hardsigmoid's slope is a float32 1/6
    lambda g, y, v: (where(v > -3, where(v < 3, g / 6, 0), 0),),
    r"\operatorname{{hard}}\sigma\left({0}\right)",
    glyph="hard σ", range=(0, 1),
    expand=lambda v: minimum(maximum(v / 6 + 0.5, 0), 1),
    doc="min(max(v / 6 + 1/2, 0), 1): the piecewise linear sigmoid, torch's slope.",
)
hard_tanh = _op(
    "hard_tanh", 1, F.hardtanh,
    lambda g, y, v: (where(v > -1, where(v < 1, g, 0), 0),),
    r"\operatorname{{hardtanh}}\left({0}\right)",
    glyph="hardtanh", range=(-1, 1), expand=lambda v: minimum(maximum(v, -1), 1),
    doc="min(max(v, −1), 1).",
)
step = _op(
    "step", 1, lambda v: (v > 0).to(v.dtype),
    lambda g, y, v: (None,), r"\operatorname{{step}}\left({0}\right)",
    range=(0, 1), expand=lambda v: where(v > 0, 1, 0),
    doc="1 where v > 0, else 0 (Heaviside's); its gradient is 0 everywhere.",
)
identity = _op(
    "identity", 1, lambda v: v, lambda g, y, v: (g,), "{0}",
    glyph="id", expand=lambda v: v, kernel=True, copies=True,
    doc="v itself: a gate, or an output, without an activation.",
)

# -- two values, three values --------------------------------------------------


def _tie(g: Any, a: Any, b: Any) -> Any:
    """torch shares the gradient of a tie between both."""
    return where(a == b, g / 2, g)


maximum = _op(
    "maximum", 2, torch.maximum,
    lambda g, y, a, b: (where(a < b, 0, _tie(g, a, b)), where(a > b, 0, _tie(g, a, b))),
    r"\max\left({0}, {1}\right)", kind="arithmetic", glyph="max",
    doc="The larger, element by element; a tie shares the gradient.",
)
minimum = _op(
    "minimum", 2, torch.minimum,
    lambda g, y, a, b: (where(a > b, 0, _tie(g, a, b)), where(a < b, 0, _tie(g, a, b))),
    r"\min\left({0}, {1}\right)", kind="arithmetic", glyph="min",
    doc="The smaller, element by element; a tie shares the gradient.",
)


where = _op(
    "where", 3, lambda condition, u, v: torch.where(condition.bool(), u, v),
    lambda g, y, c, u, v: (None, where(c, g, 0), where(c, 0, g)),
    r"\begin{{cases}} {1} & {0} \\ {2} & \text{{otherwise}} \end{{cases}}",
    kind="arithmetic",
    doc="`where(a > b, u, v)`: u where the comparison holds, v elsewhere.",
)

# -- operations over all units -------------------------------------------------


def _block_mean(v: Tensor, heads: int = 1) -> Tensor:
    blocks = v.unflatten(-1, (heads, -1))
    return blocks.mean(-1, keepdim=True).expand_as(blocks).flatten(-2)


def _layer_norm(v: Tensor, eps: float, heads: int) -> Tensor:
    blocks = v.unflatten(-1, (heads, -1))
    return F.layer_norm(blocks, blocks.shape[-1:], eps=eps).flatten(-2)


def _layer_norm_expanded(v: Any, eps: float, heads: int) -> Any:
    centred = v - block_mean(v, heads=heads)
    return centred / sqrt(block_mean(centred * centred, heads=heads) + eps)


def _layer_norm_derivative(g: Any, y: Any, v: Any, eps: float, heads: int) -> Any:
    centred = v - block_mean(v, heads=heads)
    deviation = sqrt(block_mean(centred * centred, heads=heads) + eps)
    projected = block_mean(g, heads=heads) + y * block_mean(g * y, heads=heads)
    return ((g - projected) / deviation,)


def _sum_size(sizes: Sequence[Size], heads: int) -> Size:
    if not splits(sizes[0], heads) and heads != 1:
        raise Misfit(
            f"sum(v, heads={heads}) has one number a head; received a size of "
            f"{sizes[0]}, expected {_multiple(sizes[0], heads)}"
        )
    return heads


def _sum(v: Tensor, heads: int = 1) -> Tensor:
    if heads == 1:  # of a plain number, too
        return v.sum(-1, keepdim=True)
    return v.unflatten(-1, (heads, -1)).sum(-1)


sum_ = _op(
    "sum", 1, _sum,
    lambda g, y, v, heads: (spread(g, v),), r"\textstyle\sum {0}", size=_sum_size,
    kind="reduction", reduces=True, glyph="Σ", attrs={"heads": 1},
    doc="Sum over the units: one number a row; `heads=n` sums n blocks apart.",
)
softmax = _op(
    "softmax", 1, lambda v: torch.softmax(v, -1),
    lambda g, y, v: (y * (g - sum_(g * y)),),
    r"\operatorname{{softmax}}\left({0}\right)", size="first", reduces=True,
    range=(0, 1),
    doc="exp(v) / Σ exp(v) over the units; it names gates as an activation does.",
)
layer_norm = _op(
    "layer_norm", 1, _layer_norm, _layer_norm_derivative,
    r"\operatorname{{LN}}\left({0}\right)", size="first", reduces=True,
    attrs={"eps": 1e-5, "heads": 1}, kind="normalisation", glyph="LN",
    expand=_layer_norm_expanded, kernel=True,
    doc="Layer normalisation over the units (Ba et al. 2016), without parameters:\n"
    "gain and shift are vectors of the cell. `heads=n` normalises n blocks apart.",
)

# -- matrices: flat, one block after the other, each row by row ------------------


def _multiple(size: Size, heads: int) -> str:
    if isinstance(size, MatrixSize):
        return f"{size.heads} heads, as the matrix has"
    return f"a multiple of {heads}"


def _matrix(name: str, size: Size) -> MatrixSize:
    if not isinstance(size, MatrixSize):
        raise Misfit(
            f"{name} takes a matrix; received a vector of size {size}, expected such "
            'as outer(v, k), or a state C: ("hidden_size", "hidden_size")'
        )
    return size


def _vector(name: str, what: str, size: Size, expected: Size | None = None) -> Size:
    """The size of a vector that has so many units."""
    if isinstance(size, MatrixSize):
        raise Misfit(f"{name}: {what} is a vector; received a matrix, {size}")
    if expected is not None and not fits(size, expected):
        raise Misfit(
            f"{name}: {what} has another size than the matrix; received {size}, "
            f"expected {expected}"
        )
    return size


def _heads_of(place: int) -> Callable[[Sequence[Size]], dict[str, Any]]:
    """The heads of the matrix among the arguments at this place."""

    def implies(sizes: Sequence[Size]) -> dict[str, Any]:
        size = sizes[place]
        return {"heads": size.heads if isinstance(size, MatrixSize) else 1}

    return implies


def _outer_size(sizes: Sequence[Size], heads: int) -> Size:
    rows, columns = (
        _vector("outer(v, k)", what, size)
        for what, size in zip("vk", sizes, strict=True)
    )
    for size in (rows, columns):
        if not splits(size, heads):
            raise Misfit(
                f"outer(v, k, heads={heads}) cuts both into blocks; received sizes "
                f"{rows} and {columns}, expected multiples of {heads}"
            )
    return MatrixSize(rows, columns, heads)  # type: ignore[arg-type]


def _matvec_size(sizes: Sequence[Size], heads: int) -> Size:
    matrix = _matrix("matvec(C, q)", sizes[0])
    _vector("matvec(C, q)", "q, which meets the columns,", sizes[1], matrix.columns)
    return matrix.rows


def _vecmat_size(sizes: Sequence[Size], heads: int) -> Size:
    matrix = _matrix("vecmat(v, C)", sizes[1])
    _vector("vecmat(v, C)", "v, which meets the rows,", sizes[0], matrix.rows)
    return matrix.columns


def _scaled_size(sizes: Sequence[Size], what: str) -> Size:
    name = f"scale_{what}(C, v)"
    matrix = _matrix(name, sizes[0])
    count = matrix.rows if what == "rows" else matrix.columns
    _vector(name, f"v, one number for each of the {what},", sizes[1], count)
    return matrix


def _dots_size(sizes: Sequence[Size], what: str) -> Size:
    _scaled_size(sizes[1:], what)
    if not fits(sizes[0], sizes[1]):
        raise Misfit(f"products of matrices of sizes {sizes[0]} and {sizes[1]}")
    return sizes[2]


def _spread_size(sizes: Sequence[Size], heads: int) -> Size:
    size, like = sizes
    if not isinstance(size, int):
        raise Misfit(
            "spread(v, like) has one number a row, or a head; received a size of "
            f"{size}, expected a count, as of sum(v, heads=4) or W.f(x, size=4)"
        )
    if size != 1 and not splits(like, size):
        raise Misfit(
            f"spread(v, like): {size} numbers, one for each block of `like`; received "
            f"a size of {like}, expected {_multiple(like, size)}"
        )
    return like


def _outer(v: Tensor, k: Tensor, heads: int) -> Tensor:
    rows, columns = (u.unflatten(-1, (heads, -1)) for u in (v, k))
    return (rows[..., :, None] * columns[..., None, :]).flatten(-3)


def _matvec(C: Tensor, q: Tensor, heads: int | None) -> Tensor:
    q = q.unflatten(-1, (heads or 1, -1))
    blocks = C.unflatten(-1, (heads or 1, -1, q.shape[-1]))
    return (blocks @ q[..., None]).squeeze(-1).flatten(-2)


def _vecmat(v: Tensor, C: Tensor, heads: int | None) -> Tensor:
    v = v.unflatten(-1, (heads or 1, -1))
    blocks = C.unflatten(-1, (heads or 1, v.shape[-1], -1))
    return (v[..., None, :] @ blocks).squeeze(-2).flatten(-2)


def _scale_rows(C: Tensor, v: Tensor) -> Tensor:
    return (C.unflatten(-1, (v.shape[-1], -1)) * v[..., None]).flatten(-2)


def _scale_columns(C: Tensor, v: Tensor, heads: int | None) -> Tensor:
    v = v.unflatten(-1, (heads or 1, 1, -1))
    return (C.unflatten(-1, (v.shape[-3], -1, v.shape[-1])) * v).flatten(-3)


def _column_dots(products: Tensor, like: Tensor, heads: int | None) -> Tensor:
    columns = like.shape[-1] // (heads or 1)
    return products.unflatten(-1, (heads or 1, -1, columns)).sum(-2).flatten(-2)


def _spread(v: Tensor, like: Tensor, heads: int | None) -> Tensor:
    if v.dim() == 0 or v.shape[-1] == 1:
        return v.expand(torch.broadcast_shapes(v.shape, like.shape))
    width = like.shape[-1] // v.shape[-1]
    repeated = v[..., None].expand(*v.shape, width).flatten(-2)
    return repeated.expand(torch.broadcast_shapes(repeated.shape, like.shape))


outer = _op(
    "outer", 2, _outer,
    lambda g, y, v, k, heads: (matvec(g, k, heads=heads), vecmat(v, g, heads=heads)),
    r"{0}\, {1}^\top",
    kind="matrix", size=_outer_size, attrs={"heads": 1}, glyph="⊗",
    doc="The outer product v kᵀ: a matrix of |v| rows and |k| columns; `heads=n` cuts\n"
    "both into n blocks, and has the n outer products of theirs.",
)
matvec = _op(
    "matvec", 2, _matvec,
    lambda g, y, C, q, heads: (outer(g, q, heads=heads), vecmat(g, C, heads=heads)),
    r"{0}\, {1}",
    kind="matrix", size=_matvec_size, attrs={"heads": None}, implies=_heads_of(0),
    reduces=True, glyph="C·q",
    doc="The product C q of a matrix and a vector: as many units as C has rows.",
)
vecmat = _op(
    "vecmat", 2, _vecmat,
    lambda g, y, v, C, heads: (matvec(C, g, heads=heads), outer(v, g, heads=heads)),
    r"{1}^\top {0}", kind="matrix", size=_vecmat_size, attrs={"heads": None},
    implies=_heads_of(1), reduces=True, glyph="Cᵀ·v",
    doc="The product Cᵀ v of a vector and a matrix: as many units as C has columns.",
)
scale_rows = _op(
    "scale_rows", 2, _scale_rows,
    lambda g, y, C, v: (scale_rows(g, v), row_dots(g, C, v)),
    r"\operatorname{{diag}}\left({1}\right)\, {0}",
    kind="matrix", size=lambda sizes: _scaled_size(sizes, "rows"), glyph="rows ×",
    doc="diag(v) C: row i of the matrix times the number v[i].",
)
scale_columns = _op(
    "scale_columns", 2, _scale_columns,
    lambda g, y, C, v, heads: (
        scale_columns(g, v, heads=heads), column_dots(g, C, v, heads=heads),
    ),
    r"{0}\, \operatorname{{diag}}\left({1}\right)",
    kind="matrix", size=lambda sizes, heads: _scaled_size(sizes, "columns"),
    attrs={"heads": None}, implies=_heads_of(0), glyph="columns ×",
    doc="C diag(v): column j of the matrix times the number v[j].",
)
spread = _op(
    "spread", 2, _spread,
    lambda g, y, v, like, heads: (sum_(g, heads=heads or 1), None), "{0}",
    kind="matrix", size=_spread_size, attrs={"heads": None}, copies=True,
    implies=lambda sizes: {"heads": sizes[0]}, glyph="spread",
    doc="One number a head, repeated for every unit of its block of the second\n"
    "argument, which gives the size alone; one number a row, for every unit.",
)

# -- internal: the compiler alone writes them ----------------------------------

to_matrix = _op(
    "to_matrix", 1, lambda v, rows, columns: v,
    lambda g, y, v, rows, columns: (to_vector(g),), "{0}", kind="internal",
    size=lambda sizes, rows, columns: MatrixSize(rows, columns),
    attrs={"rows": None, "columns": None},
    doc="A vector of rows × columns units as the matrix of them, row by row.",
)
to_vector = _op(
    "to_vector", 1, lambda C: C, lambda g, y, C: (None,), "{0}", kind="internal",
    size=lambda sizes: int(sizes[0]), reduces=True,
    doc="The elements of a matrix as a vector, row by row.",
)
block_mean = _op(
    "block_mean", 1, _block_mean,
    lambda g, y, v, heads: (block_mean(g, heads=heads),),
    r"\operatorname{{mean}}\left({0}\right)", size="first", reduces=True,
    attrs={"heads": 1}, kind="internal",
    doc="Every unit replaced by the mean of its block.",
)
row_dots = _op(
    "row_dots", 3,
    lambda a, b, like: (a * b).unflatten(-1, (like.shape[-1], -1)).sum(-1),
    lambda g, y, a, b, like: (scale_rows(b, g), scale_rows(a, g), None),
    r"\operatorname{{rows}}\left({0} * {1}\right)", kind="internal", reduces=True,
    size=lambda sizes: _dots_size(sizes, "rows"),
    doc="For each row of two matrices the sum of products; the third has its size.",
)
column_dots = _op(
    "column_dots", 3, lambda a, b, like, heads: _column_dots(a * b, like, heads),
    lambda g, y, a, b, like, heads: (
        scale_columns(b, g, heads=heads), scale_columns(a, g, heads=heads), None,
    ),
    r"\operatorname{{columns}}\left({0} * {1}\right)", kind="internal",
    reduces=True, attrs={"heads": None}, implies=_heads_of(0),
    size=lambda sizes, heads: _dots_size(sizes, "columns"),
    doc="For each column of two matrices the sum of products; the third has its size.",
)

# fmt: on

ACTIVATIONS = frozenset(n for n, op in OPS.items() if op.kind == "activation")
CONDITIONS = frozenset(n for n, op in OPS.items() if op.kind == "comparison")
INFIX |= {op.symbol: op for op in OPS.values() if op.arity == 2 and op.symbol}
FUNCTIONS = {n: op for n, op in OPS.items() if op.doc and op.kind != "internal"}

__all__ = [  # what a cell is written with; `abs` and `sum` are under names of their own
    "cos", "exp", "hard_sigmoid", "hard_tanh", "identity", "layer_norm", "log",
    "matvec", "maximum", "minimum", "outer", "relu", "scale_columns", "scale_rows",
    "sigmoid", "sin", "softmax", "softplus", "softsign", "spread", "sqrt", "step",
    "tanh", "vecmat", "where",
]  # fmt: skip
