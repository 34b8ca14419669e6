"""One step as stages: which values are computed together, and the code of each.

A stage computes values of one size. It begins with matrix products, whose operands
must stand in memory; so a product of a value of this step starts a later stage. What
a later stage needs is stored, or computed again where that takes pointwise work alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..language import OPS, Node
from ..language.expand import definition
from ..language.graph import AFFINE, COTANGENT, EACH, TOTAL, TRANSPOSED, per_child
from .program import EVERY, Array, Instruction, Piece, Stage, Term, View

PUT = "put"  # a node that stores its first argument in an array; `View` in its attrs
PANEL = "panel"  # a node that stores a gate's gradient in its stage's panel
ROW_LEAVES = ("constant", "weight")
PRODUCTS = (AFFINE, TRANSPOSED)
RECOMPUTED = 12  # operations that are done again rather than stored


@dataclass(frozen=True)
class Binding:
    """Where a cell's weights lie in the parameters that a call passes.

    Attributes:
        parameters: name and number of elements of each, contiguous.
        matrices: (weight, operand) → the columns that meet this operand.
        biases: weight → vectors whose sum is the bias.
        vectors: weight → the vector, or the number (stride 0).
        heads: weight → its diagonal blocks.
    """

    parameters: tuple[tuple[str, int], ...]
    matrices: Mapping[tuple[str, int], Piece]
    biases: Mapping[str, tuple[Piece, ...]]
    vectors: Mapping[str, Piece]
    heads: Mapping[str, int]


@dataclass
class Step:
    """What a walk does at one level: nodes, where leaves lie, what is stored where.

    Attributes:
        nodes: arguments first; `PUT` and `PANEL` nodes are the results.
        binding: the weights.
        arrays: those of the caller first; the stager adds scratch.
        places: node → where its value stands before the step, or once it is put.
        first: nodes before this one are computed again where they are needed (the
            forward nodes of a backward step).
        ready: nodes whose values stand in memory before the step.
        cotangents: node of a cotangent → the views whose sum it is.
        scratch: kind of rows of a value that one stage leaves to another.
        panels: cotangent → (panel array, column), once there are stages.
        many: a tree cell that sums over its children.
    """

    nodes: list[Node]
    binding: Binding
    arrays: list[Array]
    places: dict[int, View]
    first: int = 0
    ready: frozenset[int] = frozenset()
    cotangents: dict[int, tuple[View, ...]] = field(default_factory=dict)
    scratch: str = "rolling"
    panels: dict[int, tuple[int, int]] = field(default_factory=dict)
    many: bool = False
    panel_nodes: dict[int, int] = field(default_factory=dict)  # cotangent → its PANEL
    _known_axes: list[bool] = field(default_factory=list)

    def add(self, op: str, args: tuple[int, ...], size: int, **attrs: object) -> int:
        self.nodes.append(Node(op, args, tuple(sorted(attrs.items())), size))
        if op == PANEL:
            self.panel_nodes[args[0]] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def put(self, node: int, view: View, after: tuple[int, ...] = ()) -> int:
        """Store a value; `after` are nodes that must be computed before."""
        size = self.arrays[view.array].columns
        return self.add(PUT, (node, *after), size, view=view)

    def scratch_array(self, name: str, columns: int, axis: str = "node") -> View:
        self.arrays.append(Array(name, self.scratch, columns, scratch=True, axis=axis))
        return View(len(self.arrays) - 1)

    # -- nodes

    def size(self, number: int) -> int:
        return int(self.nodes[number].size)

    def values(self, number: int) -> tuple[int, ...]:
        """The arguments whose values an operation reads."""
        node = self.nodes[number]
        return node.args[:1] if node.op in (PUT, PANEL, "spread") else node.args

    def axis(self, number: int) -> str:
        """The rows of a value: one for the node, or one for each of its children."""
        node = self.nodes[number]
        if not self.many:
            return "node"
        if node.op == PUT:
            view = node["view"]
            own = "child" if view.slot == EVERY else "node"
            return own if view.previous else self.arrays[view.array].axis
        return "child" if self._of_child[number] else "node"

    @property
    def _of_child(self) -> list[bool]:
        if len(self._known_axes) != len(self.nodes):
            self._known_axes = per_child(self.nodes, self.many)
        return self._known_axes

    def units(self, number: int) -> int | None:
        """The units of the stage that can compute a node; `None`: any."""
        node = self.nodes[number]
        if node.op in OPS and OPS[node.op].reduces:
            return self.size(node.args[0])
        if node.op in (AFFINE, TRANSPOSED, PANEL, COTANGENT) or self.size(number) > 1:
            return self.size(number)
        return None

    def ready_made(self, number: int) -> bool:
        """Whether no stage has to compute it first."""
        node = self.nodes[number]
        if number < self.first:  # a forward node: loaded, or computed again
            return True
        return number in self.ready or node.op in ROW_LEAVES

    def awaited(self, number: int) -> list[int]:
        """The arguments that a stage has to make first."""
        node = self.nodes[number]
        args = self.values(number) if node.op == "spread" else node.args
        # A product reads memory, so a weight that it maps must be stored for it.
        stored = ROW_LEAVES if node.op == AFFINE else ()
        return [
            a
            for a in args
            if not self.ready_made(a)
            or (self.nodes[a].op in stored and a not in self.places)
        ]

    def obtainable(self, number: int, stage: int, stage_of: Mapping[int, int]) -> bool:
        """Whether a stage can have a value without its being stored for it."""
        left = RECOMPUTED

        def reach(n: int) -> bool:
            nonlocal left
            node = self.nodes[n]
            if n in self.places or node.op in ROW_LEAVES or stage_of.get(n) == stage:
                return True
            left -= 1
            known = node.op in OPS and not OPS[node.op].reduces
            pointwise = known or node.op == EACH
            return pointwise and left >= 0 and all(map(reach, self.values(n)))

        return reach(number)


@dataclass
class _Group:
    """A stage before its code is written."""

    units: int
    axis: str
    when: str
    members: list[int] = field(default_factory=list)


def make_stages(
    step: Step,
    roots: Sequence[int],
    late: Sequence[int] = (),
    when: str = "level",
    first: int = 0,
) -> list[Stage]:
    """The stages of a step.

    Args:
        step: its scratch arrays and the panels are added.
        roots: the `PUT` and `PANEL` nodes of the step.
        late: `PUT` nodes that nothing waits for: one pass after each chunk of levels.
        when: the roots' stages run, as in `Stage`.
        first: the program's number of the first of these stages.
    """
    groups: list[_Group] = []
    stage_of: dict[int, int] = {}
    _schedule(step, _needed(step, roots), when, groups, stage_of)
    _schedule(step, _needed(step, late, stage_of), "after_chunk", groups, stage_of)
    _make_panels(step, groups, first)
    _store_crossing(step, groups, stage_of)
    return [_Writer(step, group).stage() for group in groups]


def _needed(step: Step, roots: Iterable[int], done: Iterable[int] = ()) -> list[int]:
    """What has to be computed for the roots, arguments first."""
    found = set(done)
    order: list[int] = []
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        number, complete = stack.pop()
        if complete:
            order.append(number)
        elif number not in found:
            found.add(number)
            stack.append((number, True))
            stack.extend((arg, False) for arg in reversed(list(step.awaited(number))))
    return order


def _schedule(
    step: Step,
    pending: list[int],
    when: str,
    groups: list[_Group],
    stage_of: dict[int, int],
) -> None:
    """Put each node into the earliest stage of its size."""

    def can_start(number: int, here: Iterable[int]) -> bool:
        node = step.nodes[number]
        if node.op == TRANSPOSED:
            source = step.panel_nodes[node.args[0]]
            return source in stage_of and source not in here
        return all(
            a in stage_of and not (node.op == AFFINE and a in here)
            for a in step.awaited(number)
        )

    while pending:
        ready = [n for n in pending if can_start(n, ())]
        first = next((n for n in ready if step.units(n) is not None), ready[0])
        group = _Group(step.units(first) or 1, step.axis(first), when)
        here: set[int] = set()
        for number in pending:
            fits = step.units(number) in (None, group.units)
            fits = fits and step.axis(number) == group.axis
            if fits and can_start(number, here):
                here.add(number)
                stage_of[number] = len(groups)
                group.members.append(number)
        assert here, "a step's nodes must come in order"
        groups.append(group)
        pending = [n for n in pending if n not in here]


def _make_panels(step: Step, groups: list[_Group], first: int) -> None:
    """One panel array for each stage that puts anything into one."""
    for number, group in enumerate(groups):
        columns = [
            step.nodes[m].args[0] for m in group.members if step.nodes[m].op == PANEL
        ]
        if not columns:
            continue
        columns = _adjacent(columns, _readers(step))
        name = f"panel.{sum(a.rows == 'panel' for a in step.arrays)}"
        step.arrays.append(
            Array(
                name,
                "panel",
                len(columns),
                stage=first + number,
                scratch=True,
                axis=group.axis,
            )
        )
        for column, cotangent in enumerate(columns):
            step.panels[cotangent] = (len(step.arrays) - 1, column)


def _readers(step: Step) -> list[set[int]]:
    """For each operand: the cotangents that its products read together."""
    sets: dict[int, set[int]] = {}
    for node in step.nodes:
        if node.op == PANEL:
            for operand in dict(node.attrs).get("operands", ()):
                sets.setdefault(operand, set()).add(node.args[0])
    return list(sets.values())


def _adjacent(columns: list[int], sets: list[set[int]]) -> list[int]:
    """An order in which what is read together stands together, if there is one."""
    from itertools import permutations

    def runs(order: Sequence[int]) -> int:
        count = 0
        for members in sets:
            flags = [c in members for c in order]
            count += sum(
                now and not before
                for before, now in zip([False, *flags], flags, strict=False)
            )
        return count

    if len(columns) > 6:
        return columns
    return list(min(permutations(columns), key=runs))


def _store_crossing(step: Step, groups: list[_Group], stage_of: dict[int, int]) -> None:
    """Store what a later stage needs and cannot obtain."""
    for stage, group in enumerate(groups):
        for member in list(group.members):
            node = step.nodes[member]
            if node.op == TRANSPOSED:
                continue
            for arg in step.values(member):
                if node.op in (AFFINE, TOTAL):
                    fine = arg in step.places
                else:
                    fine = step.obtainable(arg, stage, stage_of)
                if not fine:
                    _store(step, arg, groups, stage_of)


def _store(
    step: Step, number: int, groups: list[_Group], stage_of: dict[int, int]
) -> None:
    size, axis = step.size(number), step.axis(number)
    view = step.scratch_array(f"temporary.{len(step.arrays)}", size, axis)
    home = stage_of[number]
    put = step.put(number, view)
    stage_of[put] = home
    groups[home].members.append(put)
    step.places[number] = view


# -- code ------------------------------------------------------------------------

Register = tuple[str, int]  # ("tile" or "row", number)


class _Writer:
    """Writes one stage's code; registers are numbered once each, then packed."""

    def __init__(self, step: Step, group: _Group) -> None:
        self.step, self.group = step, group
        self.members = set(group.members)
        self.stored = {
            step.nodes[m].args[0]
            for m in group.members
            if step.nodes[m].op == PUT
            and step.places.get(step.nodes[m].args[0]) == step.nodes[m]["view"]
        }
        self.registers: dict[int, Register] = {}
        self.tiles = 0
        self.rows: dict[object, int] = {}
        self.views: list[View] = []
        self.vectors: list[Piece] = []
        self.accumulators: list[tuple[int, int]] = []
        self.terms: list[Term] = []
        self.prologue: list[Instruction] = []
        self.code: list[tuple[str, Register | None, tuple[object, ...], float]] = []
        self.whole = False

    def stage(self) -> Stage:
        self._products()
        nodes = self.step.nodes
        results = [m for m in self.group.members if nodes[m].op in (PUT, PANEL)]
        # What the walk carries from level to level is overwritten last.
        carried = [m for m in results if self._carries(m)]
        for member in results:
            if member not in carried:
                self._store(member, self._obtain(nodes[member].args[0]))
        values = [self._obtain(nodes[m].args[0]) for m in carried]
        for member, value in zip(carried, values, strict=True):
            self._store(member, value)
        return self._finish()

    def _carries(self, member: int) -> bool:
        node = self.step.nodes[member]
        return node.op == PUT and node["view"].previous

    # -- products

    def _products(self) -> None:
        nodes = self.step.nodes
        affines = [m for m in self.group.members if nodes[m].op == AFFINE]
        for number in affines:
            self._accumulator(number, self._bias(nodes[number]["weight"]))
        entries = []
        operands: dict[int, int] = {}  # view -> node
        for number in affines:
            name = nodes[number]["weight"]
            for operand, arg in enumerate(nodes[number].args):
                view = self.step.places[arg]
                key = (self._view(view), self.step.size(arg), self._heads(name))
                operands.setdefault(key[0], arg)
                piece = self.step.binding.matrices[name, operand]
                entries.append((key, self.registers[number][1], piece))
        # Operands in the order of the graph, whatever else is in the stage: the same
        # sums, bit by bit, in every program.
        stacked = sorted(_stack(entries), key=lambda s: operands[s[0][0]])
        for (view, width, heads), columns, pieces in stacked:
            self.terms.append(Term(view, width, heads, columns, pieces))
        for leaves, result in self._sums():
            self._transposed(leaves, result)

    def _sums(self) -> list[tuple[list[int], int]]:
        """Transposed products, and the sums of them that one accumulator takes."""
        nodes, groups = self.step.nodes, []
        taken: set[int] = set()
        uses: dict[int, int] = {}
        for node in nodes[self.step.first :]:
            for arg in node.args:
                uses[arg] = uses.get(arg, 0) + 1

        def leaves(top: int) -> list[int]:
            found, stack = [], [top]
            while stack:
                number = stack.pop()
                node = nodes[number]
                inner = node.op == "add" and number in self.members
                if inner and (number == top or uses.get(number, 0) == 1):
                    stack.extend(reversed(node.args))
                else:
                    found.append(number)
            return found

        for top in reversed(self.group.members):
            if top in taken or nodes[top].op != "add":
                continue
            found = [
                x
                for x in leaves(top)
                if nodes[x].op == TRANSPOSED and x in self.members and uses[x] == 1
                and x not in taken
            ]  # fmt: skip
            if len(found) > 1:
                taken.update(found)
                groups.append((found, found[0]))
        for number in self.group.members:
            if nodes[number].op == TRANSPOSED and number not in taken:
                groups.append(([number], number))
        return groups

    def _transposed(self, leaves: list[int], result: int) -> None:
        nodes = self.step.nodes
        self._accumulator(result, self._constant(0.0))
        register = self.registers[result][1]
        for other in leaves[1:]:  # their share is in the first's accumulator
            self.registers[other] = ("nothing", 0)
        entries = []
        for leaf in leaves:
            name, cotangent = nodes[leaf]["weight"], nodes[leaf].args[0]
            array, column = self.step.panels[cotangent]
            key = (
                self._view(View(array)),
                self.step.size(cotangent),
                self._heads(name),
            )
            piece = self.step.binding.matrices[name, nodes[leaf]["operand"]]
            entries.append((key, column, piece))
        for (view, width, heads), columns, pieces in runs(entries):
            term = Term(view, width, heads, (register,), pieces, True, columns[0])
            self.terms.append(term)

    def _heads(self, weight: str) -> int:
        return self.step.binding.heads[weight]

    def _bias(self, weight: str) -> Register:
        pieces = self.step.binding.biases.get(weight, ())
        if not pieces:
            return self._constant(0.0)
        total = self._vector(pieces[0])
        for piece in pieces[1:]:
            total = self._row(
                ("sum", total, piece), "add", (total, self._vector(piece))
            )
        return total

    def _accumulator(self, number: int, start: Register) -> None:
        self.registers[number] = ("tile", self.tiles)
        self.accumulators.append((self.tiles, start[1]))
        self.tiles += 1

    # -- values

    def _obtain(self, number: int) -> Register:
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

    def _read(self, number: int) -> tuple[int, ...]:
        """The values that have to be in registers to compute one."""
        step = self.step
        here = number in self.members or number in self.stored
        loaded = number in step.cotangents or (number in step.places and not here)
        if loaded or step.nodes[number].op == TOTAL:
            return ()
        return step.values(number)

    def _compute(self, number: int) -> Register:
        node, step = self.step.nodes[number], self.step
        if node.op == "constant":
            return self._constant(float(node["value"]))
        if node.op == "weight":
            return self._vector(step.binding.vectors[node["weight"]])
        here = number in self.members or number in self.stored
        if number in step.places and not here:
            return self._emit("load", (self._view(step.places[number]),))
        if number in step.cotangents:
            first, *others = step.cotangents[number]
            total = self._emit("load", (self._view(first),))
            for view in others:
                more = self._emit("load", (self._view(view),))
                total = self._emit("add", (total, more))
            return total
        if node.op == TOTAL:
            return self._emit("total", (self._view(step.places[node.args[0]]),))
        if node.op == EACH:
            return self._obtain(node.args[0])
        assert node.op in OPS, f"{node.op} cannot be computed in a stage's code"
        args = [self._obtain(a) for a in step.values(number)]
        if node.op == "sum" and step.size(node.args[0]) == 1:
            return args[0]
        return self._operate(node, args)

    def _operate(self, node: Node, args: list[Register]) -> Register:
        """An operation's instruction, or those of its definition."""
        op = OPS[node.op]
        if node.op in ("identity", "spread"):
            return args[0]
        if node.op == "add" and ("nothing", 0) in args:
            args.remove(("nothing", 0))
            return args[0]
        if not (op.primitive or op.kernel):
            return self._defined(node, args)
        if op.reduces:
            return self._reduce(node, args[0])
        if all(kind == "row" for kind, _ in args):
            return self._row((node.op, *args), node.op, tuple(args))
        return self._emit(node.op, tuple(args))

    def _defined(self, node: Node, args: list[Register]) -> Register:
        nodes, result = definition(node.op, node.attrs)
        values: list[Register] = []
        for part in nodes:
            if part.op == "input":
                values.append(args[int(part["name"])])
            elif part.op == "constant":
                values.append(self._constant(part["value"]))
            else:
                values.append(self._operate(part, [values[a] for a in part.args]))
        return values[result]

    def _reduce(self, node: Node, arg: Register) -> Register:
        self.whole = True
        options = node.options
        heads = int(options.get("heads", 1))
        return self._emit(node.op, (arg, heads, 0), float(options.get("eps", 0.0)))

    def _constant(self, value: float) -> Register:
        return self._row(("constant", value), "constant", (), value)

    def _vector(self, piece: Piece) -> Register:
        if piece not in self.vectors:
            self.vectors.append(piece)
        return self._row(piece, "vector", (self.vectors.index(piece),))

    def _row(
        self, key: object, op: str, args: tuple[object, ...], value: float = 0.0
    ) -> Register:
        """A row register, filled once a call; equal ones are shared."""
        if key not in self.rows:
            self.rows[key] = len(self.rows)
            self.prologue.append(Instruction(op, self.rows[key], args, value))  # type: ignore[arg-type]
        return ("row", self.rows[key])

    def _emit(self, op: str, args: tuple[object, ...], value: float = 0.0) -> Register:
        register = ("tile", self.tiles)
        self.tiles += 1
        self.code.append((op, register, args, value))
        return register

    def _store(self, member: int, value: Register) -> None:
        node = self.step.nodes[member]
        if node.op == PUT:
            args: tuple[object, ...] = (value, self._view(node["view"]))
            self.code.append(("store", None, args, 0.0))
        else:
            array, column = self.step.panels[node.args[0]]
            args = (value, self._view(View(array)), column)
            self.code.append(("store_panel", None, args, 0.0))

    def _view(self, view: View) -> int:
        if view not in self.views:
            self.views.append(view)
        return self.views.index(view)

    # -- registers

    def _finish(self) -> Stage:
        """Reuse a tile once its value has been read for the last time."""
        last: dict[int, int] = {}
        for at, (_, _, args, _) in enumerate(self.code):
            for kind, register in self._registers(args):
                if kind == "tile":
                    last[register] = at
        home = {tile: tile for tile, _ in self.accumulators}
        count = len(home)
        free: list[int] = [home[t] for t in home if t not in last]
        code: list[tuple[str, int, tuple[object, ...], float]] = []
        for at, (op, target, args, value) in enumerate(self.code):
            placed = tuple(self._place(a, home) for a in args)
            for kind, register in dict.fromkeys(self._registers(args)):
                if kind == "tile" and last[register] == at:
                    free.append(home[register])
            number = -1
            if target is not None:
                if not free:
                    free.append(count)
                    count += 1
                number = home[target[1]] = free.pop()
                if target[1] not in last:
                    free.append(number)
            code.append((op, number, placed, value))
        tiles = max(count, 1)

        def settle(args: tuple[object, ...]) -> tuple[int, ...]:
            return tuple(
                tiles + a[1] if isinstance(a, tuple) else a  # type: ignore[misc]
                for a in args
            )

        return Stage(
            units=self.group.units,
            tiles=tiles,
            row_registers=len(self.rows),
            views=tuple(self.views),
            vectors=tuple(self.vectors),
            accumulators=tuple((t, tiles + r) for t, r in self.accumulators),
            terms=tuple(self.terms),
            prologue=tuple(
                replace(i, dst=tiles + i.dst, args=settle(i.args))
                for i in self.prologue
            ),
            code=tuple(Instruction(op, n, settle(args), v) for op, n, args, v in code),
            whole=self.whole,
            when=self.group.when,
            axis=self.group.axis,
        )

    @staticmethod
    def _registers(args: tuple[object, ...]) -> list[Register]:
        return [a for a in args if isinstance(a, tuple)]

    @staticmethod
    def _place(arg: object, home: Mapping[int, int]) -> object:
        """A tile's final number; row registers are numbered when tiles are counted."""
        if isinstance(arg, tuple) and arg[0] == "tile":
            return home[arg[1]]
        return arg


