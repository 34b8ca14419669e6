"""torch's own recurrent kernels, for the cells that torch has too."""

from __future__ import annotations

import torch
from torch import Tensor

from ..language import ArgumentError
from .call import Call
from .engine import Bound, BoundCell, Engine
from .schedule import SequenceBatch


class TorchKernels(Engine):
    """torch's functions `lstm`, `gru`, …: on a GPU those of cuDNN."""

    name = "torch"
    title = "the equations are torch's"
    runs_modules = True

    def obstacle(
        self, bound: BoundCell, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if bound.layout is None:
            return "torch has no kernel for this cell"
        if bound.layout.projection and len(set(bound.programs.sizes)) == 1:
            return "torch knows no projection from hidden_size to as many units"
        return None

    def detail(self, bound: BoundCell, dtype: torch.dtype) -> str:
        assert bound.layout is not None  # `obstacle` has said so
        return f"torch._VF.{bound.layout.kernel}"

    def run(self, bound: Bound, call: Call) -> tuple[Tensor, list[Tensor]]:
        layout, batch = bound.bound.layout, call.batch
        assert layout is not None
        assert isinstance(batch, SequenceBatch)
        flat = bound.weights.packed(bound.bound)
        states = bound.bound.programs.filled(call.states, flat[0], batch.batch)
        return _scan(layout.kernel, flat, call, states)


def _scan(
    kernel: str, flat: list[Tensor], call: Call, states: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The sequences through torch's kernel, one segment after each reset.

    Raises:
        ArgumentError: inside torch.func.vmap.
    """
    refuse_vmap()
    x, batch = call.x, call.batch
    assert isinstance(batch, SequenceBatch)
    if batch.plain:
        x = x.flip(0) if call.reverse else x
        y, news = _call(kernel, flat, x, None, states)
        return y.flip(0) if call.reverse else y, news
    segments = batch.segments(call.reverse)
    if not len(segments.rows):
        finals = [state.clone() for state in states]  # results alias nothing
        return x.new_zeros(*x.shape[:-1], states[0].shape[-1]), finals
    rows = segments.rows.to(x.device)
    known = states
    if call.reset_state:
        pairs = zip(states, call.reset_state, strict=True)
        known = [torch.cat([s, f[None, None]], 1) for s, f in pairs]
    initial = [s[:, segments.initial] for s in known]
    data = x.reshape(-1, x.shape[-1])[rows]
    y, news = _call(kernel, flat, data, segments.batch_sizes, initial)
    whole = y.new_zeros(x.shape[:-1].numel(), y.shape[1]).index_copy(0, rows, y)
    empty = segments.empty.to(x.device)
    finals = [
        torch.where(empty, s, n[:, segments.last])
        for s, n in zip(states, news, strict=True)
    ]
    return whole.view(*x.shape[:-1], -1), finals


def _call(
    kernel: str,
    flat: list[Tensor],
    x: Tensor,
    batch_sizes: Tensor | None,
    states: list[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """torch's function, of padded or packed rows."""
    hidden = states if kernel == "lstm" else states[0]
    biased = len(flat) > 3  # two matrices; two biases; a projection
    # num_layers, dropout, train, bidirectional
    options = (biased, 1, 0.0, False, False)
    function = getattr(torch._VF, kernel)  # type: ignore[attr-defined]
    if batch_sizes is None:
        y, *news = function(x, hidden, flat, *options, False)  # batch_first
    else:
        y, *news = function(x, batch_sizes, hidden, flat, *options)
    return y, news


def refuse_vmap() -> None:
    """torch's kernels have no rule for another batch dimension.

    Raises:
        ArgumentError: inside torch.func.vmap.
    """
    if torch.compiler.is_compiling():  # it follows no such question
        return
    stack = torch._C._functorch.get_interpreter_stack() or ()  # type: ignore[attr-defined]
    if any(i.key() == torch._C._functorch.TransformType.Vmap for i in stack):  # type: ignore[attr-defined]
        raise ArgumentError(
            "[engine] torch's kernels cannot be mapped by torch.func.vmap; received "
            "engine 'torch', expected 'native' or 'reference'"
        )
