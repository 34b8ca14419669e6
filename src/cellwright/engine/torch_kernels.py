"""torch's own recurrent kernels, for the cells that torch has too."""

from __future__ import annotations

import torch
from torch import Tensor

from ..language import ArgumentError
from .call import Call
from .engine import Bound, BoundCell, Engine
from .schedule import SequenceBatch
from .segments import scan_segments


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
        refuse_vmap()
        states = bound.bound.programs.filled(call.states, flat[0], batch.batch)

        def scan(
            sources: list[Tensor], batch_sizes: Tensor | None, states: list[Tensor]
        ) -> tuple[Tensor, list[Tensor]]:
            return _call(layout.kernel, flat, sources[0], batch_sizes, states)

        return scan_segments(call, states, scan)


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