Entry = tuple[tuple[int, int, int], int, Piece]
Stacked = tuple[tuple[int, int, int], tuple[int, ...], tuple[Piece, ...]]


def _stack(entries: Sequence[Entry]) -> list[Stacked]:
    """Products of one source, side by side; no register twice in one."""
    stacked: dict[tuple[object, ...], list[tuple[int, Piece]]] = {}
    for key, column, piece in entries:
        turn = 0
        while any(c == column for c, _ in stacked.get((key, turn), ())):
            turn += 1
        stacked.setdefault((key, turn), []).append((column, piece))
    return [
        (key[0], tuple(c for c, _ in items), tuple(p for _, p in items))  # type: ignore[misc]
        for key, items in stacked.items()
    ]


def runs(entries: Sequence[Entry]) -> list[Stacked]:
    """The same for sources that are columns of a panel: only neighbours stack."""
    out: list[Stacked] = []
    for key, columns, pieces in _stack(entries):
        order = sorted(range(len(columns)), key=lambda i: columns[i])
        start = 0
        for i in range(1, len(order) + 1):
            broken = i == len(order) or columns[order[i]] != columns[order[i - 1]] + 1
            if broken:
                chosen = order[start:i]
                out.append(
                    (key, tuple(columns[j] for j in chosen),
                     tuple(pieces[j] for j in chosen))
                )  # fmt: skip
                start = i
    return out
