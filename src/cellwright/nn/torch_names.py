"""`LSTM`, `GRU`, `RNN`: drop-ins for torch.nn's, with engines and named gates.

They stand for torch.nn's modules: same signature, parameters, names, draws, errors and
state_dict. What they add is `engine=` and `cells`, the gates by name. They derive from
`nn.RNNBase` alone: torch.compile takes no layer that is an `nn.LSTM`, `GRU` or `RNN`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compiler.bindings import packed_parameters
from ..engine import native, native_op, reference
from ..language import Cell
from . import torch_kernels
from .engines import ChoosesEngine
from .recording import run_watched
from .recurrent import run_layers
from .sequences import Layout
from .stepper import StepperPart
from .torch_kernels import TorchLayout


class _DropIn(ChoosesEngine, nn.RNNBase):
    """What the three drop-ins share; `_layout` says which cell they are."""

    _of_torch: type[nn.RNNBase]  # the module that it stands for

    def __init__(
        self, *args: Any, engine: str = "auto", memory: str = "save", **kwargs: Any
    ) -> None:
        super().__init__(*self._mode(args, kwargs), **kwargs)
        self._want_engine(engine, memory)
        count = self.num_layers * self.directions
        self._natives = [self._make_native(k) for k in range(count)]

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

    def _placement(self) -> tuple[torch.device, torch.dtype]:
        weight = self._parameter("weight_ih_l0")
        return weight.device, weight.dtype

    @property
    def cell(self) -> Cell:
        """The same cell in the language."""
        return self._layout.cell

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Units of y."""
        return self.directions * (self.proj_size or self.hidden_size)

    @property
    def cells(self) -> list[TorchCell]:
        """The gates by name, one `TorchCell` a layer and direction.

        `layer.cells[0].f.weight_ih` is a view of torch's parameter: what is written
        there is written into the layer.
        """
        return [TorchCell(self, k) for k in range(self.num_layers * self.directions)]

    def forward(
        self, input: Any, hx: Any = None, *, lengths: Any = None, resets: Any = None
    ) -> Any:
        """As torch.nn's forward, on the chosen engine.

        Args:
            input, hx: as torch.nn has them.
            lengths: (B,) integers, in any order, as `Recurrent.forward` has them.
            resets: (T, B) booleans, laid out as input: the row starts anew, from zero.
        """
        engine = self.watched_engine if self._watchers else self.engine
        if engine == "torch" and lengths is None and resets is None:
            torch_kernels.refuse_vmap()
            return self._of_torch.forward(self, input, hx)
        single = self.mode != "LSTM"
        layout = self._check(input, hx, lengths, resets)
        alone = self._alone(engine)
        olds: Any
        if hx is not None:
            olds = [layout.enter_state(s) for s in ([hx] if single else hx)]
        elif alone:
            olds = [None] * (1 if single else 2)  # the core's zeros
        else:
            olds = self._first_states(layout.order.batch)
        own = [] if layout.order.resets is None else self._first_states(1)

        def run(k: int, x: Tensor, olds: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            fresh = [states[k, 0] for states in own]
            return self._run_direction(engine, k, x, olds, layout, fresh)

        def drop(where: str, x: Tensor) -> Tensor:
            p = self.dropout if where == "dropout" else 0.0
            return F.dropout(x, p, self.training) if p else x

        y, finals = run_layers(
            run, layout.enter(input), olds, self.num_layers, self.directions,
            drop if self.dropout else None,
            single=alone,
        )  # fmt: skip
        finals = [layout.leave_state(f) for f in finals]
        return layout.leave(y), finals[0] if single else tuple(finals)

    def _run_direction(
        self,
        engine: str,
        k: int,
        x: Tensor,
        olds: list[Tensor],
        layout: Layout,
        fresh: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """Layer·direction k on an engine."""
        reverse = bool(k % self.directions)
        how: Any = {"reverse": reverse, "order": layout.order, "fresh": fresh}
        flat = self._flat(k)
        if self._watchers:
            call = self._natives[k], self.cells[k], flat, x, olds, {}, layout.padded
            return run_watched(self, k, *call, **how)
        if engine == "native":
            return native_op.walk(self._natives[k], x, olds, {}, flat, **how)
        if engine == "torch":
            kernel = self._layout.kernel
            return torch_kernels.run(kernel, flat, x, olds, **how, biased=self.bias)
        return reference.run(self.cell, self.cells[k], x, olds, {}, **how)

    def _make_native(self, k: int) -> native.NativeCell:
        """The programs of layer·direction k."""
        layout = torch_kernels.LAYOUTS.index(self._layout)
        width = self.output_size if k >= self.directions else self.input_size
        sizes = width, self.hidden_size, self.proj_size
        return _native_cell(layout, *sizes, self.bias, self.memory == "recompute")

    def _flat(self, k: int) -> list[Tensor]:
        """torch's parameters of layer·direction k, as the programs take them."""
        return [self._parameter(name) for name in self._all_weights[k]]

    def _parameter(self, name: str) -> Tensor:
        """torch's parameter, or what stands for it: parametrised, pruned, replaced."""
        own = self._parameters.get(name)  # `getattr` of a module looks elsewhere first
        return getattr(self, name) if own is None else own

    def _stepper_part(self, k: int) -> StepperPart:
        """Layer k as a stepper runs it."""
        return StepperPart(self._natives[k], self._flat(k), self.cell, self.cells[k])

    def _state_sizes(self) -> list[int]:
        first = self.proj_size or self.hidden_size
        return [first, self.hidden_size] if self.mode == "LSTM" else [first]

    def _first_states(self, batch: int) -> list[Tensor]:
        like, count = self._parameter("weight_ih_l0"), len(self._natives)
        sizes = self._state_sizes()
        zeros = like.new_zeros(count, batch, sizes[-1])
        if sizes[0] == sizes[-1]:
            return [zeros] * len(sizes)  # nobody writes them
        return [like.new_zeros(count, batch, sizes[0]), zeros]

    def _check(self, x: Any, state: Any, lengths: Any, resets: Any) -> Layout:
        """torch.nn's own checks, in its words, before anything is laid out anew."""
        if isinstance(x, nn.utils.rnn.PackedSequence):
            layout = Layout(x, self.batch_first, lengths, resets)
            self._check_values(x.data, state, x.batch_sizes)
            return layout
        if x.dim() not in (2, 3):
            what = "D tensor" if self.mode.startswith("RNN") else "D"
            raise ValueError(
                f"{self._get_name()}: Expected input to be 2D or 3D, got "
                f"{x.dim()}{what} instead"
            )
        single = x.dim() == 2
        self._check_dimensions(x.dim(), state)
        if single and isinstance(state, Tensor):
            state = state.unsqueeze(1)
        elif single and state is not None:
            state = tuple(s.unsqueeze(1) for s in state)
        batch = x.unsqueeze(0 if self.batch_first else 1) if single else x
        self._check_values(batch, state, None)
        if batch.shape[1 if self.batch_first else 0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return Layout(x, self.batch_first, lengths, resets)

    def _check_values(self, x: Tensor, state: Any, batch_sizes: Any) -> None:
        if state is None:
            self.check_input(x, batch_sizes)
        else:
            self.check_forward_args(x, state, batch_sizes)

    def _check_dimensions(self, wanted: int, state: Any) -> None:
        if state is None:
            return
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
def _native_cell(
    layout: int,
    input_size: int,
    hidden_size: int,
    proj_size: int,
    bias: bool,
    recompute: bool,
) -> native.NativeCell:
    """The programs of a layer·direction; layers of the same sizes share them."""
    chosen = torch_kernels.LAYOUTS[layout]
    sizes = {"input_size": input_size, "hidden_size": hidden_size}
    if proj_size:
        sizes["proj_size"] = proj_size
    graph = chosen.cell.graph.bind(**sizes)
    gates = chosen.input_gates, chosen.hidden_gates, chosen.projection
    binding = packed_parameters(graph, *gates, bias)
    return native.NativeCell(graph, binding, recompute=recompute)


class LSTM(_DropIn):
    """torch.nn.LSTM, with `engine=` and named gates: `cells[k].f`, `.i`, `.g`, `.o`.

    Args:
        *args, **kwargs: as torch.nn.LSTM, `proj_size` included.
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
        return torch_kernels.LSTM_PROJECTED if self.proj_size else torch_kernels.LSTM


class GRU(_DropIn):
    """torch.nn.GRU, with `engine=` and named gates: `cells[k].r`, `.z`, `.n`, `.m`.

    n = tanh(W.n(x) + r * W.m(h)): the reset acts after the matrix.

    Args:
        *args, **kwargs: as torch.nn.GRU.
        engine: "auto", "native", "torch" or "reference", as `Recurrent` has it.
        memory: "save" or "recompute", as `Recurrent` has it.
    """

    _of_torch = nn.GRU

    @property
    def _layout(self) -> TorchLayout:
        return torch_kernels.GRU


class RNN(_DropIn):
    """torch.nn.RNN, tanh or ReLU, with `engine=` and its affine as `cells[k].h`.

    Args:
        *args, **kwargs: as torch.nn.RNN.
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
        return torch_kernels.RNN_RELU if relu else torch_kernels.RNN_TANH


class TorchCell:
    """The gates of one layer·direction of a drop-in, by name: a `W` to step with."""

    def __init__(self, layer: _DropIn, k: int) -> None:
        self._parameters = layer._all_weights[k]
        self._layer = layer
        self._layout = layer._layout

    def __getattr__(self, name: str) -> TorchGate:
        layout = self._layout
        if name.startswith("_") or name not in self.names:
            raise AttributeError(f"no gate {name!r}; the gates are {self.names}")
        if name == layout.projection:
            return TorchGate(hidden=self._rows("weight_hr", 0, whole=True))
        views: dict[str, Any] = {}
        if name in layout.input_gates:
            row = layout.input_gates.index(name)
            views |= {"input": self._rows("weight_ih", row)}
            views |= {"input_bias": self._rows("bias_ih", row)}
        if name in layout.hidden_gates:
            row = layout.hidden_gates.index(name)
            views |= {"hidden": self._rows("weight_hh", row)}
            views |= {"hidden_bias": self._rows("bias_hh", row)}
        return TorchGate(**views)

    @property
    def names(self) -> tuple[str, ...]:
        """The gates' names."""
        layout = self._layout
        extra = (layout.projection,) if layout.projection else ()
        return (*dict.fromkeys((*layout.input_gates, *layout.hidden_gates)), *extra)

    def _rows(self, kind: str, block: int, whole: bool = False) -> Tensor | None:
        label = next((n for n in self._parameters if n.startswith(kind)), None)
        if label is None:
            return None
        parameter = getattr(self._layer, label)
        size = self._layer.hidden_size
        return parameter if whole else parameter[block * size : (block + 1) * size]


class TorchGate:
    """One gate's rows of torch's parameters.

    Attributes:
        weight_ih, weight_hh, bias_ih, bias_hh: views of torch's parameters, or `None`.
    """

    def __init__(
        self,
        input: Tensor | None = None,
        hidden: Tensor | None = None,
        input_bias: Tensor | None = None,
        hidden_bias: Tensor | None = None,
    ) -> None:
        self.weight_ih, self.weight_hh = input, hidden
        self.bias_ih, self.bias_hh = input_bias, hidden_bias

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

    def blocks(self, operand: int) -> list[Tensor]:
        """The matrix that one operand meets, as a view to initialise."""
        present = [w for w in (self.weight_hh, self.weight_ih) if w is not None]
        return [present[operand].data]

    def fill_bias_(self, value: float | Tensor) -> None:
        """Set the sum of the two biases, if there are any."""
        present = [b for b in (self.bias_ih, self.bias_hh) if b is not None]
        for bias in present:
            bias.data.zero_()
        if present:
            present[0].data.copy_(torch.as_tensor(value))
