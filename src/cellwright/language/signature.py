"""A cell's function: what its arguments are, and its trace."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping
from typing import Any

from .arguments import plain
from .builder import Builder
from .errors import CellError, TraceError, holds_equations
from .graph import Graph, Size
from .items import Items, annotation_of
from .trace import Recorded, Traced, Weights, as_node


class MissingStateError(CellError):
    """A cell returned fewer values than it has arguments that look like states."""


class Signature:
    """A cell function's arguments, sorted into states, inputs, hyperparameters.

    `inputs` are the sizes of those that are declared to be inputs, `given` the values
    of hyperparameters.
    """

    children: tuple[str, ...] = ()

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Mapping[str, Size],
        given: Mapping[str, Any],
    ) -> None:
        code = getattr(function, "__code__", None)
        self.line = f"{code.co_filename}:{code.co_firstlineno}" if code else "?"
        if code:
            holds_equations(code.co_filename)
        label = getattr(function, "__name__", "cell")
        self.where = f"[{self.line}, cell {label!r}]"
        self.declared, self.given = inputs, given
        self.states: dict[str, tuple[Size, float]] = {}
        self.inputs: dict[str, Size] = {}
        self.items: dict[str, Size] = {}
        self.hyperparameters: dict[str, Any] = {}
        parameters = list(inspect.signature(function).parameters.values())
        self._check(parameters)
        further = parameters[2:]
        self.positional = tuple(p.name for p in further if p.kind is not p.KEYWORD_ONLY)
        annotations = [annotation_of(function, p) for p in parameters]
        for parameter, annotation in zip(parameters, annotations, strict=True):
            if isinstance(annotation, Items):
                self._sort_items(parameter, annotation)
            elif parameter in further:
                self._sort(parameter.replace(annotation=annotation))
        self.states = {
            name: (self._counted(size), init)
            for name, (size, init) in self.states.items()
        }
        for name in inputs:
            if name not in (*self.inputs, *self.items):
                raise CellError(
                    f"{self.where} has no argument for the input {name!r}; write "
                    f"`def {label}(W, x, …, {name})`"
                )
        for name in (*self.states, *self.inputs, *self.items, *self.children):
            if name in ("W", "x"):
                raise CellError(
                    f"{self.where} the weights are called W and the input x wherever "
                    f"a cell is printed; received a further argument {name!r}, "
                    "expected another name"
                )

    def _check(self, parameters: list[inspect.Parameter]) -> None:
        starred = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if len(parameters) < 2 or starred:
            raise CellError(
                f"{self.where} a cell takes the weights, the input and its states by "
                f"name; received ({', '.join(map(str, parameters))}), expected "
                "(W, x, h) or (W, x, h, c, …)"
            )

    def _sort_items(self, parameter: inspect.Parameter, annotation: Items) -> None:
        """A set of items is a keyword-only argument that has no value of its own."""
        label, only = parameter.name, parameter.kind is parameter.KEYWORD_ONLY
        if not only or parameter.default is not parameter.empty:
            raise CellError(
                f"{self.where} a set of items is a keyword-only argument without a "
                f"default; received {parameter}, expected `*, {label}: {annotation}`"
            )
        if label in self.declared or label in self.given:
            how = "inputs=" if label in self.declared else f"{label}="
            raise CellError(
                f"{self.where} {label!r} is a set of items, neither an input of every "
                f"step nor a hyperparameter; received it by {how}, expected "
                f"items={{{label!r}: 256}} of the layer"
            )
        size = f"{label}_size" if annotation.size is None else annotation.size
        self.items[label] = size

    def _sort(self, parameter: inspect.Parameter) -> None:
        label, empty = parameter.name, parameter.empty
        if label in self.declared:
            self.inputs[label] = self.declared[label]
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            init = 0.0 if parameter.default is empty else plain(parameter.default)
            if isinstance(init, bool) or not isinstance(init, int | float):
                raise CellError(
                    f"{self.where} a state starts from a number; received "
                    f"{label}={init!r}, expected such as {label}=0.0"
                )
            self.states[label] = (_size(parameter, "hidden_size"), init)
        elif label in self.given or parameter.default is not empty:
            default = plain(parameter.default)
            self.hyperparameters[label] = self.given.get(label, default)
        else:  # a keyword without a value is an input, until it is given one
            self.inputs[label] = _size(parameter, f"{label}_size")

    def _counted(self, size: Any) -> Any:
        """A state's size, with a number where it names a hyperparameter."""
        if isinstance(size, tuple | list):
            return tuple(self._counted(part) for part in size)
        given = self.hyperparameters.get(size) if isinstance(size, str) else None
        return size if given is None else given

    # -- tracing

    def trace(self, run: Callable[..., Any], label: str, doc: str) -> Graph:
        """Record `run(W, x, *states, **inputs)`, the bound function, as a graph.

        Raises:
            CellError: with the user's file and line, and the remedy.
        """
        builder = Builder(label)
        x = Traced(builder, builder.add_input("x", "input_size"))
        named = {
            name: Traced(builder, builder.add_input(name, size))
            for name, size in self.inputs.items()
        }
        for name, size in self.items.items():
            named[name] = Traced(builder, builder.add_item(name, size))
        olds = self._old_states(builder)
        returned = run(Weights(builder), x, *olds, **named)
        results = returned if isinstance(returned, tuple | list) else (returned,)
        builder.source = self.line
        self._check_count(len(results), builder)
        for result in results:
            if not isinstance(result, Recorded | int | float):
                raise TraceError(
                    f"[{builder.where()}] a cell returns values computed from its "
                    f"arguments; received {type(result).__name__}"
                )
        nodes = tuple(as_node(builder, result, None) for result in results)
        return builder.finish(nodes, doc)

    def _old_states(self, builder: Builder) -> list[Any]:
        """What the function sees of the step before."""
        return [
            Traced(builder, builder.add_state(name, size, init))
            for name, (size, init) in self.states.items()
        ]

    def _check_count(self, returned: int, builder: Builder) -> None:
        """The values returned are the states, and the output where that is none."""
        states = list(self.states)
        rule = (
            f"[{builder.where()}] a cell returns its new states in the order of its "
            "arguments, or one value more, the output first; received "
            f"{returned} value(s), expected {len(states)}: return {', '.join(states)}"
        )
        if returned < len(states):
            missing = states[returned]
            raise MissingStateError(
                f"{rule}. State {missing!r} is never returned; if it is an input of "
                f"every step, say inputs={{{missing!r}: 1}}"
            )
        if returned > len(states) + 1:
            raise CellError(rule)


def label_of(function: Callable[..., Any] | None, default: str) -> str:
    """What a cell is called: as its function is, if that has a name. A lambda has none.

    Its text says `def name(…)`, so a name that Python cannot read there is none.
    """
    name = getattr(function, "__name__", "")
    return name if name.isidentifier() and not keyword.iskeyword(name) else default


def _size(parameter: inspect.Parameter, default: str) -> Size:
    annotation = parameter.annotation
    return default if annotation is parameter.empty else plain(annotation)
