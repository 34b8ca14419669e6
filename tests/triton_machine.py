"""Kernels as machine code for GPUs that are not there: what they take of one.

A process of its own, where Triton compiles: python tests/triton_machine.py
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

import cellwright as cw
from cellwright.engine.triton.kernels import VARYING, function_of
from cellwright.engine.triton.parts import cut
from cellwright.engine.triton.resident import need_of
from cellwright.engine.triton.source import Kernel
from cellwright.engine.triton.table import block_of
from cellwright.engine.triton.target import H100_SHARED, Target

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


def usage(kernel: Kernel, capability: int, target: Target, rows: int = 64) -> Usage:
    """Compile a kernel for sm_80, sm_90, …, with the block of so many rows.

    Args:
        capability: 80, 90.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function, block = function_of(kernel), block_of(kernel, rows)
    constants = {"ROWS": block.rows, "UNITS": block.units}
    if kernel.form == "resident":
        constants |= target.constants()
    types = {"offsets": "*i64", "counts": "*i64", **dict.fromkeys(VARYING, "i32")}
    signature = {
        name: "constexpr" if name in constants else types.get(name, "*fp32")
        for name in function.arg_names
    }
    options = {"num_warps": block.warps, "num_stages": block.ahead}
    compiled = triton.compile(
        ASTSource(function, signature, constants),
        GPUTarget("cuda", capability, 32),
        options,
    )
    found = _assembled(compiled.asm["ptx"], capability)
    return found._replace(shared=compiled.metadata.shared)


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
        number(r"Used (\d+) registers"), number(r"(\d+) bytes spill stores"), 0
    )


#: What a cell's kernels are compiled for: cell, hidden size, type, precision.
CASES = [
    ("lstm", 128, torch.float32, "ieee"),
    ("min_gru", 128, torch.float32, "ieee"),
    ("lstm", 128, torch.bfloat16, "ieee"),
    ("gru", 128, torch.float16, "ieee"),
    ("lstm", 64, torch.float32, "tf32"),
    ("gru", 32, torch.float32, "ieee"),
    ("slstm", 64, torch.bfloat16, "ieee"),
    ("layer_norm_lstm", 64, torch.bfloat16, "ieee"),
    ("peephole", 64, torch.bfloat16, "ieee"),
    ("fast_rnn", 160, torch.bfloat16, "ieee"),  # padded to 256, and most values
]

#: Bytes of a thread that kernels which keep weights may spill: reductions over a row's
#: units need the more; seven blocks of weights, in peephole's backward kernel.
MOST_SPILLS = {"layer_norm_lstm": 128, "peephole": 32}


def main() -> None:
    """The usage of the kernels of some cells, as JSON, with what each may have."""
    found = {}
    for cell, units, dtype, precision in CASES:
        programs = cw.Recurrent(cell, 64, units).direction(0).bound.programs
        for capability, shared in ((80, 163 * 1024), (90, H100_SHARED)):
            target = Target(dtype, precision, shared)
            case = f"{cell} {units} {str(dtype)[6:]} {precision} sm_{capability}"
            for kind, wanted in (("training", ()), ("backward", ("x",))):
                program = programs.program(kind, wanted)
                for part in cut(program, target).parts:
                    most = 0
                    if part.form == "resident":
                        most = need_of(program, part.stages, part.early).shared(target)
                    for kernel in filter(None, part.kernels):
                        key = f"{case} {part.form} {kernel.name}"
                        found[key] = *usage(kernel, capability, target), most
    print(json.dumps(found))


if __name__ == "__main__":
    main()
