"""One block's step as a C function."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ...compiler.matrices import matrix_of, read
from ...language.graph import AFFINE, ATTENTION, Graph, Node
from .blocks import Block
from .int8 import is_stored_in_int8, quantised
from .items import MADE, OVER_ITEMS, around_items
from .operations import ELEMENTWISE as TEXT
from .operations import REDUCTIONS
from .stages import ELEMENTWISE, INSIDE, LEAF, WHOLE, stages_of
from .values import ATTEND_ITEM, STEP, STEP_ITEM, Tables, identifier, literal


class ItemPlaces(NamedTuple):
    """Where a block's items lie.

    Attributes:
        values: of what each item has, by name; one item's after another's.
        counts: of how many items there are, by set.
        most: how many there may be, by set.
    """

    values: Mapping[str, str]
    counts: Mapping[str, str]
    most: Mapping[str, int]


class StepWriter:
    """Writes a graph of a block as a function: `@_block{label}`.

    Attributes:
        work: when its products are made.
        work_of_items: when those of each item are.

    Args:
        block: whose weights it reads.
        graph: its step, or a part of it.
        label: its number in the model, and the part.
        fields: the fields of the model's state that are this block's, by state.
        tables: takes the weights.
        items: where they lie, of a graph with items.
    """

    work, work_of_items = STEP, STEP_ITEM

    def __init__(
        self,
        block: Block,
        graph: Graph,
        label: str,
        fields: Mapping[str, str],
        tables: Tables,
        items: ItemPlaces | None = None,
    ) -> None:
        around = around_items(graph)
        self.block, self.label, self.tables = block, label, tables
        self.graph, self.each, self.items = around.graph, around.each, items
        self.stages, self.states = stages_of(self.graph), fields
        self.functions: list[str] = []  # of one item
        self.places: dict[int, str] = {}  # where a value's units lie
        self.scalars: dict[int, str] = {}  # of values of one unit
        self.names = {n: f"{identifier(k)}_{n}" for k, n in self.graph.names}
        self._old_states = {
            n for n, node in enumerate(self.graph.nodes) if node.op == "state"
        }
        self.lines: list[str] = []

    # -- the function

    def function(self) -> str:
        """Its text."""
        for number, node in enumerate(self.graph.nodes):
            used = self.stages.stage[number] is not None
            if used and self.stages.kinds[number] == LEAF:
                self._leaf(number, node)
        for stage in range(self.stages.count):
            self._wholes(self.stages.nodes(stage, WHOLE))
            self._loops(stage)
        if any("* one;" in line for line in self.lines):
            self.lines.insert(0, "const float one = @_one;")
        body = "\n".join(f"    {line}" for line in self.lines)
        unused = "".join(
            f"    (void){name};\n"
            for name in self.arguments()
            if not re.search(rf"\b{name}\b", body)
        )
        loops = ", ".join(name for name in "jk" if f"({name} = 0;" in body)
        declared = f"    int {loops};\n" if loops else ""
        return "\n".join(
            [
                *self.functions,
                f"static void @_block{self.label}({self._parameters()}) {{\n"
                f"{declared}{unused}{body}\n}}\n",
            ]
        )

    def arguments(self) -> list[str]:
        """The names of its inputs; no value made here is called that."""
        named = [f"{identifier(i.name)}_in" for i in self.graph.inputs[1:]]
        return ["x", *named]

    def _parameters(self) -> str:
        state = ["@_state *@@_RESTRICT s"] if self.graph.states else []
        inputs = [f"const float *@@_RESTRICT {name}" for name in self.arguments()]
        return ", ".join([*state, *inputs, "float *@@_RESTRICT y"])

    # -- values

    def _size(self, number: int) -> int:
        return int(self.graph.nodes[number].size)

    def _leaf(self, number: int, node: Node) -> None:
        if node.op == "constant":
            self.scalars[number] = literal(float(node["value"]))
            return
        if node.op == "weight":
            values = self.block.vector(node["weight"])
            if values.size == 1:
                self.scalars[number] = literal(float(values[0]))
            else:
                name = f"{identifier(node['weight'])}_{self.label}"
                self.places[number] = self.tables.add(name, values)
        elif node.op == "input":
            names = [i.name for i in self.graph.inputs]
            self.places[number] = self.arguments()[names.index(node["name"])]
        else:
            self.places[number] = f"s->{self.states[node['name']]}"
        if self._size(number) == 1 and number in self.places:
            # Before anything is written: what has one unit is read by every loop.
            name = self._local(number)
            self.lines.append(f"const float {name} = {self.places.pop(number)}[0];")
            self.scalars[number] = name

    def _local(self, number: int) -> str:
        return self.names.get(number, f"v{number}")

    def _unit(self, number: int, made: Sequence[int] = ()) -> str:
        """A value's unit j; `made` are the values that this loop has made."""
        if number in self.scalars:
            return self.scalars[number]
        if number in made:
            return self._local(number)
        return _at(self.places[number], "j")

    def _text(self, number: int, made: Sequence[int] = ()) -> str:
        """An element-by-element operation as C."""
        node = self.graph.nodes[number]
        args = [
            self._text(a, made)
            if self.stages.kinds[a] == INSIDE
            else self._unit(a, made)
            for a in node.args
        ]
        return TEXT[node.op].format(*args)

    def _place(self, number: int) -> str:
        """Where a value's units lie, to be read by a function."""
        if number not in self.places:
            name = f"{self._local(number)}_whole"
            self.lines.append(f"const float {name}[1] = {{{self.scalars[number]}}};")
            self.places[number] = name
        return self.places[number]

    # -- what reads all units

    def _wholes(self, numbers: Sequence[int]) -> None:
        nodes = self.graph.nodes
        affines = [n for n in numbers if nodes[n].op == AFFINE]
        for number in numbers:
            if number not in affines:
                self._reduction(number)

        # Gates that read the same operands are one matrix, but for block-diagonal ones.
        def key(n: int) -> tuple[int, ...]:
            single = self.block.heads(nodes[n]["weight"]) > 1
            return (*nodes[n].args, n if single else 0)

        for _, group in groupby(sorted(affines, key=key), key=key):
            self._product(list(group))
        for number in numbers:
            several = nodes[number].op in (ATTENTION, MADE)
            if self._size(number) == 1 and not several:
                self.scalars[number] = _at(self.places[number], "0")

    def _reduction(self, number: int) -> None:
        node = self.graph.nodes[number]
        if node.op in OVER_ITEMS:
            self._over_items(number, node)
            return
        target, arg = self._local(number), node.args[0]
        sources = [self._place(a) for a in read(node)]
        self.lines.append(f"float {target}[{int(node.size)}];")
        made = REDUCTIONS[node.op].format(
            target, *sources, **_sizes(self.graph, node, self._size(arg))
        )
        self.lines.append(made)
        self.places[number] = target

    def _over_items(self, number: int, node: Node) -> None:
        """What each item has, by a function of its own, and what is made of it."""
        each, items, name = self.each[number], self.items, self._local(number)
        assert items is not None
        label, size = f"{self.label}_each{number}", int(node.size)
        writer = StepWriter(self.block, each.graph, label, {}, self.tables)
        writer.work = self.work_of_items
        self.functions.append(writer.function())
        given = [
            f"{items.values[a]} + k * {own.size}"
            if isinstance(a, str)
            else self._of_item(a)
            for a, own in zip(each.given, each.graph.inputs, strict=True)
        ]
        call, count = f"@_block{label}({', '.join(given)}", items.counts[each.set]
        loop = f"for (k = 0; k < {count}; ++k)"
        if node.op == MADE:
            self.places[number] = items.values[each.name]
            place = f"{self.places[number]} + k * {size}"
            self.lines += [loop, f"    {call}, {place});"]
            return
        self.places[number] = name
        if node.op == ATTENTION:
            self.lines += [
                f"float {name}[{items.most[each.set] * size}];",
                loop,
                f"    {call}, {name} + k * {size});",
                f"@_attention({name}, {count}, {size});",
            ]
            return
        self.lines += [f"float {name}[{size}], {name}_item[{size}];"]
        self._loop(size, [f"{name}[j] = 0.0f;"])
        self.lines += [
            f"{loop} {{",
            f"    {call}, {name}_item);",
            f"    for (j = 0; j < {size}; ++j) {name}[j] += {name}_item[j];",
            "}",
        ]

    def _of_item(self, number: int) -> str:
        """Where a value of the row lies, or of an attention the item's."""
        place = self._place(number)
        several = self.graph.nodes[number].op == ATTENTION
        return f"{place} + k * {self._size(number)}" if several else place

    def _product(self, group: Sequence[int]) -> None:
        """Affines of the same operands into one array."""
        nodes = [self.graph.nodes[n] for n in group]
        weights = [node["weight"] for node in nodes]
        sizes = [int(node.size) for node in nodes]
        target, rows = f"sums_{group[0]}", sum(sizes)
        for number, start in zip(group, np.cumsum([0, *sizes]), strict=False):
            self.places[number] = f"{target} + {start}" if start else target
        self.lines.append(f"float {target}[{rows}];")
        label = f"{'_'.join(map(identifier, weights))}"
        label = f"{label if len(label) < 40 else label[:40]}_{self.label}"
        begins, matrices = self._biases(weights, sizes, label), []
        # What is no state is known before the last step ends: it goes first.
        operands = sorted(
            enumerate(nodes[0].args), key=lambda pair: pair[1] in self._old_states
        )
        for k, operand in operands:
            parts = [self.block.matrix(weight, k) for weight in weights]
            matrix = np.concatenate(parts, 1)  # (heads, rows, columns)
            name, columns = f"W{k}_{label}", matrix.transpose(0, 2, 1)
            if operand in self.scalars:
                table = self.tables.add(name, columns, self.work)
                begins.append(f"{table}[j] * {self.scalars[operand]}")
            elif self.tables.int8 and is_stored_in_int8(matrix):
                numbers, scale = quantised(matrix)
                table = self.tables.add(name, numbers.transpose(0, 2, 1), self.work)
                scales = self.tables.add(f"scale_{name}", scale)
                matrices.append(([table, scales], self.places[operand], matrix.shape))
            else:
                table = self.tables.add(name, columns, self.work)
                matrices.append(([table], self.places[operand], matrix.shape))
        plain = not any(" * " in begin for begin in begins)
        begin = " + ".join(begins) or "0.0f"
        self._loop(rows, [f"{target}[j] = {begin}{' * one' if plain else ''};"])
        for tables, x, shape in matrices:
            self._add(target, tables, x, shape)

    def _biases(
        self, weights: Sequence[str], sizes: Sequence[int], label: str
    ) -> list[str]:
        """What the sums of affines begin with, where one of them has a bias."""
        biases = [self.block.bias(weight) for weight in weights]
        if all(bias is None for bias in biases):
            return []
        pairs = zip(biases, sizes, strict=True)
        whole = [np.zeros(n, np.float32) if b is None else b for b, n in pairs]
        return [f"{self.tables.add(f'b_{label}', np.concatenate(whole))}[j]"]

    def _add(self, y: str, tables: list[str], x: str, shape: tuple[int, ...]) -> None:
        """A product: of a matrix, or of one in 8 bits and its scales."""
        heads, rows, columns = shape
        function = "@_add" if len(tables) == 1 else "@_add_int8"
        if heads == 1:
            given = ", ".join([y, *tables, x])
            self.lines.append(f"{function}({given}, {rows}, {columns});")
            return
        strides = (rows, rows * columns, rows)
        pairs = [*zip([y, *tables], strides, strict=False), (x, columns)]
        given = ", ".join(f"{place} + j * {stride}" for place, stride in pairs)
        self.lines += [
            f"for (j = 0; j < {heads}; ++j)",
            f"    {function}({given}, {rows}, {columns});",
        ]

    # -- what is made unit by unit

    def _loops(self, stage: int) -> None:
        numbers = self.stages.nodes(stage, ELEMENTWISE)
        results = self._results() if stage == self.stages.count - 1 else {}
        for number in numbers:
            if self._size(number) == 1:
                name = self._local(number)
                self.lines.append(f"const float {name} = {self._text(number)};")
                self.scalars[number] = name
        sizes = dict.fromkeys(self._size(n) for n in numbers if self._size(n) > 1)
        sizes |= dict.fromkeys(size for size, _ in results.values())
        for size in sizes:
            made = [n for n in numbers if self._size(n) == size and size > 1]
            wanted = {p: n for p, (s, n) in results.items() if s == size}
            self._loop(size, self._body(made, wanted))

    def _body(self, made: Sequence[int], results: dict[str, int]) -> list[str]:
        """A loop's body: values, then what is stored of them."""
        lines, stores = [], []
        for number in made:
            name = self._local(number)
            lines.append(f"const float {name} = {self._text(number, made)};")
            if self.stages.read_elsewhere(number):
                array = f"{name}_all"
                self.lines.append(f"float {array}[{self._size(number)}];")
                stores.append(f"{array}[j] = {name};")
                self.places[number] = array
        for k, (place, number) in enumerate(results.items()):
            name = self._local(number)
            if number not in made:
                # Read before another result is stored; no value is called that.
                name = f"result{k}"
                lines.append(f"const float {name} = {self._unit(number)} * one;")
            stores.append(f"{place}[j] = {name};")
        return [*lines, *stores]

    def _results(self) -> dict[str, tuple[int, int]]:
        """Places of the results: (size, node)."""
        graph = self.graph
        found = {"y": (int(graph.output_size), graph.output)}
        for state, number in zip(graph.states, graph.updates, strict=True):
            found[f"s->{self.states[state.name]}"] = (int(state.size), number)
        return found

    def _loop(self, size: int, body: Sequence[str]) -> None:
        self.lines.append(f"for (j = 0; j < {size}; ++j) {{")
        self.lines += [f"    {line}" for line in body]
        self.lines.append("}")


