"""`@cell`: a function of one step becomes a cell."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from .arguments import plain
from .builder import Builder
from .errors import CellError, did_you_mean
from .evaluate import evaluate
from .faulty import deferring
from .graph import Graph, State
from .latex import EquationWriter
from .linear import linear_in
from .names import activation_arguments
from .notation import notated
from .ops import Op
from .parser import checked, parse_graph
from .printer import print_equations, print_graph
from .replay import replay
from .signature import MissingStateError, Signature, label_of
from .sizes import MatrixSize, Size
from .trace import Traced, name
from .unused import unused_lines
from .values import Matrix

if TYPE_CHECKING:
    from ..look.diagram import Diagram


class Cell:
    """The equations of a recurrent cell: a function to run, a graph to look at.

    Made by the decorator `cell`. Immutable; pickled and copied as its printed graph.

    Attributes:
        name: the function's name.
        hyperparameters: the keyword-only arguments and their values.
        notation: what formulas and pictures call its values, where that is not their
            name in the code: `{"g": "C_tilde"}`.
    """

    _unnamed = "cell"

    def __init__(
        self,
        function: Callable[..., Any] | None = None,
        *,
        inputs: Mapping[str, Size] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        graph: Graph | None = None,
        notation: Mapping[str, str] | None = None,
    ) -> None:
        given, sizes = hyperparameters or {}, inputs or {}
        self.function = function
        self.hyperparameters = {name: plain(value) for name, value in given.items()}
        self._inputs = {name: plain(size) for name, size in sizes.items()}
        self.notation = dict(notation or {})
        self._graph = graph
        self._pending: MissingStateError | None = None
        self._positional: tuple[str, ...] = ()
        if graph is not None:
            self.name, self.__doc__ = graph.name, graph.doc
        if function is not None:
            self.name = label_of(function, self._unnamed)
            self.__doc__ = inspect.getdoc(function) or ""
            self._trace(function)
        self.__name__ = self.name

    # -- tracing ------------------------------------------------------------

    def _signature(self, function: Callable[..., Any]) -> Signature:
        return Signature(function, self._inputs, self.hyperparameters)

    def _trace(self, function: Callable[..., Any]) -> None:
        """Trace now, so that a mistake shows where it was written.

        A positional argument that is not returned may yet be a named input, which
        the layer declares; only that error waits until the cell is used.
        """
        signature = self._signature(function)
        self.hyperparameters = signature.hyperparameters
        self._positional = signature.positional
        try:
            graph = signature.trace(self._run_function, self.name, self.__doc__ or "")
        except MissingStateError as error:
            if self._inputs:
                raise
            self._pending = error
        else:
            self._graph = checked(graph)

    def _run_function(self, W: Any, x: Any, *states: Any, **inputs: Any) -> Any:
        """Call the function; a named input may stand among its positional arguments."""
        assert self.function is not None
        if any(label in inputs for label in self._positional):
            remaining = iter(states)
            states = tuple(
                inputs.pop(label) if label in inputs else next(remaining)
                for label in self._positional
            )
        return self.function(W, x, *states, **self.hyperparameters, **inputs)

    @property
    def graph(self) -> Graph:
        """The cell's step as data, with symbolic sizes."""
        if self._graph is None:
            assert self._pending is not None
            raise self._pending
        return self._graph

    def unused_lines(self) -> list[str]:
        """Where the function computes what nothing reads: `file:line`, each once.

        A value that `cellwright.name` names counts as read. A cell that was read from
        its text has no lines.
        """
        if self.function is None:
            return []
        found: list[str] = []

        def run(W: Any, x: Any, *states: Any, **inputs: Any) -> Any:
            returned = self._run_function(W, x, *states, **inputs)
            found.extend(unused_lines(W._builder, returned))
            return returned

        self._signature(self.function).trace(run, self.name, "")
        return found

    # -- looking ---------------------------------------------------------------

    @property
    def states(self) -> tuple[State, ...]:
        return self.graph.states

    @property
    def linear_in(self) -> dict[str, str | None]:
        """For each state: `"diagonal"` where new = a * old + b, unit by unit, and
        neither a nor b reads it (states that read one another are linear together);
        `"matrix"` where a matrix is multiplied by others, as in the delta rule; else
        `None`."""
        return linear_in(self.graph)

    @property
    def equations(self) -> list[str]:
        """The printed statements of the step."""
        return print_equations(self.graph)

    def latex(self, *, names: Mapping[str, str] | None = None) -> str:
        """The equations as a LaTeX `aligned` block, in the lectures' notation.

        Args:
            names: what values and weights are called, where that is not their name in
                the code nor in `notation`: `{"c": "C", "g": "C_tilde", "W.g": "C"}`. A
                weight is called as its gate, without the accent, unless it is said.

        Raises:
            CellError: the cell has no such value, or two would have one name.
        """
        return EquationWriter(*notated(self, names)).block()

    def diagram(
        self,
        *,
        legend: bool = True,
        names: Mapping[str, str] | None = None,
        theme: str = "auto",
        transparent: bool = False,
    ) -> Diagram:
        """The picture of the cell: a notebook shows it, its `save(path)` writes it.

        Args:
            legend: whether the picture explains its signs.
            names: what values are called, as in `latex`.
            theme: `"light"`, `"dark"`, or `"auto"`, the viewer's own.
            transparent: whether the page behind the cell shows through.

        Raises:
            CellError: as `latex`; no such theme; the cell is too large for a picture.
        """
        from ..look.diagram import Diagram, Style  # upward: the method is its user's

        style = Style(theme, transparent)
        return Diagram(self, legend=legend, names=names, style=style)

    def _repr_latex_(self) -> str:
        return f"$${self.latex()}$$"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        """For notebooks: the equations over the picture."""
        from ..look.diagram import DrawingError
        from ..look.formula import mathml

        shown = {"text/plain": repr(self), "text/latex": self._repr_latex_()}
        try:
            picture = self.diagram()
        except DrawingError:  # too large for one: the equations alone
            return {**shown, "text/html": mathml(self)}
        return {
            **shown,
            "text/html": mathml(self) + picture._repr_html_(),
            "image/svg+xml": picture.svg,
        }

    def to_text(self) -> str:
        """The cell as versioned text; `Cell.from_text` reads it back."""
        return print_graph(self.graph)

    @staticmethod
    def from_text(text: str) -> Cell:
        """The cell that `to_text` printed. Runs no code of the text.

        Raises:
            CellError: the text is no printed cell.
        """
        return Cell.from_graph(parse_graph(text))

    @staticmethod
    def from_graph(graph: Graph, notation: Mapping[str, str] | None = None) -> Cell:
        """A cell that is its graph alone: it runs by evaluating the graph."""
        kind = next(k for k in (Cell, *Cell.__subclasses__()) if k._fits(graph))
        return kind(graph=graph, notation=notation)

    @classmethod
    def _fits(cls, graph: Graph) -> bool:
        """Whether a graph is of this kind of cell: here, of a sequence's."""
        return not graph.children

    def __repr__(self) -> str:
        if self._graph is None:
            return f"<cell {self.name}>"
        return f"<cell {self.name}: " + "; ".join(self.equations) + ">"

    def __str__(self) -> str:
        return self.name if self._graph is None else self.to_text()

    # -- running ---------------------------------------------------------------

    def __call__(self, W: Any, x: Any, *states: Any, **inputs: Any) -> Any:
        """One step on tensors: the new states, after the output where that is no state.

        Args:
            W: the weights, such as `layer.cells[0]`.
            x: (…, input_size).
            *states: (…, size) each; of a matrix its elements, see `MatrixSize`.
            **inputs: the named inputs, (…, size) each.
        """
        graph = self.graph
        if self.function is not None:
            if graph.has_matrices:
                results = self._run_on_matrices(W, x, states, inputs)
            else:
                results = self._run_function(W, x, *states, **inputs)
            if graph.output_is_state and isinstance(results, tuple | list):
                # Without the output, where it was said beside the state that it is.
                results = list(results)[-len(graph.states) :]
                return tuple(results) if len(results) > 1 else results[0]
            return results
        olds = dict(zip([s.name for s in graph.states], states, strict=True))
        return graph.results(evaluate(graph, W, {"x": x, **inputs}, olds))

    def _run_on_matrices(
        self, W: Any, x: Any, states: Sequence[Any], inputs: Mapping[str, Any]
    ) -> Any:
        """Run the function on states that know their heads; its results are flat."""
        sizes = [state.size for state in self.graph.states]
        olds = [
            Matrix(value, size.heads) if isinstance(size, MatrixSize) else value
            for value, size in zip(states, sizes, strict=True)
        ]
        results = self._run_function(W, x, *olds, **inputs)
        if isinstance(results, tuple | list):
            return tuple(r.flat if isinstance(r, Matrix) else r for r in results)
        return results.flat if isinstance(results, Matrix) else results

    # -- other cells from this one ---------------------------------------------

    def partial(self, **hyperparameters: Any) -> Cell:
        """The same cell with other values for some hyperparameters.

        Raises:
            CellError: the cell has no hyperparameter of that name.
        """
        if not hyperparameters:
            return self
        known = self.keywords
        for label in hyperparameters:
            if label not in known:
                raise CellError(
                    f"[cell {self.name!r}] has no hyperparameter {label!r}. "
                    + (did_you_mean(label, known) if known else "It has none.")
                )
        return self._again(hyperparameters={**self.hyperparameters, **hyperparameters})

    def _again(self, **changes: Any) -> Cell:
        """The same function, traced with other inputs or hyperparameters."""
        given = {
            "inputs": self._inputs,
            "hyperparameters": self.hyperparameters,
            "notation": self.notation,
        }
        return type(self)(self.function, **{**given, **changes})

    @property
    def keywords(self) -> list[str]:
        """The names of the keyword-only arguments: hyperparameters, named inputs."""
        if self.function is None:
            return []
        parameters = inspect.signature(self.function).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

    def with_inputs(self, inputs: Mapping[str, Size]) -> Cell:
        """The same cell, whose arguments named in `inputs` are inputs of that size.

        Raises:
            CellError: the function has no such argument.
        """
        if not inputs or dict(inputs) == self._inputs:
            return self
        if self.function is not None:
            return self._again(inputs={**self._inputs, **inputs})
        # A printed cell already knows its inputs; their sizes are bound later.
        known = {i.name: i.size for i in self.graph.inputs[1:]}
        for label, size in inputs.items():
            if isinstance(known.get(label), int) and known[label] != size:
                raise CellError(
                    f"[cell {self.name!r}] was printed with an input {label!r} of "
                    f"another size; received {size}, expected {known[label]}"
                )
            if label not in known:
                raise CellError(
                    f"[cell {self.name!r}] has no input {label!r}; "
                    f"expected one of {list(known)}"
                )
        return self

    def replace(self, **activations: Callable[[Any], Any]) -> Cell:
        """The same cell with another activation on some gates.

        Args:
            **activations: for a gate's name, an operation such as `hard_sigmoid`, or
                any function of one value written in the cell language.

        Example: `cells.lstm.replace(f=hard_sigmoid)`.

        Raises:
            CellError: no gate has that name, or it is no activation.
        """
        graph = self.graph
        gates = [key.removesuffix(".pre") for key in activation_arguments(graph)]
        substitute = {}
        for gate, function in activations.items():
            if gate not in gates:
                raise CellError(
                    f"[cell {self.name!r}] has no gate {gate!r} with an activation "
                    f"to replace. {did_you_mean(gate, gates)}"
                )
            substitute[graph.values[gate]] = _renamed(function, gate)
        replaced = replay(graph, Builder(self.name), substitute=substitute)
        return Cell.from_graph(checked(replaced), self.notation)

    # -- copying ---------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.to_text(), self.__doc__, self.notation)

    def __deepcopy__(self, memo: Any) -> Cell:
        return self

    def __copy__(self) -> Cell:
        return self


