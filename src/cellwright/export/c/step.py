"""One block's step as a C function."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ...compiler.matrices import matrix_of, read
from ...language.graph import AFFINE, Graph, Node
from .blocks import Block
from .operations import ELEMENTWISE as TEXT
from .operations import REDUCTIONS
from .stages import ELEMENTWISE, INSIDE, LEAF, WHOLE, stages_of
from .values import Tables, identifier, literal


class StepWriter:
    """Writes the step of a block: `@_block{index}`.

    Args:
        block: whose.
        index: its number in the model.
        fields: the fields of the model's state that are this block's, one a state.
        tables: takes the weights.
    """

    def __init__(
        self, block: Block, index: int, fields: Sequence[str], tables: Tables
    ) -> None:
        self.block, self.index, self.tables = block, index, tables
        self.graph, self.stages = block.graph, stages_of(block.graph)
        names = [s.name for s in self.graph.states]
        self.states = dict(zip(names, fields, strict=True))
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
        loop = "    int j;\n" if "(j = 0;" in body else ""
        return (
            f"static void @_block{self.index}({self._parameters()}) {{\n"
            f"{loop}{unused}{body}\n}}\n"
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
                name = f"{identifier(node['weight'])}_{self.index}"
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
            if self._size(number) == 1:
                self.scalars[number] = _at(self.places[number], "0")

    def _reduction(self, number: int) -> None:
        node = self.graph.nodes[number]
        target, arg = self._local(number), node.args[0]
        sources = [self._place(a) for a in read(node)]
        self.lines.append(f"float {target}[{int(node.size)}];")
        made = REDUCTIONS[node.op].format(
            target, *sources, **_sizes(self.graph, node, self._size(arg))
        )
        self.lines.append(made)
        self.places[number] = target

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
        label = f"{label if len(label) < 40 else label[:40]}_{self.index}"
        begins, matrices = self._biases(weights, sizes, label), []
        # What is no state is known before the last step ends: it goes first.
        operands = sorted(
            enumerate(nodes[0].args), key=lambda pair: pair[1] in self._old_states
        )
        for k, operand in operands:
            parts = [self.block.matrix(weight, k) for weight in weights]
            matrix = np.concatenate(parts, 1)  # (heads, rows, columns)
            table = self.tables.add(f"W{k}_{label}", matrix.transpose(0, 2, 1), True)
            if operand in self.scalars:
                begins.append(f"{table}[j] * {self.scalars[operand]}")
            else:
                matrices.append((table, self.places[operand], matrix.shape))
        plain = not any(" * " in begin for begin in begins)
        begin = " + ".join(begins) or "0.0f"
        self._loop(rows, [f"{target}[j] = {begin}{' * one' if plain else ''};"])
        for table, x, shape in matrices:
            self._add(target, table, x, shape)

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

    def _add(self, y: str, w: str, x: str, shape: tuple[int, ...]) -> None:
        heads, rows, columns = shape
        if heads == 1:
            self.lines.append(f"@_add({y}, {w}, {x}, {rows}, {columns});")
            return
        self.lines += [
            f"for (j = 0; j < {heads}; ++j)",
            f"    @_add({y} + j * {rows}, {w} + j * {rows * columns}, "
            f"{x} + j * {columns}, {rows}, {columns});",
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
                name = f"result_{k}"  # read before another result is stored
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


def _at(place: str, index: str) -> str:
    """A unit of what lies there: `sums[8 + j]`."""
    array, _, start = place.partition(" + ")
    return f"{array}[{start} + {index}]" if start else f"{array}[{index}]"
