"""Kernels as machine code for GPUs that are not there: what they take of one.

A process of its own, where Triton compiles: python tests/triton_machine.py CELL …
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import cellwright as cw
from cellwright.engine.triton.kernels import VARYING, function_of
from cellwright.engine.triton.parts import cut
from cellwright.engine.triton.source import Kernel
from cellwright.engine.triton.table import block_of

MOST_REGISTERS = 64  # of 255: four warps of eight blocks share 64K


class Usage(NamedTuple):
    """What a kernel takes, as `ptxas -v` reports it.

    Attributes:
        registers: of a thread.
        spills: bytes that a thread keeps in memory for want of registers.
        shared: bytes of shared memory of a block.
    """

    registers: int
    spills: int
    shared: int


def usage(kernel: Kernel, capability: int, rows: int = 64) -> Usage:
    """Compile a kernel for sm_80, sm_90, …, with the block of so many rows.

    Args:
        capability: 80, 90.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function, block = function_of(kernel), block_of(kernel, rows)
    sizes = {"ROWS": block.rows, "UNITS": block.units}
    types = {"offsets": "*i64", "counts": "*i64", **dict.fromkeys(VARYING, "i32")}
    signature = {
        name: "constexpr" if name in sizes else types.get(name, "*fp32")
        for name in function.arg_names
    }
    source = ASTSource(function, signature, sizes)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target, {"num_warps": block.warps})
    return _assembled(compiled.asm["ptx"], capability)


def _assembled(ptx: str, capability: int) -> Usage:
    """What the assembler of Triton's wheel says of a kernel's PTX."""
    from triton.backends.nvidia.compiler import get_ptxas

    (arch,) = re.findall(r"\.target (sm_\w+)", ptx)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        tool = get_ptxas(capability).path
        command = [tool, "-v", f"-arch={arch}", path, "-o", f"{path}.cubin"]
        said = subprocess.run(command, capture_output=True, text=True)
    assert not said.returncode, said.stderr
    report = said.stderr + said.stdout

    def number(pattern: str) -> int:
        return sum(int(n) for n in re.findall(pattern, report))

    return Usage(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes spill stores"),
        number(r"(\d+) bytes smem"),
    )


def main() -> None:
    """The usage of the kernels of some cells, as JSON."""
    found = {}
    for name in sys.argv[1:]:
        programs = cw.Recurrent(name, 64, 128).direction(0).bound.programs
        for kind, wanted in (("inference", ()), ("training", ()), ("backward", ("x",))):
            for part in cut(programs.program(kind, wanted)).parts:
                for kernel in filter(None, part.kernels):
                    for capability in (80, 90):
                        key = f"{kernel.name} sm_{capability}"
                        found[key] = usage(kernel, capability)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
