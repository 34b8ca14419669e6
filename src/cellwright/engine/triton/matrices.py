"""A stage of matrices as a kernel.

Each of its programs has a block of one row's matrix, (HEADS, ROWS, UNITS): heads,
lines, columns. Lines are the rows of a matrix; rows are the batch's. A vector is
(HEADS, ROWS, 1) where it has a number for each line, (HEADS, 1, UNITS) for each column,
(HEADS, 1, 1) for each head.

A program has one head, or all where something is summed over them. Where nothing is
summed over lines, programs share them. Else one program has them all: at once if it
walks the levels, ROWS at a time if not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...compiler.program import MATRIX, Instruction, Program, Stage, View
from .source import STORES, Kernel, Matrix, Writer, adds_up
from .table import matrix_fits, power_of_two

# Of each form (`Form` of `core/program.h`): an element's place, and the mask of what
# there is. {rows} and {units} are those of a head.
_PLACES = {
    "matrix": ("head * {both} + line * {units} + unit", "inside"),
    "rows": ("head * {rows} + line", "lines"),
    "columns": ("head * {units} + unit", "units"),
    "heads": ("head", "heads"),
    "number": ("0 * head", "heads"),
}
_OVER_LINES = {"columns": "lines", "heads": "block", "number": "blocks"}


def matrix_of(program: Program, number: int, walks: bool) -> Matrix:
    """What a kernel of a stage of matrices computes."""
    stage = program.stages[number]
    summed = {form for _, form in _summed(stage)}
    return Matrix(
        heads=stage.heads,
        rows=stage.matrix_rows,
        together="number" in summed,
        apart=not summed,
        values=stage.tiles + walks,
    )


def may_walk(program: Program, number: int) -> bool:
    """Whether one kernel can walk all levels: it holds a row's whole matrix, or rows of
    it that need no others. What it hands on has one form: it stays in registers."""
    stage = program.stages[number]
    written = {stage.views[i.args[1]].array for i in stage.code if i.op in STORES}
    seen = {(v.array, v.form) for v in stage.views if v.array in written}
    one_form = len(seen) == len(written)
    return one_form and matrix_fits(matrix_of(program, number, True), stage.units)


def sums_over_levels(program: Program, number: int) -> bool:
    """Whether a stage adds to the same rows at every level: it has to walk them."""
    stage = program.stages[number]
    arrays = (stage.views[i.args[1]].array for i in stage.code if i.op in STORES)
    return any(adds_up(program.arrays[array]) for array in arrays)


def _summed(stage: Stage) -> list[tuple[View, str]]:
    """The views of what is summed over the lines of a matrix, and their forms."""
    stored = [stage.views[i.args[1]] for i in stage.code if i.op in STORES]
    return [(v, v.form) for v in stored if v.form in _OVER_LINES]


class MatrixWriter(Writer):
    """Writes such a kernel."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        ((self.number, self.stage),) = zip(self.numbers, self.stages, strict=True)
        assert self.stage.axis == MATRIX
        self.matrix = matrix_of(self.program, self.number, self.walks)
        self.forms = {v.array: v.form for v in self.stage.views}
        self.forms |= {v.array: self.forms[a] for a, v in self.carried.items()}
        self.after: list[str] = []  # of sums: once all lines are done
        self.loaded: set[str] = set()  # the variables of vectors

    def kernel(self) -> Kernel:
        return replace(super().kernel(), matrix=self.matrix)

    # -- the forms

    def _places(self) -> list[str]:
        stage, heads = self.stage, self.matrix.heads
        together = power_of_two(heads) if self.matrix.together else 1
        return [
            "row = tl.program_id(0).to(tl.int64) + tl.zeros((1, 1, 1), tl.int64)",
            f"head = tl.program_id(1) + tl.arange(0, {together})[:, None, None]",
            "unit = tl.arange(0, UNITS)[None, None, :]",
            f"heads = head < {heads}",
            f"units = heads & (unit < {stage.units})",
        ]

    def _lines(self, first: str) -> list[str]:
        rows = self.stage.matrix_rows
        return [
            f"line = {first}tl.arange(0, ROWS)[None, :, None]",
            f"lines = heads & (line < {rows})",
            "inside = lines & units",
        ]

    def _walk(self) -> list[str]:
        shared = "tl.program_id(2) * ROWS + " if self.matrix.apart else ""
        self.first = [*self._lines(shared), *self.first]
        return super()._walk()

    def _at_once(self) -> list[str]:
        places = [*self._places(), *self._masks("live", "row < rows")]
        if self.matrix.apart:
            lines = self._lines("tl.program_id(2) * ROWS + ")
            return [*places, *lines, *self.first, *self.body]
        return [
            *places,
            *self.first,
            f"for top in range(0, {self.stage.matrix_rows}, ROWS):",
            *(f"    {line}" for line in (*self._lines("top + "), *self.body)),
            *self.after,
        ]

    def _masks(self, name: str, rows: str) -> list[str]:
        return [f"{name} = {rows}"]

    def _form(self, view: View) -> str:
        return self.forms[view.array] if view.form == "whole" else view.form

    def _mask(self, view: View, name: str) -> str:
        return f"{name} & {_PLACES[self._form(view)][1]}"

    # -- instructions

    def _value(
        self, stage: Stage, i: Instruction, register: Callable[[int], str]
    ) -> str:
        args = [register(a) for a in i.registers]
        if i.op in ("constant", "vector"):
            return super()._value(stage, i, register).replace("(1, 1)", "(1, 1, 1)")
        if i.op == "load_scaled":
            matrix, scale = (self._load(stage.views[a]) for a in i.args)
            return f"{matrix} * {scale}"
        if i.op == "add_outer":
            rows, columns = (self._load(stage.views[a]) for a in i.args[1:])
            return f"{args[0]} + {rows} * {columns}"
        if i.op == "sum":
            return f"over_columns({args[0]}, inside)"
        return super()._value(stage, i, register)

    def _store(self, stage: Stage, i: Instruction, value: str) -> None:
        view = stage.views[i.args[1]]
        if i.op in ("dot_columns", "dot_rows", "dot_block"):
            value = f"{value} * {self._load(stage.views[i.args[2]])}"
        if i.op == "dot_columns":
            value = f"over_columns({value}, inside)"
        if view.form in _OVER_LINES:
            self._sum(view, f"over_{_OVER_LINES[view.form]}({value}, inside)")
        elif i.op == "accumulate":
            super()._store(stage, i, value)
        else:
            self._put(view, value)

    def _sum(self, view: View, value: str) -> None:
        """Store what is summed over lines."""
        if self.walks:
            self._put(view, value)
            return
        name = self._name("sum", view, self._label(view.array))
        heads = power_of_two(self.matrix.heads) if self.matrix.together else 1
        shape = {"columns": f"({heads}, 1, UNITS)", "heads": f"({heads}, 1, 1)"}
        zeros = shape.get(view.form, "(1, 1, 1)")
        self.first.append(f"{name} = tl.zeros({zeros}, tl.float32)")
        self.body.append(f"{name} += {value}")
        mask = self._mask(view, "live")
        self.after.append(f"tl.store({self._pointer(view)}, {name}, mask={mask})")

    # -- memory

    def _load(self, view: View) -> str:
        """A vector is loaded once a level: nothing here writes what it reads."""
        load = super()._load(view)
        if self._form(view) == "matrix" or self._held(view):
            return load
        name = self._name(self._form(view), view, self._label(view.array))
        if name not in self.loaded:
            self.loaded.add(name)
            self.body.append(f"{name} = {load}")
        return name

    def _to_memory(self, view: View, value: str) -> None:
        mask = self._mask(view, "live")
        self.body.append(f"tl.store({self._pointer(view)}, {value}, mask={mask})")

    def _pointer(self, view: View) -> str:
        name, row = self._place(view)
        columns = self.program.arrays[view.array].columns
        rows, units = self.stage.matrix_rows, self.stage.units
        place, _ = _PLACES[self._form(view)]
        if self.stage.heads == 1:
            place = re.sub(r"^head \* \S+ \+ ", "", place)
        at = place.format(rows=rows, units=units, both=rows * units)
        of_row = row if columns == 1 else f"{row} * {columns}"
        shared = self.program.arrays[view.array].rows == "parameter"
        return f"{name} + {at}" if shared else f"{name} + {of_row} + {at}"
