"""Random small cells in the language, as source text, and their derivative by table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import cellwright as cw
from cellwright.compiler.differentiate import OUTPUT, differentiate
from cellwright.language import Graph
from cellwright.language.evaluate import Edges, evaluate_nodes

INPUT, HIDDEN = 6, 4  # both even, so that two heads fit
ITEM_SIZES = {"source": 3, "notes": 2}  # of what cells with items look at

_ACTIVATIONS = (
    "sigmoid",
    "tanh",
    "relu",
    "softplus",
    "softsign",
    "hard_sigmoid",
    "hard_tanh",
    "sin",
    "cos",
    "abs",
    "identity",
    "softmax",
)
_SAFE = (  # defined everywhere, whatever v is
    "exp(-abs({0}))",
    "log(1 + {0} * {0})",
    "sqrt(1 + {0} * {0})",
    "-{0}",
    "0.5 * {0}",
    "{0} / 3",
    "2 - {0}",
    "layer_norm({0})",
    "layer_norm({0}, heads=2, eps=0.01)",
    "softmax({0})",
    "sum({0}) * 0.1 + {0}",
)
_PAIRS = (
    "{0} + {1}",
    "{0} - {1}",
    "{0} * {1}",
    "{0} - ({1} - {0})",
    "{0} / (1 + exp({1}))",
    "maximum({0}, {1})",
    "minimum({0}, 0.3 * {1})",
    "where({0} > {1}, {0}, 0.5)",
    "where({0} <= 0.2, {1}, -{0})",
    "{0} / (sum({1} * {1}) + 1)",
)


_ONE_UNIT = (  # {0}: a weight's name of its own, {1}: a value of the hidden size
    "dt",
    "W.{0} * dt",
    'W.scalar("{0}") * dt',
    "sigmoid(W.{0} * dt)",
    "abs(dt - W.{0})",
    "exp(-abs(dt * W.{0}))",
    'W.vector("{0}", size=1)',
    "sum({1}) * W.{0}",
)


_KEYS = (  # {0}: a number, {1}: a value of the hidden size, {2}: a set; one an item
    "W.k{0}({2})",
    "tanh(W.r{0}({1}, bias=False) + W.k{0}({2}))",
    "tanh(W.k{0}({1}, {2}))",
    "sigmoid(W.k{0}({2})) * {1}",
    "layer_norm(W.k{0}({2}) - {1})",
    "W.k{0}({2} - 0.1 * total({2}))",
)
_SCORES = (  # {2}: a key
    "W.e{0}({2}, size=1)",
    "sum({1} * {2}) * 0.5",
    'W.scalar("s{0}") * sum({2})',
)


_HEADS = '("hidden_size", "hidden_size", 2)'
_OF_MATRICES = (  # {0}: a number of its own, {1}: a matrix, {2}, {3}: values
    "sigmoid(W.f{0}(x, size=2)) * {1} + outer({2}, {3}, heads=2)",
    "{1} - W.b{0}({2}, size=2) * outer(matvec({1}, {3}) - {2}, {3}, heads=2)",
    "scale_rows({1}, {2}) - {1} / 3",
    "scale_columns(tanh({1}), {2})",
    f'W.matrix("A{{0}}", size={_HEADS}) * {{1}} + 0.3',
    "maximum({1}, outer({2}, {3}, heads=2)) * W.d{0}({2}, size=1)",
    "{1} / (1 + spread(sum({1} * {1}, heads=2), {1}))",
)
_OF_A_MATRIX = (  # {0}: a matrix, {1}: a value; a vector
    "tanh(matvec({0}, {1}))",
    "tanh(vecmat({1}, {0}))",
    "0.1 * spread(sum({0}, heads=2), {1})",
    "0.1 * sum({0}) + {1}",
)


@dataclass
class _Draft:
    """A cell being drawn: which values there are, which weights, which lines."""

    draw: Any
    values: list[str]  # of the hidden size
    matrices: list[tuple[str, tuple[int, ...], str]] = field(default_factory=list)
    vectors: int = 0
    lines: list[str] = field(default_factory=list)

    def one_of(self, items: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def affine(self) -> str:
        """A new matrix, or an earlier one on other operands of the same widths."""
        if self.matrices and self.draw(st.integers(0, 3)) == 0:
            name, widths, options = self.one_of(self.matrices)
        else:
            count = self.draw(st.integers(1, 3))
            known = (HIDDEN, HIDDEN, INPUT, 1)
            widths = tuple(self.one_of(known) for _ in range(count))
            options = ("", "", ", bias=False", ", bias=1.0", ", columns=softmax")
            if 1 not in widths:
                options += (
                    ", heads=2",
                    ", bias=False, heads=2",
                    ", heads=2, columns=tanh",
                )
            if widths == (HIDDEN,):
                options += (", antisymmetric=True", ", heads=2, antisymmetric=True")
            options = self.one_of(options)
            name = f"w{len(self.matrices)}"
            self.matrices.append((name, widths, options))
        operands = [self.operand(width) for width in widths]
        return f"W.{name}({', '.join(operands)}{options})"

    def operand(self, width: int) -> str:
        if width == 1:
            return self.one_unit()
        return "x" if width == INPUT else self.one_of(self.values)

    def one_unit(self) -> str:
        """A value of one unit: an input, a weight, a number a row, what these make."""
        self.vectors += 1
        name, value = f"q{self.vectors}", self.one_of(self.values)
        return self.one_of(_ONE_UNIT).format(name, value)

    def diagonal(self) -> str:
        self.vectors += 1
        if self.draw(st.integers(0, 2)) == 0:
            forms = (
                "{0} * {1}",
                "({1} - {0})",
                "maximum({0}, {1})",
                "where({1} > {0}, {1}, {0})",
            )
            return self.one_of(forms).format(self.one_unit(), self.one_of(self.values))
        form = self.one_of(
            (
                "W.p{0} * {1}",
                'W.vector("p{0}", init=0.5) * {1}',
                'W.scalar("p{0}", init=-0.7) * {1}',
                "({1} - W.p{0})",
                'W.scalar("p{0}") + {1}',
            )
        )
        return form.format(self.vectors, self.one_of(self.values))

    def add(self, name: str, text: str) -> None:
        self.lines.append(f"    {name} = {text}")
        self.values.append(name)

    def gate(self, number: int) -> None:
        waiting = [value for value in self.values if value[0] == "a"]
        apart = waiting and self.draw(st.integers(0, 2)) == 0
        inner = self.one_of(waiting) if apart else self.affine()
        if self.draw(st.booleans()):
            inner += f" {self.one_of('+-')} {self.diagonal()}"
        if self.draw(st.integers(0, 3)) == 0:
            inner = self.one_of(_SAFE).format(f"({inner})")
        self.add(f"g{number}", f"{self.one_of(_ACTIVATIONS)}({inner})")

    def again(self, number: int) -> None:
        """An affine for later lines to read; or a line written a second time."""
        apart = ("    e", "    M")  # of items, or matrices
        of_step = (line for line in self.lines if not line.startswith(apart))
        lines = [line for line in of_step if "name(" not in line]
        if self.draw(st.booleans()):
            self.add(f"a{number}", self.affine())
        else:
            self.add(f"b{number}", self.one_of(lines).split(" = ", 1)[1])

    def attention(self, number: int) -> None:
        """What a step sees of a set of items."""
        query, items = self.one_of(self.values), self.one_of(ITEM_SIZES)
        key = self.one_of(_KEYS).format(number, query, items)
        form = self.draw(st.integers(0, 3))
        if form == 0:
            self.add(f"t{number}", f"0.3 * total({key})")
        elif form == 1:  # a softmax for each unit
            self.add(f"t{number}", f"attend({key}, W.v{number}({items}))")
        else:
            score = self.one_of(_SCORES).format(number, query, key)
            values = self.one_of((items, f"0.5 * {items}", f"tanh({items})"))
            self.lines.append(f"    e{number} = {score}")
            seen = f"W.c{number}(attend(e{number}, {values}))"
            self.add(f"t{number}", f"tanh({seen})")

    def matrix(self, number: int, old: str) -> str:
        """A matrix made of another, and a vector of it; the name of the matrix."""
        pair = [self.one_of(self.values) for _ in range(2)]
        text = self.one_of(_OF_MATRICES).format(number, old, *pair)
        self.lines.append(f"    M{number} = {text}")
        read = self.one_of(_OF_A_MATRIX).format(f"M{number}", self.one_of(self.values))
        self.add(f"r{number}", read)
        return f"M{number}"

    def mixture(self, number: int) -> None:
        if self.draw(st.booleans()):
            text = self.one_of(_SAFE).format(self.one_of(self.values))
        else:
            pair = [self.one_of(self.values) for _ in range(2)]
            text = self.one_of(_PAIRS).format(*pair)
        if self.draw(st.integers(0, 4)) == 0:
            text = f'name("n{number}", {text})'
        self.add(f"u{number}", text)


@st.composite
def sources(
    draw: Any, unread: bool = False, items: bool = False, matrices: bool = False
) -> str:
    """The text of a cell's function `random_cell`, of 1–3 states and 1–8 gates.

    Args:
        unread: leave values in it that nothing reads.
        items: it looks at sets of items, of `ITEM_SIZES`.
        matrices: its first state `M` is a matrix of two heads.
    """
    states = ["h", "c", "m"][: draw(st.integers(1, 3))]
    inits = [draw(st.sampled_from(["", "=0.5", "=0", "=-1"])) for _ in states]
    inits.sort(key=bool)  # Python: arguments with defaults come last
    draft = _Draft(draw, list(states))
    for number in range(draw(st.integers(1, 2)) if items else 0):
        draft.attention(number)
    whole = "M"
    for number in range(draw(st.integers(1, 8))):
        draft.gate(number)
        if matrices and (number == 0 or draw(st.integers(0, 2)) == 0):
            whole = draft.matrix(number, whole)
        if draw(st.booleans()):
            draft.mixture(number)
        if draw(st.integers(0, 2)) == 0:
            draft.again(number)
    results = []
    for number, state in enumerate(states):
        gate = draft.one_of(draft.values[len(states) :])
        other = draft.one_of(draft.values)
        draft.lines.append(f"    s{number} = {gate} * {state} + 0.5 * {other}")
        results.append(f"s{number}")
    if not unread:
        left = [v for v in draft.values if not _is_read(v, draft.lines)]
        draft.lines += [f"    s0 = s0 + 0.1 * {v}" for v in left]
    if draw(st.integers(0, 3)) == 0:  # an output that is no state
        results.insert(0, f"{results[0]} * {draft.values[-1]}")
    arguments = ", ".join(s + i for s, i in zip(states, inits, strict=True))
    if matrices:
        arguments = f"M: {_HEADS}, {arguments}"
        place = len(results) - len(states)
        results.insert(place, f"0.5 * M + 0.5 * {whole}")
        if not place:
            results.insert(0, f"0.3 * {results[1]}")
    body = "\n".join(draft.lines)
    further = ["dt: 1"] if re.search(r"\bdt\b", body) else []
    sets = ITEM_SIZES if items else ()
    further += [f"{s}: Items" for s in sets if re.search(rf"\b{s}\b", body)]
    if further:
        arguments += f", *, {', '.join(further)}"
    return (
        f"def random_cell(W, x, {arguments}):\n{body}\n    return {', '.join(results)}"
    )


def _is_read(value: str, lines: Sequence[str]) -> bool:
    texts = [line.split(" = ", 1)[1] for line in lines]
    return any(re.search(rf"\b{value}\b", text) for text in texts)


def item_sizes(cell: cw.Cell) -> dict[str, int]:
    """`Recurrent`'s `items=` of a cell from `make_cell`."""
    return {item.name: ITEM_SIZES[item.name] for item in cell.graph.items}


