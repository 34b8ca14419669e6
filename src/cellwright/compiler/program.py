"""Programs as data: what the native core runs, and a person can read.

Each class mirrors the struct of the same name in `core/program.h`, which says what the
fields mean. `Program.compile` hands a program to the core, field by field and by name;
the core checks every index and size. `disassemble` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..language import OPS

EVERY = -1  # the slot of a view that has a row for each child

# Fields that name a value of one of the core's enumerations.
ENUMERATIONS = {
    "rows": "Rows",
    "kind": "AxisKind",
    "when": "When",
    "op": "Opcode",
    "form": "Form",
}
# How many arguments are registers; of other instructions, all.
REGISTERS = {
    **dict.fromkeys(
        (
            "constant",
            "vector",
            "load",
            "total",
            "weighted_total",
            "attention",
            "attention_gradient",
        ),
        0,
    ),
    "load_scaled": 0,
    **dict.fromkeys(
        ("store", "accumulate", "dot_items", "outer_items", "store_panel"), 1
    ),
    **dict.fromkeys(
        ("add_outer", "dot_columns", "dot_rows", "sum_block", "dot_block"), 1
    ),
    **{name: 1 for name, op in OPS.items() if op.reduces},
}
PLAIN = {int, float, bool, str}  # fields that the core takes as they are


@dataclass(frozen=True)
class Axis:
    """What has a row of its own: a row of the scan, a child, an item of a set, or a row
    of a matrix."""

    kind: str
    set: int = 0

    def __str__(self) -> str:
        return f"{self.kind} of set {self.set}" if self.set else self.kind


NODE = Axis("node")
MATRIX = Axis("matrix")


@dataclass(frozen=True)
class Array:
    """Memory with one row for each row of the scan, of a level, or of a chunk."""

    name: str
    rows: str
    columns: int
    depth: int = 1
    initial: int = -1
    stage: int = -1
    scratch: bool = False
    axis: Axis = NODE
    parameter: int = -1


@dataclass(frozen=True)
class View:
    """An array, at a row's own place or at a predecessor's: in trees one child's.

    `form`: what a stage of matrices sees of it.
    """

    array: int
    previous: bool = False
    slot: int = 0
    form: str = "whole"


@dataclass(frozen=True)
class Piece:
    """Part of a parameter: element (unit, k) at `offset + unit · stride + k`."""

    parameter: int
    offset: int
    stride: int


@dataclass(frozen=True)
class Term:
    """A product added to accumulators; `transposed` reads gate gradients."""

    view: int
    width: int
    heads: int
    columns: tuple[int, ...]
    pieces: tuple[Piece, ...]
    transposed: bool = False
    first: int = 0


@dataclass(frozen=True)
class Accumulator:
    """A tile that products are added to, and the row register that it starts from."""

    tile: int
    start: int


@dataclass(frozen=True)
class Instruction:
    """`op` is a name of `core/opcodes.def`; `args` are registers or indices."""

    op: str
    dst: int
    args: tuple[int, ...] = ()
    immediate: float = 0.0

    @property
    def registers(self) -> tuple[int, ...]:
        """The registers that it reads; its other arguments are indices."""
        return self.args[: REGISTERS.get(self.op, len(self.args))]


@dataclass(frozen=True)
class Recurrence:
    """What a stage of matrices does for `steps` levels at once; its views by number,
    −1: none."""

    steps: int = 0
    decay: float = 1.0
    gate: int = -1
    v: int = -1
    k: int = -1
    q: int = -1
    y: int = -1
    before: int = -1
    after: int = -1
    d_gate: int = -1
    d_v: int = -1
    d_k: int = -1
    d_q: int = -1
    d_before: int = -1
    d_after: int = -1


@dataclass(frozen=True)
class Stage:
    """Products into accumulators, then pointwise code, over `units` units."""

    units: int
    tiles: int
    row_registers: int
    views: tuple[View, ...]
    vectors: tuple[Piece, ...]
    accumulators: tuple[Accumulator, ...]
    terms: tuple[Term, ...]
    prologue: tuple[Instruction, ...]
    code: tuple[Instruction, ...]
    whole: bool = False
    when: str = "level"
    axis: Axis = NODE
    loop: int = 0
    heads: int = 1
    matrix_rows: int = 1
    recurrence: Recurrence = Recurrence()


@dataclass(frozen=True)
class Gradient:
    """A weight's gradient: gate gradients times a source, summed over rows."""

    panel: int
    first: int
    source: View
    width: int
    heads: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Reduction:
    """A vector's or bias's gradient: a panel's column, summed over rows."""

    panel: int
    column: int
    piece: Piece


