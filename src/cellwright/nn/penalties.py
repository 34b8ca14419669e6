"""Penalties on a layer's outputs, to add to the loss (Merity et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..language import ArgumentError
from ..language.arguments import describe, plain, whole_numbers


def activation_regularisation(
    y: Tensor | nn.utils.rnn.PackedSequence,
    alpha: float = 2.0,
    *,
    lengths: Any = None,
    starts: Any = None,
    batch_first: bool = False,
) -> Tensor:
    """AR: α times the mean of the squares of the outputs.

    The paper writes α L₂(m * h_t) of the dropped-out outputs of the last layer; its
    authors' code, and this, take the mean of the squares.

    Args:
        y: the outputs (T, B, H), (B, T, H) with batch_first, (T, H) unbatched, or
            packed.
        alpha: the penalty's weight; the paper's is 2.
        lengths, starts: (B,), as the layer has them: steps past a row's end, and those
            before it begins, do not count.

    Returns:
        A number, 0 where there is no step.

    Raises:
        ArgumentError: shapes that are no sequence's, or a negative weight.
    """
    where, alpha = "activation_regularisation", plain(alpha)
    _check_weight(where, "alpha", alpha)
    y, real = _time_first(where, y, lengths, starts, batch_first)
    return alpha * _mean(y.square(), real)


def temporal_activation_regularisation(
    y: Tensor | nn.utils.rnn.PackedSequence,
    beta: float = 1.0,
    *,
    lengths: Any = None,
    starts: Any = None,
    batch_first: bool = False,
) -> Tensor:
    """TAR: β times the mean of the squared differences of consecutive outputs.

    The paper writes β L₂(h_t − h_{t+1}) of the outputs of the last layer before
    dropout.

    Args, returns, raises: as `activation_regularisation`; the paper's β is 1. A pair
    counts where both steps are real.
    """
    where, beta = "temporal_activation_regularisation", plain(beta)
    _check_weight(where, "beta", beta)
    y, real = _time_first(where, y, lengths, starts, batch_first)
    both = None if real is None else real[1:] & real[:-1]
    return beta * _mean((y[1:] - y[:-1]).square(), both)


def _mean(values: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return values.sum() / max(values.numel(), 1)
    count = (real.sum() * values.shape[-1]).clamp(min=1)
    return values.masked_fill(~real.unsqueeze(-1), 0).sum() / count


def _time_first(
    where: str, y: Any, lengths: Any, starts: Any, batch_first: bool
) -> tuple[Tensor, Tensor | None]:
    """y as (T, B, H) or (T, H), and which of its steps are real, (T, B)."""
    if isinstance(y, nn.utils.rnn.PackedSequence):
        y, lengths = nn.utils.rnn.pad_packed_sequence(y)
        batch_first = False
    if not isinstance(y, Tensor) or y.dim() not in (2, 3):
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ArgumentError(
            f"[{where}] takes the outputs of a layer; received {shape}, expected "
            "(T, B, H), (T, H) or a PackedSequence"
        )
    if batch_first and y.dim() == 3:
        y = y.transpose(0, 1)
    if lengths is starts is None:
        return y, None
    if y.dim() != 3:
        raise ArgumentError(
            f"[{where}] lengths and starts are of the rows of a batch; received y of "
            "2 dimensions, expected none, or a batch"
        )
    step = torch.arange(len(y), device=y.device).unsqueeze(1)
    begin = torch.zeros_like(step[0])
    if starts is not None:
        begin = _of_rows(where, "start", starts, y)
    if lengths is None:
        return y, begin <= step
    end = begin + _of_rows(where, "length", lengths, y)
    return y, (begin <= step) & (step < end)


def _of_rows(where: str, what: str, given: Any, y: Tensor) -> Tensor:
    found, shape = whole_numbers(given), tuple(y.shape[1:2])
    if found is None or found.dtype == torch.bool or found.shape != shape:
        raise ArgumentError(
            f"[{where}] one {what} a row; received "
            f"{describe(given) if found is None else tuple(found.shape)}, expected "
            f"{shape} of integers"
        )
    return found.to(y.device).long()


def _check_weight(where: str, name: str, value: float) -> None:
    if not value >= 0:
        raise ArgumentError(
            f"[{where}] {name} weighs a penalty; received {value!r}, expected at least "
            "0"
        )
