"""Lowering: a step's graph, or its derivative, becomes a step over memory.

The arrays come in the order in which calls pass them: x and the named inputs; each
state's sequence and its initial rows; the output, where that is no state; what training
saves. A backward step has the cotangents after them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..language import Graph, Node
from ..language.graph import AFFINE, COTANGENT
from ..language.ops import read_by
from .differentiate import OUTPUT, VectorJacobian, recorded_name
from .program import AXES, EVERY, Array, View
from .step import PANEL, PUT, Step, obtainable
from .verify import verify_step


@dataclass(frozen=True)
class Memory:
    """The arrays of a scan, and where a step's values stand in them.

    Attributes:
        arrays: in the order in which calls pass them.
        leaves: node of an input or an old state → where it stands.
        results: (node, where it is stored), in the order of the arrays.
    """

    arrays: tuple[Array, ...]
    leaves: Mapping[int, View]
    results: tuple[tuple[int, View], ...]

    @property
    def places(self) -> dict[int, View]:
        """Where values stand once the step is done; the first of a result's places."""
        return {**dict(reversed(self.results)), **self.leaves}


def forward_memory(
    graph: Graph,
    once: Collection[str] = (),
    saved: Sequence[int] = (),
    training: bool = True,
) -> Memory:
    """The arrays of a forward scan.

    Args:
        graph: the step.
        once: the inputs that have one row for all levels.
        saved: the nodes that training saves beside the states.
        training: every level of every state is kept.
    """
    draft, of_input, of_state = _Draft(), {}, {}
    results: list[tuple[int, View]] = []
    for source in graph.inputs:
        rows = "batch" if source.name in once else _input_rows(graph)
        of_input[source.name] = draft.array(source.name, rows, source.size)
    for state, update in zip(graph.states, graph.updates, strict=True):
        # Without a backward, a state but the output needs its last two levels only.
        kept = training or (graph.output_is_state and state is graph.states[0])
        rows, depth = ("sequence", 1) if kept else ("rolling", 2)
        view = draft.state_array(graph, state.name, state.size, rows, depth)
        of_state[state.name] = view.array
        results.append((update, view))
    if not graph.output_is_state:
        view = draft.array("output", "sequence", graph.output_size)
        results.append((graph.output, view))
    per_child = graph.per_child
    for number in saved:
        name, size = value_name(graph, number), graph.nodes[number].size
        axis = AXES[per_child[number]]
        results.append((number, draft.array(name, "sequence", size, axis=axis)))
    leaves = {
        number: of_input[node["name"]]
        if node.op == "input"
        else View(of_state[node["name"]], True, _slot(graph, node))
        for number, node in enumerate(graph.nodes)
        if node.op in ("input", "state")
    }
    return Memory(tuple(draft.arrays), leaves, tuple(results))


def forward_step(graph: Graph, memory: Memory, recorded: Sequence[int] = ()) -> Step:
    """One level forward: the results are stored, and after them the recorded values."""
    draft = _Draft(graph.nodes, memory.arrays)
    records = [(n, draft.record_array(graph, n, "{}.record")) for n in recorded]
    results = [*memory.results, *records]
    roots = [draft.put(number, view) for number, view in results]
    stored = dict(reversed(results))
    return draft.step(graph, roots, places=memory.leaves, stored=stored)


def needed(vjp: VectorJacobian, memory: Memory) -> tuple[int, ...]:
    """The forward nodes that a backward step has to find in memory beside the results.

    What follows from others by a little pointwise work is computed again.
    """
    graph = vjp.forward
    count = len(graph.nodes)
    read: set[int] = set()
    for node in vjp.nodes[count:]:
        read.update(a for a in read_by(node) if a < count)
    for affine, _ in vjp.affines:
        read.update(graph.nodes[affine].args)
    step = Step(graph.name, graph.nodes, memory.arrays, memory.places)
    known, found = set(memory.places), []
    for number in sorted(read):
        if not obtainable(step, number, known):
            known.add(number)
            found.append(number)
    return tuple(found)


