"""Other libraries' kernels for a GPU, with the weights of a layer of ours.

A peer is a module that takes x as (B, T, I) and gives y, (B, T, H). Where there is no
GPU it takes its library's way on the CPU: that shows that the weights lie right.

    pip install torchrl         # LSTM and GRU in Triton
    pip install flashrnn        # LSTM, GRU and sLSTM in CUDA and Triton; needs nvcc
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw
from cellwright.engine.triton.target import rounding

#: What runs a cell of FlashRNN, where it is on CUDA.
FLASH_BACKENDS = {
    "lstm": ("cuda_fused", "triton_fused", "cuda"),
    "gru": ("cuda",),
    "slstm": ("cuda_fused", "triton_fused", "cuda"),
}


def every_peer(layer: cw.Recurrent) -> dict[str, Callable[[], nn.Module]]:
    """What makes each peer that has the layer's cell, by name."""
    name, device = layer.cell.name, next(layer.parameters()).device
    found: dict[str, Callable[[], nn.Module]] = {}
    if name in ("lstm", "gru_reset_after"):
        found["TorchRL"] = lambda: TorchRL(layer)
    function = {"gru_reset_after": "gru"}.get(name, name)
    backends = FLASH_BACKENDS.get(function, ())
    for backend in backends if device.type == "cuda" else backends[:1] and ("vanilla",):
        found[f"FlashRNN {backend}"] = lambda b=backend: FlashRNN(layer, function, b)
    return found


class TorchRL(nn.Module):
    """Its LSTMModule or GRUModule; weights are float32, factors of products as ours."""

    batch_first = True

    def __init__(self, layer: cw.Recurrent) -> None:
        super().__init__()
        from tensordict import TensorDict
        from torchrl.modules import GRUModule, LSTMModule

        like = next(layer.parameters())
        own = cw.to_torch(layer).float()
        self.states = ["h", "c"] if isinstance(own, nn.LSTM) else ["h"]
        self.dict, kind = TensorDict, LSTMModule if self.states[1:] else GRUModule
        self.module: Any = kind(
            input_size=own.input_size,
            hidden_size=own.hidden_size,
            in_keys=["x", *self.states],
            out_keys=["y", *(("next", state) for state in self.states)],
            recurrent_backend="triton" if like.is_cuda else "pad",
            recurrent_compute_dtype=like.dtype,
            recurrent_matmul_precision=rounding(),
            default_recurrent_mode=True,
            device=like.device,
        )
        getattr(self.module, kind.__name__[:-6].lower()).load_state_dict(
            own.state_dict()
        )
        self.hidden = own.hidden_size

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(*x.shape[:2], 1, self.hidden, dtype=torch.float32)
        first = torch.zeros(*x.shape[:2], 1, dtype=torch.bool, device=x.device)
        first[:, 0] = True
        given = {"x": x.float(), "is_init": first, **dict.fromkeys(self.states, zeros)}
        return self.module(self.dict(given, x.shape[:2]))["y"]


class FlashRNN(nn.Module):
    """Its function, and before it the product of x, which it leaves to the caller."""

    batch_first = True

    def __init__(self, layer: cw.Recurrent, function: str, backend: str) -> None:
        super().__init__()
        from flashrnn import flashrnn

        self.run, self.function, self.backend = flashrnn, function, backend
        weights = _of_slstm if function == "slstm" else _of_torchs
        own = (nn.Parameter(w.detach().clone()) for w in weights(layer))
        self.of_x, self.of_h, self.bias = own

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.of_h.shape[1]
        states, _ = self.run(
            F.linear(x, self.of_x).unflatten(2, (-1, 1, hidden)),
            self.of_h.view(-1, 1, hidden, hidden),
            self.bias.view(-1, 1, hidden),
            function=self.function,
            backend=self.backend,
            dtype=str(x.dtype).removeprefix("torch."),
        )
        return states[0, :, :, 0]


def _of_torchs(layer: cw.Recurrent) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM's or a GRU's matrices of x and of h, and the biases, by gate."""
    own: Any = cw.to_torch(layer)
    of_x, of_h = own.weight_ih_l0, own.weight_hh_l0
    if isinstance(own, nn.LSTM):
        return of_x, of_h, own.bias_ih_l0 + own.bias_hh_l0
    hidden = own.hidden_size  # the GRU's candidate has two biases; its h comes first
    r, z, n = (own.bias_ih_l0 + own.bias_hh_l0).split(hidden)
    n, m = own.bias_ih_l0[-hidden:], own.bias_hh_l0[-hidden:]
    return of_x, of_h.roll(hidden, 0), torch.cat([m, r, z, n])


def _of_slstm(layer: cw.Recurrent) -> tuple[Tensor, Tensor, Tensor]:
    own: Any = layer.cells[0]
    gates = [getattr(own, gate) for gate in "ifzo"]
    of_h = torch.cat([getattr(own, f"r_{gate}").weight for gate in "ifzo"])
    biases = torch.cat([gate.bias for gate in gates])
    return torch.cat([gate.weight for gate in gates]), of_h, biases
