"""Programs as Triton source: a kernel for a stage, or for a loop of stages.

A kernel is text, one line for each instruction of the program, and a list of what it is
called with. Its rows are a batch's, its units a stage's; a view of an array is pointer
arithmetic. There are four forms:

- "rows": a stage over all rows of the scan at once;
- "level": a stage over the rows of one level;
- "scan": a loop of stages without products, which walks all levels itself. What one
  level leaves to the next stays in registers;
- "resident": the same with products, whose weights it keeps: see `resident`.

A stage of matrices has a kernel of its own, in each form but the last: see `matrices`.

All other products are made before, by torch, and read from memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...compiler.program import Array, Instruction, Piece, Program, Stage, View

_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARISONS = {
    "greater": ">",
    "greater_equal": ">=",
    "less": "<",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
}
_FUNCTIONS = {
    **{name: f"tl.{name}" for name in ("exp", "log", "abs", "sin", "cos")},
    "sqrt": "tl.sqrt_rn",
    **{n: n for n in ("sigmoid", "tanh", "softplus", "relu", "maximum", "minimum")},
}
_OF_ARGUMENTS = ("array", "previous", "product", "parameter")  # kinds of `Argument`
# Where an instruction has the views that it reads, among its arguments.
_READS = {
    "load": slice(0, 1),
    "load_scaled": slice(0, 2),
    "add_outer": slice(1, 3),
    "accumulate": slice(1, 2),
    **dict.fromkeys(("dot_columns", "dot_rows", "dot_block"), slice(2, 3)),
}
#: What writes a view, its second argument.
STORES = ("store", "accumulate", "store_panel", "sum_block")
STORES += ("dot_columns", "dot_rows", "dot_block")
# Names of a kernel's own that end as those of variables do.
_OURS = re.compile(
    r"before_block|over_(columns|lines|blocks?)|(live|present|inside)_rows"
)


class Argument(NamedTuple):
    """What a kernel is called with, and its name there.

    Attributes:
        kind: "array"; "previous": the same, a row further back; "product": of a
            stage's term; "parameter".
        number: of the array or parameter; of a product (stage, term).
    """

    name: str
    kind: str
    number: int | tuple[int, int]


class Matrix(NamedTuple):
    """What a kernel of matrices computes.

    Attributes:
        heads: blocks of one.
        rows: of a block.
        together: a program has all blocks; else one.
        apart: programs share the rows of a block; else one has all.
        values: matrices that are in registers at once.
    """

    heads: int
    rows: int
    together: bool
    apart: bool
    values: int


@dataclass(frozen=True)
class Kernel:
    """A kernel's text, and how to call it.

    Attributes:
        name: of its function.
        source: that function; `functions` has what it calls.
        arguments: its pointers, in order.
        form: "rows", "level", "scan" or "resident".
        units: how many a row has, of the widest stage; of matrices a row of a block.
        whole: a block spans all units: the code reduces over them.
        lines: instructions, for the size of a block.
        matrix: of a stage of matrices.
    """

    name: str
    source: str
    arguments: tuple[Argument, ...]
    form: str
    units: int
    whole: bool
    lines: int
    matrix: Matrix | None = None


class Writer:
    """Writes one kernel: of one stage, or of those of a loop.

    Args:
        numbers: of the stages.
        local: the scratch arrays that have the rows of one level alone.
        early: (stage, term) of the products that are made for all levels at once.
    """

    constants: tuple[str, ...] = ("ROWS", "UNITS")
    spreads = True  # a load of an array of one column is a value for each unit

    def __init__(
        self,
        program: Program,
        numbers: Sequence[int],
        form: str,
        local: Collection[int],
        early: Collection[tuple[int, int]],
    ) -> None:
        self.program, self.numbers, self.form = program, numbers, form
        self.local, self.early = local, early
        self.stages = [program.stages[n] for n in numbers]
        self.units = max(s.units for s in self.stages)
        self.whole = any(s.whole for s in self.stages)
        self.arguments: dict[tuple[str, int | tuple[int, int]], Argument] = {}
        self.names: dict[tuple[str, Hashable], str] = {}
        self.first: list[str] = []  # before the levels
        self.body: list[str] = []
        self.last: dict[int, str] = {}  # of a walk: once the level is complete
        self.stored: dict[View, str] = {}  # of a walk: what this level has stored
        self.walks = form in ("scan", "resident")  # all levels in one kernel
        self.read, self.written = self._accesses()
        self.carried = self._carried() if self.walks else {}

    def kernel(self) -> Kernel:
        for number, stage in zip(self.numbers, self.stages, strict=True):
            self._stage(number, stage)
        function = f"{_identifier(self.program.name)}_{self.numbers[0]}"
        lines = self._walk() if self.walks else self._at_once()
        pointers = ", ".join(a.name for a in self.arguments.values())
        scalars = {
            "rows": "rows",
            "level": "here, before, block, before_block, rows",
        }.get(self.form, "offsets, counts, levels, rows")
        constants = ", ".join(f"{c}: tl.constexpr" for c in self.constants)
        head = [
            f"def {function}(",
            f"    {pointers},",
            f"    {scalars}, {constants},",
            "):",
        ]
        source = "\n".join([*head, *(f"    {line}" for line in lines), ""])
        return Kernel(
            function,
            source,
            tuple(self.arguments.values()),
            self.form,
            self.units,
            self.whole,
            len(self.body),
        )

    # -- the forms

    def _places(self) -> list[str]:
        return [
            "row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]",
            "unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)[None, :]",
            f"inside = unit < {self.units}",
        ]

    def _at_once(self) -> list[str]:
        live = ["live = (row < rows) & inside"]
        return [*self._places(), *live, *self.first, *self.body]

    def _walk(self) -> list[str]:
        order = "levels - 1 - step" if self.program.backward else "step"
        start = [
            f"{self._carry(a)} = tl.load({self._pointer(v)}, "
            f"mask={self._mask(v, 'present')}, other=0.0)"
            for a, v in self.carried.items()
        ]
        loop = [
            f"level = {order}",
            "here = tl.load(offsets + level)",
            *self._masks("live", "row < tl.load(counts + level)"),
            *self.body,
            *self.last.values(),
        ]
        if self._rolls():
            loop.insert(1, "block = level % 2 * rows")
        end = [
            f"tl.store({self._pointer(View(a))}, {self._carry(a)}, "
            f"mask={self._mask(View(a), 'present')})"
            for a, view in self.carried.items()
            if view.array == a
        ]
        return [
            *self._places(),
            *self._masks("present", "row < rows"),
            *self.first,
            *start,
            "for step in range(levels):",
            *(f"    {line}" for line in loop),
            *end,
        ]

    def _masks(self, name: str, rows: str) -> list[str]:
        """Lines that say which elements of a block there are."""
        return [f"{name} = ({rows}) & inside"]

    def _mask(self, view: View, name: str) -> str:
        """That of an array's elements: "live" at a level, "present" in the batch."""
        return name

    def _inside(self, stage: Stage) -> str:
        """The mask of a stage's units."""
        return "inside"

    def _live(self, stage: Stage) -> str:
        """The mask of a stage's elements at a level."""
        return "live"

    # -- what the levels of a walk pass on

    def _carried(self) -> dict[int, View]:
        """Arrays whose rows of one level are read by the next: where they start from.

        Forward that is a state, which starts from its initial rows; backward a state's
        cotangent, which starts from that of the final state, and what adds up over the
        levels.
        """
        found = {}
        for array, previous in self.written:
            if adds_up(self.program.arrays[array]):
                found[array] = View(array)
            if View(array, not previous) not in self.read:
                continue
            if previous:
                found[array] = View(array)
            elif self.program.arrays[array].initial >= 0:
                found[array] = View(self.program.arrays[array].initial)
        return found

    def _accesses(self) -> tuple[set[View], set[tuple[int, bool]]]:
        """The views that are read, and the arrays that are written: at a row's own
        place, or (True) at its predecessor's."""
        read, written = set(), set()
        for stage in self.stages:
            for i in stage.code:
                views = [stage.views[a] for a in i.args[_READS.get(i.op, slice(0))]]
                read |= {View(v.array, v.previous) for v in views}
                if i.op in STORES and i.op != "store_panel":
                    view = stage.views[i.args[1]]
                    written |= {(view.array, view.previous)}
            for term in stage.terms:
                view = stage.views[term.view]
                read.add(View(view.array, view.previous))
        return read, written

    def _rolls(self) -> bool:
        views = (view for stage in self.stages for view in stage.views)
        return any(self.program.arrays[view.array].depth > 1 for view in views)

    def _carry(self, array: int) -> str:
        return self._name("carried", array, self._label(array))

    def _label(self, array: int) -> str:
        return self.program.arrays[array].name

    # -- stages

    def _stage(self, number: int, stage: Stage) -> None:
        prefix = "" if len(self.stages) == 1 else f"s{number}_"

        def register(r: int) -> str:
            kind = "r" if r < stage.tiles else "v"
            return f"{prefix}{kind}{r if r < stage.tiles else r - stage.tiles}"

        zeros = {
            i.dst for i in stage.prologue if i.op == "constant" and not i.immediate
        }
        for i in stage.prologue:
            self.first.append(f"{register(i.dst)} = {self._value(stage, i, register)}")
        for accumulator in stage.accumulators:
            tile, start = register(accumulator.tile), accumulator.start
            parts = [] if start in zeros else [register(start)]
            parts += self._products(number, stage, accumulator.tile)
            first, *others = parts or [register(start)]
            self.body.append(f"{tile} = {first}")
            self.body += [f"{tile} = {tile} + {other}" for other in others]
        for i in stage.code:
            if i.op == "store_panel":
                self._store_panel(stage, i, register(i.args[0]))
            elif i.op in STORES:
                self._store(stage, i, register(i.args[0]))
            else:
                value = self._value(stage, i, register)
                self.body.append(f"{register(i.dst)} = {value}")

    def _products(self, number: int, stage: Stage, tile: int) -> list[str]:
        """Loads of what is added to an accumulator."""
        found = []
        for k, term in enumerate(stage.terms):
            for place, column in enumerate(term.columns):
                if column != tile or not self._in_memory(number, k):
                    continue
                name = self._argument("product", (number, k), f"product_{number}_{k}")
                row = self._row("sequence" if (number, k) in self.early else "level")
                columns = len(term.columns)
                at = _element(row, stage.units, place, columns, term.heads)
                live = self._live(stage)
                found.append(f"tl.load({name} + {at}, mask={live}, other=0.0)")
        return found

    def _in_memory(self, number: int, term: int) -> bool:
        """Whether a product is made by torch."""
        return True

    def _value(
        self, stage: Stage, i: Instruction, register: Callable[[int], str]
    ) -> str:
        """The right-hand side of an instruction."""
        args = [register(a) for a in i.registers]
        if i.op == "constant":
            return f"tl.full((1, 1), {_number(i.immediate)}, tl.float32)"
        if i.op == "vector":
            return self._vector(stage, stage.vectors[i.args[0]])
        if i.op == "load":
            return self._load(stage.views[i.args[0]])
        if i.op in _SYMBOLS:
            return f"{args[0]} {_SYMBOLS[i.op]} {args[1]}"
        if i.op in _COMPARISONS:
            return f"({args[0]} {_COMPARISONS[i.op]} {args[1]}).to(tl.float32)"
        if i.op == "neg":
            return f"-{args[0]}"
        if i.op in ("identity", "spread"):
            return args[0]
        if i.op == "where":
            return f"tl.where({args[0]} != 0, {args[1]}, {args[2]})"
        if i.op in ("sum", "softmax"):
            name = {"sum": "total"}.get(i.op, i.op)
            return f"{name}({args[0]}, {self._inside(stage)})"
        if i.op in ("block_mean", "layer_norm"):
            blocks = i.args[1]
            eps = f"{_number(i.immediate)}, " if i.op == "layer_norm" else ""
            sizes = f"{stage.units // blocks}, {blocks}"
            full = f"{args[0]} + tl.zeros_like(unit)"
            return f"{i.op}({full}, unit, {eps}{sizes})"
        return f"{_FUNCTIONS[i.op]}({', '.join(args)})"

    def _vector(self, stage: Stage, piece: Piece) -> str:
        label = self.program.parameters[piece.parameter][0]
        name = self._argument("parameter", piece.parameter, label)
        at = f"{name} + {piece.offset}" if piece.offset else name
        if piece.stride == 0:  # a block, as constants are: the interpreter needs it
            return f"tl.load({at} + tl.zeros((1, 1), tl.int32))"
        return f"tl.load({at} + unit, mask={self._inside(stage)}, other=0.0)"

    # -- memory

    def _load(self, view: View) -> str:
        held = self._held(view)
        if held:
            return held
        live = self._mask(view, "live")
        return f"tl.load({self._pointer(view)}, mask={live}, other=0.0)"

    def _held(self, view: View) -> str | None:
        """The variable that has what a walk reads there, if one has."""
        if view in self.stored:
            return self.stored[view]
        start = self.carried.get(view.array)
        if start is not None and view.previous == (start.array != view.array):
            return self._carry(view.array)
        return None

    def _store(self, stage: Stage, i: Instruction, value: str) -> None:
        view = stage.views[i.args[1]]
        value = self._as_array(view, value)
        if i.op == "accumulate":
            value = f"{self._load(view)} + {value}"
        self._put(view, value)

    def _put(self, view: View, value: str) -> None:
        """Store a value, or keep it for the next level."""
        start = self.carried.get(view.array)
        own = start is not None and start.array == view.array
        adds = adds_up(self.program.arrays[view.array])
        carries = start is not None and (adds or view.previous == own)
        if carries:
            following = self._name("next", view.array, self._label(view.array))
            carried, live = self._carry(view.array), self._mask(view, "live")
            self.body.append(f"{following} = tl.where({live}, {value}, {carried})")
            self.last[view.array] = f"{carried} = {following}"
            value = following
        elif self.walks and view in self.read:
            name = self._name("stored", view.array, self._label(view.array))
            self.body.append(f"{name} = {value}")  # the register will be another's
            value = name
        if self.walks:
            self.stored[view] = value
        if carries and own:
            return  # another level reads it here
        if not self.walks or view.array not in self.local:
            self._to_memory(view, value)

    def _as_array(self, view: View, value: str) -> str:
        """A stage's value as an array has it."""
        return value

    def _store_panel(self, stage: Stage, i: Instruction, value: str) -> None:
        view = stage.views[i.args[1]]
        panel = self.program.arrays[view.array]
        name = self._argument("array", view.array, panel.name)
        row = self._row(self._kind(view))
        at = _element(row, stage.units, i.args[2], panel.columns, 1)
        self.body.append(f"tl.store({name} + {at}, {value}, mask={self._live(stage)})")

    def _to_memory(self, view: View, value: str) -> None:
        mask = self._mask(view, "live")
        narrow = self.program.arrays[view.array].columns == 1 and self.units > 1
        if narrow and self.spreads:
            mask += " & (unit == 0)"
        self.body.append(f"tl.store({self._pointer(view)}, {value}, mask={mask})")

    def _pointer(self, view: View) -> str:
        array = self.program.arrays[view.array]
        name, row = self._place(view)
        at = row if array.columns == 1 else f"{row} * {array.columns}"
        return f"{name} + {at}{self._column(view.array)}"

    def _place(self, view: View) -> tuple[str, str]:
        """The argument that has a view's array, and the row there."""
        array = self.program.arrays[view.array]
        kind = self._kind(view)
        if view.previous and self.form != "level":
            kind = "sequence"  # rows gathered for all levels
        previous = "previous" if view.previous else "array"
        label = f"{array.name}_previous" if view.previous else array.name
        name = self._argument(previous, view.array, label)
        return name, self._row(kind, view.previous)

    def _column(self, array: int) -> str:
        """What is added to a row's place for each unit."""
        if self.program.arrays[array].columns > 1:
            return " + unit"
        return " + 0 * unit" if self.spreads else ""

    def _kind(self, view: View) -> str:
        """How the rows of an array follow from a row of the batch."""
        array = self.program.arrays[view.array]
        if view.array in self.local:
            return "level"
        if array.rows == "rolling":
            return "rolling" if array.depth > 1 else "level"
        return "level" if array.rows in ("initial", "batch") else "sequence"

    def _row(self, kind: str, previous: bool = False) -> str:
        if self.form == "rows" or kind == "level":
            return "row"
        if kind == "rolling":
            return "(before_block + row)" if previous else "(block + row)"
        return "(before + row)" if previous and self.form == "level" else "(here + row)"

    def _argument(self, kind: str, number: int | tuple[int, int], label: str) -> str:
        if (kind, number) not in self.arguments:
            name = self._name(kind, number, label)
            self.arguments[kind, number] = Argument(name, kind, number)
        return self.arguments[kind, number].name

    def _name(self, use: str, what: Hashable, label: str) -> str:
        """A variable's name, one for each use of a thing: labels may be the same.

        A suffix tells it from what kernels, Triton's launcher (`debug`, `options`) and
        Python (`range`) have for themselves.
        """
        if (use, what) not in self.names:
            suffix = "ptr" if use in _OF_ARGUMENTS else use
            name = _identifier(f"{label}_{suffix}")
            while name in self.names.values() or _OURS.fullmatch(name):
                name += "_"
            self.names[use, what] = name
        return self.names[use, what]


def adds_up(array: Array) -> bool:
    """Whether every level adds to the same rows: they are the caller's."""
    one = array.rows == "rolling" and array.depth == 1
    return one and array.initial < 0 and not array.scratch


def _element(row: str, units: int, column: int, columns: int, heads: int) -> str:
    """Where a row has a column's unit: in each block, one column after another."""
    if heads == 1:
        shift = f" + {column * units}" if column else ""
        return f"{row} * {columns * units}{shift} + unit"
    width = units // heads
    return (
        f"{row} * {columns * units} + unit // {width} * {columns * width} + "
        f"{column * width} + unit % {width}"
    )


def _identifier(label: str) -> str:
    name = re.sub(r"\W", "_", label)
    return name if name.isidentifier() else f"_{name}"


def _number(value: float) -> str:
    text = repr(float(value))
    return text if re.fullmatch(r"-?[\d.e+-]+", text) else f'float("{text}")'
