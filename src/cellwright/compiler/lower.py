"""Lowering: a step's graph, or its derivative, becomes a step over memory.

The arrays come in the order in which calls pass them: x and the named inputs; each
state's sequence and its initial rows; the output, where that is no state; what training
saves. A backward step has the cotangents after them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..language import Graph, Node
from ..language.graph import AFFINE, ATTENTION, COTANGENT, ITEM, TOTAL
from .differentiate import OUTPUT, VectorJacobian, recorded_name
from .matrices import is_matrix, matrix_of, weights_of_matrices
from .program import EVERY, Array, Axis, View
from .step import (
    PANEL,
    PUT,
    ROW_LEAVES,
    Lowered,
    axis_of,
    is_pointwise,
    obtainable,
    summands,
)
from .verify import verify_step


@dataclass(frozen=True)
class Memory:
    """The arrays of a scan, and where a step's values are in them.

    Attributes:
        arrays: in the order in which calls pass them.
        leaves: node of an input or an old state → where it is.
        results: (node, where it is stored), in the order of the arrays.
        rounded: arrays that may be in bf16, so that the step itself does not read what
            it has stored there.
    """

    arrays: tuple[Array, ...]
    leaves: Mapping[int, View]
    results: tuple[tuple[int, View], ...]
    rounded: frozenset[int] = frozenset()

    @property
    def places(self) -> dict[int, View]:
        """Where values are once the step is done; the first of a result's places."""
        return {**dict(reversed(self.results)), **self.leaves}


def forward_memory(
    graph: Graph,
    once: Collection[str] = (),
    saved: Sequence[int] = (),
    keeps: str = "all",
    rounds: str = "",
) -> Memory:
    """The arrays of a forward scan; inputs of `once` have one row for all levels.

    Args:
        saved: nodes that training saves beside the states.
        keeps: the states of which every level is kept: "all", "vectors" or "none" but
            the output.
        rounds: what may be in bf16: "" nothing; "values" what is saved beside the
            states; "states" the states that are kept and the output too: what levels
            hand on lies apart from them.
    """
    apart = rounds == "states"
    draft = _Draft(graph)
    of_input: dict[str, View] = {}
    of_state: dict[str, View] = {}
    for source in graph.inputs:
        rows = "batch" if source.name in once else draft.input_rows
        of_input[source.name] = draft.array(source.name, rows, source.size)
    for item in graph.items:
        axis = draft.axis_of(item.set)
        of_input[item.name] = draft.array(item.name, "batch", item.size, axis=axis)
    for state in graph.states:
        every = not apart and _keeps_every_level(graph, state, keeps)
        rows, depth = ("sequence", 1) if every else ("rolling", 2)
        of_state[state.name] = draft.state_array(state.name, state.size, rows, depth)
    results = [*zip(graph.updates, of_state.values(), strict=True)]
    carried = len(draft.arrays)
    if apart or not graph.output_is_state:
        view = draft.array("output", "sequence", graph.output_size)
        results.append((graph.output, view))
    if apart and keeps == "all":
        states = [*zip(graph.updates, graph.states, strict=True)]
        for update, state in states[graph.output_is_state :]:
            view = draft.array(f"{state.name}.saved", "sequence", state.size)
            results.append((update, view))
    values = len(draft.arrays)
    results += [(number, draft.value_array(number)) for number in saved]
    first = {"states": carried, "values": values, "": len(draft.arrays)}[rounds]
    rounded = frozenset(
        view.array
        for number, view in results
        if view.array >= first and may_be_rounded(graph, number)
    )
    leaves = _leaves(graph, of_input, of_state)
    return Memory(tuple(draft.arrays), leaves, tuple(results), rounded)


def _keeps_every_level(graph: Graph, state: Any, keeps: str) -> bool:
    """Whether a state has all its levels: see `forward_memory`.

    Without a backward, a state but the output needs its last two levels only. A matrix
    is read by the steps themselves alone: see `Loops.hold_matrices`.
    """
    if graph.output_is_state and state is graph.states[0]:
        return True
    return keeps == "all" or (keeps == "vectors" and not is_matrix(state))


