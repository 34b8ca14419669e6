"""Regularisers of recurrent layers, as masks that a cell reads like any other input.

A regulariser rewrites the cell's graph: it adds named inputs, the masks, and uses them
where the paper says. So nothing random happens in a cell, and every engine runs a
regularised cell as it runs any other. The layer draws the masks with torch's generator;
in evaluation it runs the cell with the masks' expectations.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..engine.schedule import SequenceBatch
from ..engine.torch_layout import find_layout
from ..language import ArgumentError, Cell, Graph
from ..language.arguments import plain
from ..language.builder import Builder
from ..language.errors import did_you_mean
from ..language.graph import AFFINE
from ..language.ops import OPS
from ..language.replay import replay_node
from ..language.sizes import MatrixSize
from .direction import BoundCell, bind_cells, bind_step
from .masks import Mask, draw, draw_shape
from .weights import MadeAffine, MadeWeights

_CANDIDATES = ("g", "n", "z")  # what papers call the candidate, the usual name first
_ALONG = ("input_dropout", "dropout", "output_dropout")  # what flows through the layers
_LOCKABLE = (*_ALONG, "update_dropout")

Probabilities = float | Mapping[str, float]


@dataclass(frozen=True)
class Regularisers:
    """What a layer was asked for; see `Recurrent` for each.

    Raises:
        ArgumentError: a probability out of range, or `locked` of what draws no masks.
    """

    input_dropout: float = 0.0
    dropout: float = 0.0
    output_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    update_dropout: Probabilities = 0.0
    zoneout: Probabilities = 0.0
    weight_drop: float = 0.0
    locked: bool | Collection[str] = False

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Mapping):
                value = {name: plain(v) for name, v in value.items()}
            object.__setattr__(self, f.name, plain(value))
        for name in _ALONG:
            _check_probability(name, getattr(self, name), whole=name == "dropout")
        for name in ("recurrent_dropout", "weight_drop"):
            _check_probability(name, getattr(self, name))
        for name in ("update_dropout", "zoneout"):
            given = getattr(self, name)
            for value in given.values() if isinstance(given, Mapping) else (given,):
                _check_probability(name, value)
        locked = self.locked
        names = _LOCKABLE if locked is True else () if locked is False else locked
        for name in names:
            if isinstance(names, str) or name not in _LOCKABLE:
                raise ArgumentError(
                    f"[locked] which dropouts draw one mask a sequence; received "
                    f"{locked!r}, expected True, or some of {', '.join(_LOCKABLE)}"
                )
        object.__setattr__(self, "locked", tuple(names))

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that are not their defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if (any(value.values()) if isinstance(value, Mapping) else value)
        }

    @property
    def beyond_torch(self) -> dict[str, Any]:
        """What torch.nn has no argument for."""
        given = self.given
        locked = [name for name in self.locked if name in given]  # type: ignore[union-attr]
        given.pop("locked", None)
        if "dropout" not in locked:
            given.pop("dropout", None)
        return given

    def drop(
        self,
        where: str,
        x: Tensor,
        training: bool,
        batch: SequenceBatch | None = None,
    ) -> Tensor:
        """Dropout of what flows into, between or out of the layers.

        Args:
            where: "input_dropout", "dropout" (between layers) or "output_dropout".
            x: (T, B, size), or packed (Σ lengths, size).
            training: the layer's mode.
            batch: how the rows of x lie; `None`: (T, B, size).
        """
        p = getattr(self, where)
        if not training or not p:
            return x
        if p == 1:
            return x * 0
        mask = Mask(where, x.shape[-1], p)
        if where not in self.locked:  # type: ignore[operator]
            return x * draw_shape(mask, x.shape, x)
        rows = batch.batch_rows if batch else None
        if rows is None:
            return x * draw(mask, 1, x.shape[1], x)
        of_each = draw(mask, 1, int(rows.max()) + 1, x)[0]
        return x * of_each.index_select(0, rows.to(x.device))


def _check_probability(what: str, value: Any, whole: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value < 1 or (whole and value == 1)):
        end = "at most 1" if whole else "less than 1"
        raise ArgumentError(
            f"[Recurrent] {what} is a probability; received {value!r}, expected at "
            f"least 0 and {end}"
        )


def parse_probabilities(what: str, text: str) -> float | dict[str, float]:
    """A probability, "0.1", or several by name, "h=0.05,c=0.5".

    Raises:
        ArgumentError: it is neither; the range is checked by `Regularisers`.
    """
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ArgumentError(
            f"[{what}] received {text!r}, expected a probability, or some by name, as "
            "in 'h=0.05,c=0.5'"
        ) from None


# -- cells -------------------------------------------------------------------------


def masks_of(graph: Graph, wanted: Regularisers) -> tuple[Mask, ...]:
    """The masks of a cell's step, in the order in which they are drawn.

    Recurrent dropout, then update dropout and zoneout in the order they were given in
    (zoneout given as one number: in the order of the states).

    Raises:
        ArgumentError: the cell has no such state or value.
    """
    masks = []
    if wanted.recurrent_dropout:
        state, p = graph.states[0], wanted.recurrent_dropout
        masks.append(Mask(f"recurrent_dropout_{state.name}", state.size, p))
    locked = "update_dropout" in wanted.locked  # type: ignore[operator]
    for name, p in _updates(graph, wanted.update_dropout).items():
        size = graph.nodes[graph.gates[name]].size
        label = f"update_dropout_{name.replace('.', '_')}"
        masks.append(Mask(label, size, p, every_step=not locked))
    sizes = {s.name: s.size for s in graph.states}
    for name, p in _zoned(graph, wanted.zoneout).items():
        masks.append(Mask(f"zoneout_{name}", sizes[name], p, True, zoneout=True))
    masks = [m for m in masks if m.probability]
    taken = {i.name for i in (*graph.inputs, *graph.items)}
    taken |= sizes.keys() | graph.values.keys()
    for mask in masks:
        if isinstance(mask.size, MatrixSize):
            raise ArgumentError(
                f"[regularise] masks are of vectors; received {mask.name!r}, of a "
                f"matrix of cell {graph.name!r} ({mask.size}), expected states that "
                'are vectors by name, as in zoneout={"n": 0.1}'
            )
        if mask.name in taken:
            raise ArgumentError(
                f"[regularise] cell {graph.name!r} has a {mask.name!r}, which is the "
                "mask's name; expected another name in the cell"
            )
    return tuple(masks)


def _updates(graph: Graph, given: Probabilities) -> dict[str, float]:
    """Update dropout by value; a number is that of the candidate."""
    if not isinstance(given, Mapping):
        name = next((n for n in _CANDIDATES if n in graph.gates), None)
        if given and name is None:
            raise ArgumentError(
                f"[update_dropout] cell {graph.name!r} has no candidate called "
                f"{', '.join(_CANDIDATES)}; received {given}, expected the values by "
                f"name, as in {{{next(iter(graph.gates), 'g')!r}: {given}}}"
            )
        return {name: given} if name else {}
    once = [n for n, node in graph.gates.items() if graph.sets[node] is None]
    _check_names("update_dropout", given, graph, once)
    return dict(given)


def _zoned(graph: Graph, given: Probabilities) -> dict[str, float]:
    """Zoneout by state; a number is that of every state."""
    states = {s.name: s for s in graph.states}
    if not isinstance(given, Mapping):
        given = dict.fromkeys(states, given)
    _check_names("zoneout", given, graph, list(states))
    for name, p in given.items():
        if p and math.isinf(states[name].init):
            raise ArgumentError(
                f"[zoneout] state {name!r} of cell {graph.name!r} starts from "
                f"{states[name].init}, and has no expectation; received {p} for it, "
                "expected the other states by name, as in {'h': 0.1}"
            )
    return dict(given)


def _check_names(
    what: str, given: Mapping[str, float], graph: Graph, known: list[str]
) -> None:
    for name in given:
        if name not in known:
            kind = "state" if what == "zoneout" else "gate or named value"
            raise ArgumentError(
                f"[{what}] cell {graph.name!r} has no {kind} {name!r}. "
                + did_you_mean(name, known)
            )


def in_training(graph: Graph, masks: tuple[Mask, ...]) -> Graph:
    """The step with the masks as further inputs."""
    return _Rewriter(graph, masks, False).graph() if masks else graph


def in_evaluation(graph: Graph, masks: tuple[Mask, ...]) -> Graph:
    """The step with the masks' expectations: dropout's is the step itself."""
    zoned = tuple(m for m in masks if m.zoneout)
    return _Rewriter(graph, zoned, True).graph() if zoned else graph


class _Rewriter:
    """Builds a graph again with masks where the regularisers want them.

    With `expected` the masks are numbers, their expectations, instead of inputs.
    """

    def __init__(self, graph: Graph, masks: tuple[Mask, ...], expected: bool) -> None:
        self.old, self.masks, self.expected = graph, masks, expected
        self.builder = Builder(graph.name)
        self.new: dict[int, int] = {}
        self.inputs: dict[str, int] = {}
        self.masked: dict[int, int] = {}  # operands, each masked once

    def graph(self) -> Graph:
        old, builder = self.old, self.builder
        builder.source = f"regularised {old.name}"
        for source in old.inputs:
            builder.add_input(source.name, source.size)
        if not self.expected:
            for mask in self.masks:
                self.inputs[mask.name] = builder.add_input(mask.name, mask.size)
        for item in old.items:
            builder.add_item(item.name, item.size, item.set)
        for state in old.states:
            builder.add_state(state.name, state.size, state.init)
        explicit: dict[int, list[str]] = {}
        dropped: dict[int, int] = {}
        for name, number in old.names:
            if name in old.explicit:
                explicit.setdefault(number, []).append(name)
            mask = self.inputs.get(f"update_dropout_{name.replace('.', '_')}")
            if mask is not None:
                dropped[number] = mask
        for number, node in enumerate(old.nodes):
            builder.source = node.source
            args = tuple(self.new[a] for a in node.args)
            if node.op == AFFINE:
                pairs = zip(node.args, args, strict=True)
                args = tuple(self._operand(*pair) for pair in pairs)
            made = replay_node(old, builder, node, args)
            for name in explicit.get(number, ()):
                builder.explicit[name] = made
            if number in dropped:
                made = self._times(made, dropped[number])
            self.new[number] = made
        return builder.finish(self._results(), old.doc)

    def _times(self, a: int, b: int) -> int:
        return self.builder.apply(OPS["mul"], (a, b))

    def _operand(self, old: int, new: int) -> int:
        """What a matrix reads: the output state, or a product with it, is masked."""
        state = self.old.states[0].name
        mask = self.inputs.get(f"recurrent_dropout_{state}")
        if mask is None or not is_recurrent(self.old, old, state):
            return new
        if old not in self.masked:
            self.masked[old] = self._times(new, mask)
        return self.masked[old]

    def _results(self) -> tuple[int, ...]:
        zoned = {m.name.removeprefix("zoneout_"): m for m in self.masks if m.zoneout}
        results = []
        for state, update in zip(self.old.states, self.old.updates, strict=True):
            new, mask = self.new[update], zoned.get(state.name)
            results.append(new if mask is None else self._zoned(state.name, new, mask))
        if not self.old.output_is_state:
            results.insert(0, self.new[self.old.output])
        return tuple(results)

    def _zoned(self, state: str, new: int, mask: Mask) -> int:
        """Where the mask is 1 the old value, else the new; expected, their mean."""
        builder = self.builder
        if builder.nodes[new].op not in ("input", "state", "constant", "weight"):
            builder.explicit.setdefault(f"{state}_before_zoneout", new)
        size = next(s.size for s in builder.states if s.name == state)
        old = builder.leaf("state", size, name=state)
        if not self.expected:
            zero = builder.constant(0.0)
            keeps = builder.apply(OPS["greater"], (self.inputs[mask.name], zero))
            return builder.apply(OPS["where"], (keeps, old, new))
        p = mask.probability
        kept = self._times(builder.constant(p), old)
        fresh = self._times(builder.constant(1 - p), new)
        return builder.apply(OPS["add"], (kept, fresh))


def is_recurrent(graph: Graph, number: int, state: str | None = None) -> bool:
    """Whether a value is an old state, or a product with one."""
    seen: set[int] = set()
    stack = [number]
    while stack:
        node = graph.nodes[stack.pop()]
        if node.op == "state" and state in (None, node["name"]):
            return True
        factors = set(node.args) - seen if node.op == "mul" else ()
        seen.update(factors)
        stack.extend(factors)
    return False


# -- weights -----------------------------------------------------------------------


def recurrent_columns(graph: Graph) -> dict[str, list[slice]]:
    """The columns of each matrix that meet an old state, per head.

    A matrix that is made of its parameter is left whole: it would no longer be that.
    """
    found: dict[str, list[slice]] = {}
    for node in graph.nodes:
        if node.op != AFFINE or graph.weight(node["weight"]).made:
            continue
        start, weight = 0, graph.weight(node["weight"])
        for arg in node.args:
            stop = start + int(graph.nodes[arg].size) // weight.heads
            columns = found.setdefault(weight.name, [])
            if is_recurrent(graph, arg) and slice(start, stop) not in columns:
                columns.append(slice(start, stop))
            start = stop
    return {name: columns for name, columns in found.items() if columns}


def drop_matrices(
    columns: Mapping[str, list[slice]],
    matrices: Mapping[str, Tensor],
    probability: float,
    tag: str,
) -> dict[str, Tensor]:
    """DropConnect: the matrices with recurrent columns, elements of those dropped.

    Args:
        columns: as `recurrent_columns` has them.
        matrices: the parameters; gradients reach them through what was kept.
        probability: of dropping an element; the rest is divided by what is left.
        tag: tells this call's draws apart where torch compiles them.
    """
    dropped = {}
    for name, slices in columns.items():
        matrix = matrices[name]
        mask = torch.ones_like(matrix)
        for part in slices:
            drawn = Mask(f"weight_drop_{name}", 0, probability)
            shape = mask[..., part].shape
            mask[..., part] = draw_shape(drawn, shape, matrix, f"{tag}{part.start}.")
        dropped[name] = matrix * mask
    return dropped


# -- both modes of a layer -----------------------------------------------------------


@dataclass(frozen=True)
class Modes:
    """The cells of every layer·direction, as they are evaluated and as they train."""

    evaluation: list[BoundCell]
    training: list[BoundCell]


def bind_modes(
    cell: Cell, graphs: list[Graph], wanted: Regularisers, recompute: bool
) -> Modes:
    """A layer's cells with its regularisers.

    Args:
        cell: as the user wrote it.
        graphs: its step with concrete sizes, for each layer·direction.
        wanted: the regularisers.
        recompute: keep the states alone for the backward pass.
    """
    masks = masks_of(cell.graph, wanted)
    layout = None if masks else find_layout(cell.graph)
    own, evaluated = cell, graphs
    if any(mask.zoneout for mask in masks):
        own = Cell.from_graph(in_evaluation(cell.graph, masks))
        evaluated = [in_evaluation(g, masks_of(g, wanted)) for g in graphs]
    evaluation = bind_cells(own, evaluated, layout, recompute)
    if not masks and not wanted.weight_drop:
        return Modes(evaluation, evaluation)
    training = [
        _trained(bound, graph, wanted, f"{k}.")
        for k, (bound, graph) in enumerate(zip(evaluation, graphs, strict=True))
    ]
    return Modes(evaluation, training)


def _trained(
    bound: BoundCell, graph: Graph, wanted: Regularisers, tag: str
) -> BoundCell:
    """The cell of a layer·direction in training, from that in evaluation."""
    masks, bound = masks_of(graph, wanted), replace(bound, tag=tag)
    if masks:
        trained = in_training(graph, masks)
        constant = tuple(m.name for m in masks if not m.every_step)
        recompute = bound.programs.recompute
        programs, once = bind_step(trained, recompute=recompute, constant=constant)
        cell = Cell.from_graph(trained)
        bound = replace(bound, cell=cell, programs=programs, once=once, masks=masks)
    if not wanted.weight_drop:
        return bound
    columns = recurrent_columns(graph)
    return replace(bound, columns=columns, weight_drop=wanted.weight_drop)


def drop_weights(bound: BoundCell, W: Any) -> Any:
    """The weights of one call, elements of its recurrent matrices dropped."""
    own = {name: getattr(W, name) for name in bound.columns}
    matrices = {name: affine.weight for name, affine in own.items()}
    dropped = drop_matrices(bound.columns, matrices, bound.weight_drop, bound.tag)
    found = {n: MadeAffine(own[n], m, m) for n, m in dropped.items()}
    return MadeWeights(W, found)
