"""Emission: the code of each stage, and what weights' gradients are sums of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

from ..language import OPS, Node
from ..language.expand import definition
from ..language.graph import AFFINE, ATTENTION, EACH, TOTAL, TRANSPOSED
from ..language.sizes import MatrixSize
from .bindings import Binding
from .differentiate import VectorJacobian
from .matrices import form, is_matrix, made_form, read
from .program import (
    MATRIX,
    Accumulator,
    Gradient,
    Instruction,
    Piece,
    Reduction,
    Stage,
    Term,
    View,
)
from .step import DOT, OUTER, PANEL, PUT, SOFTMAX_GRADIENT, Group, Stored, summands
from .verify import verify_stages


class _Register:
    """A register of a tile, or one of a row: filled once a call. It has its number
    once the stage's code is complete."""

    __slots__ = ("number", "row")

    def __init__(self, number: int = -1, row: bool = False) -> None:
        self.number, self.row = number, row


_READ_IN_PLACE = ("add", "sub", "mul")  # what can read a load's value where it is
_NONE = _Register()  # of a product that is summed in another's accumulator


class _Line(NamedTuple):
    """An instruction: its registers, then further indices."""

    op: str
    target: _Register
    registers: tuple[_Register, ...] = ()
    indices: tuple[int, ...] = ()
    immediate: float = 0.0


def emit(stored: Stored, binding: Binding) -> tuple[Stage, ...]:
    """The stages of a step."""
    writers = (
        (_MatrixWriter if group.axis == MATRIX else _StageWriter)(
            stored, group, binding
        )
        for group in stored.groups
    )
    stages = tuple(writer.stage() for writer in writers)
    return verify_stages(stages, stored, after="emit")


