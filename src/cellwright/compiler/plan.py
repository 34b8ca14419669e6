"""The plan of a cell: its programs forward and backward, and what one saves for the
other.

The derivative says which values of the forward step it reads. A state's sequence is
kept anyway; what follows from kept values by pointwise work is computed again; the
rest is saved, or computed again from the states for a whole chunk of steps at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..language import OPS, Graph, Node
from ..language.graph import AFFINE, COTANGENT
from .differentiate import OUTPUT, VectorJacobian, differentiate, recorded_name
from .program import AXES, EVERY, Array, Gradient, Program, Reduction, View
from .stages import PANEL, Binding, Stage, Step, make_stages, runs

MOST_NODES = 1_000  # a stage of so many reads and keeps no more than the core takes


class PlanError(ValueError):
    """The native engine has no program for this cell."""


@dataclass(frozen=True)
class Plan:
    """The programs of a bound cell.

    Attributes:
        graph: the cell, with concrete sizes.
        binding: where its weights are.
        recompute: training saves nothing beside the states.
        constant: inputs that have one row for each row of the widest level, and no
            gradient.
        static: inputs that have such rows, and a gradient: the sum over the levels.
        recorded: forward nodes whose values are results too, for every row.
        probed: the recorded values have cotangents of their own, and the backward walk
            gives each one's whole cotangent, through everything it feeds.
    """

    graph: Graph
    binding: Binding
    recompute: bool = False
    constant: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    recorded: tuple[int, ...] = ()
    probed: bool = False

    @cached_property
    def vjp(self) -> VectorJacobian:
        return differentiate(self.graph, self.recorded if self.probed else ())

    @cached_property
    def reached(self) -> tuple[frozenset[str], frozenset[int]]:
        """Where the step's gradient arrives: at these inputs, and at these parameters
        by number. Elsewhere it is zero whatever the values: behind `step`, in a value
        that nothing reads."""
        binding = self.binding
        pieces = [binding.vectors[name] for name in self.vjp.cotangents("weight")]
        for affine, _ in self.vjp.affines:
            node = self.graph.nodes[affine]
            name = node["weight"]
            pieces += [binding.matrices[name, k] for k in range(len(node.args))]
            pieces += binding.biases.get(name, ())
        inputs = frozenset(self.vjp.cotangents("input"))
        return inputs, frozenset(piece.parameter for piece in pieces)

    @property
    def saved(self) -> tuple[int, ...]:
        """The forward nodes that training saves beside the states."""
        return () if self.recompute else self.needed

    @cached_property
    def needed(self) -> tuple[int, ...]:
        """The forward nodes that the backward step has to find in memory."""
        inputs = _Inputs(self, sequences=True)
        inputs.place_results(self.graph)
        step = inputs.step
        step.first = len(self.graph.nodes)  # all of them may be computed again
        kept: list[int] = []
        for number in sorted(self._read_backward()):
            if not step.obtainable(number, -1, {}):
                step.places[number] = View(0)
                kept.append(number)
        return tuple(kept)

    @cached_property
    def inference(self) -> Program:
        return self._forward(training=False)

    @cached_property
    def training(self) -> Program:
        return self._forward(training=True)

    def backward(self, wanted: tuple[str, ...]) -> Program:
        """The gradient's program; `wanted` are the inputs that need theirs."""
        return _Backward(self, wanted).program()

    def saved_sizes(self) -> list[int]:
        return [int(self.graph.nodes[n].size) for n in self.saved]

    def recorded_sizes(self) -> list[int]:
        return [int(self.graph.nodes[n].size) for n in self.recorded]

    def _read_backward(self) -> set[int]:
        """The forward nodes whose values the derivative and the gradients read."""
        count = len(self.graph.nodes)
        read: set[int] = set()
        for node in self.vjp.nodes[count:]:
            args = node.args[:1] if node.op == "spread" else node.args
            read.update(a for a in args if a < count)
        for affine, _ in self.vjp.affines:
            read.update(self.graph.nodes[affine].args)
        return read

    def _forward(self, training: bool) -> Program:
        inputs = _Inputs(self, training, self.saved if training else ())
        step, graph = inputs.step, self.graph
        roots = []
        for state, update in zip(graph.states, graph.updates, strict=True):
            view = View(inputs.states[state.name])
            roots.append(step.put(update, view))
            step.places.setdefault(update, view)
        if not graph.output_is_state:
            roots.append(step.put(graph.output, View(inputs.output)))
            step.places.setdefault(graph.output, View(inputs.output))
        if training:
            for number, array in zip(self.saved, inputs.saved, strict=True):
                roots.append(step.put(number, View(array)))
                step.places.setdefault(number, View(array))
        for number, size in zip(self.recorded, self.recorded_sizes(), strict=True):
            step.arrays.append(
                Array(f"{_name(graph, number)}.record", "sequence", size)
            )
            view = View(len(step.arrays) - 1)
            roots.append(step.put(number, view))
            step.places.setdefault(number, view)
        stages = make_stages(step, roots)
        name = f"{graph.name} {'training' if training else 'inference'}"
        return Program(
            name, False, tuple(step.arrays), self.binding.parameters, tuple(stages),
            tree=bool(graph.children),
        )  # fmt: skip