def recompute_step(
    graph: Graph,
    arrays: Sequence[Array],
    places: Mapping[int, View],
    numbers: Sequence[int],
) -> Step:
    """Values that were not saved, computed again for a chunk of levels at once: all old
    states are known."""
    draft, per_child, stored = _Draft(graph.nodes, arrays), graph.per_child, {}
    for number in numbers:
        name, size = value_name(graph, number), graph.nodes[number].size
        stored[number] = draft.scratch(name, size, AXES[per_child[number]])
    roots = [draft.put(number, view) for number, view in stored.items()]
    return draft.step(graph, roots, places=places, stored=stored, when="before_chunk")


@dataclass(frozen=True)
class Cotangents:
    """The arrays of a backward scan beside the forward one's.

    Attributes:
        arrays: in the order in which calls pass them.
        output: of the output.
        carried: of each state: what the scan hands on from level to level.
        inputs: the gradients of inputs.
        sums: the gradients of static inputs, a row a row of the batch.
        recorded: of each recorded value, by its cotangent's name: the caller's, and the
            whole one, through everything that it feeds.
    """

    arrays: tuple[Array, ...]
    output: View
    carried: Mapping[str, View]
    inputs: Mapping[str, View]
    sums: Mapping[str, View]
    recorded: Mapping[str, tuple[View, View]]


def cotangent_memory(
    vjp: VectorJacobian,
    forward: Sequence[Array],
    wanted: Collection[str],
    static: Collection[str] = (),
) -> Cotangents:
    """The arrays of a backward scan, after the forward ones.

    Args:
        vjp: the derivative.
        forward: the arrays of the forward scan.
        wanted: the inputs that need their gradient.
        static: those of one row for all levels: the sum over the levels.
    """
    graph, draft = vjp.forward, _Draft(arrays=forward)
    output = draft.array("d.y", "sequence", graph.output_size)
    rows = "sequence" if graph.children else "rolling"
    carried = {}
    for state in graph.states:
        view = draft.state_array(graph, f"d.{state.name}", state.size, rows)
        carried[state.name] = replace(view, previous=not graph.children)
    inputs, sums = {}, {}
    for source in graph.inputs:
        if source.name in wanted:
            once = source.name in static
            rows = "rolling" if once else _input_rows(graph)
            view = draft.array(f"d.{source.name}", rows, source.size)
            (sums if once else inputs)[source.name] = view
    numbers = [number for number, _ in vjp.recorded]
    given, whole = (
        {n: draft.record_array(graph, n, label) for n in numbers}
        for label in ("d.{}.record", "d.{}.record.total")
    )
    recorded = {recorded_name(n): (given[n], whole[n]) for n in numbers}
    arrays = tuple(draft.arrays)
    return Cotangents(arrays, output, carried, inputs, sums, recorded)


def backward_step(
    vjp: VectorJacobian, memory: Cotangents, places: Mapping[int, View]
) -> tuple[Step, tuple[tuple[int, str], ...]]:
    """One level backward.

    Args:
        vjp: the derivative.
        memory: the arrays of the scan, scratch of what is recomputed after them.
        places: where forward values stand.

    Returns:
        The step; and (cotangent, vector or number): its gradient is the sum over rows.
    """
    lowered = _Backward(vjp, memory, places)
    return lowered.step(), tuple(lowered.summed)


