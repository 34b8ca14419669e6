"""Emission: the code of each stage, and what weights' gradients are sums of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..language import OPS, Node
from ..language.expand import definition
from ..language.graph import AFFINE, EACH, TOTAL, TRANSPOSED
from .bindings import Binding
from .differentiate import VectorJacobian
from .program import (
    Accumulator,
    Gradient,
    Instruction,
    Piece,
    Reduction,
    Stage,
    Term,
    View,
)
from .step import PANEL, PUT, Group, Stored
from .verify import verify_stages


class _Register(NamedTuple):
    """A register of a stage: of a tile, numbered by value until tiles are packed; or
    of a row, filled once a call."""

    kind: str
    number: int


_NONE = _Register("none", 0)  # of a product that is summed in another's accumulator


class _Line(NamedTuple):
    """An instruction over registers that have no final numbers."""

    op: str
    target: _Register | None
    args: tuple[_Register | int, ...]
    immediate: float = 0.0


def emit(stored: Stored, binding: Binding) -> tuple[Stage, ...]:
    """The stages of a step."""
    writers = (_StageWriter(stored, group, binding) for group in stored.groups)
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
            n.args[0] for n in puts if self.step.place(n.args[0]) == n["view"]
        }
        self.registers: dict[int, _Register] = {}
        self.tiles = 0
        self.rows: dict[object, _Register] = {}
        self.views: dict[View, int] = {}
        self.vectors: dict[Piece, int] = {}
        self.accumulators: list[tuple[_Register, _Register]] = []
        self.terms: list[Term] = []
        self.prologue: list[_Line] = []
        self.code: list[_Line] = []
        self.whole = False

    def stage(self) -> Stage:
        self._products()
        nodes = self.step.nodes
        results = [m for m in self.group.members if nodes[m].op in (PUT, PANEL)]
        # What the scan carries from level to level is overwritten last.
        carried = [m for m in results if self._is_carried(nodes[m])]
        for member in results:
            if member not in carried:
                self._store(nodes[member], self._obtain(nodes[member].args[0]))
        values = [self._obtain(nodes[m].args[0]) for m in carried]
        for member, value in zip(carried, values, strict=True):
            self._store(nodes[member], value)
        return self._packed()

    @staticmethod
    def _is_carried(node: Node) -> bool:
        return node.op == PUT and node["view"].previous

    # -- products

    def _products(self) -> None:
        """Every affine's products, stacked where they read the same rows."""
        step, nodes = self.step, self.step.nodes
        affines = [m for m in self.group.members if nodes[m].op == AFFINE]
        for number in affines:
            self._accumulate(number, self._bias(nodes[number]["weight"]))
        products: list[_Product] = []
        operands: dict[int, int] = {}  # view → node
        for number in affines:
            name, register = nodes[number]["weight"], self.registers[number]
            for operand, arg in enumerate(nodes[number].args):
                view = self._view(_placed(step.place(arg)))
                operands.setdefault(view, arg)
                source = _Source(view, step.size(arg), self.binding.heads[name])
                piece = self.binding.matrices[name, operand]
                products.append(_Product(source, register.number, piece))
        # Operands in the order of the graph, whatever else is in the stage: the same
        # sums, bit by bit, in every program.
        stacks = sorted(_stacked(products), key=lambda s: operands[s.source.number])
        for (view, width, heads), columns, pieces in stacks:
            self.terms.append(Term(view, width, heads, columns, pieces))
        for leaves in self._transposed_sums():
            self._transposed(leaves)

    def _transposed_sums(self) -> list[list[int]]:
        """Transposed products: those that one accumulator sums, then the others."""
        nodes, taken, sums = self.step.nodes, set(), []
        uses: dict[int, int] = {}
        for node in nodes[self.step.first :]:
            for arg in node.args:
                uses[arg] = uses.get(arg, 0) + 1
        for top in reversed(self.group.members):
            if nodes[top].op != "add" or top in taken:
                continue
            found = [
                leaf
                for leaf in self._summands(top, uses)
                if nodes[leaf].op == TRANSPOSED
                and leaf in self.members
                and uses[leaf] == 1
                and leaf not in taken
            ]
            if len(found) > 1:
                taken.update(found)
                sums.append(found)
        alone = [m for m in self.group.members if nodes[m].op == TRANSPOSED]
        return [*sums, *([m] for m in alone if m not in taken)]

    def _summands(self, top: int, uses: Mapping[int, int]) -> list[int]:
        """What a sum adds up, through sums of this stage that nothing else reads."""
        found, stack = [], [top]
        while stack:
            number = stack.pop()
            node = self.step.nodes[number]
            inner = node.op == "add" and number in self.members
            if inner and (number == top or uses.get(number, 0) == 1):
                stack.extend(reversed(node.args))
            else:
                found.append(number)
        return found

    def _transposed(self, leaves: Sequence[int]) -> None:
        """Products with gates' gradients, summed in the first one's accumulator."""
        nodes, (first, *others) = self.step.nodes, leaves
        self._accumulate(first, self._constant(0.0))
        self.registers.update(dict.fromkeys(others, _NONE))
        products = []
        for leaf in leaves:
            name, cotangent = nodes[leaf]["weight"], nodes[leaf].args[0]
            array, column = self.panels[cotangent]
            width, heads = self.step.size(cotangent), self.binding.heads[name]
            piece = self.binding.matrices[name, nodes[leaf]["operand"]]
            source = _Source(self._view(View(array)), width, heads)
            products.append(_Product(source, column, piece))
        register = self.registers[first].number
        for (view, width, heads), columns, pieces in _runs(products):
            term = Term(view, width, heads, (register,), pieces, True, columns[0])
            self.terms.append(term)

    def _bias(self, weight: str) -> _Register:
        pieces = self.binding.biases.get(weight, ())
        if not pieces:
            return self._constant(0.0)
        first, *others = pieces
        total = self._vector(first)
        for piece in others:
            args = total, self._vector(piece)
            total = self._row(("sum", total, piece), "add", args)
        return total

    def _accumulate(self, number: int, start: _Register) -> None:
        self.registers[number] = self._tile()
        self.accumulators.append((self.registers[number], start))

    # -- values

    def _obtain(self, number: int) -> _Register:
        """The register of a value, computed with all it reads; however deep that is."""
        stack = [number]
        while stack:
            top = stack[-1]
            missing = [a for a in self._read(top) if a not in self.registers]
            if top in self.registers or not missing:
                stack.pop()
                if top not in self.registers:
                    self.registers[top] = self._compute(top)
            else:
                stack.extend(reversed(missing))
        return self.registers[number]

    def _is_loaded(self, number: int) -> bool:
        return number not in self.here and self.step.place(number) is not None

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
            return self._load("load", step.place(number))
        if number in step.cotangents:
            first, *others = step.cotangents[number]
            total = self._load("load", first)
            for view in others:
                total = self._emit("add", (total, self._load("load", view)))
            return total
        if node.op == TOTAL:
            return self._load("total", step.place(node.args[0]))
        args = [self.registers[a] for a in step.values[number]]
        if node.op == EACH or (node.op == "sum" and step.size(node.args[0]) == 1):
            return args[0]
        return self._operate(node, args)

    def _operate(self, node: Node, args: list[_Register]) -> _Register:
        """An operation's instruction, or those of its definition."""
        op = OPS[node.op]
        if op.copies:
            return args[0]
        if node.op == "add" and _NONE in args:
            args.remove(_NONE)
            return args[0]
        if not (op.primitive or op.kernel):
            return self._define(node, args)
        if op.reduces:
            self.whole = True
            options = node.options
            heads, eps = int(options.get("heads", 1)), float(options.get("eps", 0.0))
            return self._emit(node.op, (args[0], heads, 0), eps)
        if all(arg.kind == "row" for arg in args):
            return self._row((node.op, *args), node.op, tuple(args))
        return self._emit(node.op, tuple(args))

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
        return self._row(("constant", value), "constant", (), value)

    def _vector(self, piece: Piece) -> _Register:
        index = self.vectors.setdefault(piece, len(self.vectors))
        return self._row(piece, "vector", (index,))

    def _row(
        self, key: object, op: str, args: tuple[Any, ...], immediate: float = 0.0
    ) -> _Register:
        """A row register, filled once a call; equal ones are shared."""
        if key not in self.rows:
            self.rows[key] = _Register("row", len(self.rows))
            self.prologue.append(_Line(op, self.rows[key], args, immediate))
        return self.rows[key]

    def _load(self, op: str, view: View | None) -> _Register:
        return self._emit(op, (self._view(_placed(view)),))

    def _emit(
        self, op: str, args: tuple[_Register | int, ...], immediate: float = 0.0
    ) -> _Register:
        register = self._tile()
        self.code.append(_Line(op, register, args, immediate))
        return register

    def _store(self, node: Node, value: _Register) -> None:
        if node.op == PUT:
            self.code.append(_Line("store", None, (value, self._view(node["view"]))))
        else:
            array, column = self.panels[node.args[0]]
            args = value, self._view(View(array)), column
            self.code.append(_Line("store_panel", None, args))

    def _view(self, view: View) -> int:
        return self.views.setdefault(view, len(self.views))

    def _tile(self) -> _Register:
        self.tiles += 1
        return _Register("tile", self.tiles - 1)

    # -- registers

    def _packed(self) -> Stage:
        """The stage; its row registers are numbered after its tiles."""
        code, tiles = _reuse_tiles(self.code, [a for a, _ in self.accumulators])

        def number(arg: _Register | int) -> int:
            if not isinstance(arg, _Register):
                return arg
            return arg.number + (tiles if arg.kind == "row" else 0)

        def instruction(line: _Line) -> Instruction:
            target = -1 if line.target is None else number(line.target)
            args = tuple(map(number, line.args))
            return Instruction(line.op, target, args, line.immediate)

        return Stage(
            units=self.group.units,
            tiles=tiles,
            row_registers=len(self.rows),
            views=tuple(self.views),
            vectors=tuple(self.vectors),
            accumulators=tuple(
                Accumulator(number(a), number(s)) for a, s in self.accumulators
            ),
            terms=tuple(self.terms),
            prologue=tuple(map(instruction, self.prologue)),
            code=tuple(map(instruction, code)),
            whole=self.whole,
            when=self.group.when,
            axis=self.group.axis,
        )


