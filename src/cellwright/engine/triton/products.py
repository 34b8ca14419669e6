"""Matrix products of a program, by torch: cuBLAS on CUDA.

Weights are packed at every call. Products of 16 bits sum in 32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...compiler.program import Gradient, Piece, Stage, Term

_SUMS_WIDE = "dtype_out" in torch.ops.aten.mm.overloads()  # torch 2.8


def pack(
    term: Term, stage: Stage, parameters: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    """A term's weights as the right factor of a product, (heads, K, N): N is each
    piece's units, one piece after another; of a transposed one, K is."""
    heads, units = term.heads, term.width if term.transposed else stage.units
    width = (stage.units if term.transposed else term.width) // heads
    parts = [part(parameters[p.parameter], p, units, width) for p in term.pieces]
    own = units // heads  # units of a block
    if heads == 1:
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
        packed = (stacked if term.transposed else stacked.t())[None]
    else:
        stacked = torch.stack(parts).view(len(parts), heads, own, width)
        order = (1, 0, 2, 3) if term.transposed else (1, 3, 0, 2)
        shape = (heads, -1, width) if term.transposed else (heads, width, -1)
        packed = stacked.permute(order).reshape(shape)
    return packed.to(dtype)


def part(parameter: Tensor, piece: Piece, units: int, width: int) -> Tensor:
    """A piece of a contiguous parameter as a matrix."""
    start = parameter.storage_offset() + piece.offset
    return parameter.as_strided((units, width), (piece.stride, 1), start)


def operand(term: Term, source: Tensor) -> Tensor:
    """A term's source, (rows, columns), as the left factor: (rows, heads, K)."""
    rows = source.shape[0]
    if not term.transposed:
        return source.unflatten(1, (term.heads, -1))
    first, last = term.first * term.width, (term.first + len(term.pieces)) * term.width
    panel = source[:, first:last]
    if term.heads == 1:
        return panel[:, None]
    panel = panel.reshape(rows, len(term.pieces), term.heads, -1)
    return panel.transpose(1, 2).reshape(rows, term.heads, -1)


def multiply(left: Tensor, right: Tensor, out: Tensor, adds: bool = False) -> None:
    """`out` = left · right, or added to it: (rows, heads, K), (heads, K, N) and
    (rows, heads · N)."""
    left = left.to(right.dtype)
    if left.shape[1] == 1:
        a, b, c = left[:, 0], right[0], out
    else:
        a, b = left.transpose(0, 1), right
        c = out.unflatten(1, (left.shape[1], -1)).transpose(0, 1)
    if adds and a.dtype is c.dtype and a.dim() == 2:
        c.addmm_(a, b)
    elif adds:
        c += _product(a, b)
    elif a.dtype is c.dtype:
        torch.matmul(a, b, out=c)
    elif _SUMS_WIDE and a.is_cuda and a.dim() == 2:
        torch.mm(a, b, out_dtype=c.dtype, out=c)
    else:
        c.copy_(_product(a, b))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In float32: of 16 bits on the CPU, of what they are in 32."""
    if a.dtype is torch.float32 or a.is_cuda:
        return (a @ b).float()
    return a.float() @ b.float()


def add_gradient(
    g: Gradient,
    units: int,
    panel: Tensor,
    source: Tensor,
    gradients: Sequence[Tensor],
    dtype: torch.dtype,
) -> None:
    """Add a weight's gradient over all rows: gates' gradients, (rows, columns · units),
    times their source."""
    count, own = len(g.pieces), units // g.heads
    panel = panel[:, g.first * units : (g.first + count) * units].to(dtype)
    source = source.to(dtype)
    if g.heads == 1:
        found = _product(panel.t(), source).view(count, 1, own, -1)
    else:
        left = panel.view(-1, count, g.heads, own).permute(1, 2, 3, 0)
        right = source.view(-1, g.heads, g.width // g.heads).transpose(0, 1)
        found = _product(left, right)
    found = found.reshape(count, units, -1)
    for piece, own_part in zip(g.pieces, found, strict=True):
        into = gradients[piece.parameter]
        part(into, piece, units, g.width // g.heads).add_(own_part)