class _Backward:
    """Lowers a derivative: loads of cotangents, panels, stores."""

    def __init__(
        self, vjp: VectorJacobian, memory: Cotangents, places: Mapping[int, View]
    ) -> None:
        self.vjp, self.graph, self.memory = vjp, vjp.forward, memory
        self.places = places
        self.draft = _Draft(vjp.nodes, memory.arrays)
        self.of_weights = vjp.cotangents("weight")
        self.of_states = vjp.cotangents("state")
        self.of_inputs = vjp.cotangents("input")
        self.uses = Counter(a for node in vjp.nodes for a in node.args)
        self.seeds: dict[str, int] = {}  # a result's name → the node of its cotangent
        self.panels: dict[int, int] = {}  # cotangent → the node that puts it there
        self.cotangents: dict[int, tuple[View, ...]] = {}
        self.summed: list[tuple[int, str]] = []

    def step(self) -> Step:
        self._load_cotangents()
        roots = [self._panel(c, self.graph.nodes[a].args) for a, c in self.vjp.affines]
        roots += self._weights()
        operands = self._operands()
        roots += [self.draft.put(number, view) for number, view in operands.items()]
        for number, total in self.vjp.recorded:
            _, whole = self.memory.recorded[recorded_name(number)]
            roots.append(self.draft.put(total, whole))
        roots += self._handed_on()
        roots += self._static()
        late = [
            self.draft.put(self._or_zero(self.of_inputs.get(name), view), view)
            for name, view in self.memory.inputs.items()
        ]
        return self.draft.step(
            self.graph,
            list(dict.fromkeys(roots)),
            places=self.places,
            stored=operands,
            cotangents=self.cotangents,
            late=tuple(late),
            first=len(self.graph.nodes),
        )

    def _load_cotangents(self) -> None:
        """Where the results' cotangents stand; the output's beside a state's."""
        graph, memory = self.graph, self.memory
        first = graph.states[0].name if graph.output_is_state else OUTPUT
        for number, node in enumerate(self.vjp.nodes):
            if node.op != COTANGENT:
                continue
            name = node["name"].removeprefix("d.")
            views: tuple[View, ...] = ()
            if name in memory.recorded:
                views = memory.recorded[name][:1]
            elif name in memory.carried:
                views = (View(memory.carried[name].array),)
            if name == first:
                views = (*views, memory.output)
            self.seeds[name], self.cotangents[number] = number, views

    def _or_zero(self, cotangent: int | None, view: View) -> int:
        """A cotangent; where nothing reaches, 0."""
        if cotangent is not None:
            return cotangent
        size = self.draft.arrays[view.array].columns
        return self.draft.add("constant", (), size, value=0.0)

    def _panel(self, cotangent: int, operands: tuple[int, ...] = ()) -> int:
        """The node that puts a cotangent into a panel: one for each cotangent."""
        nodes, known = self.draft.nodes, self.panels.get(cotangent)
        if known is None:
            size = int(nodes[cotangent].size)
            known = self.draft.add(PANEL, (cotangent,), size, operands=operands)
            self.panels[cotangent] = known
        else:
            attrs = (("operands", (*nodes[known]["operands"], *operands)),)
            nodes[known] = replace(nodes[known], attrs=attrs)
        return known

    def _weights(self) -> Iterator[int]:
        """Panels of what vectors' and numbers' gradients sum over the rows."""
        for weight in self.graph.weights:
            if weight.kind != "matrix" and weight.name in self.of_weights:
                for summand in self._summands(self.of_weights[weight.name]):
                    self.summed.append((summand, weight.name))
                    yield self._panel(summand)

    def _summands(self, number: int) -> list[int]:
        """A number's gradient is a sum over units: taken with that over the rows.

        A sum that something else reads too stays one summand: so no sum is taken apart
        twice.
        """
        found, stack = [], [number]
        while stack:
            top = stack.pop()
            node = self.draft.nodes[top]
            own = top == number or self.uses[top] == 1
            inner = own and node.op == "add" and int(node.size) == 1
            if node.op == "sum":
                found.append(node.args[0])
            elif inner and top >= len(self.graph.nodes):
                stack.extend(reversed(node.args))
            else:
                found.append(top)
        return found

    def _operands(self) -> dict[int, View]:
        """Arrays of the operands that stand nowhere: a gradient needs their rows."""
        per_child, found = self.graph.per_child, {}
        for affine, _ in self.vjp.affines:
            for operand in self.graph.nodes[affine].args:
                if operand not in self.places and operand not in found:
                    size = self.graph.nodes[operand].size
                    axis = AXES[per_child[operand]]
                    view = self.draft.scratch(f"operand.{operand}", size, axis)
                    found[operand] = view
        return found

    def _handed_on(self) -> Iterator[int]:
        """Stores of the old states' cotangents: a level's to the level before."""
        for node in self.graph.nodes:
            if node.op != "state":
                continue
            view = self.memory.carried[node["name"]]
            after: tuple[int, ...] = ()
            if self.graph.children:  # a child's row, which this level does not read
                view = View(view.array, True, _slot(self.graph, node))
            elif node["name"] in self.seeds:  # that has to be read before
                after = (self.seeds[node["name"]],)
            value = self._or_zero(self.of_states.get(node.label), view)
            yield self.draft.put(value, view, after)

    def _static(self) -> Iterator[int]:
        """Stores of the sums over the levels so far: of static inputs' cotangents.

        Level after level adds to the same rows, so that the order of the sum is the
        scan's, whichever threads take the rows.
        """
        draft = self.draft
        for name, view in self.memory.sums.items():
            if name in self.of_inputs:
                size = draft.arrays[view.array].columns
                before = draft.add(COTANGENT, (), size, name=f"d.{name}.sum")
                self.cotangents[before] = (view,)
                total = draft.add("add", (before, self.of_inputs[name]), size)
                yield draft.put(total, view, after=(before,))