def _reuse_tiles(
    code: Sequence[_Line], accumulators: Sequence[_Register]
) -> tuple[list[_Line], int]:
    """The code over few tiles, and how many: a tile is free once its value has been
    read for the last time. Accumulators keep their numbers, which come first."""
    last = {arg: at for at, line in enumerate(code) for arg in _tiles(line.args)}
    home = {tile: tile for tile in accumulators}
    count = len(home)
    free = [tile for tile in accumulators if tile not in last]
    packed = []
    for at, line in enumerate(code):
        args = tuple(home.get(a, a) for a in line.args)  # type: ignore[arg-type]
        free += [home[a] for a in dict.fromkeys(_tiles(line.args)) if last[a] == at]
        target = line.target
        if target is not None:
            if not free:
                free.append(_Register("tile", count))
                count += 1
            home[target] = free.pop()
            if target not in last:
                free.append(home[target])
            target = home[target]
        packed.append(line._replace(target=target, args=args))
    return packed, max(count, 1)


def _tiles(args: Sequence[_Register | int]) -> list[_Register]:
    return [a for a in args if isinstance(a, _Register) and a.kind == "tile"]


def _placed(view: View | None) -> View:
    assert view is not None, "`store` has given a place to what is loaded"
    return view


# -- products --------------------------------------------------------------------


