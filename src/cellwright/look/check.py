"""`cellwright check`: is a cell sound? Its weights, its gradients, and what runs it."""

from __future__ import annotations

import inspect
import linecache
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import cells
from ..compiler.differentiate import OUTPUT, VectorJacobian, differentiate
from ..engine.choice import ENGINES
from ..engine.forest import Forest
from ..language import ArgumentError, Cell, Graph, TreeCell
from ..language.evaluate import Edges, evaluate_nodes, rows_of
from ..language.graph import CHILDREN
from ..language.linear import describe_linear
from ..nn import Recurrent, TreeRecurrent
from ..nn.initialise import forget_bias_
from ..nn.items import length_name
from ..nn.weights import concatenate
from ..train.seeds import check_seed

_TOLERANCE = 1e-6  # relative, of central differences in float64
_ROWS, _STEPS = 4, 3
_LONGEST = 10_000
#: Cells that others are measured beside, and what their forget gate's bias is set to.
YARDSTICK = {"rnn": None, "gru": None, "lstm": None, "lstm, forget bias 1": 1.0}
_MOST = 20_000_000, 200_000_000  # weights, held several times over; values of all steps


@dataclass(frozen=True, repr=False)
class Check:
    """What `check_cell` found.

    Attributes:
        equations: the cell's statements, as printed.
        graph: the cell's step with the sizes it was checked for.
        autograd_error: largest relative difference between the table's derivatives
            and torch's autograd, over every gradient of one step.
        difference_error: the same between autograd and central differences.
        engine: what runs the cell by default: "native", or "reference" where it cannot.
        engine_error: largest relative difference between that engine and the reference,
            over the results and every gradient of a few steps.
        growth: the factor by which ‖∂L/∂(states)‖ changes per step back in time.
        gradient_norms: ‖∂L/∂(states at T − k)‖ for k = 0…T, relative to k = 0.
        state_norms: root mean square of each state after 1…T steps.
        yardstick: `growth` of common cells of the same sizes, by name.
        silent: parameters that get no gradient.
        unused: `file:line` of what the cell computes and nothing reads.
        linear_in: for each state, how the recurrence is linear in it: `"diagonal"`, or
            `None`.
        problems: what makes the cell unsound, in words; empty if nothing does.
        remarks: what is worth knowing.
    """

    equations: list[str]
    graph: Graph
    autograd_error: float
    difference_error: float
    engine: str
    engine_error: float
    growth: float
    gradient_norms: list[float]
    state_norms: dict[str, list[float]]
    silent: list[str]
    linear_in: dict[str, str | None] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    yardstick: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Everything found, as plain data for JSON; what is no number is None."""
        found = {k: v for k, v in vars(self).items() if k != "graph"}
        shapes = {n: list(s) for n, s in self.graph.parameters().items()}
        name = self.graph.name
        whole = {"cell": name, "sound": self.sound, **found, "parameters": shapes}
        return _plain(whole)

    def __repr__(self) -> str:
        """The report, so that a prompt and a notebook show it."""
        return str(self)

    def __str__(self) -> str:
        """What a person wants to read."""
        shapes = self.graph.parameters()
        width = max(map(len, shapes), default=0)
        count = sum(math.prod(shape) for shape in shapes.values())
        steps = len(self.gradient_norms) - 1
        near = [k for k in (1, 10, 100, 1000) if k <= steps]
        flow = ", ".join(f"{self.gradient_norms[k]:.1e} {k} back" for k in near)
        return "\n".join(
            [
                f"Cell {self.graph.name}",
                *(f"  {line}" for line in self.equations),
                "",
                f"Weights ({count:,} parameters)",
                *(f"  {n:<{width}}  {tuple(s)}" for n, s in shapes.items()),
                "",
                "Gradients of one step, float64, largest relative difference",
                f"  operation table − autograd      {self.autograd_error:.1e}",
                f"  finite differences − autograd   {self.difference_error:.1e}",
                "",
                f"{_STEPS} steps on the default engine, forward and backward",
                f"  {self.engine + ' − reference':<32}{self.engine_error:.1e}",
                "",
                f"Through {steps} steps, default weights, standard normal input",
                f"  gradient norm, relative: {flow}",
                *self._beside_others(),
                *(f"  {remark}" for remark in self.remarks),
                "",
                *(f"PROBLEM: {problem}" for problem in self.problems),
                "The cell is sound." if self.sound else "The cell is not sound.",
            ]
        )

    def _beside_others(self) -> list[str]:
        """The factor of every step back, beside that of cells that everyone knows."""
        if not self.yardstick:
            return []
        own = self.graph.name, self.growth
        rows = [own, *(row for row in self.yardstick.items() if row != own)]
        width = max(len(name) for name, _ in rows)
        return [
            "  its factor per step back, beside those of common cells",
            *(f"    {name:<{width}}  {_factor(growth)}" for name, growth in rows),
        ]


def check_cell(
    cell: Cell | str,
    input_size: int = 8,
    hidden_size: int = 16,
    *,
    steps: int = 100,
    seed: int = 0,
    **options: Any,
) -> Check:
    """Check a cell in float64 with default weights and standard normal inputs.

    Args:
        cell: the equations; a name of the zoo, or FILE.py:NAME.
        input_size, hidden_size, options: the sizes to bind, as for `Recurrent`.
        steps: T of the gradient-flow measurement.
        seed: of the weights and inputs.

    Returns:
        A `Check`; it is sound when `problems` is empty. It prints as a report.

    Raises:
        CellError: no such cell, or the sizes do not fit it.
        ArgumentError: no steps, or more steps or parameters than memory could hold, or
            a seed beyond 64 bits.
    """
    check_seed(seed)
    cell = _cell(cell)
    _check_sizes(cell, input_size, hidden_size, steps)
    reference, default = _two_layers(cell, input_size, hidden_size, seed, options)
    kind = _Node if isinstance(cell, TreeCell) else _Step
    kind = _StepWithItems if cell.graph.items else kind
    step = kind(reference, torch.Generator().manual_seed(seed))
    autograd_error, difference_error, silent = step.gradients()
    gradient_norms, state_norms = step.flow(steps)
    engine_error, failure = _engine_error(default, reference, step)
    found = Check(
        equations=reference.cell.equations,
        graph=step.graph,
        autograd_error=autograd_error,
        difference_error=difference_error,
        engine=default.engine,
        engine_error=engine_error,
        growth=_growth(gradient_norms),
        gradient_norms=gradient_norms,
        state_norms=state_norms,
        silent=silent,
        linear_in=cell.linear_in,
        unused=cell.unused_lines(),
        yardstick=_yardstick_of(cell, input_size, hidden_size, steps, seed),
    )
    _judge_engine(found, failure, default.engine_reason)
    _judge(found)
    found.remarks.extend(_describe_linear(step.graph))
    return found


def _cell(given: Any) -> Cell:
    found = cells.get(given) if isinstance(given, str) else given
    if isinstance(found, Cell):
        return found
    hint = ""
    if inspect.isfunction(found):
        hint = f". Write @cell above {found.__name__}, from cellwright"
    raise ArgumentError(
        f"[check] received {type(given).__name__} {given!r:.60}, expected a cell{hint}"
    )


def _yardstick_of(cell: Cell, *sizes: int) -> dict[str, float]:
    """Of cells of sequences alone: what a tree's gradients cross are not steps."""
    apart = isinstance(cell, TreeCell) or cell.graph.items
    return {} if apart else dict(_yardstick(*sizes))


