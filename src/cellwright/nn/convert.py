"""Weights from and to torch.nn and Keras, by name, where the equations are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import cells as zoo
from ..engine import torch_layout
from ..engine.torch_layout import TorchLayout
from ..language import ArgumentError, Cell
from ..language import cell as language_cell
from ..language.ops import sigmoid, tanh
from . import keras_paths
from .layer import plain_layer
from .made import make_weights
from .packing import Packed, Packing, same_gates
from .recurrent import Recurrent
from .weights import made

# -- torch ---------------------------------------------------------------------

_MODULES = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "rnn_tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
}
_LAYOUTS = {
    "LSTM": torch_layout.LSTM,
    "GRU": torch_layout.GRU,
    "RNN_TANH": torch_layout.RNN_TANH,
    "RNN_RELU": torch_layout.RNN_RELU,
}


@torch.no_grad()
def from_torch(
    module: nn.RNNBase, *, engine: str = "auto", **options: Any
) -> Recurrent:
    """The same layer as a `Recurrent`, with a copy of the weights.

    torch's two biases become one, their sum: the same function, but trained on, it
    takes other steps than torch's. To train as torch does, use `cellwright.LSTM`,
    `GRU` or `RNN`, which load torch's state_dict. A module without biases gets zeros.

    Args:
        module: torch.nn's LSTM, GRU or RNN, or a drop-in.
        engine: of the layer.
        **options: further arguments of the layer, such as `zoneout=0.1`.

    Raises:
        ArgumentError: another module, or a wrong argument.
    """
    module = plain_layer(module)
    if not isinstance(module, nn.RNNBase):
        raise ArgumentError(
            f"[from_torch] received {type(module).__name__}, expected torch.nn.LSTM, "
            "GRU or RNN"
        )
    layout = _LAYOUTS[module.mode]
    if module.proj_size:
        layout = torch_layout.LSTM_PROJECTED
    first: Tensor = module.weight_ih_l0  # type: ignore[assignment]
    sizes: dict[str, Any] = {"proj_size": module.proj_size} if module.proj_size else {}
    layer = Recurrent(
        layout.cell,
        module.input_size,
        module.hidden_size,
        module.num_layers,
        bidirectional=module.bidirectional,
        batch_first=module.batch_first,
        engine=engine,
        device=first.device,
        dtype=first.dtype,
        **{"dropout": module.dropout, **sizes, **options},
    )
    packing = _packing(layout)
    make_weights(module)  # pruned and normalised ones are as of its last call
    for k, (W, graph) in enumerate(zip(layer.cells, layer.graphs, strict=True)):
        theirs = _torch_weights(module, k)
        none = theirs["weight_ih"].new_zeros(len(theirs["weight_ih"]))
        packed = Packed(
            theirs["weight_ih"],
            theirs["weight_hh"],
            theirs.get("bias_ih", none),
            theirs.get("bias_hh", none),
        )
        packing.unpack(graph, W, packed)
        if layout.projection:
            with getattr(W, layout.projection).changing_weight() as weight:
                weight.copy_(theirs["weight_hr"])
    return layer.train(module.training)


@torch.no_grad()
def to_torch(layer: Recurrent) -> nn.RNNBase:
    """The same layer as torch.nn's LSTM, GRU or RNN, with a copy of the weights.

    Each bias goes into torch's first one, `bias_ih`, and the second is zero (but for
    the GRU's `bias_hn`, which the cell has too).

    Raises:
        ArgumentError: torch has no module with this cell's equations, or the layer
            trains with what torch has no argument for, or learns its initial states.
    """
    layer = plain_layer(layer)
    _check_regularisers(layer)
    _refuse_learned("to_torch", layer)
    layout = torch_layout.find_layout(layer.cell.graph)
    if layout is None:
        raise ArgumentError(
            f"[to_torch] torch.nn has no module with the equations of cell "
            f"{layer.cell.name!r}; expected one of "
            f"{', '.join(known.cell.name for known in torch_layout.LAYOUTS)}, "
            "whatever its names. export_onnx takes every cell"
        )
    make, options = _MODULES[layout.kernel]
    if layout.projection:
        options = {"proj_size": _projected_size(layer)}
    first = next(layer.parameters())
    biases = any(w.bias for w in layer.cell.graph.weights if w.kind == "matrix")
    module = make(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=biases,
        bidirectional=layer.bidirectional,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        device=first.device,
        dtype=first.dtype,
        **options,
    )
    order: list[str] = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]
    for k, (W, graph) in enumerate(zip(layer.cells, layer.graphs, strict=True)):
        packed = torch_layout.pack(layout, graph, made(W))  # type: ignore[arg-type]
        ours = dict(zip(order, packed, strict=False))
        for name, theirs in _torch_weights(module, k).items():
            theirs.copy_(ours[name])
    return module.train(layer.training)


def _check_regularisers(layer: Recurrent) -> None:
    beyond = layer.regularisers.beyond_torch
    given = ", ".join(f"{name}={value}" for name, value in beyond.items())
    if "zoneout" in beyond:
        raise ArgumentError(
            f"[to_torch] torch.nn has no zoneout, which acts in evaluation too, by its "
            f"expectation; received {given}, expected a layer without. export_onnx "
            "takes every layer"
        )
    if beyond and layer.training:
        raise ArgumentError(
            f"[to_torch] torch.nn cannot train with {', '.join(beyond)}; received "
            f"{given}, expected a layer without, or one in evaluation: layer.eval()"
        )


def _refuse_learned(where: str, layer: Recurrent) -> None:
    if layer.learn_initial_state:
        raise ArgumentError(
            f"[{where}] has no place for learned initial states; received a layer with "
            "learn_initial_state=True, expected one without. export_onnx keeps them"
        )


def _projected_size(layer: Recurrent) -> int:
    size = layer.sizes["proj_size"]
    if size >= layer.hidden_size:
        raise ArgumentError(
            f"[to_torch] torch.nn.LSTM only projects to fewer units; received "
            f"proj_size {size}, expected less than hidden_size, {layer.hidden_size}"
        )
    return size


def _packing(layout: TorchLayout) -> Packing:
    return Packing(layout.cell, layout.input_gates, layout.hidden_gates)


def _torch_weights(module: nn.RNNBase, k: int) -> dict[str, Tensor]:
    """The parameters of layer·direction k: `weight_ih`, `weight_hh`, …"""
    names: list[str] = module._all_weights[k]  # type: ignore[assignment]
    return {name.split("_l")[0]: getattr(module, name) for name in names}


# -- Keras ---------------------------------------------------------------------


@language_cell
def _gru_reset_before(W, x, h):
    """Keras' own GRU(reset_after=False): z keeps the old state."""
    z, r = sigmoid(W.z(h, x)), sigmoid(W.r(h, x))
    return z * h + (1 - z) * tanh(W.n(r * h, x))