class _Draft:
    """Nodes and arrays in the making."""

    def __init__(self, nodes: Sequence[Node] = (), arrays: Sequence[Array] = ()):
        self.nodes, self.arrays = list(nodes), list(arrays)

    def array(self, name: str, rows: str, columns: Any, **more: Any) -> View:
        self.arrays.append(Array(name, rows, int(columns), **more))
        return View(len(self.arrays) - 1)

    def scratch(self, name: str, columns: Any, axis: str) -> View:
        """Rows of a chunk of levels."""
        return self.array(name, "chunk", columns, scratch=True, axis=axis)

    def record_array(self, graph: Graph, number: int, label: str) -> View:
        """Every row of a recorded value, or of its cotangent."""
        name, size = value_name(graph, number), graph.nodes[number].size
        return self.array(label.format(name), "sequence", size)

    def state_array(
        self, graph: Graph, name: str, size: Any, rows: str, depth: int = 1
    ) -> View:
        """A state's rows: those of all nodes of a tree, where missing ones are 0; or
        the levels of a sequence, and its initial rows."""
        if graph.children:
            return self.array(name, "sequence", size)
        initial = len(self.arrays) + 1
        view = self.array(name, rows, size, depth=depth, initial=initial)
        self.array(f"{name}.initial", "initial", size)
        return view

    def add(self, op: str, args: tuple[int, ...], size: int, **attrs: Any) -> int:
        self.nodes.append(Node(op, args, tuple(sorted(attrs.items())), size))
        return len(self.nodes) - 1

    def put(self, value: int, view: View, after: tuple[int, ...] = ()) -> int:
        """Store a value; `after` are nodes that must be computed before."""
        size = self.arrays[view.array].columns
        return self.add(PUT, (value, *after), size, view=view)

    def step(self, graph: Graph, roots: Sequence[int], **more: Any) -> Step:
        nodes, arrays = tuple(self.nodes), tuple(self.arrays)
        many, name = graph.many, graph.name
        step = Step(name, nodes, arrays, roots=tuple(roots), many=many, **more)
        return verify_step(step, after="lower")


def value_name(graph: Graph, number: int) -> str:
    """What a saved value is called in listings."""
    names = {node: name for name, node in graph.names}
    node = graph.nodes[number]
    fallback = f"{node['weight']}.pre" if node.op == AFFINE else f"{node.op}.{number}"
    return names.get(number, fallback)


def _input_rows(graph: Graph) -> str:
    """A sequence has inputs at every row; of a tree's nodes, some."""
    return "input" if graph.children else "sequence"


def _slot(graph: Graph, node: Node) -> int:
    """Which predecessor a state is of: the step before, or a child."""
    if graph.many:
        return EVERY
    return graph.children.index(node["child"]) if graph.children else 0