@cache
def _yardstick(
    input_size: int, hidden_size: int, steps: int, seed: int
) -> tuple[tuple[str, float], ...]:
    """`growth` of the cells that everyone knows, measured as a cell's own is."""
    found = []
    for name, bias in YARDSTICK.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = Recurrent(
                name.partition(",")[0],
                *(input_size, hidden_size),
                engine="reference",
                dtype=torch.float64,
            )
        if bias is not None:
            forget_bias_(layer, bias)
        step = _Step(layer, torch.Generator().manual_seed(seed))
        step.gradients()  # draws, as it does for the cell that is checked
        found.append((name, _growth(step.flow(steps)[0])))
    return tuple(found)


def _two_layers(
    cell: Cell, input_size: int, hidden_size: int, seed: int, options: dict[str, Any]
) -> tuple[Any, Any]:
    """The cell as a layer in float64: on the reference, and on its default engine."""
    graph = cell.graph
    numbers = {i.name: 1 for i in graph.inputs[1:] if isinstance(i.size, str)}
    options |= {"inputs": numbers or None, "dtype": torch.float64}
    if graph.items:  # as wide as the states, for scores that are dot products
        wide = {i.name: hidden_size for i in graph.items if isinstance(i.size, str)}
        options["items"] = wide | (options.get("items") or {})
    kind = TreeRecurrent if isinstance(cell, TreeCell) else Recurrent
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reference = kind(cell, input_size, hidden_size, engine="reference", **options)
        default = kind(cell, input_size, hidden_size, **options)
    default.load_state_dict(reference.state_dict())
    return reference, default


