"""Kernels of matrices as machine code: what they take of a GPU that is not there.

A process of its own, where Triton compiles: python tests/triton_machine_matrices.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch

import cellwright as cw
from cellwright.engine.triton.parts import cut
from cellwright.engine.triton.source import Kernel
from cellwright.engine.triton.target import H100_SHARED, Target
from triton_machine import usage

#: cell, hidden size, heads (0: it has none).
CASES = [
    ("mlstm", 128, 1),
    ("mlstm", 256, 4),
    ("delta_net", 256, 2),
    ("gla", 128, 1),
    ("selective_ssm", 512, 0),
    ("rwkv6", 128, 2),
    ("fast_weights", 100, 1),
    ("mlstm", 512, 2),  # too large to be kept: a kernel each step
]


def kernels(cell: str, units: int, heads: int) -> Iterator[tuple[str, Kernel]]:
    """Those of a cell's matrices, and the form of each."""
    options = {"heads": heads} if heads else {}
    layer = cw.Recurrent(cell, 64, units, device="meta", **options)
    programs = layer.direction(0).bound.programs.level_by_level
    for kind, wanted in (("training", ()), ("backward", ("x",))):
        for part in cut(programs.program(kind, wanted), Target()).parts:
            for kernel in filter(None, part.kernels):
                if kernel.matrix is not None:
                    yield part.form, kernel


def main() -> None:
    """The usage of each kernel, as JSON; of float32."""
    found = {}
    for case in CASES:
        for form, kernel in kernels(*case):
            for capability in (80, 90):
                key = "{} {} {} sm_{} {} {}".format(
                    *case, capability, form, kernel.name
                )
                target = Target(torch.float32, "ieee", H100_SHARED)
                found[key] = usage(kernel, capability, target)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