def _sizes(graph: Graph, node: Node, size: int) -> dict[str, object]:
    """What the call of a whole operation says of sizes; `size` is its argument's."""
    found: dict[str, object] = {"size": size, "heads": 1, **node.options}
    if node.op == "spread":
        found["width"] = int(node.size) // int(node["heads"] or 1)
    matrix = matrix_of(graph.nodes, node)
    if matrix:
        found["heads"], found["rows"], found["columns"] = matrix.blocks
    if node.op in ("sum", "spread"):
        found["heads"] = node.options.get("heads") or 1
    return found


class AttendWriter(StepWriter):
    """Writes what is made of the items before the first step: state, items -> state."""

    work = work_of_items = ATTEND_ITEM

    def __init__(
        self,
        block: Block,
        graph: Graph,
        label: str,
        fields: Mapping[str, str],
        tables: Tables,
        items: ItemPlaces,
    ) -> None:
        self.sets = {name: f"{identifier(name)}_in" for name in items.counts}
        items = items._replace(values={**items.values, **self.sets})
        super().__init__(block, graph, label, fields, tables, items)

    def arguments(self) -> list[str]:
        return list(self.sets.values())

    def _parameters(self) -> str:
        sets = [f"const float *@@_RESTRICT {name}" for name in self.arguments()]
        return ", ".join(["@_state *@@_RESTRICT s", *sets])

    def _results(self) -> dict[str, tuple[int, int]]:
        return {}


def _at(place: str, index: str) -> str:
    """A unit of what lies there: `sums[8 + j]`."""
    array, _, start = place.partition(" + ")
    return f"{array}[{start} + {index}]" if start else f"{array}[{index}]"