class _StageWriter:
    """Writes one stage: its products, its code; then its registers are packed."""

    def __init__(self, stored: Stored, group: Group, binding: Binding) -> None:
        self.step, self.panels = stored.step, stored.panels
        self.group, self.binding = group, binding
        nodes = self.step.nodes
        self.members = set(group.members)
        puts = [nodes[m] for m in group.members if nodes[m].op == PUT]
        # What is read from here on, not loaded: computed here, or about to be stored.
        self.here = self.members | {
            n.args[0] for n in puts if self.step.where.get(n.args[0]) == n["view"]
        }
        self.registers: dict[int, _Register] = {}
        self.rows: dict[_Line, _Register] = {}
        self.views: dict[View, int] = {}
        self.vectors: dict[Piece, int] = {}
        self.accumulators: dict[_Register, _Register] = {}  # tile → where it starts
        self.terms: list[Term] = []
        self.code: list[_Line] = []
        # A stage of matrices spans their columns.
        self.whole = isinstance(group.units, MatrixSize)

    def stage(self) -> Stage:
        self._products()
        for number in self.group.members:
            if number in self.step.kept:
                self._keep(number)
        nodes = [self.step.nodes[member] for member in self.group.members]
        results = [n for n in nodes if n.op in (PUT, PANEL, OUTER)]
        # What the scan carries from level to level is overwritten last.
        carried = [n for n in results if n.op == PUT and n["view"].previous]
        for node in results:
            if node not in carried:
                self._store(node, self._obtain(node.args[0]))
        values = [self._obtain(node.args[0]) for node in carried]
        for node, value in zip(carried, values, strict=True):
            self._store(node, value)
        return self._packed()

    def _keep(self, number: int) -> None:
        """A value that is in memory alone, into the memory where it is read."""
        where, node = self.step.where, self.step.nodes[number]
        view = self._view(where[number])
        if node.op == ATTENTION:
            line = _Line(
                "attention", _NONE, (), (self._view(where[node.args[0]]), view)
            )
        elif node.op == SOFTMAX_GRADIENT:
            weights, cotangent = (self._view(where[a]) for a in node.args)
            indices = weights, view, cotangent
            line = _Line("attention_gradient", _NONE, (), indices)
        elif node.op == DOT:
            row, items = node.args
            self.whole = True
            indices = view, self._view(where[items])
            line = _Line("dot_items", _NONE, (self._obtain(row),), indices)
        else:
            line = _Line("accumulate", _NONE, (self._obtain(node.args[0]),), (view,))
        self.code.append(line)

    # -- products

    def _products(self) -> None:
        """Every affine's products, stacked where they read the same rows."""
        step, nodes = self.step, self.step.nodes
        products: list[_Product] = []
        operands: dict[int, int] = {}  # view → node
        for number in (m for m in self.group.members if nodes[m].op == AFFINE):
            name = nodes[number]["weight"]
            column = self._accumulate(number, self._bias(name))
            for operand, arg in enumerate(nodes[number].args):
                view = self._view(step.where[arg])
                operands.setdefault(view, arg)
                source = view, step.size(arg), self.binding.heads[name]
                piece = self.binding.matrices[name, operand]
                products.append((source, column, piece))
        # Operands in the order of the graph, whatever else is in the stage: the same
        # sums, bit by bit, in every program.
        stacks = sorted(_stacked(products), key=lambda stack: operands[stack[0][0]])
        self.terms = [
            Term(*where, columns, pieces) for where, columns, pieces in stacks
        ]
        for leaves in self._transposed_sums():
            self._transposed(leaves)

    def _transposed_sums(self) -> list[list[int]]:
        """Transposed products: those that one accumulator sums, then the others."""
        nodes, members = self.step.nodes, self.group.members
        alone = {m: [m] for m in members if nodes[m].op == TRANSPOSED}
        if len(alone) < 2:
            return [*alone.values()]
        sums: list[list[int]] = []
        once = self.step.read_once
        for top in reversed(members):
            if nodes[top].op == "add":
                inner = once & self.members | {top}
                parts = summands(nodes, top, inner.__contains__)
                together = [n for n in parts if n in alone and n in once]
                if len(together) > 1:
                    sums.append(together)
                    for number in together:
                        del alone[number]
        return [*sums, *alone.values()]

    def _transposed(self, leaves: Sequence[int]) -> None:
        """Products with gates' gradients, summed in the first one's accumulator."""
        nodes, (first, *others) = self.step.nodes, leaves
        into = (self._accumulate(first, self._constant(0.0)),)
        self.registers.update(dict.fromkeys(others, _NONE))
        products: list[_Product] = []
        for leaf in leaves:
            name, cotangent = nodes[leaf]["weight"], nodes[leaf].args[0]
            array, column = self.panels[cotangent]
            width, heads = self.step.size(cotangent), self.binding.heads[name]
            piece = self.binding.matrices[name, nodes[leaf]["operand"]]
            products.append(((self._view(View(array)), width, heads), column, piece))
        for source, columns, pieces in _runs(products):
            self.terms.append(Term(*source, into, pieces, True, columns[0]))

    def _bias(self, weight: str) -> _Register:
        vectors = [self._vector(p) for p in self.binding.biases.get(weight, ())]
        add = partial(self._row, "add")
        return reduce(add, vectors) if vectors else self._constant(0.0)

    def _accumulate(self, number: int, start: _Register) -> int:
        """A value's accumulator, by number: they are the first tiles."""
        self.registers[number] = tile = _Register(len(self.accumulators))
        self.accumulators[tile] = start
        return tile.number

    # -- values

    def _obtain(self, number: int) -> _Register:
        """The register of a value, computed with all it reads; however deep that is."""
        stack = [number]
        while stack:
            top = stack[-1]
            missing = [a for a in self._read(top) if a not in self.registers]
            if top in self.registers:
                stack.pop()
            elif missing:
                stack.extend(reversed(missing))
            else:
                self.registers[top] = self._compute(top)
        return self.registers[number]

    def _is_loaded(self, number: int) -> bool:
        return number not in self.here and number in self.step.where

    def _read(self, number: int) -> tuple[int, ...]:
        """The values that have to be in registers to compute one."""
        loaded = number in self.step.cotangents or self._is_loaded(number)
        if loaded or self.step.nodes[number].op == TOTAL:
            return ()
        return self.step.values[number]

    def _compute(self, number: int) -> _Register:
        step = self.step
        node = step.nodes[number]
        if node.op == "constant":
            return self._constant(float(node["value"]))
        if node.op == "weight":
            return self._vector(self.binding.vectors[node["weight"]])
        if self._is_loaded(number):
            return self._load("load", step.where[number])
        if number in step.cotangents:
            loads = [self._load("load", view) for view in step.cotangents[number]]
            return reduce(partial(self._emit, "add"), loads)
        if node.op == TOTAL and len(node.args) == 2:
            indices = tuple(self._view(step.where[a]) for a in node.args)
            return self._emit("weighted_total", indices=indices)
        if node.op == TOTAL:
            return self._load("total", step.where[node.args[0]])
        args = [self.registers[a] for a in step.values[number]]
        if node.op == EACH or (node.op == "sum" and step.size(node.args[0]) == 1):
            return args[0]
        return self._operate(node, args)

    def _operate(self, node: Node, args: list[_Register]) -> _Register:
        """An operation's instruction, or those of its definition."""
        op = OPS[node.op]
        args = [arg for arg in args if arg is not _NONE] or args[:1]
        if op.copies or len(args) < op.arity:  # of a sum that an accumulator has made
            return args[0]
        if not (op.primitive or op.kernel):
            return self._define(node, args)
        if op.reduces:
            self.whole = True
            options = node.options
            heads, eps = int(options.get("heads", 1)), float(options.get("eps", 0.0))
            return self._emit(node.op, args[0], indices=(heads, 0), immediate=eps)
        if all(arg.row for arg in args):
            return self._row(node.op, *args)
        return self._emit(node.op, *args)

    def _define(self, node: Node, args: list[_Register]) -> _Register:
        nodes, result = definition(node.op, node.attrs)
        values: list[_Register] = []
        for part in nodes:
            if part.op == "input":
                values.append(args[int(part["name"])])
            elif part.op == "constant":
                values.append(self._constant(part["value"]))
            else:
                values.append(self._operate(part, [values[a] for a in part.args]))
        return values[result]

    def _constant(self, value: float) -> _Register:
        return self._row("constant", immediate=value)

    def _vector(self, piece: Piece) -> _Register:
        index = self.vectors.setdefault(piece, len(self.vectors))
        return self._row("vector", indices=(index,))

    def _row(self, op: str, *args: _Register, **more: Any) -> _Register:
        """A row register, filled once a call; equal ones are shared."""
        line = _Line(op, _NONE, args, **more)
        if line not in self.rows:
            self.rows[line] = _Register(row=True)
        return self.rows[line]

    def _load(self, op: str, view: View) -> _Register:
        return self._emit(op, indices=(self._view(view),))

    def _emit(self, op: str, *args: _Register, **more: Any) -> _Register:
        register = _Register()
        self.code.append(_Line(op, register, args, **more))
        return register

    def _store(self, node: Node, value: _Register) -> None:
        if node.op == PUT:
            op = "accumulate" if node["adds"] else "store"
            indices = (self._view(node["view"]),)
        elif node.op == OUTER:
            column = self.step.where[node.args[1]]
            op, indices = (
                "outer_items",
                (self._view(node["view"]), self._view(column)),
            )
        else:
            array, column = self.panels[node.args[0]]
            op, indices = "store_panel", (self._view(View(array)), column)
        self.code.append(_Line(op, _NONE, (value,), indices))

    def _view(self, view: View) -> int:
        return self.views.setdefault(view, len(self.views))

    # -- registers

    def _packed(self) -> Stage:
        """The stage, its registers numbered: tiles, then those of rows."""
        if self.group.axis.kind == "item":
            self._read_in_place()
        tiles = self._number_tiles()
        for number, register in enumerate(self.rows.values(), tiles):
            register.number = number
        prologue = [line._replace(target=row) for line, row in self.rows.items()]
        return Stage(
            units=int(self.group.units),
            tiles=tiles,
            row_registers=len(self.rows),
            views=tuple(self.views),
            vectors=tuple(self.vectors),
            accumulators=tuple(
                Accumulator(tile.number, start.number)
                for tile, start in self.accumulators.items()
            ),
            terms=tuple(self.terms),
            prologue=tuple(map(_instruction, prologue)),
            code=tuple(map(_instruction, self.code)),
            whole=self.whole,
            when=self.group.when,
            axis=self.group.axis,
            loop=self.group.loop,
        )

    def _read_in_place(self) -> None:
        """Mark loads whose value the next instruction reads, and no other: see `load`
        in core/opcodes.def."""
        uses = Counter(arg for line in self.code for arg in line.registers)
        reader = None  # the next instruction that is no load
        for at, line in reversed([*enumerate(self.code)]):
            if line.op != "load":
                reader = line
                continue
            if reader is None or reader.op not in _READ_IN_PLACE:
                continue
            if uses[line.target] == reader.registers.count(line.target) == 1:
                self.code[at] = line._replace(indices=(*line.indices, 1))

    def _number_tiles(self) -> int:
        """Give the code few tiles, and say how many: one is free once its value has
        been read for the last time. Accumulators have theirs already."""
        last = {arg: at for at, line in enumerate(self.code) for arg in line.registers}
        count = len(self.accumulators)
        free = [tile.number for tile in self.accumulators if tile not in last]
        for at, line in enumerate(self.code):
            for arg in dict.fromkeys(line.registers):
                if last[arg] == at and not arg.row:
                    free.append(arg.number)
            if line.target is not _NONE:
                if not free:
                    free.append(count)
                    count += 1
                line.target.number = free.pop()
                if line.target not in last:
                    free.append(line.target.number)
        return max(count, 1)