def make_cell(source: str) -> cw.Cell:
    """The cell of a text that `sources` drew."""
    scope = {n: getattr(cw, n) for n in cw.__all__}
    exec(compile(source, "<random cell>", "exec"), scope)
    return cw.cell(scope["random_cell"])


# -- gradients by the operation table ------------------------------------------


def table_gradients(
    graph: Graph,
    W: Any,
    leaves: Mapping[str, Tensor],
    cotangents: Sequence[Tensor],
    edges: Mapping[str, Edges] | None = None,
) -> dict[str, Tensor]:
    """Every gradient of one step by `differentiate`; what it leaves out is zero.

    Args:
        graph: bound.
        W: the weights.
        leaves: x, the named inputs and the old states, (B, size) each; items, packed.
        cotangents: of what the cell returns, in that order.
        edges: which items are of which row, by set.
    """
    labels = [s.name for s in graph.states]
    labels = labels if graph.output_is_state else [OUTPUT, *labels]
    seeds = dict(zip((f"d.{n}" for n in labels), cotangents, strict=True))
    vjp, sets = differentiate(graph), graph.sets
    with torch.no_grad():
        values = evaluate_nodes(vjp.nodes, W, {**leaves, **seeds}, edges)
    parameters = dict(W.named_parameters())
    found = {n: torch.zeros_like(t) for n, t in {**leaves, **parameters}.items()}
    for leaf, number in vjp.cotangent_of.items():
        node, value = graph.nodes[leaf], values[number]
        if node.op in ("input", "state", "item"):
            found[node["name"]] += value
        elif node.op == "weight":
            name = node["weight"]
            found[name] += (
                value.sum(0).view_as(found[name]) if found[name].dim() else value.sum()
            )
    for affine, number in vjp.affines:
        name = graph.nodes[affine]["weight"]
        g = values[number]
        # A weight is the same for every row, a value of the step for all its items.
        operands = [
            values[a]
            if sets[a] == sets[affine]
            else edges[sets[affine]].lift(values[a])  # type: ignore[index]
            for a in graph.nodes[affine].args
        ]
        operands = [o.expand(len(g), -1) for o in operands]
        heads = graph.weight(name).heads
        rows = torch.cat([o.unflatten(-1, (heads, -1)) for o in operands], -1)
        blocks = torch.einsum("bno,bnk->nok", g.unflatten(-1, (heads, -1)), rows)
        module = getattr(W, name)
        if not module.maps_its_weight:  # once a call, outside the step
            blocks = blocks.reshape(module.weight.shape)
            (blocks,) = torch.autograd.grad(module.matrix, module.weight, blocks)
        found[f"{name}.weight"] += blocks.reshape(found[f"{name}.weight"].shape)
        if f"{name}.bias" in found:
            found[f"{name}.bias"] += g.sum(0)
    return found