def _engine_error(default: Any, reference: Any, step: _Step) -> tuple[float, str]:
    """How far the default engine is from the reference; its error if it fails."""
    leaves = {
        n: step.normal(*s).requires_grad_() for n, s in step.call_shapes().items()
    }
    expected = _results(step, reference, leaves)
    try:
        found = _results(step, default, leaves)
    except Exception as error:  # whatever it is, the cell cannot run
        return math.inf, f"{type(error).__name__}: {error}"
    pairs = zip(found, expected, strict=True)
    return max(_error(value, exact, least=1e-3) for value, exact in pairs), ""


def _results(step: _Step, layer: Any, leaves: dict[str, Tensor]) -> list[Tensor]:
    """A layer's results, and every gradient under fixed random cotangents."""
    y, states = step.call(layer, leaves)
    results = [y, *(states if isinstance(states, tuple) else (states,))]
    generator = torch.Generator().manual_seed(0)
    cotangents = [
        torch.randn(r.shape, dtype=r.dtype, generator=generator) for r in results
    ]
    wanted = [*leaves.values(), *layer.parameters()]
    found = _by_autograd(results, wanted, cotangents)
    zeros = [
        torch.zeros_like(t) if g is None else g
        for t, g in zip(wanted, found, strict=True)
    ]
    return [*(r.detach() for r in results), *zeros]


