"""How far a loss looks back: the norm of its gradient, step by step into the past.

For a loss L_t that depends on the layer's output at t alone, ‖∂L_t/∂s_{t−k}‖ is the
norm of the gradient by the state s after step t − k: of every path from there to L_t.
Vanishing and exploding gradients are its slope on a logarithmic axis (Hochreiter 1991;
Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013, section 2).

All t go back at once: the rows of one batched step are the steps t − k of every t, so
that k steps back cost as much as one pass over k·T rows, for any cell and engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..language.errors import ArgumentError
from ..nn.recurrent import Recurrent


@dataclass(frozen=True)
class GradientFlow:
    """Norms by time and distance.

    Attributes:
        norms: for "x" and every state of every layer, such as "0.h" and "1.c": (T,
            reach + 1), at [t, k] ‖∂L_t/∂s_{t−k}‖, or NaN where t − k is before the
            start. For x at k = 0 it is the input of step t itself. A state's entry at
            k = 0 counts what is above the layer: ∂L_t/∂y_t for the last layer's output.
    """

    norms: dict[str, Tensor]

    def median(self, name: str) -> Tensor:
        """The median over t for every k: (reach + 1,)."""
        return self.norms[name].nanmedian(0).values

    def half_life(self, name: str) -> float:
        """Steps in which the median norm halves; negative where it grows.

        A line is fitted to log₂ of the norm from k = 1 on (k = 0 has no step in it), by
        least squares; infinite where it is level or there is too little to fit.
        """
        median = self.median(name)[1:]
        seen = torch.isfinite(median) & (median > 0)
        if seen.sum() < 2:
            return float("inf")
        k = torch.arange(1, len(median) + 1, dtype=torch.float64)[seen]
        bits = median[seen].double().log2()
        slope = ((k - k.mean()) * (bits - bits.mean())).sum() / (
            k - k.mean()
        ).square().sum()
        return float("inf") if slope == 0 else -1 / slope.item()


def gradient_flow(
    layer: Recurrent,
    x: Tensor,
    cotangents: Tensor,
    *,
    reach: int = 100,
    state: Tensor | tuple[Tensor, ...] | None = None,
) -> GradientFlow:
    """Follow every step's loss back in time.

    Args:
        layer: any cell, stacked but not bidirectional, in eval mode where it drops out.
        x: (T, I), one sequence.
        cotangents: (T, H), ∂L_t/∂y_t of a loss of its own for every t; ones, say, or
            the gradient of each step's cross entropy.
        reach: the farthest k.
        state: before the first step, as the layer takes it for one sequence.

    Raises:
        ArgumentError: a bidirectional layer, named inputs, or shapes that do not fit.
    """
    _check(layer, x, cotangents, reach)
    olds = _states(layer, x, state)
    names = [s.name for s in layer.cell.graph.states]
    steps = x.shape[0]
    keys = ["x", *(f"{k}.{n}" for k in range(layer.num_layers) for n in names)]
    norms = {key: x.new_full((steps, reach + 1), float("nan")) for key in keys}
    if layer.graphs[-1].output_is_state:
        norms[f"{layer.num_layers - 1}.{names[0]}"][:, 0] = cotangents.norm(dim=-1)

    # At distance k the rows are t = k … T − 1; row t stands at step t − k.
    by_output: Tensor | None = cotangents
    carried = [torch.zeros_like(old[1:]) for old in olds]
    for k in range(min(reach, steps - 1) + 1):
        here = steps - k
        by_x, carried = _back(
            layer, x[:here], [old[:here] for old in olds], by_output, carried
        )
        norms["x"][k:, k] = by_x.norm(dim=-1)
        # What came out stands before step t − k, that is after step t − (k + 1): row 0
        # is the initial state's, and goes no further.
        carried, by_output = [v[1:] for v in carried], None
        if k + 1 > reach or not len(carried[0]):
            break
        for name, gradient in zip(names, carried, strict=True):
            for k_layer, norm in enumerate(gradient.norm(dim=-1).unbind(1)):
                norms[f"{k_layer}.{name}"][k + 1 :, k + 1] = norm
    return GradientFlow(norms)


@torch.no_grad()
def _states(layer: Recurrent, x: Tensor, state: object) -> list[Tensor]:
    """Every state before the first step and after every one: (T + 1, layers, size)."""
    after: list[tuple[Tensor, ...]] = []
    current = state
    for row in x:
        _, current = layer(row[None], current)  # unbatched: (1, I)
        after.append(current if isinstance(current, tuple) else (current,))
    if state is None:
        first = tuple(layer.own_states())
    else:
        first = state if isinstance(state, tuple) else (state,)
    return [torch.stack(column) for column in zip(first, *after, strict=True)]


def _back(
    layer: Recurrent,
    x: Tensor,
    olds: list[Tensor],
    by_output: Tensor | None,
    by_states: list[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """One step's vector-Jacobian product, a row for each sequence position.

    Args:
        x: (N, I). olds: (N, layers, size) each, the states before the step.
        by_output: (N, H), the cotangent of the output; None for zero.
        by_states: those of the new states, like olds.
    """
    x = x.detach().requires_grad_()
    olds = [old.detach().requires_grad_() for old in olds]
    given = [old.transpose(0, 1).contiguous() for old in olds]
    y, news = layer(x[None], tuple(given) if len(given) > 1 else given[0])
    news = news if isinstance(news, tuple) else (news,)
    outputs = [new.transpose(0, 1) for new in news]
    cotangents = list(by_states)
    if by_output is not None:
        outputs.append(y[0])
        cotangents.append(by_output)
    by_x, *by_olds = torch.autograd.grad(
        outputs, [x, *olds], cotangents, allow_unused=True, materialize_grads=True
    )
    return by_x, by_olds


def _check(layer: Recurrent, x: Tensor, cotangents: Tensor, reach: int) -> None:
    wrong = None
    if layer.bidirectional:
        wrong = "one direction has a past; received a bidirectional layer"
    elif len(layer.cell.graph.inputs) > 1:
        wrong = "only x is known here; received a cell with named inputs"
    elif x.dim() != 2 or x.shape[1] != layer.input_size or not len(x):
        wrong = f"received x {tuple(x.shape)}, expected (T, {layer.input_size})"
    elif tuple(cotangents.shape) != (len(x), layer.output_size):
        wrong = (
            f"received cotangents {tuple(cotangents.shape)}, expected "
            f"{(len(x), layer.output_size)}"
        )
    elif reach < 1:
        wrong = f"received reach={reach}, expected at least 1"
    if wrong:
        raise ArgumentError(f"[gradient_flow] {wrong}")