class _MatrixWriter(_StageWriter):
    """Writes a stage of the rows of matrices: see `matrices`.

    Where there is an instruction that reads vectors, or a matrix, from memory itself,
    that is taken, rather than a load.
    """

    def __init__(self, stored: Stored, group: Group, binding: Binding) -> None:
        super().__init__(stored, group, binding)
        self.whole = True

    def _packed(self) -> Stage:
        heads, rows, columns = self.group.units.blocks  # type: ignore[union-attr]
        return replace(super()._packed(), units=columns, heads=heads, matrix_rows=rows)

    def _form(self, node: Node, place: int) -> View:
        """An argument in memory, as the stage sees it."""
        view = self.step.where[node.args[place]]
        return replace(view, form=form(self.step.nodes, node, place))

    def _seen(self, node: Node, place: int) -> _Register:
        """The register of an argument; of a vector, loaded."""
        arg = node.args[place]
        if arg in self.registers:
            return self.registers[arg]
        return self._load("load", self._form(node, place))

    def _read(self, number: int) -> tuple[int, ...]:
        node, nodes = self.step.nodes[number], self.step.nodes
        if number in self.step.cotangents or self._is_loaded(number):
            return ()
        if self._factors(node):
            return self._factors(node)[:1]
        apart = {node.args[k] for k in (*self._outer(number), *self._scaled(number))}
        return tuple(
            a
            for a in self.step.values[number]
            if a not in apart and (is_matrix(nodes[a]) or nodes[a].op == "constant")
        )

    def _outer(self, number: int) -> tuple[int, ...]:
        """Which argument of a sum is an outer product that is added at once."""
        nodes, once = self.step.nodes, self.step.read_once
        if nodes[number].op != "add":
            return ()
        args = enumerate(nodes[number].args)
        outer = (k for k, a in args if nodes[a].op == "outer" and a in once)
        return next(((k,) for k in outer if not self._is_known(number, k)), ())

    def _is_known(self, number: int, place: int) -> bool:
        arg = self.step.nodes[number].args[place]
        return arg in self.registers or self._is_loaded(arg)

    def _factors(self, node: Node) -> tuple[int, ...]:
        """Of a sum of products: a matrix in a register, and one in memory."""
        product = self.step.nodes[node.args[0]] if node.op == "sum" else node
        once = node.op == "sum" and node.args[0] in self.step.read_once
        if not once or product.op != "mul" or self._is_loaded(node.args[0]):
            return ()
        for one, other in (product.args, product.args[::-1]):
            matrices = all(
                is_matrix(self.step.nodes[a]) and self.step.nodes[a].op != "spread"
                for a in (one, other)
            )
            if matrices and self._is_loaded(other) and not self._is_loaded(one):
                return one, other
        return ()

    def _scaled(self, number: int) -> tuple[int, ...]:
        """Both arguments of a matrix in memory times a number for each row or block."""
        node, nodes, once = (
            self.step.nodes[number],
            self.step.nodes,
            self.step.read_once,
        )
        if node.op == "scale_rows":
            return (0, 1) if self._is_loaded(node.args[0]) else ()
        if node.op != "mul":
            return ()
        for matrix, by in ((0, 1), (1, 0)):
            one, other = node.args[matrix], nodes[node.args[by]]
            vector = other.args[0] if other.op == "spread" else node.args[by]
            number_like = not is_matrix(nodes[vector]) and vector in self.step.where
            if self._is_loaded(one) and one in once and number_like:
                return matrix, by
        return ()

    def _compute(self, number: int) -> _Register:
        step, node = self.step, self.step.nodes[number]
        if node.op == "constant":
            return self._constant(float(node["value"]))
        if self._is_loaded(number):
            return self._load("load", replace(step.where[number], form="matrix"))
        if number in step.cotangents:
            views = (replace(v, form="matrix") for v in step.cotangents[number])
            return reduce(
                partial(self._emit, "add"), [self._load("load", v) for v in views]
            )
        if node.op == "outer":
            return self._add_outer(self._constant(0.0), node)
        for k in self._outer(number):
            outer = step.nodes[node.args[k]]
            return self._add_outer(self.registers[node.args[1 - k]], outer)
        if self._scaled(number):
            return self._load_scaled(node, *self._scaled(number))
        args = [self._seen(node, k) for k in range(len(step.values[number]))]
        if node.op in ("scale_rows", "scale_columns"):
            return self._emit("mul", *args)
        if node.op == "to_matrix":
            return args[0]
        return self._operate(node, args)

    def _add_outer(self, to: _Register, outer: Node) -> _Register:
        indices = tuple(self._view(self._form(outer, k)) for k in range(2))
        return self._emit("add_outer", to, indices=indices)

    def _load_scaled(self, node: Node, matrix: int, by: int) -> _Register:
        factor = self.step.nodes[node.args[by]]
        scale = self._form(factor, 0) if factor.op == "spread" else self._form(node, by)
        indices = self._view(self._form(node, matrix)), self._view(scale)
        return self._emit("load_scaled", indices=indices)

    def _keep(self, number: int) -> None:
        node = self.step.nodes[number]
        for arg in self._read(number):
            self._obtain(arg)
        into = self._view(replace(self.step.where[number], form=made_form(node)))
        op, values, indices = self._made(node)
        self.code.append(_Line(op, _NONE, values, (into, *indices)))

    def _made(self, node: Node) -> tuple[str, tuple[_Register, ...], tuple[int, ...]]:
        """How a vector is made: the instruction, its register, the view it reads."""
        if self._factors(node):
            one, other = self._factors(node)
            view = replace(self.step.where[other], form="matrix")
            return "dot_block", (self.registers[one],), (self._view(view),)
        if node.op in ("matvec", "vecmat"):
            matrix, vector = (0, 1) if node.op == "matvec" else (1, 0)
            op = "dot_columns" if node.op == "matvec" else "dot_rows"
            view = self._view(self._form(node, vector))
            return op, (self._seen(node, matrix),), (view,)
        values = [self._seen(node, k) for k in range(len(read(node)))]
        if node.op == "sum":
            return "sum_block", (values[0],), ()
        if node.op in ("spread", "to_vector"):
            return "store", (values[0],), ()
        products = self._emit("mul", *values)
        if node.op == "column_dots":
            return "accumulate", (products,), ()
        return "store", (self._emit("sum", products, indices=(1, 0)),), ()

    def _store(self, node: Node, value: _Register) -> None:
        op = "accumulate" if node["adds"] else "store"
        view = self._view(replace(node["view"], form="matrix"))
        self.code.append(_Line(op, _NONE, (value,), (view,)))


