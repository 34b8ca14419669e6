"""What a program is run as: its stages in parts, each with its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from ...compiler.program import MATRIX, NODE, Program, Stage
from .matrices import MatrixWriter, may_walk, sums_over_levels
from .resident import Resident, need_of
from .source import STORES, Kernel, Writer
from .table import fits
from .target import Target


@dataclass(frozen=True)
class Part:
    """Stages that run together.

    Attributes:
        form: "rows": over all rows at once; "level": level by level, a kernel a stage;
            "scan": in one kernel, which walks the levels; "resident": likewise, with
            the products of the levels.
        stages: their numbers.
        early: (stage, term) of the products that are made before the levels.
        kernels: one for each stage, or one for all; `None` where a stage is a product
            and nothing else.
    """

    form: str
    stages: tuple[int, ...]
    early: frozenset[tuple[int, int]]
    kernels: tuple[Kernel | None, ...]

    @property
    def walks(self) -> bool:
        """Whether one kernel has all stages and levels."""
        return self.form in ("scan", "resident")

    def kernel(self, stage: int) -> Kernel | None:
        """That of a stage."""
        if self.walks:
            return self.kernels[0]
        return self.kernels[self.stages.index(stage)]

    def function(self, kernel: Kernel) -> Any:
        """A kernel as Triton's function."""
        return self._functions[kernel.name]

    @cached_property
    def _functions(self) -> dict[str, Any]:
        from .kernels import function_of

        return {k.name: function_of(k) for k in self.kernels if k is not None}


@dataclass(frozen=True)
class Parts:
    """A program, cut.

    Attributes:
        parts: in the order in which they run.
        local: the scratch arrays that have the rows of one level alone.
    """

    program: Program
    parts: tuple[Part, ...]
    local: frozenset[int]


def cut(program: Program, target: Target) -> Parts:
    """Cut a program in parts, for a device and a type."""
    local = local_arrays(program)
    found = []
    for form, numbers in _groups(program):
        early = frozenset(
            (n, k)
            for n in numbers
            for k in range(len(program.stages[n].terms))
            if form == "rows" or is_early(program, numbers, n, k)
        )
        if form == "level" or sums_over_levels(program, numbers[0]):
            form = _form(program, numbers, early, target)
        kernels = _kernels(program, numbers, form, local, early)
        found.append(Part(form, numbers, early, kernels))
    return Parts(program, tuple(found), local)


def _kernels(
    program: Program,
    numbers: tuple[int, ...],
    form: str,
    local: frozenset[int],
    early: frozenset[tuple[int, int]],
) -> tuple[Kernel | None, ...]:
    """One for all stages of a walk; else one for each."""
    stages = program.stages
    if form == "resident":
        return (Resident(program, numbers, form, local, early).kernel(),)
    if form == "scan" and stages[numbers[0]].axis != MATRIX:
        return (Writer(program, numbers, form, local, early).kernel(),)
    writers = {n: MatrixWriter if stages[n].axis == MATRIX else Writer for n in numbers}
    return tuple(
        None
        if is_product(program, stages[n])
        else writers[n](program, (n,), form, local, early).kernel()
        for n in numbers
    )


def _groups(program: Program) -> list[tuple[str, tuple[int, ...]]]:
    """Stages that run over all rows, each alone; and loops of those of levels."""

    def key(number: int) -> tuple[str, int]:
        stage = program.stages[number]
        by_level = stage.when == "level"
        return ("level", stage.loop) if by_level else ("rows", -1 - number)

    groups = groupby(range(len(program.stages)), key)
    return [(form, tuple(numbers)) for (form, _), numbers in groups]


def is_early(program: Program, numbers: Sequence[int], stage: int, term: int) -> bool:
    """Whether a product reads nothing that the loop of these stages writes: then it is
    made before the loop, for all levels at once."""
    written = {
        s.views[i.args[1]].array
        for s in (program.stages[n] for n in numbers)
        for i in s.code
        if i.op in STORES
    }
    own = program.stages[stage]
    return own.views[own.terms[term].view].array not in written


def _form(
    program: Program,
    numbers: Sequence[int],
    early: frozenset[tuple[int, int]],
    target: Target,
) -> str:
    """How a loop of levels runs: in one kernel, where no product and no other unit is
    waited for, or where the products' weights fit; else a kernel for each stage."""
    stages = [program.stages[n] for n in numbers]
    if any(s.axis == MATRIX for s in stages):
        alone = len(stages) == 1 and may_walk(program, numbers[0])
        return "scan" if alone else "level"
    terms = sum(len(stage.terms) for stage in stages)
    if len({s.units for s in stages}) == 1 and terms == len(early):
        return "scan"
    return "resident" if fits(need_of(program, numbers, early), target) else "level"


def is_product(program: Program, stage: Stage) -> bool:
    """Whether a stage stores a sum of products, and does nothing else."""
    if len(stage.accumulators) != 1 or [i.op for i in stage.code] != ["store"]:
        return False
    (accumulator,), (store,) = stage.accumulators, stage.code
    constants = {
        i.dst for i in stage.prologue if i.op == "constant" and i.immediate == 0
    }
    array = program.arrays[stage.views[store.args[1]].array]
    return (
        store.args[0] == accumulator.tile
        and accumulator.start in constants
        and array.columns == stage.units
        and bool(stage.terms)
    )


def local_arrays(program: Program) -> frozenset[int]:
    """Scratch that one loop alone reads, each level what it has written itself: it
    needs the rows of one level."""
    loops: dict[int, set[int | None]] = {}
    for stage in program.stages:
        loop = stage.loop if stage.when == "level" else None
        for view in stage.views:
            loops.setdefault(view.array, set()).add(None if view.previous else loop)
    kept = {g.source.array for g in program.gradients}
    return frozenset(
        number
        for number, array in enumerate(program.arrays)
        if array.scratch
        and (array.rows == "chunk" or (array.rows, array.depth) == ("rolling", 1))
        and array.axis == NODE
        and len(loops.get(number, ())) == 1
        and None not in loops[number]
        and number not in kept
    )
