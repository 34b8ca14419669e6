"""`Recurrent`: any cell as a layer over sequences."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import cells as zoo
from ..engine.schedule import SequenceBatch
from ..language import ArgumentError, Cell, Graph, TreeCell
from ..language.arguments import plain
from ..language.errors import did_you_mean
from .direction import BoundCell, Direction
from .items import enter_items, length_name, take_items
from .layer import Drop, SequenceLayer, State
from .made import changing, make_weights
from .regularise import Probabilities, Regularisers, bind_modes, drop_weights
from .sequences import Layout
from .weights import CellWeights, first_tensor, gates_must_be_called, made

# Arguments of `forward` beside the inputs.
_FORWARD = ("state", "lengths", "resets", "starts", "forest")


class Recurrent(SequenceLayer, nn.Module):
    """A recurrent layer, or several, of any cell.

    Takes x (T, B, input_size), or (B, T, input_size) with `batch_first`, or
    (T, input_size) unbatched, or a PackedSequence; gives y (T, B, directions · output
    size) and the final states, (num_layers · directions, B, size) each: bare where the
    cell has one state, else a tuple in the order of the cell's arguments.

    Args:
        cell: a `Cell`, or the name of one of the zoo's.
        input_size: units of x.
        hidden_size: units of every state and weight that declares no other size.
        num_layers: layers, each on the outputs of the one before.
        bidirectional: a second scan from the end; the outputs are concatenated.
        batch_first: x and y are (B, T, …); the states are not.
        dropout: probability of zeroing an output between layers, while training.
        input_dropout, output_dropout: the same for the inputs of the first layer and
            the outputs of the last.
        recurrent_dropout: probability of dropping a unit of the output state where
            matrices read it, one mask a sequence (Gal & Ghahramani 2016, tied
            weights).
        update_dropout: probability of dropping a unit of the candidate, g, n or z,
            anew at every step (Semeniuta et al. 2016); or probabilities of values by
            name, {"g": 0.2}.
        zoneout: probability that a unit of a state keeps its old value at a step
            (Krueger et al. 2017), for every state; or by name, {"h": 0.05, "c": 0.5}.
        weight_drop: probability of dropping an element of a recurrent matrix, anew at
            every call (Merity et al. 2018).
        locked: True, or the names of those of `input_dropout`, `dropout`,
            `output_dropout` and `update_dropout` that draw one mask a sequence instead
            of one a step (variational dropout). See docs/regularisation.md.
        learn_initial_state: the initial states are parameters, one a state, layer and
            direction, and begin at their declared values; used where `forward` gets no
            state, and at resets.
        inputs: sizes of the further named inputs, passed to `forward` by name,
            shaped like x, or once for all steps. Every layer sees them.
        items: sizes of the sets of items that the cell looks at, passed to `forward` by
            name: `items={"source": 256}`. Every layer sees them. See docs/attention.md.
        engine: "native" (the compiled core, for any cell on the CPU), "torch" (torch's
            own kernel, where the cell is the same), "reference" (the cell's function
            stepped in PyTorch), or "auto": the first of these that can run it.
        memory: what training keeps for the backward pass: "save" all that it reads, or
            the states alone, and "recompute" the rest from them (native engine).
        device, dtype: of the parameters.
        **options: further sizes that the cell names (`proj_size=32`; hidden_size
            where it is not given), and its hyperparameters (`alpha=0.3`).

    Attributes:
        cell: the cell as it is evaluated: zoneout by its expectation.
        cells: the weights, one `CellWeights` a layer and direction; layer k forward is
            `cells[k * directions]`.
        regularisers: what the arguments asked for.
        initial_states: with learn_initial_state, for each layer·direction its initial
            states by name, (size,) each: `initial_states[0]["h"]`; else `None`. A state
            whose declared value is infinite keeps it.
        output_size: units of y.

    Raises:
        CellError: sizes that do not fit the cell, unknown options.
        ArgumentError: wrong layer arguments.
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        update_dropout: Probabilities = 0.0,
        zoneout: Probabilities = 0.0,
        weight_drop: float = 0.0,
        locked: bool | Collection[str] = False,
        learn_initial_state: bool = False,
        inputs: Mapping[str, int] | None = None,
        items: Mapping[str, int] | None = None,
        engine: str = "auto",
        memory: str = "save",
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        cell = zoo.get(cell) if isinstance(cell, str) else cell
        num_layers = plain(num_layers)
        wanted = Regularisers(
            input_dropout,
            dropout,
            output_dropout,
            recurrent_dropout,
            update_dropout,
            zoneout,
            weight_drop,
            locked,
        )
        _check_settings(cell, num_layers, wanted.dropout)
        _check_keywords(
            cell,
            num_layers=num_layers,
            bidirectional=bidirectional,
            batch_first=batch_first,
            engine=engine,
            memory=memory,
            device=device,
            dtype=dtype,
            learn_initial_state=learn_initial_state,
            **wanted.given,
        )
        self.regularisers, self._regularised = wanted, bool(wanted.given)
        self.input_size, self.hidden_size = plain(input_size), plain(hidden_size)
        self.num_layers, self.bidirectional = num_layers, bidirectional
        self.batch_first, self.dropout = batch_first, wanted.dropout
        self.learn_initial_state, self.initial_states = learn_initial_state, None
        cell = self._configure(cell, inputs, items, options)
        self._bind_graphs(cell, memory == "recompute")
        self._make_parameters(device, dtype)
        self._choose_engine(engine, memory)

    def _configure(
        self,
        cell: Cell,
        inputs: Mapping[str, int] | None,
        items: Mapping[str, int] | None,
        options: dict[str, Any],
    ) -> Cell:
        """The cell with its hyperparameters; what is left of the options is sizes."""
        if not options.get("proj_size", 1):
            del options["proj_size"]  # torch's way of saying: no projection
        given = dict(inputs or {}), dict(items or {})
        cell, self.sizes = configure(cell, *given, options, self.hidden_size)
        if "proj_size" in cell.graph.size_names:
            self.sizes.setdefault("proj_size", self.hidden_size)
        return cell

    def _bind_graphs(self, cell: Cell, recompute: bool) -> None:
        """Give every layer and direction its graph, and keep what calls read of it."""
        graphs = self._bind_layers(cell)
        self._modes = bind_modes(cell, graphs, self.regularisers, recompute)
        self.cell, graphs = self._modes.evaluation[0].cell, self.graphs
        self._declared = [(int(s.size), s.init) for s in graphs[0].states]
        self._named = {i.name: i.size for i in graphs[0].inputs[1:]}
        self.item_sizes = {i.name: int(i.size) for i in graphs[0].items}
        self.output_size = self.directions * int(graphs[-1].output_size)
        zero = all(init == 0 for _, init in self._declared)
        self._from_zero = zero and not self.learn_initial_state

    def _make_parameters(self, device: Any, dtype: Any) -> None:
        self.cells = nn.ModuleList(
            CellWeights(graph, self.hidden_size, device, dtype) for graph in self.graphs
        )
        if self.learn_initial_state:
            learned = (_learned(graph, device, dtype) for graph in self.graphs)
            self.initial_states = nn.ModuleList(learned)

    @property
    def graphs(self) -> list[Graph]:
        """The cell as it is evaluated, with the sizes of each layer·direction."""
        return [bound.graph for bound in self._modes.evaluation]

    def placement(self) -> tuple[torch.device, torch.dtype]:
        like = first_tensor(self._modules["cells"])  # type: ignore[arg-type]
        return like.device, like.dtype

    @property
    def _gates_have_hooks(self) -> bool:
        return gates_must_be_called(self._modules["cells"])  # type: ignore[arg-type]

    def bound_cells(self) -> Sequence[BoundCell]:
        return self._modes.evaluation

    def _bind_layers(self, cell: Cell) -> list[Graph]:
        """One graph with concrete sizes a layer and direction."""
        graphs: list[Graph] = []
        width = self.input_size
        known = {"input_size": width, "hidden_size": self.hidden_size, **self.sizes}
        for _ in range(self.num_layers):
            wanted = {n: v for n, v in known.items() if n in cell.graph.size_names}
            graph = cell.graph.bind(**wanted)
            graphs += [graph] * self.directions
            width = self.directions * int(graph.output_size)
            known["input_size"] = width
        for first, other in zip(graphs[0].states, graphs[-1].states, strict=True):
            if first.size != other.size:
                raise ArgumentError(
                    f"[Recurrent] state {first.name!r} of cell {cell.name!r} is as "
                    f"wide as its layer's input; received {first.size} units in the "
                    f"first layer, {other.size} in the last, expected equal ones, for "
                    "one tensor holds all layers'. Stack layers of one layer each, or "
                    "let input_size be the output's width"
                )
        return graphs

    def reset_parameters(self) -> None:
        """Draw every parameter anew, U(±1/√hidden_size) but for declared values."""
        for weights in self.cells:
            weights.reset_parameters()  # type: ignore[operator]
        declared = {s.name: s.init for s in self.graphs[0].states}
        for states in self.initial_states or ():
            for name in states:  # type: ignore[union-attr]
                with changing(states, name) as value:
                    nn.init.constant_(value, declared[name])

    def forward(
        self,
        x: Any,
        state: State | None = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        starts: Any = None,
        **inputs: Tensor,
    ) -> tuple[Any, State]:
        """Scan the sequence.

        Args:
            x: (T, B, input_size), (B, T, input_size) with batch_first, or
                (T, input_size); or a PackedSequence, and so are y and the named inputs.
            state: the initial states, (num_layers · directions, B, size) each;
                without it the cell's own initial values, declared or learned.
            lengths: (B,) integers, in any order: the steps of each row. y is zero from
                there on, the final states are each row's last, and the reverse
                direction starts at each row's own end. A row of length 0 keeps its
                initial state.
            resets: (T, B) booleans, or 0 and 1, laid out as x: the row starts anew at
                that step, from the cell's own initial values, in both directions: as if
                the sequence were cut before it.
            starts: (B,) integers: the first step of each row, for rows that are padded
                on the left. Its steps are starts … starts + lengths - 1, or to the end
                without lengths; y is zero elsewhere, and the reverse direction ends
                there.
            **inputs: the named inputs, shaped like x; or static, given once for all
                steps: (B, size), (size,) for a single sequence, a tensor (B, size)
                beside a PackedSequence, its rows in the user's order. They are not
                copied, and their gradient is the sum over the steps. And the sets of
                items that the cell looks at: source=(S, B, size), (B, S, size) with
                batch_first, (S, size) for a single sequence, or a PackedSequence; and
                source_lengths=(B,) integers, the items of each row, 0 … S.

        Returns:
            y and the final states, shaped as the class says.

        Raises:
            ArgumentError: shapes, dtypes or devices that do not fit, steps of a row
                that x has not, resets that are neither 0 nor 1.
        """
        sizes = self.item_sizes
        if sizes and torch.compiler.is_dynamo_compiling():
            steps = {"lengths": lengths, "resets": resets, "starts": starts}
            return _outside_graphs(self, x, state, **steps, **inputs)
        sets = take_items("Recurrent", sizes, inputs) if sizes else ()
        named, static = self._check_inputs(x, inputs)
        layout = Layout(x, self.batch_first, lengths, resets, starts)
        items = None
        if sets:
            like = partial(_check_like, other=_data(x))
            items = enter_items("Recurrent", sizes, sets, layout, like)
        for name, value in named.items():
            if name not in static:
                layout.check_named(name, value)
        engine = self._engine_of_call()
        states: Any
        if state is None and self._from_zero:
            states = [None] * len(self._declared)
        else:
            states = self._initial_states(x, state, layout)
        named = {
            name: layout.enter_static(v) if name in static else layout.enter(v)
            for name, v in named.items()
        }
        return self._scan(engine, layout, layout.enter(x), states, named, items)

    def _direction(self, k: int, training: bool) -> Direction:
        bound = (self._modes.training if training else self._modes.evaluation)[k]
        cells: Any = self._modules["cells"]  # a list of modules is slow to index
        W = made(cells._modules[str(k)])
        return Direction(bound, drop_weights(bound, W) if bound.columns else W)

    def _dropout(self, batch: SequenceBatch) -> Drop | None:
        if not (self._regularised and self.training):
            return None
        return lambda where, x: self.regularisers.drop(where, x, True, batch)

    def own_states(self) -> list[Tensor]:
        """The cell's own initial values, (layers·directions, size) a state."""
        device, dtype = self.placement()
        for states in self.initial_states or ():
            make_weights(states)
        values = []
        for s in self.graphs[0].states:
            shape = len(self.cells), int(s.size)
            if self.initial_states is None or s.name not in self.initial_states[0]:  # type: ignore[operator]
                values.append(torch.full(shape, s.init, device=device, dtype=dtype))
            else:
                own = [states[s.name] for states in self.initial_states]  # type: ignore[index]
                values.append(torch.stack(own))
        return values

    def first_states(self, batch: int) -> list[Tensor]:
        """The same for a batch, (layers·directions, batch, size); not to be written."""
        if self.learn_initial_state:
            return [s[:, None].expand(-1, batch, -1) for s in self.own_states()]
        device, dtype = self.placement()
        values: dict[tuple[int, float], Tensor] = {}  # one of a kind: nobody writes it
        for size, init in self._declared:
            if (size, init) not in values:
                shape = len(self.cells), batch, size
                values[size, init] = torch.full(shape, init, device=device, dtype=dtype)
        return [values[kind] for kind in self._declared]

    # -- arguments -------------------------------------------------------------

    def _check_inputs(
        self, x: Any, inputs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """x and the named inputs, checked.

        Returns:
            The named ones, and the names of those that are static: given once, without
            the dimension of time.
        """
        expected = self._named
        for name in inputs:
            if name not in expected:
                known = [
                    *expected,
                    *self.item_sizes,
                    *map(length_name, self.item_sizes),
                ]
                raise ArgumentError(
                    f"[Recurrent] cell {self.cell.name!r} has no input {name!r}; "
                    f"received {name}=, expected {', '.join(known) or 'x alone'}"
                )
        steps = int(self.batch_first)
        like = first_tensor(self._modules["cells"])  # type: ignore[arg-type]
        _check_x(x, self.input_size, steps, like)
        given, x, batch, static = x, _data(x), _batch(x, steps), []
        for name, size in expected.items():
            shapes = (*x.shape[:-1], size), (*batch, size)
            if name not in inputs:
                raise ArgumentError(
                    f"[Recurrent] cell {self.cell.name!r} takes the input {name!r} at "
                    f"every step; received none, expected {name}=tensor of "
                    f"{shapes[0]}, or of {shapes[1]} for all steps"
                )
            value = _data(inputs[name])
            shape = tuple(getattr(value, "shape", ()))
            if _is_static(inputs[name], given, batch):
                static.append(name)
            if shape != shapes[name in static]:
                raise ArgumentError(
                    f"[Recurrent] input {name!r} has the wrong shape; received "
                    f"{shape or type(value).__name__}, expected {shapes[0]}, or "
                    f"{shapes[1]} for all steps"
                )
            _check_like(f"the input {name!r}", value, x)
        return dict(inputs), tuple(static)

    def _initial_states(
        self, x: Any, state: State | None, layout: Layout
    ) -> list[Tensor]:
        """One (layers·directions, B, size) tensor a state."""
        batch = layout.batch.batch
        if state is None:
            return self.first_states(batch)
        declared = self.graphs[0].states
        shapes = [(len(self.cells), batch, size) for size, _ in self._declared]
        given = (state,) if isinstance(state, Tensor) else tuple(state)
        names = ", ".join(s.name for s in declared)
        if len(given) != len(declared):
            raise ArgumentError(
                f"[Recurrent] cell {self.cell.name!r} has the states ({names}); "
                f"received {len(given)} tensor(s), expected {len(declared)}"
            )
        for tensor, shape, s in zip(given, shapes, declared, strict=True):
            expected = shape if layout.batched else (shape[0], shape[2])
            if tuple(tensor.shape) != expected:
                axes = "(layers·directions, batch, size), also with batch_first"
                if not layout.batched:
                    axes = "(layers·directions, size), as x has no batch"
                raise ArgumentError(
                    f"[Recurrent] the initial state {s.name!r} has the wrong shape; "
                    f"received {tuple(tensor.shape)}, expected {expected}: {axes}"
                )
            _check_like(f"the initial state {s.name!r}", tensor, _data(x))
        return [layout.enter_state(s) for s in given]

    def extra_repr(self) -> str:
        parts = [f"{self.cell.name}, {self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bidirectional": False,
            "batch_first": False,
            "dropout": 0.0,
            "learn_initial_state": False,
        }
        parts += [
            f"{name}={getattr(self, name)}"
            for name, default in defaults.items()
            if getattr(self, name) != default
        ]
        more = {**self.regularisers.given, "dropout": 0}
        parts += [f"{n}={v}" for n, v in more.items() if v]
        parts += [f"{n}={v}" for n, v in self.sizes.items()]
        return ", ".join([*parts, f"engine={self.engine!r}"])


# What depends on numbers of items breaks torch.compile's graph.
_outside_graphs: Any = torch.compiler.disable(Recurrent.forward)


# -- settings ------------------------------------------------------------------


def _check_settings(cell: Any, num_layers: int, dropout: float) -> None:
    if not isinstance(cell, Cell):
        raise ArgumentError(
            f"[Recurrent] needs a cell; received {type(cell).__name__}, expected a "
            "function under @cellwright.cell, or a name such as 'lstm'"
        )
    if isinstance(cell, TreeCell):
        raise ArgumentError(
            f"[Recurrent] walks sequences; received {cell.name!r}, a cell of trees, "
            "expected a cell under @cellwright.cell. For trees: "
            "TreeRecurrent(cell, input_size, hidden_size)"
        )
    if (
        isinstance(num_layers, bool)
        or not isinstance(num_layers, int)
        or num_layers < 1
    ):
        raise ArgumentError(
            f"[Recurrent] num_layers counts layers; received {num_layers!r}, "
            "expected a positive integer"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            f"[Recurrent] dropout acts between layers, and there is one layer; "
            f"received dropout={dropout}, num_layers=1",
            stacklevel=3,
        )


def _learned(graph: Graph, device: Any, dtype: Any) -> nn.ParameterDict:
    """Initial states as parameters, but for those that nothing moves: infinite ones."""
    return nn.ParameterDict(
        {
            s.name: nn.Parameter(
                torch.full((int(s.size),), s.init, device=device, dtype=dtype)
            )
            for s in graph.states
            if math.isfinite(s.init)
        }
    )


_DEFAULTS: dict[str, Any] = {
    "num_layers": 1,
    "engine": "auto",
}  # the rest is off: False, 0, None


def _check_keywords(cell: Cell, **arguments: Any) -> None:
    """An argument that the cell has too could be meant for either."""
    for name in cell.keywords:
        default = _DEFAULTS.get(name)
        if name in arguments and arguments[name] not in (default, False, 0, None):
            raise ArgumentError(
                f"[Recurrent] {name}= is an argument of the layer, and cell "
                f"{cell.name!r} has a hyperparameter of that name; received "
                f"{name}={arguments[name]!r}. Set the cell's with "
                f"cell.partial({name}={arguments[name]!r}); to set the layer's, give "
                "the cell's another name"
            )


def configure(
    cell: Cell,
    inputs: dict[str, int],
    items: dict[str, int],
    options: dict[str, Any],
    hidden_size: int,
) -> tuple[Cell, dict[str, int]]:
    """The cell with its inputs and hyperparameters, and the sizes among `options`."""
    inputs = {n: plain(v) for n, v in inputs.items()}
    items = {n: plain(v) for n, v in items.items()}
    options = {n: plain(v) for n, v in options.items()}
    if inputs:
        cell = cell.with_inputs(inputs)
    hyperparameters = {n: v for n, v in options.items() if n in cell.keywords}
    hyperparameters = {n: v for n, v in hyperparameters.items() if n not in inputs}
    cell = cell.partial(**hyperparameters)
    names = cell.graph.size_names
    sizes = {f"{n}_size": s for n, s in inputs.items() if f"{n}_size" in names}
    for named in cell.graph.inputs[1:]:
        if named.name in _FORWARD:
            raise ArgumentError(
                f"[Recurrent] an input cannot be called {named.name!r}: the layer has "
                "an argument of that name. Give it another name in the cell"
            )
        if isinstance(named.size, str) and named.name not in inputs:
            raise ArgumentError(
                f"[Recurrent] cell {cell.name!r} takes the further input "
                f"{named.name!r}; received no size for it, expected "
                f"inputs={{{named.name!r}: 1}}"
            )
    others = {**options, "hidden_size": hidden_size}
    sizes.update(_item_sizes(cell, items, others))
    for name, value in options.items():
        if name in hyperparameters:
            continue
        if name not in names:
            known = [*cell.keywords, *names]
            raise ArgumentError(
                f"[Recurrent] cell {cell.name!r} has no size and no hyperparameter "
                f"{name!r}; received {name}={value!r}. {did_you_mean(name, known)}"
            )
        sizes[name] = value
    return cell, sizes


def _item_sizes(
    cell: Cell, given: dict[str, int], others: dict[str, Any]
) -> dict[str, int]:
    """The sizes of the sets of items that a cell looks at, by the name of the size.

    Args:
        given: by the name of the set.
        others: sizes that are known, and do not have to be given.
    """
    declared = {item.name: item.size for item in cell.graph.items}
    taken = {*_FORWARD, *(i.name for i in cell.graph.inputs), *declared}
    for name in given:
        if name not in declared:
            raise ArgumentError(
                f"[Recurrent] cell {cell.name!r} looks at no items {name!r}; received "
                f"items={{{name!r}: …}}, expected {', '.join(declared) or 'none'}. In "
                f"a cell a set is a keyword-only argument, `*, {name}: Items`"
            )
    sizes: dict[Any, int] = {}
    for name, size in declared.items():
        if name in _FORWARD or length_name(name) in taken:
            raise ArgumentError(
                f"[Recurrent] the layer takes {name}= and {length_name(name)}= for the "
                f"items {name!r}, and one of these is taken; received {sorted(taken)}. "
                "Give them another name in the cell"
            )
        if size == "input_size":
            raise ArgumentError(
                f"[Recurrent] every layer sees the same items {name!r}, and layers "
                "differ in their input_size; received Items['input_size'], expected a "
                "size of its own, as Items['item_size']"
            )
        named = isinstance(size, str)
        known: Any = others.get(size) if named else size
        wanted = given.get(name, known)
        if wanted is None:
            raise ArgumentError(
                f"[Recurrent] cell {cell.name!r} looks at the items {name!r}; received "
                f"no size for them, expected items={{{name!r}: 256}}"
            )
        known = sizes.setdefault(size, wanted) if named and known is None else known
        if known != wanted:
            raise ArgumentError(
                f"[Recurrent] the items {name!r} of cell {cell.name!r} have the size "
                f"{size!r}; received {wanted} for them, expected {known}"
            )
    return sizes


# -- tensors -------------------------------------------------------------------


def _data(x: Any) -> Any:
    """The rows of packed sequences, or x itself."""
    return x.data if isinstance(x, PackedSequence) else x


def _batch(x: Any, steps: int) -> tuple[int, ...]:
    """(B,), or () of a single sequence; `steps` is the dimension of time in a batch."""
    if isinstance(x, PackedSequence):
        return (int(x.batch_sizes[0]),)
    return (x.shape[1 - steps],) if x.dim() == 3 else ()


def _is_static(value: Any, x: Any, batch: tuple[int, ...]) -> bool:
    """Whether a named input has no dimension of time: as its own dimensions say, or,
    since packed ones have none, that it has a row for each sequence."""
    if not isinstance(value, Tensor):
        return False
    if isinstance(x, PackedSequence):
        return value.shape[:-1] == batch
    return value.dim() == x.dim() - 1


def _check_x(x: Any, input_size: int, steps: int, parameter: Tensor | None) -> None:
    """`steps` is the dimension of time in a batch."""
    if isinstance(x, PackedSequence):
        if x.data.dim() != 2 or x.data.shape[1] != input_size:
            raise ArgumentError(
                "[Recurrent] the packed x has the wrong shape; received "
                f"{tuple(x.data.shape)}, expected (Σ batch_sizes, {input_size})"
            )
        if parameter is not None:
            _check_like("x", x.data, parameter)
        return
    wide = isinstance(x, Tensor) and x.dim() in (2, 3) and x.shape[-1] == input_size
    if wide and x.shape[steps if x.dim() == 3 else 0]:
        if parameter is not None:
            _check_like("x", x, parameter)
        return
    shape = f"(B, T, {input_size})" if steps else f"(T, B, {input_size})"
    if not isinstance(x, Tensor):
        raise ArgumentError(
            f"[Recurrent] x is a sequence; received {type(x).__name__}, expected a "
            f"tensor {shape}"
        )
    raise ArgumentError(
        f"[Recurrent] x has the wrong shape; received {tuple(x.shape)}, expected "
        f"{shape} with T ≥ 1, or (T, {input_size}) unbatched"
    )


def _check_like(what: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.dtype == other.dtype and tensor.device == other.device:
        return
    if tensor.device != other.device:
        raise ArgumentError(
            f"[Recurrent] {what} is on another device than the weights; received "
            f"{tensor.device}, expected {other.device}. Move it with .to(...)"
        )
    autocast = torch.is_autocast_enabled(tensor.device.type)
    if tensor.dtype != other.dtype and not autocast:
        raise ArgumentError(
            f"[Recurrent] {what} has another dtype than the weights; received "
            f"{tensor.dtype}, expected {other.dtype}. Convert one with .to(dtype)"
        )