def _by_autograd(
    results: Sequence[Tensor], wanted: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients; `None` of what no result depends on."""
    pairs = zip(results, cotangents, strict=True)
    pairs = [(r, g) for r, g in pairs if r.requires_grad]  # not of a constant
    if not pairs:
        return [None] * len(wanted)
    depending, given = zip(*pairs, strict=True)
    found = torch.autograd.grad(depending, wanted, given, allow_unused=True)
    return list(found)


def _check_sizes(cell: Cell, input_size: int, hidden_size: int, steps: int) -> None:
    """Raise ArgumentError for sizes below 1, or such that memory would not do."""
    for name, size in (("input", input_size), ("hidden", hidden_size)):
        if size < 1:
            raise ArgumentError(f"[{name}] received {size}, expected 1 or more")
    if not 1 <= steps <= _LONGEST:
        raise ArgumentError(f"[steps] received {steps}, expected 1 to {_LONGEST}")
    matrices = len({n["weight"] for n in cell.graph.nodes if n.op == "affine"})
    elements = (
        matrices * hidden_size * (input_size + hidden_size),
        _ROWS * steps * len(cell.graph.nodes) * max(input_size, hidden_size),
    )
    for what, count, most in zip(
        ("weights", "values kept"), elements, _MOST, strict=True
    ):
        if count > most:
            raise ArgumentError(
                f"[check] about {count:,} {what}; received {input_size} inputs, "
                f"{hidden_size} units, {steps} steps, expected at most {most:,}. Fewer "
                "units show the same"
            )


class _Step:
    """One layer's step, with everything needed to differentiate it."""

    edges: Mapping[str, Edges] = {}  # which children, or items, are of which row

    def __init__(self, layer: Any, generator: torch.Generator) -> None:
        self.cell, self.W, self.generator = layer.cell, layer.cells[0], generator
        self.graph: Graph = self.graph_of(layer)
        # "W.h" beside "h": a weight may be called as a state is.
        self.parameters = {f"W.{n}": p for n, p in self.W.named_parameters()}

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.generator)

    @staticmethod
    def graph_of(layer: Any) -> Graph:
        return layer.graphs[0]

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Of what one step reads."""
        leaves = (*self.graph.inputs, *self.graph.states)
        return {leaf.name: (_ROWS, int(leaf.size)) for leaf in leaves}

    def items(self) -> dict[str, Tensor]:
        """What all steps look at."""
        return {}

    def after(self, states: list[Tensor]) -> dict[str, Tensor]:
        """The states that the next step reads."""
        names = [s.name for s in self.graph.states]
        return dict(zip(names, states, strict=True))

    def call_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what a layer reads over a few steps."""
        inputs = {i.name: (_STEPS, _ROWS, int(i.size)) for i in self.graph.inputs}
        return inputs | {s.name: (1, _ROWS, int(s.size)) for s in self.graph.states}

    def call(self, layer: Any, leaves: dict[str, Tensor]) -> Any:
        """A layer's output and states over a few steps."""
        named = {i.name: leaves[i.name] for i in self.graph.inputs[1:]}
        states = [leaves[s.name] for s in self.graph.states]
        state = states[0] if len(states) == 1 else tuple(states)
        return layer(leaves["x"], state, **named)

    def run(self, leaves: dict[str, Tensor]) -> list[Tensor]:
        named = {i.name: leaves[i.name] for i in self.graph.inputs[1:]}
        states = [leaves[s.name] for s in self.graph.states]
        results = self.cell(self.W, leaves["x"], *states, **named)
        results = results if isinstance(results, tuple | list) else [results]
        return [rows_of(r, _ROWS, leaves["x"]) for r in results]

    def gradients(self) -> tuple[float, float, list[str]]:
        """Every gradient of one step three ways, under a random cotangent.

        Returns:
            Autograd's difference to the table's derivatives, and to central
            differences; and the parameters without a gradient.
        """
        leaves = {n: self.normal(*s).requires_grad_() for n, s in self.shapes().items()}
        results = self.run(leaves)
        cotangents = [self.normal(*r.shape) for r in results]
        wanted = {**leaves, **self.parameters}
        found = _by_autograd(results, list(wanted.values()), cotangents)
        silent = [
            name.removeprefix("W.")
            for name, g in zip(wanted, found, strict=True)
            if g is None and name in self.parameters
        ]
        exact = {
            name: torch.zeros_like(tensor) if g is None else g
            for (name, tensor), g in zip(wanted.items(), found, strict=True)
        }
        table = self._by_table(leaves, cotangents)
        by_table = max(_error(table[n], exact[n]) for n in table)
        by_difference = max(
            self._difference_error(tensor, exact[name], leaves, cotangents)
            for name, tensor in wanted.items()
        )
        return by_table, by_difference, silent

    @torch.no_grad()
    def _by_table(
        self, leaves: dict[str, Tensor], cotangents: list[Tensor]
    ) -> dict[str, Tensor]:
        """Every gradient by the operation table's rules; what they omit is zero."""
        vjp = differentiate(self.graph)
        names = [s.name for s in self.graph.states]
        labels = names if self.graph.output_is_state else [OUTPUT, *names]
        given = dict(zip((f"d.{n}" for n in labels), cotangents, strict=True))
        values = evaluate_nodes(vjp.nodes, self.W, {**leaves, **given}, self.edges)
        whole = {**leaves, **self.parameters}
        found = {n: torch.zeros_like(t) for n, t in whole.items()}
        for kind in ("input", "item", "state"):
            for name, node in vjp.cotangents(kind).items():
                found[name] += values[node]
        for name, node in vjp.cotangents("weight").items():
            summed = values[node].sum(0)  # over rows; a single number's also over units
            weight = found[f"W.{name}"]
            weight += summed.view_as(weight) if weight.dim() else summed.sum()
        self._add_matrix_gradients(found, values, vjp)
        return found

    def _add_matrix_gradients(
        self, found: dict[str, Tensor], values: list[Any], vjp: VectorJacobian
    ) -> None:
        """What each affine's cotangent, times its operands, adds to its parameters."""
        for affine, number in vjp.affines:
            node, g = self.graph.nodes[affine], values[number]
            name, heads = node["weight"], self.graph.weight(node["weight"]).heads
            operands = [self._rows(values, affine, a) for a in node.args]
            operands = [  # a weight is the same for every row
                v.expand(len(g), -1).unflatten(-1, (heads, -1)) for v in operands
            ]
            rows, blocks = concatenate(operands), g.unflatten(-1, (heads, -1))
            matrix = torch.einsum("bno,bnk->nok", blocks, rows)
            owner = getattr(self.W, name)
            matrix = matrix.reshape(owner.weight.shape)
            if owner.matrix is not owner.weight:  # made of the parameter
                with torch.enable_grad():
                    (matrix,) = torch.autograd.grad(owner.matrix, owner.weight, matrix)
            found[f"W.{name}.weight"] += matrix
            if owner.bias is not None:
                found[f"W.{name}.bias"] += g.sum(0)

    def _rows(self, values: list[Any], affine: int, operand: int) -> Tensor:
        """An operand with the rows of its affine: one for each child, or item."""
        over = self.graph.sets
        if over[affine] == over[operand]:
            return values[operand]
        return self.edges[str(over[affine])].lift(values[operand])

    def _difference_error(
        self,
        tensor: Tensor,
        gradient: Tensor,
        leaves: dict[str, Tensor],
        cotangents: list[Tensor],
    ) -> float:
        """Autograd against the central difference along one random direction."""
        direction, here, width = self.normal(*tensor.shape), tensor.clone(), 1e-5
        losses = []
        with torch.no_grad():
            for sign in (1, -1):
                tensor.copy_(here + sign * width * direction)
                pairs = zip(self.run(leaves), cotangents, strict=True)
                losses.append(sum(float((r * c).sum()) for r, c in pairs))
            tensor.copy_(here)
        slope = torch.tensor((losses[0] - losses[1]) / (2 * width), dtype=here.dtype)
        return _error(slope, (gradient * direction).sum())

    def flow(self, steps: int) -> tuple[list[float], dict[str, list[float]]]:
        """How a gradient and the states change over many steps.

        Returns:
            ‖∂L/∂(all states at T − k)‖ / that at k = 0, for L a random linear
            function of the states at T; and each state's root mean square by step.
        """
        names = [s.name for s in self.graph.states]
        states = [
            torch.full((_ROWS, int(s.size)), s.init, dtype=torch.float64)
            for s in self.graph.states
        ]
        history, items = [], self.items()
        for _ in range(steps + 1):
            states = [s.detach().requires_grad_() if not history else s for s in states]
            history.append(states)
            if len(history) > steps:
                break
            leaves = {
                i.name: self.normal(_ROWS, int(i.size)) for i in self.graph.inputs
            }
            results = self.run({**leaves, **items, **self.after(states)})
            news = results if self.graph.output_is_state else results[1:]
            states = [
                new.expand_as(old) if new.requires_grad else new.expand_as(old).detach()
                for new, old in zip(news, states, strict=True)
            ]
            states = [s if s.requires_grad else s.requires_grad_() for s in states]
        flat = [s for states in history for s in states]
        cotangents = [self.normal(*s.shape) for s in history[-1]]
        found = torch.autograd.grad(
            history[-1], flat, cotangents, allow_unused=True, retain_graph=False
        )
        norms = []
        for k in range(len(history)):
            part = found[k * len(names) : (k + 1) * len(names)]
            norms.append(math.hypot(*(float(g.norm()) for g in part if g is not None)))
        norms.reverse()
        sizes = {
            name: [float(h[i].detach().square().mean().sqrt()) for h in history[1:]]
            for i, name in enumerate(names)
        }
        return [n / norms[0] for n in norms], sizes


