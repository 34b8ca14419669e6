"""The Triton engine: any cell's programs as generated kernels, on CUDA."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ...compiler.plan import unsupported
from ...language import Graph
from ..call import Call
from ..engine import Bound, BoundCell, Engine

__all__ = ["Triton"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Triton(Engine):
    """Generated kernels and cuBLAS's products.

    Attributes:
        devices: where it runs. Tests add the CPU, where Triton interprets.
    """

    name = "triton"
    title = "kernels generated from the equations"
    recomputes = True
    devices: tuple[str, ...] = ("cuda",)

    def obstacle(
        self, bound: BoundCell, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if device.type not in self.devices:
            return f"it runs on CUDA, the parameters are on {device.type!r}"
        if find_spec("triton") is None:
            return "Triton is not installed: pip install 'cellwright[gpu]'"
        if dtype not in DTYPES:
            return (
                "it computes in float32, float16 and bfloat16, the parameters are "
                f"{dtype}"
            )
        graph = bound.programs.graph
        found = lacking(graph) or unsupported(graph)
        if found is None:  # made now: torch.compile cannot trace that
            _ = bound.programs.level_by_level
        return found

    def run(self, bound: Bound, call: Call) -> tuple[Tensor, list[Tensor]]:
        from . import op

        programs = bound.bound.programs
        parameters = bound.weights.in_order(programs.binding.parameters)
        return op.run(programs, parameters, call)


def lacking(graph: Graph) -> str | None:
    """What the kernels have not."""
    if graph.children:
        return "it runs sequences, no trees"
    if graph.items:
        return "it takes no sets of items"
    return None