def _leaves(
    graph: Graph, of_input: dict[str, View], of_state: dict[str, View]
) -> dict[int, View]:
    """Where the nodes lie that are inputs, items or states."""
    leaves: dict[int, View] = {}
    for number, node in enumerate(graph.nodes):
        if node.op in ("input", ITEM):
            leaves[number] = of_input[node["name"]]
        elif node.op == "state":
            array = of_state[node["name"]].array
            leaves[number] = View(array, True, _slot(graph, node))
    return leaves


def may_be_rounded(graph: Graph, number: int) -> bool:
    """Whether a value is one that loads, stores, totals and products alone read: not
    one of each item, nor what is made of those."""
    node, sets = graph.nodes[number], graph.sets
    return sets[number] not in graph.item_sets and not (
        node.op in (TOTAL, ATTENTION) and sets[node.args[0]] in graph.item_sets
    )


def forward_step(
    graph: Graph,
    memory: Memory,
    recorded: Sequence[int] = (),
    parameters: Mapping[str, int] | None = None,
) -> Lowered:
    """One level forward: the results are stored, and after them the recorded values.

    Args:
        parameters: the numbers of the parameters of vectors and numbers, by name.
    """
    draft = _Draft(graph, graph.nodes, memory.arrays)
    records = [(n, draft.value_array(n, "{}.record")) for n in recorded]
    results = [*memory.results, *records]
    exact = [result for result in results if result[1].array not in memory.rounded]
    stored = dict(reversed(exact))
    roots = [draft.result(number, view, stored) for number, view in results]
    places = {**memory.leaves, **draft.weights(parameters or {})}
    return draft.step(roots, places=places, stored=stored)


def needed(vjp: VectorJacobian, memory: Memory) -> tuple[int, ...]:
    """The forward nodes that a backward step has to find in memory beside the results.

    What follows from others by a little pointwise work is computed again.
    """
    graph = vjp.forward
    count = len(graph.nodes)
    arrays, places, sets = memory.arrays, memory.places, graph.item_sets
    step = Lowered(graph.name, vjp.nodes, arrays, places, item_sets=sets)
    read = {a for values in step.values[count:] for a in values if a < count}
    for affine, _ in vjp.affines:
        read.update(graph.nodes[affine].args)
    known, found = set(memory.places), []
    for number in sorted(_not_of_many(step, read)):
        if not obtainable(step, number, known):
            known.add(number)
            found.append(number)
    return tuple(found)


def _not_of_many(step: Lowered, numbers: Iterable[int]) -> set[int]:
    """The values, or what those follow from that are matrices or of each item.

    They are computed again, whatever that takes: to keep them for every step would take
    as much memory as nothing else.
    """
    found: set[int] = set()
    stack = [*numbers]
    while stack:
        number = stack.pop()
        axis = step.axes[number]
        many = axis.kind in ("item", "matrix") and number not in step.places
        if many and is_pointwise(step.nodes[number].op):
            args = step.values[number]
            stack += [a for a in args if step.nodes[a].op not in ROW_LEAVES]
        else:
            found.add(number)
    return found


def recompute_step(
    graph: Graph,
    arrays: Sequence[Array],
    places: Mapping[int, View],
    numbers: Sequence[int],
    parameters: Mapping[str, int],
) -> Lowered:
    """Values that were not saved, computed again for a chunk of levels at once: all old
    states are known."""
    draft = _Draft(graph, graph.nodes, arrays)
    more: dict[str, Any] = {"rows": "chunk", "scratch": True}
    stored = {number: draft.value_array(number, **more) for number in numbers}
    roots = [draft.result(number, view, stored) for number, view in stored.items()]
    places = {**places, **draft.weights(parameters)}
    return draft.step(roots, places=places, stored=stored, when="chunk")