class _StepWithItems(_Step):
    """The step of a cell that looks at items; the rows see 2, 3, 0 and 1 of them."""

    counts = (2, 3, 0, 1)

    def __init__(self, layer: Any, generator: torch.Generator) -> None:
        super().__init__(layer, generator)
        rows = torch.arange(_ROWS).repeat_interleave(torch.tensor(self.counts))
        self.edges = {item.set: Edges(rows, _ROWS) for item in self.graph.items}

    def shapes(self) -> dict[str, tuple[int, int]]:
        count, items = sum(self.counts), self.graph.items
        return super().shapes() | {i.name: (count, int(i.size)) for i in items}

    def call_shapes(self) -> dict[str, tuple[int, ...]]:
        longest, items = max(self.counts), self.graph.items
        own = {i.name: (longest, _ROWS, int(i.size)) for i in items}
        return super().call_shapes() | own

    def call(self, layer: Any, leaves: dict[str, Tensor]) -> Any:
        named: dict[str, Any] = {i.name: leaves[i.name] for i in self.graph.inputs[1:]}
        for item in self.graph.items:
            named[item.name] = leaves[item.name]
            named[length_name(item.name)] = torch.tensor(self.counts)
        states = [leaves[s.name] for s in self.graph.states]
        state = states[0] if len(states) == 1 else tuple(states)
        return layer(leaves["x"], state, **named)

    def run(self, leaves: dict[str, Tensor]) -> list[Tensor]:
        return _run_graph(self, leaves)

    def items(self) -> dict[str, Tensor]:
        shapes = self.shapes()
        return {i.name: self.normal(*shapes[i.name]) for i in self.graph.items}