_KERAS = (
    same_gates(zoo.lstm, "i", "f", "g", "o"),
    Packing(zoo.gru_reset_after, ("z", "r", "n"), ("z", "r", "m")),
    # Keras' z keeps the old state; in these cells, as in the papers, it lets in the new
    same_gates(zoo.gru_bias, "-z", "r", "n"),
    same_gates(_gru_reset_before, "z", "r", "n"),
    same_gates(zoo.rnn, "h"),
)
_KERNEL, _RECURRENT, _BIAS = "kernel", "recurrent_kernel", "bias"


def from_keras_weights(
    cell: Cell | str | Recurrent,
    weights: Mapping[str, Any],
    *,
    bidirectional: bool = False,
    **options: Any,
) -> Recurrent:
    """A layer with the weights of a Keras LSTM, GRU or SimpleRNN.

    Args:
        cell: "lstm"; "gru_reset_after" (Keras' default GRU) or "gru_bias"
            (`reset_after=False`); "rnn" or "rnn_relu"; any cell with one of these
            equations, whatever its activations; or a layer, whose weights are then
            written over.
        weights: arrays by Keras' names, `kernel`, `recurrent_kernel`, `bias` (absent
            with `use_bias=False`), whatever path stands before them:
            `{w.path: w.numpy() for w in keras_layer.weights}`. Paths say which cell is
            which: a part that begins with `forward` or `backward` its direction, a
            number (`lstm`, `lstm_1`, …) its layer; layers without numbers are taken as
            they are listed, unless that is alphabetical and others fit too. Those of a
            CuDNNLSTM or CuDNNGRU are told by their bias.
        bidirectional: the cells are pairs, a forward and a backward one.
        **options: further arguments of a new `Recurrent`.

    Raises:
        ArgumentError: names or shapes that are not Keras', or not this cell's; paths
            that do not say which cell is which.
    """
    cell = plain_layer(cell)
    if isinstance(cell, Recurrent):
        bidirectional = cell.bidirectional
    groups = _in_order(_by_path(weights), bidirectional)
    if isinstance(cell, Recurrent):
        layer = cell
    else:
        layer = _new_layer(cell, groups, bidirectional, options)
    if len(groups) != len(layer.cells):
        raise ArgumentError(
            f"[from_keras_weights] received the weights of {len(groups)} cell(s), "
            f"expected {len(layer.cells)}: one a layer and direction, each with a path "
            "of its own"
        )
    packing = _keras_packing(layer.cell)
    for W, graph, arrays in zip(layer.cells, layer.graphs, groups, strict=True):
        packed = _read_keras(packing, packing.pack(graph, W), arrays)
        try:
            packing.unpack(graph, W, packed)
        except ValueError as error:
            raise ArgumentError(
                f"[from_keras_weights] {error}; received {_BIAS!r}, expected none, "
                "or a cell with biases"
            ) from None
    return layer


