"""The kernels of a cell as text: `cellwright explain CELL --triton`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...compiler.bindings import own_parameters
from ...language import Cell
from ..programs import Programs
from . import lacking
from .parts import Part, Parts, cut
from .target import Target

_FORMS = {
    "rows": "all rows at once",
    "level": "step by step, a kernel each",
    "scan": "all steps in one kernel",
    "resident": "all steps in one kernel, which keeps the recurrent weights",
}

_INTRODUCTION = """\
# As for {dtype} on an H100{more}.
# What the kernels call is in cellwright/engine/triton/functions.py.
# rows: how many there are. here, before: the first row of a step, and of the step
# before. block, before_block: the same in arrays that hold two steps."""
_OF_MATRICES = (
    "# A line is a row of a matrix, whose columns are units. The batch's are rows."
)


def explain_triton(
    cell: Cell, input_size: int = 64, hidden_size: int = 128, *, bf16: bool = False
) -> str:
    """The kernels of a cell and the products between them, in the order of a call.

    Args:
        cell: of the zoo or a user's own.
        input_size, hidden_size: the sizes to write for; other sizes are hidden_size.
        bf16: of a layer in bfloat16; else of one in float32, with TF32 off.
    """
    sizes = dict.fromkeys(cell.graph.size_names, hidden_size)
    graph = cell.graph.bind(**{**sizes, "input_size": input_size})
    obstacle = lacking(graph)
    if obstacle:
        return f"The triton engine does not run {cell.name}: {obstacle}."
    programs = Programs(graph, own_parameters(graph)).level_by_level
    wanted = tuple(i.name for i in graph.inputs)
    target = Target(torch.bfloat16 if bf16 else torch.float32)
    names = ("bfloat16", "") if bf16 else ("float32", ", TF32 off")
    texts = [_INTRODUCTION.format(dtype=names[0], more=names[1])]
    texts += [_OF_MATRICES] * programs.has_matrices
    for kind in ("inference", "training", "backward"):
        program = programs.program(kind, wanted if kind == "backward" else ())
        texts += [f"# ---- {program.name}", *_texts(cut(program, target))]
    return "\n\n".join(texts)


def _texts(cut: Parts) -> Iterator[str]:
    program = cut.program
    for part in cut.parts:
        yield f"# {_FORMS[part.form]}"
        for number in part.stages:
            products = [*_products(cut, part, number)]
            if products:
                yield "\n".join(products)
            kernel = part.kernel(number)
            if kernel is not None and (not part.walks or number == part.stages[-1]):
                yield f"@triton.jit\n{kernel.source.rstrip()}"
    sums = len(program.gradients) + len(program.reductions)
    if sums:
        yield f"# then {sums} sums over all rows: the weights' gradients, by torch"


def _products(cut: Parts, part: Part, number: int) -> Iterator[str]:
    """What torch multiplies for a stage."""
    program = cut.program
    stage, kernel = program.stages[number], part.kernel(number)
    for k, term in enumerate(stage.terms):
        if part.form == "resident" and (number, k) not in part.early:
            continue  # in the kernel
        if kernel is None:
            view = stage.views[stage.code[0].args[1]]
            into = f"{program.arrays[view.array].name} {'+=' if k else '='}"
        else:
            into = f"product_{number}_{k} ="
        early = kernel is not None and (number, k) in part.early
        when = ", of all steps before" if early and part.form != "rows" else ""
        yield f"# {into} {program.product(stage, term)}{when}"