class _Node(_Step):
    """The step of a tree's node; gradients flow up a path of only children."""

    def __init__(self, layer: Any, generator: torch.Generator) -> None:
        super().__init__(layer, generator)
        if self.graph.many:  # nodes of one child, of three, of two, and of none
            self.edges = {CHILDREN: Edges(torch.tensor([0, 1, 1, 1, 2, 2]), _ROWS)}

    @staticmethod
    def graph_of(layer: Any) -> Graph:
        return layer.graph

    def shapes(self) -> dict[str, tuple[int, int]]:
        rows = len(self.edges[CHILDREN].parents) if self.edges else _ROWS
        shapes = {i.name: (_ROWS, int(i.size)) for i in self.graph.inputs}
        for child in self.graph.children:
            for s in self.graph.states:
                shapes[f"{child}.{s.name}"] = (rows, int(s.size))
        return shapes

    @property
    def forest(self) -> Forest:
        """A root whose first child has as many children as it has itself."""
        width = 3 if self.graph.many else len(self.graph.children)
        return Forest.from_parents([width] * width + [2 * width] * width + [-1])

    def call_shapes(self) -> dict[str, tuple[int, ...]]:
        return {i.name: (self.forest.nodes, int(i.size)) for i in self.graph.inputs}

    def call(self, layer: Any, leaves: dict[str, Tensor]) -> Any:
        named = {i.name: leaves[i.name] for i in self.graph.inputs[1:]}
        return layer(leaves["x"], self.forest, **named)

    def run(self, leaves: dict[str, Tensor]) -> list[Tensor]:
        return _run_graph(self, leaves)

    def after(self, states: list[Tensor]) -> dict[str, Tensor]:
        first, *others = self.graph.children
        if self.edges:
            self.edges = {CHILDREN: Edges(torch.arange(_ROWS), _ROWS)}
        named = zip(self.graph.states, states, strict=True)
        found = {f"{first}.{s.name}": v for s, v in named}
        for child in others:
            for s, v in zip(self.graph.states, states, strict=True):
                found[f"{child}.{s.name}"] = torch.zeros_like(v)
        return found


def _run_graph(step: _Step, leaves: dict[str, Tensor]) -> list[Tensor]:
    """A step's results by its graph: its function has no sets of several sizes."""
    values = evaluate_nodes(step.graph.nodes, step.W, leaves, step.edges)
    results = step.graph.results(values)
    results = results if isinstance(results, tuple) else (results,)
    return [rows_of(r, _ROWS, leaves["x"]) for r in results]


