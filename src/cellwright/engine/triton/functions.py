"""What the generated kernels call: operations that Triton's language has not."""

# Triton's language is no Python: its functions take blocks where they say numbers.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

__all__ = [
    "block_mean",
    "layer_norm",
    "maximum",
    "minimum",
    "over_block",
    "over_blocks",
    "over_columns",
    "over_lines",
    "product",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
    "tanh",
    "total",
]


@triton.jit
def sigmoid(x):
    """Without overflow: exp of what is never positive."""
    t = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, t) / (1.0 + t)


@triton.jit
def tanh(x):
    """Near 0 its series, where 1 - exp(-2x) has few digits left."""
    t = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - t) / (1.0 + t)
    s = tl.minimum(x * x, 0.0625)
    near = s * (-0.33333333 + s * (0.13333333 + s * (-0.05396825 + s * 0.02186949)))
    return tl.where(tl.abs(x) < 0.25, x + x * near, tl.where(x >= 0, far, -far))


@triton.jit
def softplus(x):
    """log(1 + exp x); where t = exp(-|x|) is tiny, log(1 + t) is t."""
    t = tl.exp(-tl.abs(x))
    u = 1.0 + t
    tail = tl.where(u == 1.0, t, tl.log(u) * t / tl.where(u == 1.0, 1.0, u - 1.0))
    return tl.where(x >= 0, x, 0.0) + tail


@triton.jit
def relu(x):
    """NaN stays NaN."""
    return tl.where(x <= 0, 0.0, x)


@triton.jit
def maximum(a, b):
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def minimum(a, b):
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def total(x, inside):
    """Over a row's units; `inside` are those that there are."""
    return tl.sum(tl.where(inside, x, 0.0), axis=1)[:, None]


@triton.jit
def over_columns(x, inside):
    """Sums of (heads, lines, columns); `inside` are those that there are."""
    return tl.sum(tl.where(inside, x, 0.0), axis=2)[:, :, None]


@triton.jit
def over_lines(x, inside):
    return tl.sum(tl.where(inside, x, 0.0), axis=1)[:, None, :]


@triton.jit
def over_block(x, inside):
    return tl.sum(over_columns(x, inside), axis=1)[:, None, :]


@triton.jit
def over_blocks(x, inside):
    """Over all heads."""
    return tl.sum(over_block(x, inside), axis=0)[None, :, :]


@triton.jit
def product(x, inside, weights, FACTORS: tl.constexpr, PRECISION: tl.constexpr):
    """x · weights, summed in float32; what is beside x's units counts as zero."""
    x = tl.where(inside, x, 0.0).to(FACTORS)
    if PRECISION == "interpreted":  # its product of bfloat16 is wrong
        return tl.dot(x.to(tl.float32), weights.to(tl.float32))
    return tl.dot(x, weights, input_precision=PRECISION)


@triton.jit
def softmax(x, inside):
    x = tl.where(inside, x, float("-inf"))
    e = tl.exp(x - tl.max(x, axis=1)[:, None])
    return e / tl.sum(e, axis=1)[:, None]


@triton.jit
def block_mean(x, unit, WIDTH: tl.constexpr, BLOCKS: tl.constexpr):
    """The mean of each block of WIDTH units, for every unit of it."""
    mean = tl.zeros_like(x)
    for block in tl.static_range(BLOCKS):
        own = unit // WIDTH == block
        mean = tl.where(
            own, tl.sum(tl.where(own, x, 0.0), axis=1)[:, None] / WIDTH, mean
        )
    return mean


@triton.jit
def layer_norm(x, unit, eps: tl.constexpr, WIDTH: tl.constexpr, BLOCKS: tl.constexpr):
    centred = x - block_mean(x, unit, WIDTH, BLOCKS)
    variance = block_mean(centred * centred, unit, WIDTH, BLOCKS)
    return centred / tl.sqrt_rn(variance + eps)
