"""`LSTM`, `GRU`, `RNN`: drop-ins for torch.nn's, with engines and named gates.

They stand for torch.nn's modules: same signature, parameters, names, draws, errors and
state_dict. What they add is `engine=` and `cells`, the gates by name. They derive from
`nn.RNNBase` alone: torch.compile takes no layer that is an `nn.LSTM`, `GRU` or `RNN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compiler.bindings import packed_parameters
from ..engine import torch_kernels, torch_layout
from ..engine.programs import Programs
from ..engine.schedule import SequenceBatch
from ..engine.torch_layout import LAYOUTS, TorchLayout
from ..language import Cell
from ..language.arguments import plain
from .direction import BoundCell, Direction
from .layer import Drop, SequenceLayer
from .made import changing, keepable, make_weights
from .sequences import Layout


class _DropIn(SequenceLayer, nn.RNNBase):
    """What the three drop-ins share; `_layout` says which cell they are."""

    _of_torch: type[nn.RNNBase]  # the module that it stands for

    def __init__(
        self, *args: Any, engine: str = "auto", memory: str = "save", **kwargs: Any
    ) -> None:
        args = tuple(map(plain, args))
        kwargs = {name: plain(value) for name, value in kwargs.items()}
        super().__init__(*self._mode(args, kwargs), **kwargs)
        self.memory = memory
        count = self.num_layers * self.directions
        self._bound = [self._bind(k) for k in range(count)]
        self._choose_engine(engine, memory)

    def _mode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The arguments with torch's name of the cell before them."""
        if "proj_size" in kwargs:
            raise ValueError(
                "proj_size argument is only supported for LSTM, not RNN or GRU"
            )
        return self._of_torch.__name__, *args

    @property
    def _layout(self) -> TorchLayout:
        raise NotImplementedError

    def placement(self) -> tuple[torch.device, torch.dtype]:
        like = self._any_tensor()
        return like.device, like.dtype

    def _any_tensor(self) -> Tensor:
        """Any tensor of it, for its device and dtype; none is made for that."""
        for own in self._parameters.values():
            if own is not None:
                return own
        found = next(self.parameters(), None)
        return self._parameter("weight_ih_l0") if found is None else found

    @property
    def cell(self) -> Cell:
        """The same cell in the language."""
        return self._layout.cell

    @property
    def output_size(self) -> int:
        """Units of y."""
        return self.directions * (self.proj_size or self.hidden_size)

    @property
    def cells(self) -> list[TorchCell]:
        """The gates by name, one `TorchCell` a layer and direction.

        `layer.cells[0].f.weight_ih` is a view of torch's parameter: what is written
        there is written into the layer. Of a weight that is made of others (pruned,
        parametrized) it is a view of what was made: write into those.
        """
        make_weights(self)
        return [TorchCell(self, k) for k in range(self.num_layers * self.directions)]

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        starts: Any = None,
    ) -> Any:
        """As torch.nn's forward, on the chosen engine.

        Args:
            input, hx: as torch.nn has them.
            lengths, starts: (B,) integers, as `Recurrent.forward` has them.
            resets: (T, B) booleans, or 0 and 1, laid out as input: the row starts
                anew, from zero.
        """
        engine = self._engine_of_call()
        bare = lengths is resets is starts is None
        if engine.runs_modules and bare and self._torch_has_the_weights():
            torch_kernels.refuse_vmap()
            return self._of_torch.forward(self, input, hx)
        layout = self._check(input, hx, lengths, resets, starts)
        states: Any = [None] * len(self._state_sizes())
        if hx is not None:
            given = [hx] if isinstance(hx, Tensor) else hx
            states = [layout.enter_state(state) for state in given]
        return self._scan(engine, layout, layout.enter(input), states, {})

    def bound_cells(self) -> Sequence[BoundCell]:
        return self._bound

    def _direction(self, k: int, training: bool) -> Direction:
        return Direction(self._bound[k], TorchCell(self, k, self._flat(k)))

    def direction(self, k: int) -> Direction:
        if k == 0:  # the first of all: the layer is not called
            make_weights(self)
        return super().direction(k)

    def _dropout(self, batch: SequenceBatch) -> Drop | None:
        if not (self.dropout and self.training):
            return None
        p = self.dropout
        return lambda where, x: F.dropout(x, p) if where == "dropout" else x

    def _torch_has_the_weights(self) -> bool:
        """Whether torch.nn's forward reads what is to be computed with.

        It reads a list of its own, which a parametrization does not change.
        """
        names: list[str] = self._flat_weights_names
        pairs = zip(names, self._flat_weights, strict=True)
        return all(self._parameters.get(name) is tensor for name, tensor in pairs)

    def _bind(self, k: int) -> BoundCell:
        """The cell of layer·direction k with its sizes."""
        width = self.output_size if k >= self.directions else self.input_size
        layout, recompute = LAYOUTS.index(self._layout), self.memory == "recompute"
        sizes = width, self.hidden_size, self.proj_size
        return _bound_cell(layout, sizes, self.bias, recompute)

    def _flat(self, k: int) -> list[Tensor]:
        """torch's parameters of layer·direction k, as the programs take them."""
        own = self._parameters  # a loop by hand: this is part of every call
        return [
            getattr(self, name) if (tensor := own.get(name)) is None else tensor
            for name in self._all_weights[k]
        ]

    def _parameter(self, name: str) -> Tensor:
        """torch's parameter, or what stands for it: parametrised, pruned, replaced."""
        own = self._parameters.get(name)  # `getattr` of a module looks elsewhere first
        return getattr(self, name) if own is None else own

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        flat = keepable(dict(enumerate(state["_flat_weights"])))
        return {**keepable(state), "_flat_weights": list(flat.values())}

    def _state_sizes(self) -> list[int]:
        first = self.proj_size or self.hidden_size
        return [first, self.hidden_size] if self.mode == "LSTM" else [first]

    def first_states(self, batch: int) -> list[Tensor]:
        like, count = self._any_tensor(), len(self._bound)
        sizes = self._state_sizes()
        zeros = like.new_zeros(count, batch, sizes[-1])
        if sizes[0] == sizes[-1]:
            return [zeros] * len(sizes)  # nobody writes them
        return [like.new_zeros(count, batch, sizes[0]), zeros]

    def _check(self, x: Any, state: Any, *sequences: Any) -> Layout:
        """torch.nn's own checks, in its words, before anything is laid out anew.

        Args:
            x, state: as `forward` has them.
            *sequences: lengths, resets and starts.
        """
        if isinstance(x, nn.utils.rnn.PackedSequence):
            layout = Layout(x, self.batch_first, *sequences)
            self._check_values(x.data, state, x.batch_sizes)
            return layout
        if x.dim() not in (2, 3):
            what = "D tensor" if self.mode.startswith("RNN") else "D"
            raise ValueError(
                f"{self._get_name()}: Expected input to be 2D or 3D, got "
                f"{x.dim()}{what} instead"
            )
        single = x.dim() == 2
        if state is not None:
            self._check_dimensions(x.dim(), state)
        if single and isinstance(state, Tensor):
            state = state.unsqueeze(1)
        elif single and state is not None:
            state = tuple(s.unsqueeze(1) for s in state)
        batch = x.unsqueeze(0 if self.batch_first else 1) if single else x
        self._check_values(batch, state, None)
        if batch.shape[1 if self.batch_first else 0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return Layout(x, self.batch_first, *sequences)

    def _check_values(self, x: Tensor, state: Any, batch_sizes: Any) -> None:
        if state is None:
            self.check_input(x, batch_sizes)
        else:
            self.check_forward_args(x, state, batch_sizes)

    def _check_dimensions(self, wanted: int, state: Any) -> None:
        kind = "batched 3-D" if wanted == 3 else "unbatched 2-D"
        if self.mode == "LSTM":
            found = [s.dim() for s in state]
            names, got = "hx and cx", f"({found[0]}-D, {found[1]}-D) tensors"
        else:
            found = [state.dim()]
            names, got = "hx", f"{found[0]}-D tensor"
        if any(dim != wanted for dim in found):
            raise RuntimeError(
                f"For {kind} input, {names} should also be {wanted}-D but got {got}"
            )


@lru_cache(maxsize=32)  # each some 0.2 MB
def _bound_cell(
    layout: int, sizes: tuple[int, int, int], bias: bool, recompute: bool
) -> BoundCell:
    """The cell of a layer·direction; layers of the same sizes share it."""
    chosen, (input_size, hidden_size, proj_size) = LAYOUTS[layout], sizes
    known = {"input_size": input_size, "hidden_size": hidden_size}
    if proj_size:
        known["proj_size"] = proj_size
    graph = chosen.cell.graph.bind(**known)
    gates = chosen.input_gates, chosen.hidden_gates, chosen.projection
    binding = packed_parameters(graph, *gates, bias)
    programs = Programs(graph, binding, recompute=recompute)
    return BoundCell(chosen.cell, programs, chosen)


class LSTM(_DropIn):
    """torch.nn.LSTM, with `engine=` and named gates: `cells[k].f`, `.i`, `.g`, `.o`.

    Args:
        *args: as torch.nn.LSTM, `proj_size` included.
        engine: "auto", "native", "torch" or "reference", as `Recurrent` has it.
        memory: "save" or "recompute", as `Recurrent` has it.
    """

    _of_torch = nn.LSTM
    # Its states are two, of which one may be projected.
    get_expected_cell_size: Any = nn.LSTM.get_expected_cell_size
    check_forward_args: Any = nn.LSTM.check_forward_args
    permute_hidden: Any = nn.LSTM.permute_hidden

    def _mode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        return "LSTM", *args

    @property
    def _layout(self) -> TorchLayout:
        return torch_layout.LSTM_PROJECTED if self.proj_size else torch_layout.LSTM


class GRU(_DropIn):
    """torch.nn.GRU, with `engine=` and named gates: `cells[k].r`, `.z`, `.n`, `.m`.

    n = tanh(W.n(x) + r * W.m(h)): the reset acts after the matrix.

    Args:
        *args: as torch.nn.GRU.
        engine: "auto", "native", "torch" or "reference", as `Recurrent` has it.
        memory: "save" or "recompute", as `Recurrent` has it.
    """

    _of_torch = nn.GRU

    @property
    def _layout(self) -> TorchLayout:
        return torch_layout.GRU


class RNN(_DropIn):
    """torch.nn.RNN, tanh or ReLU, with `engine=` and its affine as `cells[k].h`.

    Args:
        *args: as torch.nn.RNN.
        engine: "auto", "native", "torch" or "reference", as `Recurrent` has it.
        memory: "save" or "recompute", as `Recurrent` has it.
    """

    _of_torch = nn.RNN

    def _mode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        _, *given = super()._mode(args, kwargs)
        own = given.pop(3) if len(given) > 3 else kwargs.pop("nonlinearity", "tanh")
        if own not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{own}'. Select from 'tanh' or 'relu'."
            )
        self.nonlinearity = own
        return f"RNN_{own.upper()}", *given

    @property
    def _layout(self) -> TorchLayout:
        relu = self.mode == "RNN_RELU"
        return torch_layout.RNN_RELU if relu else torch_layout.RNN_TANH


