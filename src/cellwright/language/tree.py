"""`@tree_cell`: a function of one node of a tree, which reads its children's states.

The node has an input `x`, and children whose states are `left.h`, `left.c`. A cell with
an arity sees that many children by name; one without sees one symbolic child, and
`total(…)` sums over all that the node has. A sequence is the case of one child.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, overload

from torch import Tensor

from .arguments import plain
from .builder import Builder
from .cell import Cell
from .errors import CellError
from .evaluate import evaluate
from .faulty import deferring
from .graph import Graph, Size
from .items import Items
from .replay import replay
from .signature import Signature
from .trace import Child

States = Sequence[str] | Mapping[str, Size]


class TreeCell(Cell):
    """The equations of a recursive net's node. Made by the decorator `tree_cell`.

    Attributes:
        arity: how many children a node has; `None` where `total` sums over any number.
    """

    _unnamed = "node"

    def __init__(
        self,
        function: Callable[..., Any] | None = None,
        *,
        arity: int | None = None,
        declared: States | None = None,
        graph: Graph | None = None,
        **more: Any,
    ) -> None:
        if graph is not None:
            arity = None if graph.many else len(graph.children)
        self.arity, self._declared = plain(arity), declared
        super().__init__(function, graph=graph, **more)

    @classmethod
    def _fits(cls, graph: Graph) -> bool:
        return bool(graph.children)

    def _signature(self, function: Callable[..., Any]) -> Signature:
        settings = self._inputs, self.hyperparameters, self.arity, self._declared
        return _TreeSignature(function, *settings)

    def _again(self, **changes: Any) -> Cell:
        return super()._again(arity=self.arity, declared=self._declared, **changes)

    def __call__(self, W: Any, x: Any, *children: Any, **inputs: Any) -> Any:
        """One node on tensors: its states, as the function returns them.

        Args:
            W: the weights, such as `layer.weights`.
            x: (…, input_size); (…, 1, input_size) where `total` sums over children.
            *children: one for each child, with its states as attributes: (…, size)
                each; (…, children, size) of the one symbolic child.
            **inputs: the named inputs, shaped like x.
        """
        if self.function is not None:
            return self._run_function(W, x, *children, **inputs)
        graph = self.graph
        states = {
            f"{name}.{state.name}": getattr(child, state.name)
            for name, child in zip(graph.children, children, strict=True)
            for state in graph.states
        }
        return graph.results(evaluate(graph, W, {"x": x, **inputs}, states))


def as_tree(graph: Graph) -> Graph:
    """The graph of a sequence's cell as that of a node with one child, `previous`.

    Raises:
        CellError: a state does not start from 0, as those of a missing child do; or
            the cell looks at items.
    """
    if graph.items:
        raise CellError(
            f"[cell {graph.name!r}] looks at items, and a layer over trees has none; "
            f"received {graph.items[0].name!r}, expected a cell without items, or a "
            "layer of sequences (Recurrent)"
        )
    if graph.children:
        return graph
    for state in graph.states:
        if state.init != 0:
            raise CellError(
                f"[cell {graph.name!r}] state {state.name!r} starts from {state.init}, "
                "but the states of a child that a node lacks are 0; received a cell "
                "of sequences, expected one whose states start from 0, or a @tree_cell"
            )
    return replay(graph, Builder(graph.name), children=("previous",))


class _TreeSignature(Signature):
    """A tree cell's arguments: children, inputs, hyperparameters."""

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Mapping[str, Size],
        given: Mapping[str, Any],
        arity: int | None,
        returned: States | None,
    ) -> None:
        self.arity, self.returned = arity, returned
        super().__init__(function, inputs, given)
        self.positional = ()  # each is a child

    def _old_states(self, builder: Builder) -> list[Any]:
        builder.add_children(self.children, self.arity is None, self._sizes(builder))
        return [Child(builder, name) for name in self.children]

    def _sizes(self, builder: Builder) -> dict[str, Size] | None:
        """The declared states and their sizes."""
        states = self.returned
        if states is None:
            return None
        named = isinstance(states, Mapping)
        sizes = dict(states if named else dict.fromkeys(states, "hidden_size"))
        if (
            isinstance(states, str)
            or not sizes
            or not all(map(str.isidentifier, sizes))
        ):
            raise CellError(
                f"[{self.line}, cell {builder.name!r}] states= names what a node hands "
                f"to its parent; received {states!r}, expected such as "
                "states=('h', 'c'), or sizes by name"
            )
        return sizes

    def _check_count(self, returned: int, builder: Builder) -> None:
        """The states are those that are read, if what is returned agrees: h first."""
        if builder.states_open:
            builder.states.sort(key=lambda s: s.name != "h")
        names, problem = [s.name for s in builder.states], ""
        shown, count = ", ".join(names), f"received {returned} value(s)"
        clear = len(names) == 1 or (len(names) == 2 and names[0] == "h")
        if not builder.states_open:
            if returned not in (len(names), len(names) + 1):
                problem = (
                    "a tree cell returns its states in the order declared, or one "
                    f"value more, the output first; {count}, expected {len(names)}: "
                    f"return {shown}"
                )
        elif not names:
            problem = (
                "the node reads no state of its children, so nothing passes up the "
                f"tree; received no use of {builder.children[0]}.h, expected one"
            )
        elif returned < len(names):
            problem = (
                "states of the children are read that the node does not return; "
                f"{count}, expected {len(names)}: return {shown}"
            )
        elif returned > len(names) or not clear:
            declare = "states=(" + ", ".join(f"{n!r}" for n in names) + ",)"
            problem = (
                f"which returned value is which state? The states read are {shown}; "
                f"{count}. Say their order (an output that is no state comes before "
                f"them), as in @tree_cell({declare})"
            )
        if problem:
            raise CellError(f"[{builder.where()}] {problem}")
        builder.close_states()

    def _check(self, parameters: list[inspect.Parameter]) -> None:
        arity = self.arity
        wrong = isinstance(arity, bool) or not isinstance(arity, int | None)
        if wrong or (arity is not None and arity < 1):
            raise CellError(
                f"{self.where} arity counts the children that a node sees; received "
                f"{arity!r}, expected a positive integer, or no arity and one child "
                "that total(…) sums over. A node without children is any node whose "
                "children are missing: their states are 0"
            )
        children = [p for p in parameters[2:] if p.kind is not p.KEYWORD_ONLY]
        starred = [p for p in children if p.kind is p.VAR_POSITIONAL]
        if arity and starred and len(children) == 1:
            self.children = tuple(f"child_{k}" for k in range(1, arity + 1))
        else:
            self.children = tuple(p.name for p in children)
        many = any(p.kind is p.VAR_KEYWORD for p in parameters)
        fits = len(self.children) == (arity or 1) and not (starred and not arity)
        if len(parameters) < 2 or many or not fits:
            expected = "(W, x, child)"
            if arity:
                names = ", ".join(f"child_{k}" for k in range(1, arity + 1))
                expected = f"(W, x, {names}) or (W, x, *children)"
            raise CellError(
                f"{self.where} a tree cell takes the weights, the input and the node's "
                f"children, arity={arity}; received "
                f"({', '.join(map(str, parameters))}), expected {expected}"
            )

    def _sort_items(self, parameter: inspect.Parameter, annotation: Items) -> None:
        raise CellError(
            f"{self.where} a tree cell looks at its children, and at no other set; "
            f"received {parameter}, expected a cell under @cell. Items that are the "
            "same for all nodes of a tree can be its inputs, once they are one value"
        )

    def _sort(self, parameter: inspect.Parameter) -> None:
        if parameter.kind is parameter.KEYWORD_ONLY:
            super()._sort(parameter)
        elif parameter.default is not parameter.empty:
            raise CellError(
                f"{self.where} a child has no default: the states of a missing child "
                f"are 0; received {parameter}, expected {parameter.name}"
            )


