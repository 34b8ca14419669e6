"""A loop of stages as one kernel that keeps the recurrent weights.

A block of rows is one program's, with all units of each. It loads the weights once and
walks all levels; no other program is waited for. States, and whatever one stage leaves
to the next, stay in registers, where they are factors of the products too.

Blocks are (ROWS, UNITS), UNITS a power of two that the widest stage fits in; weights
are (UNITS, UNITS), padded with zeros. An array of one column is (ROWS, 1).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from ...compiler.program import Instruction, Piece, Program, Stage, Term, View
from .source import Writer
from .table import Need, resident_block

#: (stage, term) of products that torch makes.
Made = Collection[tuple[int, int]]


class Block(NamedTuple):
    """Weights of a product as the right factor (of `width` rows and `units` columns).

    Attributes:
        piece: of a parameter.
        units: of the product.
        width: of what is multiplied.
        heads: diagonal blocks; all else is zero.
        transposed: the product is the weights' transposed one.
    """

    piece: Piece
    units: int
    width: int
    heads: int
    transposed: bool


def need_of(program: Program, numbers: Sequence[int], early: Made) -> Need:
    """What a kernel of a loop's stages holds at once.

    Args:
        numbers: of the stages.
        early: (stage, term) of the products that are made before the loop.
    """
    stages = [program.stages[n] for n in numbers]
    late = _late(program, numbers, early)
    stored = {s.views[i.args[1]] for s in stages for i in s.code if i.op == "store"}
    passed_on = [
        v for v in stored if v.previous or program.arrays[v.array].initial >= 0
    ]
    blocks = [block for stage, term in late for block in _blocks(stage, term)]
    return Need(
        units=resident_block(max(s.units for s in stages)).units,
        weights=len({*blocks}),
        factors=sum(len(t.pieces) if t.transposed else 1 for _, t in late),
        values=max(s.tiles for s in stages) + len(passed_on),
        repeated=len(blocks) - len({*blocks}),
    )


def _late(
    program: Program, numbers: Sequence[int], early: Made
) -> list[tuple[Stage, Term]]:
    """The products of a loop's levels."""
    return [
        (program.stages[n], term)
        for n in numbers
        for k, term in enumerate(program.stages[n].terms)
        if (n, k) not in early
    ]


def _blocks(stage: Stage, term: Term) -> list[Block]:
    return [
        Block(piece, stage.units, term.width, term.heads, term.transposed)
        for piece in term.pieces
    ]


class Resident(Writer):
    """Writes such a kernel."""

    constants = ("ROWS", "UNITS", "FACTORS", "PRECISION")
    spreads = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.late = _late(self.program, self.numbers, self.early)
        self.panels: dict[tuple[int, int], str] = {}  # what this level has stored
        self.loaded: set[str] = set()  # the variables of weights

    # -- masks: stages and arrays may be less wide than the widest

    def _widths(self) -> list[int]:
        """Other numbers of units that a mask is needed for."""
        found = {s.units for s in self.stages} | {t.width for _, t in self.late}
        return sorted(found - {self.units})

    def _places(self) -> list[str]:
        others = [f"inside_{n} = unit < {n}" for n in self._widths()]
        column = ["source = tl.arange(0, UNITS)[:, None]"] if self.late else []
        return [*super()._places(), *others, *column]

    def _masks(self, name: str, rows: str) -> list[str]:
        others = [f"{name}_{n} = {name}_rows & inside_{n}" for n in self._widths()]
        return [f"{name}_rows = {rows}", f"{name} = {name}_rows & inside", *others]

    def _named(self, name: str, units: int) -> str:
        return name if units == self.units else f"{name}_{units}"

    def _mask(self, view: View, name: str) -> str:
        columns = self.program.arrays[view.array].columns
        return f"{name}_rows" if columns == 1 else self._named(name, columns)

    def _inside(self, stage: Stage) -> str:
        return self._named("inside", stage.units)

    def _live(self, stage: Stage) -> str:
        return self._named("live", stage.units)

    # -- arrays of one column

    def _as_array(self, view: View, value: str) -> str:
        if self.program.arrays[view.array].columns > 1:
            return value
        return f"total({value}, unit == 0)"

    # -- products

    def _in_memory(self, number: int, term: int) -> bool:
        return (number, term) in self.early

    def _products(self, number: int, stage: Stage, tile: int) -> list[str]:
        found = super()._products(number, stage, tile)
        for k, term in enumerate(stage.terms):
            if self._in_memory(number, k):
                continue
            present = self._named("present", term.width)
            for place, block in enumerate(_blocks(stage, term)):
                if term.columns[0 if term.transposed else place] != tile:
                    continue
                factor = self._factor(stage.views[term.view], term, place)
                found.append(
                    f"product({factor}, {present}, {self._weights(block)}, "
                    "FACTORS, PRECISION)"
                )
        return found

    def _factor(self, view: View, term: Term, place: int) -> str:
        """The variable of what a term multiplies."""
        if term.transposed:
            return self.panels[view.array, term.first + place]
        held = self._held(view)
        assert held is not None, f"{self._label(view.array)} is in no register"
        return held

    def _weights(self, block: Block) -> str:
        """The variable of a block of weights, loaded before the levels."""
        piece, (units, width, heads) = block.piece, block[1:4]
        label = self.program.parameters[piece.parameter][0]
        parameter = self._argument("parameter", piece.parameter, label)
        start = [str(piece.offset)] * (piece.offset > 0)
        name = self._name("block", block, "_".join([label, *start]))
        if name in self.loaded:
            return name
        self.loaded.add(name)
        row, column = ("source", "unit") if block.transposed else ("unit", "source")
        mask = f"(source < {width}) & (unit < {units})"
        if heads > 1:
            mask += f" & (source // {width // heads} == unit // {units // heads})"
            own = width if not block.transposed else units
            column = f"{column} % {own // heads}"
        at = " + ".join([parameter, *start, f"{row} * {piece.stride}", column])
        self.first.append(f"{name} = tl.load({at}, mask={mask}, other=0.0).to(FACTORS)")
        return name

    def _store_panel(self, stage: Stage, i: Instruction, value: str) -> None:
        view = stage.views[i.args[1]]
        if view in self.read:
            label = f"{self._label(view.array)}_{i.args[2]}"
            name = self._name("stored", (view, i.args[2]), label)
            self.body.append(f"{name} = {value}")
            self.panels[view.array, i.args[2]] = value = name
        super()._store_panel(stage, i, value)
