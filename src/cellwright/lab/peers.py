"""What recurrent nets are measured beside: a window, a convolution, self-attention.

Each maps x (T, B, I) to (T, B, outputs), causally, and reads a stream, one x_t at a
time: `read = stream(model, batch)`, then `y_t = read(x_t)`. What is carried from step
to step is `read.memory`, a list of tensors, so its size can be counted.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .jacobian import as_tuple
from .models import Readout

Memory = list[Tensor]


class Peer(Protocol):
    """A net that reads a stream by `step(x_t, memory) -> (y_t, memory)`."""

    def start(self, batch: int) -> Memory: ...

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]: ...


class Stream:
    """Reads a stream by a peer's `step`."""

    def __init__(self, model: Peer, batch: int):
        self._model, self.memory = model, model.start(batch)

    def __call__(self, x: Tensor) -> Tensor:
        y, self.memory = self._model.step(x, self.memory)
        return y


class Recurrence(Readout):
    """A recurrent layer and a linear map."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


class RecurrentStream:
    """Reads a stream by the layer's own stepper. The memory is the state."""

    def __init__(self, model: Recurrence, batch: int):
        self._step, self._linear = model.layer.stepper(batch), model.linear

    def __call__(self, x: Tensor) -> Tensor:
        return self._linear(self._step(x))

    @property
    def memory(self) -> Memory:
        return list(as_tuple(self._step.state))


def stream(model: Any, batch: int) -> Stream | RecurrentStream:
    """A reader of a stream from its start, without gradients."""
    if isinstance(model, Recurrence):
        return RecurrentStream(model, batch)
    return Stream(model, batch)


class WindowMLP(nn.Module):
    """A multi-layer perceptron on the last `window` inputs. The memory is the window.

    Its first matrix has as many columns as the window has inputs.
    """

    def __init__(self, inputs: int, units: int, outputs: int, window: int):
        super().__init__()
        self.window = window
        self.first = nn.Linear(window * inputs, units)
        self.second = nn.Linear(units, outputs)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 0, 0, self.window - 1, 0))
        seen = padded.unfold(0, self.window, 1)  # (T, B, I, window)
        return self.second(torch.relu(self.first(seen.flatten(2))))

    def start(self, batch: int) -> Memory:
        inputs = self.first.in_features // self.window
        return [torch.zeros(batch, inputs, self.window)]

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        seen = torch.cat((memory[0][..., 1:], x[..., None]), -1)
        return self.second(torch.relu(self.first(seen.flatten(1)))), [seen]


class CausalConv(nn.Module):
    """A dilated convolution that sees the past only (B, C, T) -> (B, D, T)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int):
        super().__init__()
        self.inputs, self.past = inputs, (kernel - 1) * dilation
        self.conv = weight_norm(nn.Conv1d(inputs, outputs, kernel, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.past, 0)))


class Block(nn.Module):
    """A residual block of two causal convolutions (Bai et al. 2018, figure 1b)."""

    def __init__(
        self, inputs: int, units: int, kernel: int, dilation: int, dropout: float
    ):
        super().__init__()
        self.first = CausalConv(inputs, units, kernel, dilation)
        self.second = CausalConv(units, units, kernel, dilation)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = (
            nn.Conv1d(inputs, units, 1) if inputs != units else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(torch.relu(self.first(x)))
        y = self.dropout(torch.relu(self.second(y)))
        return torch.relu(y + self.shortcut(x))


class TCN(nn.Module):
    """The temporal convolutional network of Bai, Kolter & Koltun 2018, section 3.

    Dilation doubles with every level; weights are normalised (Salimans & Kingma 2016).
    The memory is the past that each convolution still reaches.

    Args:
        inputs, outputs: of a step.
        units: of every level, but of the last one `last` where that is given.
        kernel: steps that a convolution reads.
        levels: blocks, of two convolutions each.
        dropout: after each convolution.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        outputs: int,
        *,
        kernel: int,
        levels: int,
        dropout: float = 0.0,
        last: int | None = None,
    ):
        super().__init__()
        widths = [inputs] + [units] * (levels - 1) + [last or units]
        self.blocks = nn.ModuleList(
            Block(widths[k], widths[k + 1], kernel, 2**k, dropout)
            for k in range(levels)
        )
        self.linear = nn.Linear(widths[-1], outputs)
        #: Steps that an output can see, its own included.
        self.receptive_field = 1 + 2 * (kernel - 1) * (2**levels - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """(T, B, I) -> (T, B, units): what the last block gives."""
        y = x.permute(1, 2, 0)  # (B, I, T)
        for block in self.blocks:
            y = block(y)
        return y.permute(2, 0, 1)

    def start(self, batch: int) -> Memory:
        return [
            torch.zeros(batch, conv.inputs, conv.past)
            for conv in self.modules()
            if isinstance(conv, CausalConv)
        ]

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        new: Memory = []

        def newest(conv: CausalConv, value: Tensor) -> Tensor:
            seen = torch.cat((memory[len(new)], value), -1)
            new.append(seen[..., 1:])
            return torch.relu(conv.conv(seen))

        y = x[..., None]  # (B, I, 1)
        for block in self.blocks:
            assert isinstance(block, Block)
            inner = newest(block.second, newest(block.first, y))
            y = torch.relu(inner + block.shortcut(y))
        return self.linear(y[..., 0]), new


class CausalAttention(nn.Module):
    """One transformer layer (Vaswani et al. 2017) that attends to the past.

    Positions are the paper's sinusoids, so that no length is built in. The memory is
    the keys and values of all steps so far.
    """

    def __init__(self, inputs: int, units: int, outputs: int, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(inputs, units)
        self.before, self.between = nn.LayerNorm(units), nn.LayerNorm(units)
        self.attend = nn.Linear(units, 3 * units)
        self.mix = nn.Linear(units, units)
        self.think = nn.Sequential(
            nn.Linear(units, 2 * units), nn.ReLU(), nn.Linear(2 * units, units)
        )
        self.linear = nn.Linear(units, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x) + positions(0, len(x), self.read.out_features)
        query, key, value = self._split(h)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._finish(h, seen)

    def start(self, batch: int) -> Memory:
        empty = torch.zeros(batch, self.heads, 0, self.read.out_features // self.heads)
        return [empty, empty]

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        time = memory[0].shape[2]
        h = self.read(x[None]) + positions(time, 1, self.read.out_features)
        query, key, value = self._split(h)
        key = torch.cat((memory[0], key), 2)
        value = torch.cat((memory[1], value), 2)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self._finish(h, seen)[0], [key, value]

    def _split(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, (B, heads, T, units / heads) each."""
        parts = self.attend(self.before(h)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 1, 3, 0, 4)
        return query, key, value

    def _finish(self, h: Tensor, seen: Tensor) -> Tensor:
        h = h + self.mix(seen.permute(2, 0, 1, 3).flatten(2))
        return self.linear(h + self.think(self.between(h)))


def positions(first: int, count: int, units: int) -> Tensor:
    """Sinusoids (count, 1, units) from position `first` on (section 3.5)."""
    steps = torch.arange(first, first + count)[:, None, None]
    rates = torch.exp(torch.arange(0, units, 2) * (-math.log(10000.0) / units))
    return torch.stack(
        (torch.sin(steps * rates), torch.cos(steps * rates)), -1
    ).flatten(2)


def parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(p.numel() for p in model.parameters())


def size_in_bytes(memory: Memory) -> int:
    """Of a stream's memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in memory)