def to_keras_weights(layer: Recurrent) -> dict[str, np.ndarray]:
    """The weights as Keras has them: `kernel`, `recurrent_kernel`, `bias`.

    With several layers or directions the names have paths, `layer_0/forward/kernel`.
    In their order the values are what the Keras layers' `set_weights` take.

    Raises:
        ArgumentError: Keras has no layer with this cell's equations, or the layer
            learns its initial states.
    """
    layer = plain_layer(layer)
    _refuse_learned("to_keras_weights", layer)
    packing = _keras_packing(layer.cell)
    found: dict[str, np.ndarray] = {}
    for k, (W, graph) in enumerate(zip(layer.cells, layer.graphs, strict=True)):
        path = ""
        if len(layer.cells) > 1:
            direction = "backward" if k % layer.directions else "forward"
            path = f"layer_{k // layer.directions}/{direction}/"
        packed = packing.pack(graph, made(W))  # type: ignore[arg-type]
        for name, tensor in _as_keras(packing, packed).items():
            found[path + name] = tensor.detach().cpu().numpy()
    return found


def _keras_packing(cell: Cell) -> Packing:
    for fit in (Packing.fitted, Packing.fitted_to_any_activation):
        for packing in _KERAS:
            fitted = fit(packing, cell.graph)
            if fitted is not None:
                return fitted
    known = [p.cell.name for p in _KERAS if p.cell is not _gru_reset_before]
    raise ArgumentError(
        f"[Keras] has no layer with the equations of cell {cell.name!r}; expected one "
        f"of {', '.join(known)}, whatever its names and activations"
    )