def _error(value: Tensor, expected: Tensor, least: float = 1e-8) -> float:
    """Largest difference, relative to the largest expected value, or to `least`."""
    scale = max(float(expected.abs().max()), least)
    difference = float((value - expected).abs().max()) / scale
    return difference if math.isfinite(difference) else math.inf


def _plain(value: Any) -> Any:
    """JSON has neither infinities nor NaN."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _growth(norms: list[float]) -> float:
    """The geometric mean factor per step back, while the norm is a number."""
    last = max(k for k, n in enumerate(norms) if 1e-280 < n < 1e280)
    return norms[last] ** (1 / last) if last else norms[min(1, len(norms) - 1)]


def _judge_engine(found: Check, failure: str, reason: str | None) -> None:
    """Say what is wrong with the default engine, and why it is not the native one."""
    if failure:
        found.problems.append(f"the {found.engine} engine fails: {failure}")
    if found.engine != next(iter(ENGINES)):
        found.remarks.append(f"it runs on the {found.engine}: {reason}")


def _judge(found: Check) -> None:
    """Say what is wrong with a cell, and what is worth knowing."""
    if found.autograd_error > 1e-9:
        found.problems.append(
            "the operation table's derivatives differ from autograd's by "
            f"{found.autograd_error:.1e} (relative)"
        )
    if math.isfinite(found.engine_error) and found.engine_error > 1e-9:
        found.problems.append(
            f"the {found.engine} engine differs from the reference by "
            f"{found.engine_error:.1e} (relative)"
        )
    if found.difference_error > _TOLERANCE:
        found.problems.append(
            "finite differences differ from the gradient by "
            f"{found.difference_error:.1e} (relative): a NaN, a kink, or a jump (step)"
        )
    for name, norms in found.state_norms.items():
        if not math.isfinite(norms[-1]) or norms[-1] > 1e6:
            found.problems.append(
                f"state {name!r} explodes: root mean square {norms[-1]:.2g} after "
                f"{len(norms)} steps"
            )
        elif len(norms) > 10 and norms[-1] > 3 * max(norms[len(norms) // 4], 1e-9):
            found.remarks.append(
                f"state {name!r} keeps growing: root mean square {norms[-1]:.2g} after "
                f"{len(norms)} steps, {norms[len(norms) // 4]:.2g} after a quarter"
            )
    found.problems.extend(f"parameter {n!r} gets no gradient" for n in found.silent)
    found.remarks.extend(map(_describe_unused, found.unused))
    found.remarks.append(_describe_growth(found.growth, found.gradient_norms))


def _describe_linear(graph: Graph) -> list[str]:
    """What it means that a cell is linear in some of its states."""
    return [
        f"{line}. It can be computed in parallel in time, and the gradient's factor "
        "from step to step is exactly what multiplies the old state"
        for line in describe_linear(graph)
    ]


def _describe_unused(place: str) -> str:
    """A line that computes what nothing reads, with its text where there is one."""
    file, _, line = place.rpartition(":")
    written = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
    return f"{place} computes a value that nothing reads" + (
        f": {written}" if written else ""
    )


def _factor(growth: float) -> str:
    return f"× {growth:.4f}" if math.isfinite(growth) else "overflows"


def _describe_growth(growth: float, norms: Sequence[float]) -> str:
    overflow = next((k for k, n in enumerate(norms) if not math.isfinite(n)), None)
    if overflow is not None:
        return (
            f"the gradient overflows {overflow} steps back: a state or a derivative is "
            "beyond the largest number of 64 bits"
        )
    if growth <= 0:
        return "no gradient reaches the states of earlier steps"
    if abs(growth - 1) < 1e-4:
        return "gradients neither vanish nor explode: × 1.000 per step back"
    steps = math.log(2) / abs(math.log(growth))
    how = "vanish, halving" if growth < 1 else "explode, doubling"
    return f"gradients {how} every {steps:.1f} steps (× {growth:.4f} per step back)"