@overload
def tree_cell(function: Callable[..., Any], /) -> TreeCell: ...
@overload
def tree_cell(
    *,
    arity: int | None = None,
    states: States | None = None,
    inputs: Mapping[str, Size] | None = None,
) -> Callable[[Callable[..., Any]], TreeCell]: ...
def tree_cell(
    function: Callable[..., Any] | None = None,
    /,
    *,
    arity: int | None = None,
    states: States | None = None,
    inputs: Mapping[str, Size] | None = None,
) -> TreeCell | Callable[[Callable[..., Any]], TreeCell]:
    """Make a cell of a recursive net of a function that writes one node's step.

    The function takes the weights `W`, the node's input `x`, and its children; it
    returns the node's states (or the output first, where that is no state). A missing
    child, or a missing x, is 0. Keyword-only arguments are hyperparameters, or further
    inputs where they have no default. See `docs/trees.md`.

    Args:
        function: `def node(W, x, child)`: `total(…)` sums over all children; or, with
            an arity, `def node(W, x, left, right)` or `def node(W, x, *children)`.
        arity: how many children the function sees.
        states: names of the states in the order returned, or sizes by name. Without
            it they are those that are read of a child: one, or h and another.
        inputs: sizes of further inputs, keyword-only arguments of the function.

    Returns:
        The `TreeCell`, or a decorator when called with options.

    Raises:
        CellError: the equations cannot be recorded; names the line and the remedy.
    """

    made = deferring(partial(TreeCell, arity=arity, declared=states, inputs=inputs))
    return made if function is None else made(function)


def child_states(**states: Tensor) -> Any:
    """A child's states as a tree cell's function reads them from tensors."""
    return SimpleNamespace(**states)