class _Inputs:
    """A step's arrays up to the saved ones, in the order in which calls pass them.

    x and the named inputs; each state's sequence and its initial rows; the output,
    where that is no state; in training the saved values.
    """

    def __init__(
        self, plan: Plan, sequences: bool, saved: Iterable[int] = (),
        nodes: Iterable[Node] = (),
    ) -> None:  # fmt: skip
        graph = plan.graph
        _check(graph)
        arrays: list[Array] = []
        places: dict[int, View] = {}

        def add(name: str, rows: str, columns: int, **more: Any) -> int:
            arrays.append(Array(name, rows, columns, **more))
            return len(arrays) - 1

        sources = {}
        for source in graph.inputs:
            rows = "input" if graph.children else "sequence"
            once = (*plan.constant, *plan.static)
            rows = "batch" if source.name in once else rows
            sources[source.name] = View(add(source.name, rows, int(source.size)))
        self.states: dict[str, int] = {}
        for number, state in enumerate(graph.states):
            if graph.children:  # of all nodes; those that are missing are 0
                self.states[state.name] = add(state.name, "sequence", int(state.size))
                continue
            # Without a backward, a state but the output needs its last two levels only.
            output = number == 0 and graph.output_is_state
            kept = sequences or output
            initial = len(arrays) + 1
            self.states[state.name] = add(
                state.name, "sequence" if kept else "rolling", int(state.size),
                depth=1 if kept else 2, initial=initial,
            )  # fmt: skip
            add(f"{state.name}.initial", "initial", int(state.size))
        self.output = -1
        if not graph.output_is_state:
            self.output = add("output", "sequence", int(graph.output_size))
        self.saved: list[int] = []
        of_child = graph.per_child
        for number in saved:
            size, axis = int(graph.nodes[number].size), AXES[of_child[number]]
            name = _name(graph, number)
            self.saved.append(add(name, "sequence", size, axis=axis))
        for number, node in enumerate(graph.nodes):
            if node.op == "input":
                places[number] = sources[node["name"]]
            elif node.op == "state":
                slot = slot_of(graph, node)
                places[number] = View(self.states[node["name"]], True, slot)
        self.step = Step(
            list(nodes) or list(graph.nodes), plan.binding, arrays, places,
            ready=frozenset(places), many=graph.many,
        )  # fmt: skip

    def place_results(self, graph: Graph) -> None:
        """For a backward step, the forward's results stand in their arrays."""
        for state, update in zip(graph.states, graph.updates, strict=True):
            self.step.places.setdefault(update, View(self.states[state.name]))
        if self.output >= 0:
            self.step.places.setdefault(graph.output, View(self.output))


def slot_of(graph: Graph, node: Node) -> int:
    """Which predecessor a state is of: the step before, or a child."""
    if graph.many:
        return EVERY
    return graph.children.index(node["child"]) if graph.children else 0


def _check(graph: Graph) -> None:
    """Refuse what the programs cannot express."""
    for state, update in zip(graph.states, graph.updates, strict=True):
        if graph.nodes[update].size != state.size:
            raise PlanError(
                f"the new value of state {state.name!r} is one number, the state has "
                f"{state.size}"
            )
    if not graph.states:
        raise PlanError("the cell has no state")


def _name(graph: Graph, number: int) -> str:
    """What a saved value is called in listings."""
    names = {node: name for name, node in graph.names}
    node = graph.nodes[number]
    fallback = f"{node['weight']}.pre" if node.op == AFFINE else f"{node.op}.{number}"
    return names.get(number, fallback)