def _instruction(line: _Line) -> Instruction:
    args = (*(register.number for register in line.registers), *line.indices)
    return Instruction(line.op, line.target.number, args, line.immediate)


# -- products --------------------------------------------------------------------


# What a product reads: where, over how many units, in how many diagonal blocks.
_Source = tuple[Any, int, int]
# A matrix on a source; its column is an accumulator, or one of a panel.
_Product = tuple[_Source, int, Piece]
# Products of one source, side by side.
_Stack = tuple[_Source, tuple[int, ...], tuple[Piece, ...]]


def _stacked(products: Iterable[_Product]) -> list[_Stack]:
    """Products of one source as one; no column twice in one."""
    stacks: dict[tuple[_Source, int], dict[int, Piece]] = {}
    seen: Counter[tuple[_Source, int]] = Counter()
    for source, column, piece in products:
        stacks.setdefault((source, seen[source, column]), {})[column] = piece
        seen[source, column] += 1
    return [
        (s, tuple(found), tuple(found.values())) for (s, _), found in stacks.items()
    ]


def _runs(products: Iterable[_Product]) -> list[_Stack]:
    """The same for columns of a panel: only neighbours stack."""
    found: list[_Stack] = []
    for source, columns, pieces in _stacked(products):
        pairs = sorted(zip(columns, pieces, strict=True), key=lambda pair: pair[0])
        start = 0
        for end in range(1, len(pairs) + 1):
            if end == len(pairs) or pairs[end][0] != pairs[end - 1][0] + 1:
                columns, pieces = zip(*pairs[start:end], strict=True)
                found.append((source, columns, pieces))
                start = end
    return found


