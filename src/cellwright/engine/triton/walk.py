"""One program over packed rows: products by torch, everything else by kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...compiler.program import Stage, View
from . import products
from .parts import Part, Parts
from .rows import Rows
from .source import Argument, Kernel
from .table import block_of, grid_of
from .target import Target

#: (stage, term) → the product, (rows, columns · units).
Made = Mapping[tuple[int, int], Tensor]


class Walk:
    """One program over packed rows.

    Args:
        cut: the program, in parts.
        rows: of the batch.
        given: the first of its arrays, those of the caller: (rows, columns) each, in
            float32; `None` for one that is made here.
        parameters: as the program lists them, in float32 and contiguous.
        target: with the type of the factors of products.

    Attributes:
        arrays: all arrays of the program, in its order.
    """

    def __init__(
        self,
        cut: Parts,
        rows: Rows,
        given: Sequence[Tensor | None],
        parameters: Sequence[Tensor],
        target: Target,
    ) -> None:
        self.cut, self.program, self.rows = cut, cut.program, rows
        self.parameters, self.target = parameters, target
        self.like = next(t for t in given if t is not None)
        missing = len(self.program.arrays) - len(given)
        self.arrays = [
            self._new(number) if tensor is None else tensor
            for number, tensor in enumerate([*given, *(None,) * missing])
        ]
        self._shifted: dict[int, Tensor] = {}

    def run(self) -> None:
        """Fill the arrays that the program writes."""
        forms = {"rows": self._at_once, "level": self._by_level}
        for part in self.cut.parts:
            run = forms.get(part.form, self._all_levels)
            run(part, self._made_before(part))

    def gradients(self) -> list[Tensor]:
        """Of the parameters, once the program has run."""
        found = [torch.zeros_like(p) for p in self.parameters]
        for g in self.program.gradients:
            units = self._stage_of(g.panel).units
            source = self._all_rows(g.source)
            panel = self.arrays[g.panel]
            products.add_gradient(g, units, panel, source, found, self.target.dtype)
        for r in self.program.reductions:
            units = self._stage_of(r.panel).units
            column = self.arrays[r.panel][:, r.column * units : (r.column + 1) * units]
            into = found[r.piece.parameter].view(-1)
            if r.piece.stride == 0:
                into[r.piece.offset] += column.sum()
            else:
                into[r.piece.offset : r.piece.offset + units] += column.sum(0)
        return found

    # -- memory

    def _new(self, number: int) -> Tensor:
        """An array that the program fills."""
        array = self.program.arrays[number]
        if array.rows == "parameter":
            return self.parameters[array.parameter]
        height, columns = self.rows.total, array.columns
        if array.rows == "rolling":
            height = array.depth * self.rows.batch
        elif number in self.cut.local:
            height = self.rows.batch
        elif array.rows == "panel":
            columns *= self._stage_of(number).units
        return self.like.new_empty(height, columns)

    def _stage_of(self, panel: int) -> Stage:
        return self.program.stages[self.program.arrays[panel].stage]

    def _all_rows(self, view: View) -> Tensor:
        """What every row of the scan sees."""
        if not view.previous:
            return self.arrays[view.array]
        if view.array not in self._shifted:
            initial = self.arrays[self.program.arrays[view.array].initial]
            self._shifted[view.array] = self.rows.shifted(
                self.arrays[view.array], initial
            )
        return self._shifted[view.array]

    def _level_rows(self, view: View, level: int) -> Tensor:
        """What the rows of a level see."""
        array, first = self.program.arrays[view.array], 0
        number, at = view.array, level - view.previous
        if view.array in self.cut.local or (array.rows, array.depth) == ("rolling", 1):
            pass  # the rows of one level
        elif at < 0:
            number = array.initial
        elif array.rows == "rolling":
            first = at % array.depth * self.rows.batch
        else:
            first = self.rows.offsets[at]
        return self.arrays[number][first : first + self.rows.sizes[level]]

    # -- products

    def _made_before(self, part: Part) -> dict[tuple[int, int], Tensor]:
        """The products that are made for all rows at once."""
        made = {}
        for number, k in part.early:
            if part.kernel(number) is not None:
                term = self.program.stages[number].terms[k]
                view = self.program.stages[number].views[term.view]
                made[number, k] = self._room(number, k, self.rows.total)
                left = products.operand(term, self._all_rows(view))
                products.multiply(left, self._weights(number, k), made[number, k])
        return made

    def _room(self, number: int, k: int, rows: int) -> Tensor:
        """Memory for a product of so many rows."""
        stage = self.program.stages[number]
        return self.like.new_empty(rows, len(stage.terms[k].columns) * stage.units)

    def _weights(self, number: int, k: int) -> Tensor:
        stage = self.program.stages[number]
        return products.pack(stage.terms[k], stage, self.parameters, self.target.dtype)

    # -- the forms

    def _at_once(self, part: Part, made: Made) -> None:
        (number,) = part.stages
        kernel, stage = part.kernel(number), self.program.stages[number]
        if kernel is not None:
            self._launch(part, kernel, made, self.rows.total, (self.rows.total,))
            return
        weights = [self._weights(number, k) for k in range(len(stage.terms))]
        sources = [self._all_rows(stage.views[t.view]) for t in stage.terms]
        into = self._all_rows(stage.views[stage.code[0].args[1]])
        _sum_of_products(stage, sources, weights, into)

    def _all_levels(self, part: Part, made: Made) -> None:
        (kernel,) = part.kernels
        assert kernel is not None
        batch, levels = self.rows.batch, len(self.rows.sizes)
        scalars = (*self.rows.tables, levels, batch)
        self._launch(part, kernel, made, batch, scalars)

    def _by_level(self, part: Part, made: Made) -> None:
        stages = [self.program.stages[n] for n in part.stages]
        late = {
            (n, k): self._weights(n, k)
            for n, stage in zip(part.stages, stages, strict=True)
            for k in range(len(stage.terms))
            if (n, k) not in made
        }
        rooms = {key: self._room(*key, self.rows.batch) for key in late}
        levels = range(len(self.rows.sizes))
        for level in reversed(levels) if self.program.backward else levels:
            for number, stage in zip(part.stages, stages, strict=True):
                own = [k for n, k in late if n == number]
                sources = [
                    self._level_rows(stage.views[stage.terms[k].view], level)
                    for k in own
                ]
                weights = [late[number, k] for k in own]
                kernel = part.kernel(number)
                if kernel is None:
                    view = stage.views[stage.code[0].args[1]]
                    into = self._level_rows(view, level)
                    _sum_of_products(stage, sources, weights, into)
                    continue
                for k, source, right in zip(own, sources, weights, strict=True):
                    left = products.operand(stage.terms[k], source)
                    products.multiply(left, right, rooms[number, k][: len(source)])
                self._launch_level(part, kernel, {**made, **rooms}, level)

    # -- kernels

    def _launch_level(self, part: Part, kernel: Kernel, made: Made, level: int) -> None:
        rows, before = self.rows, max(level - 1, 0)
        scalars = (
            rows.offsets[level],
            rows.offsets[before],
            level % 2 * rows.batch,
            before % 2 * rows.batch if level else 0,
            rows.sizes[level],
        )
        self._launch(part, kernel, made, rows.sizes[level], scalars, level)

    def _launch(
        self,
        part: Part,
        kernel: Kernel,
        made: Made,
        rows: int,
        scalars: Sequence[Any],
        level: int = -1,
    ) -> None:
        """Launch a kernel over so many rows."""
        if not rows:
            return
        pointers = [
            self._pointer(a, made, kernel.form, level) for a in kernel.arguments
        ]
        block = block_of(kernel, rows)
        constants = {"ROWS": block.rows, "UNITS": block.units}
        if kernel.form == "resident":
            constants |= self.target.constants()
        part.function(kernel)[grid_of(kernel, block, rows)](
            *pointers,
            *scalars,
            **constants,
            num_warps=block.warps,
            num_stages=block.ahead,
        )

    def _pointer(self, argument: Argument, made: Made, form: str, level: int) -> Tensor:
        kind, number = argument.kind, argument.number
        if kind == "product":
            return made[number]  # type: ignore[index]
        assert isinstance(number, int)
        if kind == "parameter":
            return self.parameters[number]
        if kind == "array":
            return self.arrays[number]
        if form != "level":
            return self._all_rows(View(number, True))
        array = self.program.arrays[number]
        carried = (array.rows, array.depth) == ("rolling", 1)
        return self.arrays[array.initial if level == 0 and not carried else number]


def _sum_of_products(
    stage: Stage, sources: Sequence[Tensor], weights: Sequence[Tensor], into: Tensor
) -> None:
    """A stage that is nothing else."""
    triples = zip(stage.terms, sources, weights, strict=True)
    for k, (term, source, right) in enumerate(triples):
        left = products.operand(term, source)
        products.multiply(left, right, into, adds=k > 0)