class _Backward:
    """Writes the gradient's program."""

    def __init__(self, plan: Plan, wanted: tuple[str, ...]) -> None:
        self.plan, self.vjp, self.graph = plan, plan.vjp, plan.graph
        self.wanted = wanted
        self.inputs = _Inputs(plan, True, plan.saved, self.vjp.nodes)
        self.step = self.inputs.step
        self.step.first = len(self.graph.nodes)
        self.step.scratch = "chunk"
        self.inputs.place_results(self.graph)
        for number, array in zip(plan.saved, self.inputs.saved, strict=True):
            self.step.places.setdefault(number, View(array))
        self._add_cotangents()
        self.replay = self._replay() if plan.recompute else []
        self.reductions: list[tuple[int, str]] = []  # cotangent, weight: summed rows
        self.uses = Counter(a for node in self.vjp.nodes for a in node.args)

    def _replay(self) -> list[Stage]:
        """Stages that compute what was not saved, a chunk of levels at once: all old
        states are known."""
        step = self.step
        replay = Step(
            list(self.graph.nodes), step.binding, step.arrays, dict(step.places),
            ready=frozenset(step.places), scratch="chunk", many=step.many,
        )  # fmt: skip
        roots = []
        for number in self.plan.needed:
            name, size = _name(self.graph, number), step.size(number)
            view = replay.scratch_array(name, size, step.axis(number))
            roots.append(replay.put(number, view))
            replay.places[number] = step.places[number] = view
        return make_stages(replay, roots, when="before_chunk")

    def _add_array(self, name: str, rows: str, columns: int, **more: Any) -> int:
        self.step.arrays.append(Array(name, rows, columns, **more))
        return len(self.step.arrays) - 1

    def _add_cotangents(self) -> None:
        """The output's cotangent; each state's carried one; the inputs' gradients."""
        graph, step = self.graph, self.step
        output = self._add_array("d.y", "sequence", int(graph.output_size))
        self.carried: dict[str, View] = {}
        for state in graph.states:
            name, size = f"d.{state.name}", int(state.size)
            if graph.children:
                array = self._add_array(name, "sequence", size)
                self.carried[state.name] = View(array)
                continue
            initial = len(step.arrays) + 1
            array = self._add_array(name, "rolling", size, initial=initial)
            self._add_array(f"{name}.initial", "initial", size)
            self.carried[state.name] = View(array, previous=True)
        rows = "input" if graph.children else "sequence"
        self.gradients: dict[str, View] = {}
        self.sums: dict[str, View] = {}  # of static inputs: a row a lane, added to
        for source in graph.inputs:
            if source.name in self.wanted:
                static = source.name in self.plan.static
                kind, found = (
                    ("rolling", self.sums) if static else (rows, self.gradients)
                )
                array = self._add_array(f"d.{source.name}", kind, int(source.size))
                found[source.name] = View(array)
        self.probes = self._add_recorded("d.{}")
        self.totals = self._add_recorded("d.{}.total")
        self.seeds: dict[str, int] = {}
        for number, node in enumerate(step.nodes):
            if node.op != COTANGENT:
                continue
            name = node["name"].removeprefix("d.")
            self.seeds[name] = number
            if name in self.probes:
                step.cotangents[number] = (self.probes[name],)
                continue
            if name == OUTPUT and not graph.output_is_state:
                step.cotangents[number] = (View(output),)
                continue
            views = (View(self.carried[name].array),)
            if graph.output_is_state and name == graph.states[0].name:
                views = (*views, View(output))
            step.cotangents[number] = views

    def _add_recorded(self, name: str) -> dict[str, View]:
        """Arrays for the cotangents of recorded values, where they have any."""
        found = {}
        for number, _ in self.vjp.recorded:
            label = name.format(f"{_name(self.graph, number)}.record")
            size = self.step.size(number)
            found[recorded_name(number)] = View(
                self._add_array(label, "sequence", size)
            )
        return found

    def program(self) -> Program:
        step = self.step
        of_weights = self.vjp.cotangents("weight")
        of_states = self.vjp.cotangents("state")
        of_inputs = self.vjp.cotangents("input")
        roots = [self._panel(c, a) for a, c in self.vjp.affines]
        for weight in self.graph.weights:
            if weight.kind != "matrix" and weight.name in of_weights:
                for summand in self._summands(of_weights[weight.name]):
                    self.reductions.append((summand, weight.name))
                    roots.append(self._panel(summand))
        roots += self._operands()
        for number, total in self.vjp.recorded:
            roots.append(step.put(total, self.totals[recorded_name(number)]))
        for label, size, view, after in self._handed_on():
            value = of_states.get(label)
            if value is None:
                value = step.add("constant", (), size, value=0.0)
            roots.append(step.put(value, view, after))
        roots += self._summed(of_inputs)
        late = []
        for name, view in self.gradients.items():
            value = of_inputs.get(name)
            if value is None:
                size = step.arrays[view.array].columns
                value = step.add("constant", (), size, value=0.0)
            late.append(step.put(value, view))
        roots = list(dict.fromkeys(roots))
        stages = make_stages(step, roots, late, first=len(self.replay))
        panels = step.panels
        return Program(
            f"{self.graph.name} backward",
            True,
            tuple(step.arrays),
            self.plan.binding.parameters,
            (*self.replay, *stages),
            tuple(self._weight_gradients(panels)),
            tuple(self._reductions(panels)),
            tree=bool(self.graph.children),
        )

    def _summed(self, of_inputs: Mapping[str, int]) -> list[int]:
        """Stores of the sums over the levels so far: of static inputs' cotangents.

        Level after level adds to the same rows, so that the order of the sum is the
        walk's, whichever threads take the rows.
        """
        step, puts = self.step, []
        for name, view in self.sums.items():
            if name not in of_inputs:
                continue
            size = step.arrays[view.array].columns
            before = step.add(COTANGENT, (), size, name=f"d.{name}.sum")
            step.cotangents[before] = (view,)
            total = step.add("add", (before, of_inputs[name]), size)
            puts.append(step.put(total, view, after=(before,)))
        return puts

    def _handed_on(self) -> Iterable[tuple[str, int, View, tuple[int, ...]]]:
        """Of each old state: its name, its size, where its cotangent goes, and the
        nodes that must have read that place."""
        graph = self.graph
        for number, node in enumerate(graph.nodes):
            if node.op != "state":
                continue
            view, seed = self.carried[node["name"]], self.seeds.get(node["name"])
            if graph.children:  # a child's row, which this level does not read
                view, seed = View(view.array, True, slot_of(graph, node)), None
            after = () if seed is None else (seed,)
            yield node.label, self.step.size(number), view, after

    # -- gradients of weights

    def _panel(self, cotangent: int, affine: int | None = None) -> int:
        """The node that puts a cotangent into a panel: one for each cotangent."""
        operands = () if affine is None else self.graph.nodes[affine].args
        if cotangent in self.step.panel_nodes:
            number = self.step.panel_nodes[cotangent]
            node = self.step.nodes[number]
            attrs = (("operands", (*node["operands"], *operands)),)
            self.step.nodes[number] = Node(PANEL, node.args, attrs, node.size)
            return number
        size = self.step.size(cotangent)
        return self.step.add(PANEL, (cotangent,), size, operands=operands)

    def _summands(self, number: int) -> list[int]:
        """A number's gradient is a sum over units: taken with that over the rows.

        A sum that something else reads too stays one summand: so no sum is taken apart
        twice.
        """
        found, stack = [], [number]
        while stack:
            top = stack.pop()
            node = self.step.nodes[top]
            own = top == number or self.uses[top] == 1
            inner = own and node.op == "add" and self.step.size(top) == 1
            if node.op == "sum":
                found.append(node.args[0])
            elif inner and top >= len(self.graph.nodes):
                stack.extend(reversed(node.args))
            else:
                found.append(top)
        return found

    def _operands(self) -> list[int]:
        """Stores of the operands that stand nowhere: a gradient needs their rows."""
        puts = []
        for affine, _ in self.vjp.affines:
            for operand in self.graph.nodes[affine].args:
                if operand not in self.step.places:
                    name, size = f"operand.{operand}", self.step.size(operand)
                    view = self.step.scratch_array(name, size, self.step.axis(operand))
                    puts.append(self.step.put(operand, view))
                    self.step.places[operand] = view
        return puts

    def _weight_gradients(
        self, panels: dict[int, tuple[int, int]]
    ) -> Iterable[Gradient]:
        binding, entries, sources = self.plan.binding, [], []
        for affine, cotangent in self.vjp.affines:
            node = self.graph.nodes[affine]
            panel, column = panels[cotangent]
            for operand, arg in enumerate(node.args):
                source = self.step.places[arg]
                if (panel, source) not in sources:
                    sources.append((panel, source))
                index = sources.index((panel, source))
                heads = binding.heads[node["weight"]]
                key = (index, self.step.size(arg), heads)
                piece = binding.matrices[node["weight"], operand]
                entries.append((key, column, piece))
        for (index, width, heads), columns, pieces in runs(entries):
            panel, source = sources[index]
            yield Gradient(panel, columns[0], source, width, heads, pieces)

    def _reductions(self, panels: dict[int, tuple[int, int]]) -> Iterable[Reduction]:
        binding = self.plan.binding
        for cotangent, weight in self.reductions:
            yield Reduction(*panels[cotangent], binding.vectors[weight])
        for affine, cotangent in self.vjp.affines:
            for piece in binding.biases.get(self.graph.nodes[affine]["weight"], ()):
                yield Reduction(*panels[cotangent], piece)


def unsupported(graph: Graph) -> str | None:
    """Why there is no program for a cell's graph, or `None`."""
    for node in graph.nodes:
        if node.op in OPS and OPS[node.op].kind == "internal":
            return f"{node.op} is for derivatives"
    if len(graph.nodes) > MOST_NODES:
        return (
            f"the step has {len(graph.nodes):,} operations, a program takes "
            f"{MOST_NODES:,}"
        )
    try:
        _check(graph)
    except PlanError as error:
        return str(error)
    return None