def _by_path(weights: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each cell: `lstm/lstm_cell/kernel:0` is `lstm/lstm_cell`'s."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for path, array in weights.items():
        head, _, name = path.rpartition("/")
        name = name.partition(":")[0]
        if name not in (_KERNEL, _RECURRENT, _BIAS):
            raise ArgumentError(
                f"[from_keras_weights] received the name {path!r}, expected "
                f"{_KERNEL}, {_RECURRENT} or {_BIAS}, a path before it or none"
            )
        groups.setdefault(head, {})[name] = np.asarray(array)
    for path, arrays in groups.items():
        for name in (_KERNEL, _RECURRENT):
            if name not in arrays or arrays[name].ndim != 2:
                received = arrays[name].shape if name in arrays else "none"
                raise ArgumentError(
                    f"[from_keras_weights] {path or 'the cell'} needs a matrix "
                    f"{name!r}; received {received}, expected (inputs, gates · units)"
                )
    return groups


def _in_order(
    groups: dict[str, dict[str, np.ndarray]], bidirectional: bool
) -> list[dict[str, np.ndarray]]:
    """The cells layer by layer, forward before backward."""
    directions = 1 + bidirectional

    def fits(paths: Sequence[str]) -> bool:
        return all(
            len(groups[path][_KERNEL])
            == directions * len(groups[paths[k - directions]][_RECURRENT])
            for k, path in enumerate(paths)
            if k >= directions
        )

    order = keras_paths.in_order(list(groups), bidirectional, fits)
    return [groups[path] for path in order]


def _new_layer(
    cell: Cell | str,
    groups: list[dict[str, np.ndarray]],
    bidirectional: bool,
    options: dict[str, Any],
) -> Recurrent:
    if not groups:
        raise ArgumentError("[from_keras_weights] received no weights")
    kernel = groups[0][_KERNEL]
    options.setdefault("dtype", torch.from_numpy(kernel[:0].copy()).dtype)
    units, layers = len(groups[0][_RECURRENT]), len(groups) // (1 + bidirectional)
    return Recurrent(
        cell, len(kernel), units, layers, bidirectional=bidirectional, **options
    )


def _as_keras(packing: Packing, packed: Packed) -> dict[str, Tensor]:
    """Keras' arrays of one cell; a reset after the matrix has a bias on either side."""
    both = packing.input_gates != packing.hidden_gates
    bias = torch.stack([packed.x_bias, packed.h_bias]) if both else packed.x_bias
    return {_KERNEL: packed.x.mT, _RECURRENT: packed.h.mT, _BIAS: bias}


def _read_keras(
    packing: Packing, ours: Packed, arrays: Mapping[str, np.ndarray]
) -> Packed:
    """Keras' arrays of one cell in our shapes, checked against `ours`."""
    arrays = _from_cudnn(packing, arrays)
    found: dict[str, Tensor] = {}
    for name, like in _as_keras(packing, ours).items():
        if name not in arrays:  # use_bias=False
            found[name] = torch.zeros_like(like)
        elif arrays[name].shape != tuple(like.shape):
            hint = _BIAS_HINTS.get(len(packing.input_gates), "")
            raise ArgumentError(
                f"[from_keras_weights] {name!r} does not fit cell "
                f"{packing.cell.name!r}; received {arrays[name].shape}, expected "
                f"{tuple(like.shape)}" + (hint if name == _BIAS else "")
            )
        else:
            found[name] = torch.from_numpy(arrays[name].copy()).to(like)
    bias = found[_BIAS]
    x_bias, h_bias = bias if bias.dim() == 2 else (bias, torch.zeros_like(bias))
    return Packed(found[_KERNEL].mT, found[_RECURRENT].mT, x_bias, h_bias)


_GRU, _LSTM = 3, 4  # gates
_BIAS_HINTS = {
    _GRU: ". A GRU with reset_after=True has a bias of two rows and is "
    "'gru_reset_after', and so is a CuDNNGRU; without, 'gru_bias'",
    _LSTM: ", or a CuDNNLSTM's of twice as many",
}


def _from_cudnn(
    packing: Packing, arrays: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """The arrays of a CuDNNLSTM or CuDNNGRU as an LSTM or GRU has them.

    They are told by their bias: a vector with each gate's two biases, those of the
    inputs first. Each gate's matrix stands as cuDNN reads it, (units, inputs) row by
    row, under the shape (inputs, units).
    """
    gates, columns = len(packing.input_gates), arrays[_KERNEL].shape[1]
    fused = _BIAS in arrays and arrays[_BIAS].shape == (2 * columns,)
    if not fused or gates not in (_GRU, _LSTM) or columns % gates:
        return arrays
    found: dict[str, np.ndarray] = {}
    for name in (_KERNEL, _RECURRENT):
        blocks = np.split(arrays[name], gates, axis=1)
        found[name] = np.hstack([b.reshape(b.shape[::-1]).T for b in blocks])
    biases = arrays[_BIAS].reshape(2, columns)
    found[_BIAS] = biases if gates == _GRU else biases.sum(0)
    return found
