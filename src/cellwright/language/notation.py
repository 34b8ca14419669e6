"""What formulas and pictures call a cell's values: c as C, g as C with a tilde.

Names in the code are keys of recordings and parameters, and stay. A notation is a
mapping from them to other names; a graph under its notation's names is what formulas
and pictures are made of, so that all of them follow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from .errors import CellError, did_you_mean
from .graph import Graph, Node
from .hyperparameters import Known, Parametrised, with_hyperparameters
from .latex import ACCENTS

_NAME = re.compile(r"[^\W\d_][^\W_]*([._][^\W_]+)*")
_NAMED_BY = ("name", "child", "set")  # a leaf's attributes that are names


class Notated(Parametrised, Protocol):
    """A cell, as far as this module knows it."""

    @property
    def name(self) -> str: ...
    @property
    def notation(self) -> Mapping[str, str]: ...


def notated(
    cell: Notated, names: Mapping[str, str] | None = None
) -> tuple[Graph, dict[int, Known]]:
    """The cell's graph under the names of its notation, and which of its constants are
    hyperparameters.

    Args:
        cell: the cell.
        names: further names, before those of the cell's own notation.

    Raises:
        CellError: a name is of nothing in the cell, or is no name, or two values would
            have one.
    """
    graph, known = with_hyperparameters(cell)
    mine = _Names(graph, {k.name for k in known.values()})
    mine.check(names or {}, cell.name)
    chosen = {**mine.found_in(cell.notation), **(names or {})}
    if not chosen:
        return graph, known
    shown = mine.shown(chosen, cell.name)
    weights = {key[2:]: name for key, name in shown.items() if key.startswith("W.")}
    return _renamed(graph, shown, weights), {
        number: k._replace(name=shown.get(k.name, k.name))
        for number, k in known.items()
    }


class _Names:
    """The names that a graph's values and weights have in the code."""

    def __init__(self, graph: Graph, hyperparameters: Iterable[str]) -> None:
        leaves = [*graph.inputs, *graph.items, *graph.states]
        found = [leaf.name for leaf in leaves]
        found += [*graph.children, *graph.values, *hyperparameters]
        self.values = list(dict.fromkeys(found))
        self.weights = [f"W.{w.name}" for w in graph.weights]

    def found_in(self, notation: Mapping[str, str]) -> dict[str, str]:
        """Those of a notation that the graph has: another value of a hyperparameter
        may have other values."""
        known = {*self.values, *self.weights}
        return {key: name for key, name in notation.items() if key in known}

    def check(self, names: Mapping[str, str], cell: str) -> None:
        for key, name in names.items():
            if key not in (known := [*self.values, *self.weights]):
                raise CellError(
                    f"[names] cell {cell!r} has no value {key!r}. "
                    f"{did_you_mean(key, known)}"
                )
            if not _NAME.fullmatch(name) and (name or not key.startswith("W.")):
                raise CellError(
                    f"[names] {key} cannot be written as {name!r}; expected letters "
                    "and digits, and subscripts after _, such as C, C_tilde, Gamma, "
                    "p_f; for a weight also nothing: W alone"
                )

    def shown(self, chosen: Mapping[str, str], cell: str) -> dict[str, str]:
        """Every name's own: a weight's is its value's letter."""
        values = {key: chosen.get(key, key) for key in self.values}
        weights = {
            key: chosen.get(key, _letter(chosen.get(key[2:], ""), key[2:]))
            for key in self.weights
        }
        for group in (values, weights):
            ((name, count),) = Counter(group.values()).most_common(1) or [("", 0)]
            if count > 1:
                both = [key for key, shown in group.items() if shown == name]
                raise CellError(
                    f"[names] two values of cell {cell!r} cannot have one name; "
                    f"received {', '.join(f'{key}={name}' for key in both)}, expected "
                    "a name of its own for each"
                )
        return {**values, **weights}


def _letter(name: str, otherwise: str) -> str:
    """W_C makes C with a tilde, W_f the logarithm of f."""
    plain = (part for part in name.split("_") if part not in (*ACCENTS, "log"))
    return "_".join(plain) or otherwise


def _renamed(
    graph: Graph, values: Mapping[str, str], weights: Mapping[str, str]
) -> Graph:
    def under(name: str) -> str:
        return values.get(name, name)

    def node(old: Node) -> Node:
        attrs: tuple[tuple[str, Any], ...] = tuple(
            (key, weights[value] if key == "weight" else under(value))
            if key in ("weight", *_NAMED_BY)
            else (key, value)
            for key, value in old.attrs
        )
        return replace(old, attrs=attrs)

    return replace(
        graph,
        nodes=tuple(map(node, graph.nodes)),
        inputs=tuple(replace(i, name=under(i.name)) for i in graph.inputs),
        states=tuple(replace(s, name=under(s.name)) for s in graph.states),
        items=tuple(
            replace(i, name=under(i.name), set=under(i.set)) for i in graph.items
        ),
        weights=tuple(replace(w, name=weights[w.name]) for w in graph.weights),
        names=tuple((under(name), number) for name, number in graph.names),
        explicit=tuple(map(under, graph.explicit)),
        children=tuple(map(under, graph.children)),
    )
