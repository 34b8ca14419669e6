"""The native engine: any cell's programs on the compiled core, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...compiler.plan import unsupported
from ..call import Call
from ..engine import Advance, Bound, BoundCell, Engine, Items
from . import core, op
from .core import check_environment, info
from .stepper import make_stepper

__all__ = ["Native", "check_environment", "info"]

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class Native(Engine):
    """The compiled core."""

    name = "native"
    title = "the compiled core"
    records = recomputes = packs = True

    def obstacle(
        self, bound: BoundCell, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if core._core is None:
            return (
                "this installation has no compiled core (built with "
                f"CELLWRIGHT_NO_NATIVE, or for another Python): {core.MISSING}"
            )
        if device.type != "cpu":
            return f"it runs on the CPU, the parameters are on {device.type!r}"
        if dtype not in DTYPES:
            return (
                "it computes in float32, float64 and bfloat16, the parameters are "
                f"{dtype}"
            )
        return unsupported(bound.programs.graph)

    def detail(self, bound: BoundCell, dtype: torch.dtype) -> str:
        narrow = dtype is torch.bfloat16
        if narrow or (dtype is torch.float32 and op.autocast_bf16()):
            isa = info()["isa"]
            own = isa.endswith("_bf16")  # its instructions multiply them
            how = "" if own else " converted to float32"
            return f"{isa}, products of bf16{how}"
        return info()["isa"]

    def carried(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float32 if dtype is torch.bfloat16 else dtype

    def run(self, bound: Bound, call: Call) -> tuple[Tensor, list[Tensor]]:
        programs = bound.bound.programs
        parameters = bound.weights.in_order(programs.binding.parameters)
        over_trees = programs.graph.children
        return (op.run_trees if over_trees else op.run)(programs, parameters, call)

    def stepper(
        self,
        stack: Sequence[Callable[[], Bound]],
        states: Sequence[Tensor],
        items: Sequence[Items] = (),
        precision: str = "full",
    ) -> Advance:
        return make_stepper(stack, states, items, precision)