class _Source(NamedTuple):
    """What a product reads: a view by number, its width, its diagonal blocks."""

    number: int
    width: int
    heads: int


class _Product(NamedTuple):
    """A matrix on a source; its column is an accumulator, or one of a panel."""

    source: _Source
    column: int
    piece: Piece


class _Stack(NamedTuple):
    """Products of one source, side by side."""

    source: _Source
    columns: tuple[int, ...]
    pieces: tuple[Piece, ...]


def _stacked(products: Sequence[_Product]) -> list[_Stack]:
    """Products of one source as one; no column twice in one."""
    seen: Counter[tuple[_Source, int]] = Counter()
    stacks: dict[tuple[_Source, int], list[_Product]] = {}
    for product in products:
        key = product.source, product.column
        stacks.setdefault((product.source, seen[key]), []).append(product)
        seen[key] += 1
    return [
        _Stack(source, tuple(p.column for p in found), tuple(p.piece for p in found))
        for (source, _), found in stacks.items()
    ]


def _runs(products: Sequence[_Product]) -> list[_Stack]:
    """The same for columns of a panel: only neighbours stack."""
    found: list[_Stack] = []
    for source, columns, pieces in _stacked(products):
        pairs = sorted(zip(columns, pieces, strict=True), key=lambda pair: pair[0])
        start = 0
        for end in range(1, len(pairs) + 1):
            if end == len(pairs) or pairs[end][0] != pairs[end - 1][0] + 1:
                of_run = zip(*pairs[start:end], strict=True)
                found.append(_Stack(source, *of_run))
                start = end
    return found


# -- gradients of weights ----------------------------------------------------------


def emit_gradients(
    vjp: VectorJacobian, stored: Stored, binding: Binding
) -> tuple[Gradient, ...]:
    """Of matrices: gates' gradients times operands."""
    step, products = stored.step, []
    sources: dict[tuple[int, View], int] = {}
    for affine, cotangent in vjp.affines:
        node = vjp.forward.nodes[affine]
        name, (panel, column) = node["weight"], stored.panels[cotangent]
        for operand, arg in enumerate(node.args):
            source = panel, _placed(step.place(arg))
            number, width = sources.setdefault(source, len(sources)), step.size(arg)
            key = _Source(number, width, binding.heads[name])
            products.append(_Product(key, column, binding.matrices[name, operand]))
    by_number = list(sources)
    found = []
    for (number, width, heads), columns, pieces in _runs(products):
        panel, source = by_number[number]
        found.append(Gradient(panel, columns[0], source, width, heads, pieces))
    return tuple(found)


def emit_reductions(
    vjp: VectorJacobian,
    summed: Sequence[tuple[int, str]],
    stored: Stored,
    binding: Binding,
) -> tuple[Reduction, ...]:
    """Of vectors, numbers and biases: sums over rows.

    Args:
        summed: (cotangent, weight) of vectors and numbers.
    """
    of_vectors = [(c, binding.vectors[weight]) for c, weight in summed]
    of_biases = [
        (cotangent, piece)
        for affine, cotangent in vjp.affines
        for piece in binding.biases.get(vjp.forward.nodes[affine]["weight"], ())
    ]
    return tuple(Reduction(*stored.panels[c], p) for c, p in of_vectors + of_biases)