class TorchCell:
    """The gates of one layer·direction of a drop-in, by name: a `W` to step with.

    Args:
        layer, k: whose.
        tensors: stand for the parameters of layer·direction k, in torch's order.
    """

    def __init__(
        self, layer: _DropIn, k: int, tensors: list[Tensor] | None = None
    ) -> None:
        self._layer, self._k, self._flat = layer, k, tensors

    def in_order(self, parameters: Sequence[tuple[str, int]]) -> list[Tensor]:
        """The parameters as a binding has them: in torch's order."""
        return self._flat  # type: ignore[return-value]

    def packed(self, bound: BoundCell) -> list[Tensor]:
        """The same for torch's kernels."""
        return self._flat  # type: ignore[return-value]

    def first_parameter(self) -> Tensor:
        """Any of them, for its device and dtype."""
        return self._flat[0]  # type: ignore[index]

    @property
    def _names(self) -> list[str]:
        return self._layer._all_weights[self._k]

    def __getattr__(self, name: str) -> TorchGate:
        layout = self._layer._layout
        if name.startswith("_") or name not in self.names:
            raise AttributeError(f"no gate {name!r}; the gates are {self.names}")
        places: dict[str, tuple[str, slice]] = {}
        if name == layout.projection:
            places["weight_hh"] = self._label("weight_hr"), slice(None)
        for part, gates in (("ih", layout.input_gates), ("hh", layout.hidden_gates)):
            if name not in gates:
                continue
            first, size = gates.index(name), self._layer.hidden_size
            rows = slice(first * size, (first + 1) * size)
            places[f"weight_{part}"] = self._label(f"weight_{part}"), rows
            if self._layer.bias:
                places[f"bias_{part}"] = self._label(f"bias_{part}"), rows
        own = self._flat or [None] * len(self._names)
        tensors = dict(zip(self._names, own, strict=True))
        return TorchGate(self._layer, places, tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """The gates' names."""
        layout = self._layer._layout
        extra = (layout.projection,) if layout.projection else ()
        return (*dict.fromkeys((*layout.input_gates, *layout.hidden_gates)), *extra)

    def _label(self, kind: str) -> str:
        """torch's name of a parameter of this layer·direction."""
        return next(name for name in self._names if name.startswith(kind))


class TorchGate:
    """One gate's rows of torch's parameters.

    Args:
        layer: the drop-in.
        places: for each of the attributes below that there is, the parameter's name and
            the gate's rows in it.
        tensors: stand for the layer's parameters, by torch's names.

    Attributes:
        weight_ih, weight_hh, bias_ih, bias_hh: views of torch's parameters, or `None`.
    """

    def __init__(
        self,
        layer: _DropIn,
        places: Mapping[str, tuple[str, slice]],
        tensors: Mapping[str, Tensor | None],
    ) -> None:
        self._layer, self._places, self._tensors = layer, places, tensors
        self.weight_ih, self.weight_hh = (
            self._view("weight_ih"),
            self._view("weight_hh"),
        )
        self.bias_ih, self.bias_hh = self._view("bias_ih"), self._view("bias_hh")

    def _view(self, kind: str) -> Tensor | None:
        if kind not in self._places:
            return None
        label, rows = self._places[kind]
        tensor = self._tensors[label]
        whole = self._layer._parameter(label) if tensor is None else tensor
        return whole[rows]

    def __call__(self, *operands: Tensor, **options: Any) -> Tensor:
        """The gate's affine map of its operands, in the order h, x."""
        pairs = [(self.weight_hh, self.bias_hh), (self.weight_ih, self.bias_ih)]
        present = [(w, b) for w, b in pairs if w is not None]
        terms = [
            F.linear(operand, weight, bias)
            for operand, (weight, bias) in zip(operands, present, strict=True)
        ]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    @property
    def weight(self) -> Tensor:
        """(size, |h| + |x|), the columns in the order h, x: a copy, not a view."""
        parts = [w for w in (self.weight_hh, self.weight_ih) if w is not None]
        return torch.cat(parts, 1)

    @property
    def bias(self) -> Tensor | None:
        """(size,), the sum of torch's two biases: a copy, not a view."""
        parts = [b for b in (self.bias_hh, self.bias_ih) if b is not None]
        return torch.stack(parts).sum(0) if parts else None

    @contextmanager
    def _changing(self, *kinds: str) -> Iterator[list[Tensor]]:
        """The rows of those parameters that there are, to change."""
        places = [self._places[kind] for kind in kinds if kind in self._places]
        with ExitStack() as stack:
            yield [
                stack.enter_context(changing(self._layer, label))[rows]
                for label, rows in places
            ]

    @contextmanager
    def changing_blocks(self) -> Iterator[list[list[Tensor]]]:
        """For each operand the matrix that it meets, in a list of one, to change."""
        with self._changing("weight_hh", "weight_ih") as matrices:
            yield [[matrix] for matrix in matrices]

    def fill_bias_(self, value: float | Tensor) -> None:
        """Set the sum of the two biases, if there are any."""
        with self._changing("bias_ih", "bias_hh") as present:
            for bias, part in zip(present, (value, 0.0), strict=False):
                bias.copy_(torch.as_tensor(part))