@dataclass(frozen=True)
class Cotangents:
    """The arrays of a backward scan beside the forward one's.

    Attributes:
        arrays: in the order in which calls pass them.
        given: of each result, by name: the views whose sum its cotangent is.
        carried: of each state: what a level passes to the level before it.
        inputs: the gradients of inputs.
        sums: the gradients of static inputs, a row a row of the batch; of items; and of
            weights that are matrices element by element, a row a row of the batch.
        totals: of each recorded node: its cotangent through everything that it feeds.
    """

    arrays: tuple[Array, ...]
    given: Mapping[str, tuple[View, ...]]
    carried: Mapping[str, View]
    inputs: Mapping[str, View]
    sums: Mapping[str, View]
    totals: Mapping[int, View]


def cotangent_memory(
    vjp: VectorJacobian,
    forward: Sequence[Array],
    wanted: Collection[str],
    static: Collection[str] = (),
) -> Cotangents:
    """The arrays of a backward scan, after the forward ones.

    The `wanted` inputs have a gradient; those that are `static` too, the sum over the
    levels.
    """
    graph = vjp.forward
    draft = _Draft(graph, arrays=forward)
    output = draft.array("d.y", "sequence", graph.output_size)
    rows = "sequence" if graph.children else "rolling"
    given: dict[str, tuple[View, ...]] = {}
    carried = {}
    for state in graph.states:
        view = draft.state_array(f"d.{state.name}", state.size, rows)
        given[state.name] = (view,)
        carried[state.name] = replace(view, previous=not graph.children)
    first = graph.states[0].name if graph.output_is_state else OUTPUT
    given[first] = (*given.get(first, ()), output)
    inputs, sums = {}, {}
    for source in graph.inputs:
        if source.name in wanted:
            once = source.name in static
            rows = "rolling" if once else draft.input_rows
            view = draft.array(f"d.{source.name}", rows, source.size)
            (sums if once else inputs)[source.name] = view
    for item in graph.items:
        if item.name in wanted:
            axis, name = draft.axis_of(item.set), f"d.{item.name}"
            sums[item.name] = draft.array(name, "rolling", item.size, axis=axis)
    for weight in filter(is_matrix, graph.weights):
        sums[weight.name] = draft.array(f"d.{weight.name}", "rolling", weight.size)
    for number in vjp.recorded:
        given[recorded_name(number)] = (draft.value_array(number, "d.{}.record"),)
    label = "d.{}.record.total"
    totals = {number: draft.value_array(number, label) for number in vjp.recorded}
    return Cotangents(tuple(draft.arrays), given, carried, inputs, sums, totals)