@dataclass(frozen=True)
class Program:
    """What is done at every level of a scan."""

    name: str
    backward: bool
    arrays: tuple[Array, ...]
    parameters: tuple[tuple[str, int], ...]  # name, number of elements
    stages: tuple[Stage, ...]
    gradients: tuple[Gradient, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    tree: bool = False
    precision: str = "full"  # of products: "full", "bf16" or "int8"

    @property
    def multiply_adds(self) -> int:
        """Of matrix products, for one row."""
        products: list[tuple[Term | Gradient, Stage]]
        products = [(term, stage) for stage in self.stages for term in stage.terms]
        for gradient in self.gradients:
            stage = self.stages[self.arrays[gradient.panel].stage]
            products.append((gradient, stage))
        return sum(len(p.pieces) * p.width * s.units // p.heads for p, s in products)

    def compile(self) -> Any:
        """The core's form of it, every index and size checked.

        Raises:
            ValueError: it is not a program; the message names stage and fact.
            KeyError: a name is not one of the core's enumeration.
        """
        from .. import _core

        names = "backward", "tree", "arrays", "stages", "gradients", "reductions"
        fields = {name: _native(_core, getattr(self, name)) for name in names}
        counts = [count for _, count in self.parameters]
        precision = _core.Precision[self.precision]
        return _core.Program(parameters=counts, precision=precision, **fields)

    def disassemble(self) -> str:
        """The program as text, a stage at a time."""
        return "\n".join(_Listing(self).lines())

    def product(self, stage: Stage, term: Term) -> str:
        """One of its stages' products as text."""
        return _Listing(self).product(stage, term)


def _native(core: Any, value: Any) -> Any:
    """A value as the core has it: of a class above, its struct of the same name."""
    if isinstance(value, tuple):
        return [_native(core, item) for item in value]
    if type(value) in PLAIN:
        return value
    fields = {
        name: getattr(core, ENUMERATIONS[name])[field]
        if name in ENUMERATIONS
        else _native(core, field)
        for name, field in vars(value).items()
    }
    return getattr(core, type(value).__name__)(**fields)


class _Listing:
    """Prints a program: r0, r1, … are tiles, v0, v1, … row registers."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def lines(self) -> list[str]:
        p = self.program
        order = "last level to first" if p.backward else "first level to last"
        lines = [f"{p.name}: {order}, {p.multiply_adds:,} multiply-adds a row"]
        for number, stage in enumerate(p.stages):
            lines += ["", self._heading(number, stage), *self._stage(stage)]
        if p.gradients or p.reductions:
            lines += ["", "  gradients, a chunk of levels at a time"]
        for g in p.gradients:
            weights = ", ".join(self._parameter(x) for x in g.pieces)
            panel = self._columns(g.panel, g.first, len(g.pieces))
            lines.append(f"    d[{weights}] += {panel}ᵀ · {self._array(g.source)}")
        for r in p.reductions:
            panel = self._columns(r.panel, r.column, 1)
            lines.append(f"    d[{self._parameter(r.piece)}] += Σ {panel}")
        return lines

    def _heading(self, number: int, stage: Stage) -> str:
        text = f"  stage {number}: {stage.units} units, {stage.tiles} registers"
        text += ", all units in a tile" if stage.whole else ""
        text += f", for each {stage.axis}" if stage.axis != NODE else ""
        if stage.axis == MATRIX:
            text += f" of {stage.matrix_rows} rows in {stage.heads} blocks"
        if stage.recurrence.steps:
            text += f", {stage.recurrence.steps} levels at a time"
        first = all(s.when == "chunk" for s in self.program.stages[:number])
        chunk = "before a chunk" if first else "once for a chunk"
        when = {"chunk": f", {chunk}", "after_chunk": ", after a chunk"}
        return text + when.get(stage.when, "")

    def _stage(self, s: Stage) -> list[str]:
        lines = [self._line(s, i) for i in s.prologue]
        lines += [f"r{a.tile} = {self._register(s, a.start)}" for a in s.accumulators]
        for t in s.terms:
            registers = ", ".join(f"r{c}" for c in t.columns)
            lines.append(f"{registers} += {self.product(s, t)}")
        lines += [self._line(s, i) for i in s.code]
        return [f"    {line}" for line in lines]

    def product(self, s: Stage, t: Term) -> str:
        weights = ", ".join(self._parameter(p) for p in t.pieces)
        sign, source = "", self._array(s.views[t.view])
        if t.transposed:
            panel = s.views[t.view].array
            sign, source = "ᵀ", self._columns(panel, t.first, len(t.pieces))
        return f"[{weights}]{sign} · {source}"

    def _line(self, s: Stage, i: Instruction) -> str:
        target = self._register(s, i.dst)
        read = ", ".join(self._register(s, a) for a in i.registers)
        match i.op:
            case "load" | "total":
                return f"{target} = {i.op} {self._array(s.views[i.args[0]])}"
            case "store":
                return f"store {self._array(s.views[i.args[1]])} = {read}"
            case "accumulate":
                return f"store {self._array(s.views[i.args[1]])} += {read}"
            case "weighted_total":
                weights, values = (self._array(s.views[a]) for a in i.args)
                return f"{target} = total {weights} · {values}"
            case "dot_items" | "outer_items":
                into, factor = (self._array(s.views[a]) for a in i.args[1:])
                sign = "=" if i.op == "dot_items" else "+="
                return f"store {into} {sign} {read} · {factor}"
            case "load_scaled":
                values, scale = (self._array(s.views[a]) for a in i.args)
                return f"{target} = {values} · {scale}"
            case "add_outer":
                rows, columns = (self._array(s.views[a]) for a in i.args[1:])
                return f"{target} = {read} + {rows} ⊗ {columns}"
            case "dot_block":
                into, matrix = (self._array(s.views[a]) for a in i.args[1:])
                return f"store {into} += sum {read} · {matrix}"
            case "dot_columns" | "dot_rows":
                into, vector = (self._array(s.views[a]) for a in i.args[1:])
                sign, t = ("=", "") if i.op == "dot_columns" else ("+=", "ᵀ")
                return f"store {into} {sign} {read}{t} · {vector}"
            case "sum_block":
                return f"store {self._array(s.views[i.args[1]])} += sum {read}"
            case "attention_gradient":
                weights, into, g = (self._array(s.views[a]) for a in i.args)
                return f"store {into} = {weights} · ({g} - total {weights} · {g})"
            case "attention":
                scores, weights = (self._array(s.views[a]) for a in i.args)
                return f"store {weights} = attention {scores}"
            case "store_panel":
                panel = self._columns(s.views[i.args[1]].array, i.args[2], 1)
                return f"store {panel} = {read}"
            case "vector":
                return f"{target} = {self._parameter(s.vectors[i.args[0]])}"
            case "constant":
                return f"{target} = {i.immediate:g}"
        return f"{target} = {i.op} {read}"

    def _register(self, s: Stage, number: int) -> str:
        return f"r{number}" if number < s.tiles else f"v{number - s.tiles}"

    def _array(self, view: View) -> str:
        name = self.program.arrays[view.array].name
        if not view.previous:
            return name
        if not self.program.tree:
            return f"{name}[previous]"
        return f"{name}[child]" if view.slot == EVERY else f"{name}[child {view.slot}]"

    def _columns(self, panel: int, first: int, count: int) -> str:
        name = self.program.arrays[panel].name
        last = f":{first + count}" if count > 1 else ""
        return f"{name}[{first}{last}]"

    def _parameter(self, piece: Piece) -> str:
        name = self.program.parameters[piece.parameter][0]
        return f"{name}+{piece.offset}" if piece.offset else name