def _unpickle(text: str, doc: str, notation: Mapping[str, str] | None = None) -> Cell:
    restored = Cell.from_graph(parse_graph(text), notation)
    restored.__doc__ = doc
    return restored


def _renamed(function: Callable[[Any], Any], gate: str) -> Callable[[Traced], Any]:
    """A function that keeps the gate's name when it is no single activation."""
    if isinstance(function, Op) and function.kind == "activation":
        return function
    return lambda value: name(gate, function(value))


@overload
def cell(function: Callable[..., Any], /) -> Cell: ...
@overload
def cell(
    *,
    inputs: Mapping[str, Size] | None = None,
    notation: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Cell]: ...
def cell(
    function: Callable[..., Any] | None = None,
    /,
    *,
    inputs: Mapping[str, Size] | None = None,
    notation: Mapping[str, str] | None = None,
) -> Cell | Callable[[Callable[..., Any]], Cell]:
    """Make a recurrent cell of a function that writes its step.

    The function takes the weights `W`, the input `x`, and its states; it returns the
    new states in the same order (or the output first, where that is no state).
    Keyword-only arguments are hyperparameters. See `docs/language.md`.

    Args:
        function: `def name(W, x, h, …)`.
        inputs: sizes of arguments that are further inputs of every step, not states.
        notation: what formulas and pictures call values and weights, where that is not
            their name in the code: `{"c": "C", "g": "C_tilde"}`; see `Cell.latex`.

    Returns:
        The `Cell`, or a decorator when called with options alone.

    Raises:
        CellError: the equations cannot be recorded; names the line and the remedy.
    """

    made = deferring(partial(Cell, inputs=inputs, notation=notation))
    return made if function is None else made(function)