class _Draft:
    """Nodes and arrays in the making."""

    def __init__(
        self, graph: Graph, nodes: Sequence[Node] = (), arrays: Sequence[Array] = ()
    ) -> None:
        self.graph, self.nodes, self.arrays = graph, list(nodes), list(arrays)
        self.axes = [self.axis_of(name) for name in graph.sets]
        # A sequence has inputs at every row; of a tree's nodes, some.
        self.input_rows = "input" if graph.children else "sequence"

    def axis_of(self, name: str | None) -> Axis:
        return axis_of(name, self.graph.item_sets)

    def array(self, name: str, rows: str, columns: Any, **more: Any) -> View:
        self.arrays.append(Array(name, rows, int(columns), **more))
        return View(len(self.arrays) - 1)

    def value_array(
        self, number: int, label: str = "{}", rows: str = "sequence", **more: Any
    ) -> View:
        """The rows of one of the step's values, or of its cotangent."""
        name, size = value_name(self.graph, number), self.graph.nodes[number].size
        axis = self.axes[number]
        return self.array(label.format(name), rows, size, axis=axis, **more)

    def weights(self, parameters: Mapping[str, int]) -> dict[int, View]:
        """Where stages of matrices find weights."""
        found: dict[str, View] = {}
        for name in weights_of_matrices(self.nodes).values():
            if name not in found:
                size = self.graph.weight(name).size
                rows = {"scratch": True, "parameter": parameters[name]}
                found[name] = self.array(name, "parameter", size, **rows)
        numbers = weights_of_matrices(self.nodes).items()
        return {number: found[name] for number, name in numbers}

    def state_array(self, name: str, size: Any, rows: str, depth: int = 1) -> View:
        """A state's rows: those of all nodes of a tree, where missing ones are 0; or
        the levels of a sequence, and its initial rows."""
        if self.graph.children:
            return self.array(name, "sequence", size)
        initial = len(self.arrays) + 1
        view = self.array(name, rows, size, depth=depth, initial=initial)
        self.array(f"{name}.initial", "initial", size)
        return view

    def add(self, op: str, args: tuple[int, ...], size: int, **attrs: Any) -> int:
        self.nodes.append(Node(op, args, tuple(sorted(attrs.items())), size))
        return len(self.nodes) - 1

    def put(
        self, value: int, view: View, after: tuple[int, ...] = (), adds: bool = False
    ) -> int:
        """Store a value, or add it to what is there; `after` are nodes that must be
        computed before."""
        size = self.arrays[view.array].columns
        return self.add(PUT, (value, *after), size, view=view, adds=adds)

    def result(self, value: int, view: View, stored: Mapping[int, View]) -> int:
        """The same of a forward value, which may be stored by what computes it."""
        node = self.nodes[value]
        over = node.op in (TOTAL, ATTENTION) and self.axes[node.args[0]]
        of_items = bool(over) and over.kind == "item"
        kept = of_items or (matrix_of(self.nodes, node) and not is_matrix(node))
        return value if kept and stored.get(value) == view else self.put(value, view)

    def step(self, roots: Iterable[int], **more: Any) -> Lowered:
        nodes, arrays = tuple(self.nodes), tuple(self.arrays)
        graph = self.graph
        more |= {"many": graph.many, "item_sets": graph.item_sets}
        step = Lowered(graph.name, nodes, arrays, roots=tuple(roots), **more)
        return verify_step(step, after="lower")


def backward_step(
    vjp: VectorJacobian,
    memory: Cotangents,
    places: Mapping[int, View],
    parameters: Mapping[str, int],
) -> Lowered:
    """One level backward; `places` says where forward values are."""
    return _Backward(vjp, memory, places).lowered(parameters)


