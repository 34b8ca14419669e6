"""What is drawn of a cell: its graph with every layer, and every operation, as one.

A layer is a box: an activation with the matrices, biases and diagonal weights in its
argument. Everything else is a pointwise operation, its numbers and weights written
into it. The elements cover the graph's nodes, so contracting the graph by them gives
the sketch: nothing is left out, nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...language.graph import AFFINE, ATTENTION, ITEM, TOTAL, Graph
from ...language.hyperparameters import Known
from ...language.latex import EquationWriter
from ...language.ops import OPS
from .text import Label, Run, number, plain, subscripted, symbol

SOURCES = ("input", "state", ITEM)
RESULTS = ("new", "output")


@dataclass(frozen=True)
class Wire:
    """An operand: which element it comes from, and what stands at its arrow.

    Attributes:
        source: the element.
        mark: a diagonal weight, the sign of a subtrahend, the role in a choice.
    """

    source: int
    mark: Label = ()


@dataclass(frozen=True)
class Element:
    """A thing of the picture.

    Attributes:
        kind: `"input"`, `"state"` (old), `"layer"`, `"op"`, `"new"` (a state's new
            value), `"output"`, and `"join"`, where lines make one concatenation.
        label: what is written in it.
        inputs: its operands, in the order written.
        covers: the nodes of the graph that it stands for.
        value: the node whose value it yields.
        name: its value's name at time t, written beside its line.
        state: of an old or a new state, which.
        sign: `"items"`, of an input that is a set of items, `"attention"`, of an
            operation, or `"unbiased"`, of a layer: they are drawn in their own way.
    """

    kind: str
    label: Label
    inputs: tuple[Wire, ...] = ()
    covers: frozenset[int] = frozenset()
    value: int = -1
    name: Label = ()
    state: str = ""
    sign: str = ""


def sketch(
    graph: Graph, known: Mapping[int, Known] | None = None
) -> tuple[Element, ...]:
    """The elements of a cell's picture; inputs of each come before it.

    Args:
        graph: the cell's.
        known: its constants that are a hyperparameter.
    """
    return _Sketcher(graph, known or {}).elements()


@dataclass
class _Layer:
    """What a box has taken in so far."""

    wires: list[tuple[int, Label]]  # node of the operand, mark
    covers: set[int]
    affines: list[int]
    normalised: bool = False
    shifted: bool = False


class _Sketcher:
    def __init__(self, graph: Graph, known: Mapping[int, Known]) -> None:
        self.graph = graph
        self.known = known
        self.uses = graph.uses()
        self.writer = EquationWriter(
            graph
        )  # knows each value's time, or its tree's node
        self.named = {node for name, node in graph.names if name in graph.explicit}
        self.found: list[Element] = []
        self.element_of: dict[int, int] = {}  # node -> element that yields it
        self.fixed = self._fixed()

    def _fixed(self) -> set[int]:
        """Nodes that depend on numbers and weights alone: the same at every step."""
        fixed: set[int] = set()
        for i, node in enumerate(self.graph.nodes):
            if node.op in ("constant", "weight") or (
                node.op in OPS and node.args and fixed.issuperset(node.args)
            ):
                fixed.add(i)
        return fixed

    def elements(self) -> tuple[Element, ...]:
        graph = self.graph
        now = self.writer.now(graph.output)
        for number_, node in enumerate(graph.nodes):
            if node.op == ITEM:
                label = symbol(node["name"], self.writer.now(number_))
                self.emit(number_, Element("input", label, sign="items"))
            elif node.op in SOURCES:
                place = now if node.op == "input" else self.writer.before(node)
                state = node["name"] if node.op == "state" else ""
                label = symbol(node["name"], place)
                self.emit(number_, Element(node.op, label, state=state))
        for state, node in zip(graph.states, graph.updates, strict=True):
            self.emit_result("new", symbol(state.name, now), node, state.name)
        if graph.output_is_state:
            label = symbol(graph.states[0].name, now)
        else:
            labels = [n for n, node in graph.names if node == graph.output]
            label = symbol(labels[0] if labels else "y", now)
        self.emit_result("output", label, graph.output)
        return _in_written_order(self.found)

    def emit_result(self, kind: str, label: Label, node: int, state: str = "") -> None:
        wires = (Wire(self.visit(node)),)
        self.found.append(Element(kind, label, wires, value=node, state=state))

    def emit(self, node: int, element: Element) -> int:
        names = [n for n, i in self.graph.names if i == node]
        states = {s.name for s in self.graph.states}
        names.sort(key=lambda n: n not in states)  # as the equations have it
        label = ()
        if names and element.kind not in SOURCES:
            label = symbol(self.writer.label(node, names[0]), self.writer.now(node))
        self.element_of[node] = len(self.found)
        covers = element.covers | {node}
        self.found.append(replace(element, covers=covers, value=node, name=label))
        return self.element_of[node]

    def visit(self, node: int) -> int:
        """The element that yields a node's value, made with what it needs first."""
        if node in self.element_of:
            return self.element_of[node]
        layer = self.layer(node)
        if layer is not None:
            wires = tuple(Wire(self.visit(n), mark) for n, mark in layer.wires)
            label = self.layer_label(node, layer)
            covers = frozenset(layer.covers)
            sign = "" if self.has_bias(layer) else "unbiased"
            return self.emit(node, Element("layer", label, wires, covers, sign=sign))
        return self.emit(node, self.operation(node))

    # -- layers ------------------------------------------------------------------

    def layer(self, node: int) -> _Layer | None:
        """The box that a node is the value of, or `None`."""
        op = OPS.get(self.graph.nodes[node].op)
        start = node
        if op is not None and op.kind == "activation":
            start = self.graph.nodes[node].args[0]
            if not self.own(start):
                return None
        layer = _Layer([], {node}, [])
        if not self.take(start, layer, ()) or not layer.affines:
            return None
        return layer

    def has_bias(self, layer: _Layer) -> bool:
        weights = [self.graph.weight(self.weight_name(a)) for a in layer.affines]
        return layer.shifted or any(weight.bias for weight in weights)

    def own(self, node: int) -> bool:
        """Nobody else reads it, and no name is lost if it is not drawn by itself."""
        return self.uses[node] == 1 and node not in self.named

    def take(self, number_: int, layer: _Layer, mark: Label) -> bool:
        """Take a sum of matrices, diagonals and shifts into a box; False if it is not.

        `mark` is the sign and the gain that a term has.
        """
        graph, node = self.graph, self.graph.nodes[number_]
        layer.covers.add(number_)
        if number_ in self.fixed:
            layer.covers |= self.below(number_)
            layer.shifted = True  # part of the bias
            return node.op == "weight" and not mark
        if node.op == AFFINE:
            layer.affines.append(number_)
            layer.wires += [(a, mark) for a in node.args]
            return True
        if node.op == "add" or (node.op == "sub" and self.is_diagonal(node.args[1])):
            marks = (mark, mark if node.op == "add" else (*plain("−"), *mark))
            return all(
                (self.own(a) or a in self.fixed) and self.take(a, layer, m)
                for a, m in zip(node.args, marks, strict=True)
            )
        if node.op == "layer_norm" and self.own(node.args[0]):
            layer.normalised = True
            return self.take(node.args[0], layer, mark)
        if node.op == "mul":
            weights = [a for a in node.args if graph.nodes[a].op == "weight"]
            others = [a for a in node.args if a not in weights]
            if len(weights) != 1 or len(others) != 1:
                return False
            return self.take_weighted(weights[0], others[0], layer, mark)
        return False

    def is_diagonal(self, node: int) -> bool:
        ops = [self.graph.nodes[a].op for a in self.graph.nodes[node].args]
        return self.graph.nodes[node].op == "mul" and "weight" in ops

    def take_weighted(
        self, weight: int, other: int, layer: _Layer, mark: Label
    ) -> bool:
        """A gain on a normalised matrix, or a diagonal weight on a value."""
        layer.covers.add(weight)
        if self.graph.nodes[other].op == "layer_norm" and self.own(other):
            return self.take(other, layer, mark)
        if self.graph.nodes[other].op == AFFINE and self.own(other):
            return False
        if other in self.fixed:
            return False
        layer.wires.append((other, (*mark, *symbol(self.weight_name(weight)))))
        return True

    def weight_name(self, node: int) -> str:
        return self.graph.nodes[node]["weight"]

    def layer_label(self, node: int, layer: _Layer) -> Label:
        op = self.graph.nodes[node].op
        normalised = " LN" if layer.normalised else ""
        if node in layer.affines or OPS[op].kind != "activation":
            matrix = subscripted("W", self.weight_name(layer.affines[0]))
            return (*matrix, *plain(normalised))
        return plain(OPS[op].glyph + normalised)

    # -- operations --------------------------------------------------------------

    def operation(self, node: int) -> Element:
        """A pointwise operation, its numbers and weights written into it."""
        op, args = self.graph.nodes[node].op, self.graph.nodes[node].args
        covers = {n for a in args if a in self.fixed for n in self.below(a)}
        if node in self.fixed:
            return Element("op", self.fixed_text(node), (), frozenset(self.below(node)))
        if op == "where":
            return self.choice(node)
        if op in (TOTAL, ATTENTION):
            glyph = Run("Σ" if op == TOTAL else "softmax")
            label = (glyph, Run(self.writer.member(args[0]), True, True))
            sign = "" if op == TOTAL else "attention"
            return Element("op", label, (Wire(self.visit(args[0])),), sign=sign)
        fused = self.fuse(node)
        if fused is not None:
            return fused
        values = [a for a in args if a not in self.fixed]
        if op == "mul" and args[0] == args[1]:
            return Element("op", plain("( · )²"), (Wire(self.visit(args[0])),))
        wires = [Wire(self.visit(a)) for a in values]
        if len(values) == 2 and op in ("sub", "div"):
            wires[1] = Wire(wires[1].source, plain(OPS[op].glyph))
        if len(values) == 2 and OPS[op].kind == "comparison":
            wires[1] = Wire(wires[1].source, plain("right"))
        return Element("op", self.op_label(node), tuple(wires), frozenset(covers))

    def op_label(self, node: int) -> Label:
        """* or tanh; with a number or a weight: 1−, *0.9, max 0."""
        op, args = self.graph.nodes[node].op, self.graph.nodes[node].args
        glyph = OPS[op].glyph
        fixed = [a for a in args if a in self.fixed]
        if not fixed:
            return plain(glyph)
        text = self.fixed_text(fixed[0])
        if op in ("maximum", "minimum"):
            return (*plain(f"{glyph} "), *text)
        commutes = op in ("add", "mul")
        if fixed[0] == args[0] and not commutes:
            return (*text, *plain(glyph))
        if op == "add" and text[0].text.startswith("−"):
            return text
        return (*plain(glyph), *text)

    def choice(self, node: int) -> Element:
        """`where`: its condition is an operand; constants stand in the label."""
        condition, *branches = self.graph.nodes[node].args
        label, wires, covers = [*plain("where")], [Wire(self.visit(condition))], set()
        wires[0] = Wire(wires[0].source, plain("if"))
        for role, branch in zip(("then", "else"), branches, strict=True):
            if branch in self.fixed:
                label += [*plain(f" {role} "), *self.fixed_text(branch)]
                covers |= self.below(branch)
            else:
                wires.append(Wire(self.visit(branch), plain(role)))
        return Element("op", tuple(label), tuple(wires), frozenset(covers))

    def fuse(self, node: int) -> Element | None:
        """One pill for a negation with its neighbour, a norm with its gain and shift,
        a sum over units with what makes its terms."""
        chain = [node]
        covers: set[int] = set()
        while True:
            args = self.graph.nodes[chain[-1]].args
            values = [a for a in args if a not in self.fixed]
            if len(values) != 1:
                break
            covers |= {n for a in args if a in self.fixed for n in self.below(a)}
            below = values[0]
            if not self.own(below) or not self.fuses(chain, below):
                break
            chain.append(below)
        if len(chain) == 1:
            return None
        source = next(
            a for a in self.graph.nodes[chain[-1]].args if a not in self.fixed
        )
        wires = (Wire(self.visit(source)),)
        return Element(
            "op", self.chain_label(chain), wires, frozenset({*covers, *chain})
        )

    def fuses(self, chain: list[int], below: int) -> bool:
        ops = [self.graph.nodes[n].op for n in (*chain, below)]
        values = [a for a in self.graph.nodes[below].args if a not in self.fixed]
        if len(values) != 1 or self.layer(below) is not None or len(chain) > 3:
            return False
        if ops[-1] not in OPS:  # a sum over a set, or its softmax
            return False
        if ops[-1] == "layer_norm":
            return all(op in ("add", "mul") for op in ops[:-1])
        if set(ops) <= {"add", "mul"}:
            return self.leads_to_norm(below)
        return "neg" in ops[-2:] or "sum" in ops[-2:]

    def leads_to_norm(self, node: int) -> bool:
        args = [a for a in self.graph.nodes[node].args if a not in self.fixed]
        return len(args) == 1 and self.graph.nodes[args[0]].op == "layer_norm"

    def chain_label(self, chain: list[int]) -> Label:
        """The expression with a dot for what comes in: −softplus(−·)."""
        if any(self.graph.nodes[n].op == "layer_norm" for n in chain):
            return plain("LN")
        label, simple = plain("·"), True
        for node in reversed(chain):
            label, simple = self.applied(node, label, simple)
        return label

    def applied(self, node: int, inner: Label, simple: bool) -> tuple[Label, bool]:
        op, args = self.graph.nodes[node].op, self.graph.nodes[node].args
        if op == "abs":
            return (Run("|"), *inner, Run("|")), True
        if op == "sum":
            return (Run("Σ"), *inner), True
        if op == "neg":
            return (Run("−"), *(inner if simple else _bracketed(inner))), False
        fixed = [a for a in args if a in self.fixed]
        if not fixed:
            return (Run(OPS[op].glyph), *_bracketed(inner)), True
        text, glyph = self.fixed_text(fixed[0]), OPS[op].glyph
        if op in ("maximum", "minimum"):
            return (Run(f"{glyph}("), *inner, Run(", "), *text, Run(")")), True
        inner = inner if simple or op == "add" else _bracketed(inner)
        pair = (inner, text) if args[1] == fixed[0] else (text, inner)
        return (*pair[0], Run(f" {glyph} "), *pair[1]), False

    def fixed_text(self, node: int) -> Label:
        """Numbers and weights, written out."""
        item = self.graph.nodes[node]
        if item.op == "constant":
            known = self.known.get(node)
            return _written(known) if known else plain(number(item["value"]))
        if item.op == "weight":
            return symbol(item["weight"])
        parts = [self.fixed_text(a) for a in item.args]
        op = OPS[item.op]
        if op.symbol and op.arity == 2:
            return _bracketed((*parts[0], Run(f" {op.glyph} "), *parts[1]))
        if item.op == "neg":
            return (Run("−"), *parts[0])
        inner = [run for part in parts for run in (Run(", "), *part)][1:]
        return (Run(f"{op.glyph}("), *inner, Run(")"))

    def below(self, node: int) -> set[int]:
        """A node and all it depends on."""
        found = {node}
        for arg in self.graph.nodes[node].args:
            found |= self.below(arg)
        return found


def _written(known: Known) -> Label:
    """A hyperparameter: α, or (1−α)."""
    name = symbol(known.name)
    return (Run("(1−"), *name, Run(")")) if known.rest else name


def _bracketed(label: Label) -> Label:
    return (Run("("), *label, Run(")"))


def _in_written_order(found: list[Element]) -> tuple[Element, ...]:
    """Elements by the node they yield, results last: the order of the equations."""
    written = [i for i, e in enumerate(found) if e.kind not in RESULTS]
    results = [i for i, e in enumerate(found) if e.kind in RESULTS]
    order = [*sorted(written, key=lambda i: found[i].value), *results]
    new = {old: position for position, old in enumerate(order)}
    return tuple(
        replace(e, inputs=tuple(replace(w, source=new[w.source]) for w in e.inputs))
        for e in (found[i] for i in order)
    )