# -- gradients of weights ----------------------------------------------------------


def emit_gradients(
    vjp: VectorJacobian, stored: Stored, binding: Binding
) -> tuple[Gradient, ...]:
    """Of matrices: gates' gradients times operands."""
    step = stored.step
    products: list[_Product] = []
    for affine, cotangent in vjp.affines:
        node = vjp.forward.nodes[affine]
        name, (panel, column) = node["weight"], stored.panels[cotangent]
        for operand, arg in enumerate(node.args):
            rows = panel, step.where[arg]
            source = rows, step.size(arg), binding.heads[name]
            products.append((source, column, binding.matrices[name, operand]))
    return tuple(
        Gradient(panel, columns[0], view, width, heads, pieces)
        for ((panel, view), width, heads), columns, pieces in _runs(products)
    )


def emit_reductions(
    vjp: VectorJacobian, stored: Stored, binding: Binding
) -> tuple[Reduction, ...]:
    """Of vectors, numbers and biases: sums over rows."""
    of_vectors = [(c, binding.vectors[weight]) for c, weight in stored.step.sums]
    of_biases = [
        (cotangent, piece)
        for affine, cotangent in vjp.affines
        for piece in binding.biases.get(vjp.forward.nodes[affine]["weight"], ())
    ]
    return tuple(Reduction(*stored.panels[c], p) for c, p in of_vectors + of_biases)