class _Backward(_Draft):
    """Lowers a derivative: loads of cotangents, panels, stores."""

    def __init__(
        self, vjp: VectorJacobian, memory: Cotangents, places: Mapping[int, View]
    ) -> None:
        super().__init__(vjp.forward, vjp.nodes, memory.arrays)
        self.vjp, self.memory, self.places = vjp, memory, places
        self.first = len(vjp.forward.nodes)
        self.of_inputs = {**vjp.cotangents("input"), **vjp.cotangents("item")}
        self.seeds = {  # a result's name → the node of its cotangent
            node["name"].removeprefix("d."): number
            for number, node in enumerate(vjp.nodes)
            if node.op == COTANGENT
        }
        self.cotangents = {n: memory.given[name] for name, n in self.seeds.items()}

    def lowered(self, parameters: Mapping[str, int]) -> Lowered:
        sums = self._sums()
        roots = self._panels(part for part, _ in sums)
        operands = self._operands()
        roots += [self.put(number, view) for number, view in operands.items()]
        for number, view in self.memory.totals.items():
            roots.append(self.put(self.vjp.cotangent_of[number], view))
        roots += self._old_states()
        roots += self._static()
        late = [
            self.put(self._or_zero(self.of_inputs.get(name), view), view)
            for name, view in self.memory.inputs.items()
        ]
        return self.step(
            roots,
            places={**self.places, **self.weights(parameters)},
            stored=operands,
            cotangents=self.cotangents,
            late=tuple(late),
            sums=tuple(sums),
            first=self.first,
        )

    def _or_zero(self, cotangent: int | None, view: View) -> int:
        """A cotangent; where nothing reaches, 0."""
        if cotangent is not None:
            return cotangent
        size = self.arrays[view.array].columns
        return self.add("constant", (), size, value=0.0)

    def _sums(self) -> list[tuple[int, str]]:
        """What vectors' and numbers' gradients sum over the rows, and their names.

        A number's gradient is a sum over units: taken with that over the rows. A sum
        that something else reads too stays one: so no sum is taken apart twice.
        """
        nodes, of_weights = self.nodes, self.vjp.cotangents("weight")
        uses = Counter(a for node in nodes for a in node.args)
        found: list[tuple[int, str]] = []
        vectors = (w.name for w in self.graph.weights if not is_matrix(w))
        for name in (name for name in vectors if name in of_weights):
            whole = of_weights[name]

            def splits(number: int, whole: int = whole) -> bool:
                own = number == whole or uses[number] == 1
                return own and number >= self.first and int(nodes[number].size) == 1

            for part in summands(nodes, whole, splits):
                summed = nodes[part].op == "sum" and not is_matrix(
                    nodes[nodes[part].args[0]]
                )
                part = nodes[part].args[0] if summed else part
                found.append((part, name))
        return found

    def _panels(self, parts: Iterable[int]) -> list[int]:
        """Nodes that pack cotangents in panels: of affines, and what is summed."""
        operands: dict[int, tuple[int, ...]] = {}
        for affine, cotangent in self.vjp.affines:
            known = operands.get(cotangent, ())
            operands[cotangent] = (*known, *self.nodes[affine].args)
        for part in parts:
            operands.setdefault(part, ())
        sizes = {cotangent: int(self.nodes[cotangent].size) for cotangent in operands}
        return [
            self.add(PANEL, (c,), sizes[c], operands=o) for c, o in operands.items()
        ]

    def _operands(self) -> dict[int, View]:
        """Arrays of the operands that are in none: a weight's gradient reads them."""
        affines = [self.nodes[affine] for affine, _ in self.vjp.affines]
        read = dict.fromkeys(a for node in affines for a in node.args)
        more: dict[str, Any] = {"rows": "chunk", "scratch": True}
        missing = [operand for operand in read if operand not in self.places]
        return {o: self.value_array(o, f"operand.{o}", **more) for o in missing}

    def _old_states(self) -> Iterator[int]:
        """Stores of the old states' cotangents, for the level before."""
        of_states = self.vjp.cotangents("state")
        for node in self.graph.nodes:
            if node.op != "state":
                continue
            view = self.memory.carried[node["name"]]
            after: tuple[int, ...] = ()
            if self.graph.children:  # a child's row, which this level does not read
                view = View(view.array, True, _slot(self.graph, node))
            elif node["name"] in self.seeds:  # that has to be read before
                after = (self.seeds[node["name"]],)
            value = self._or_zero(of_states.get(node.label), view)
            yield self.put(value, view, after)

    def _static(self) -> Iterator[int]:
        """What adds up over the levels: cotangents of static inputs, and of items.

        Level after level adds to the same rows, so that the order of the sum is the
        scan's, whichever threads take the rows.
        """
        matrices = {w.name for w in self.graph.weights if is_matrix(w)}
        of_weights = self.vjp.cotangents("weight")
        for name, view in self.memory.sums.items():
            found = of_weights if name in matrices else self.of_inputs
            if name in found:
                yield self.put(found[name], view, adds=True)


def value_name(graph: Graph, number: int) -> str:
    """What a saved value is called in listings."""
    names = {node: name for name, node in graph.names}
    node = graph.nodes[number]
    fallback = f"{node['weight']}.pre" if node.op == AFFINE else f"{node.op}.{number}"
    return names.get(number, fallback)


def _slot(graph: Graph, node: Node) -> int:
    """Which predecessor a state is of: the step before, or a child."""
    if graph.many:
        return EVERY
    return graph.children.index(node["child"]) if graph.children else 0
