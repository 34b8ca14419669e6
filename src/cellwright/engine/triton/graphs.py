"""Calls as CUDA graphs: a sequence's many launches become one.

A graph reads and writes memory of its own. So the inputs are copied into it, weights
among them, and the results out of it. What is kept is bounded by bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .target import rounding

MOST_BYTES = 1 << 30  # of the graphs of one cell
MOST_KINDS = 1_000  # of calls of one cell: others are captured never

Tensors = Sequence[Tensor | None]
Function = Callable[[Tensors], list[Any]]


class Captured(NamedTuple):
    """A call as a graph.

    Attributes:
        replay: runs it again.
        inputs, results: its own memory.
        size: bytes that it holds.
    """

    replay: Callable[[], None]
    inputs: Tensors
    results: Tensors
    size: int


def capture(function: Function, tensors: Tensors) -> Captured:
    """Write down a call, whose kernels have all run before."""
    device = next(t for t in tensors if t is not None).device
    before = torch.cuda.memory_reserved(device)
    inputs = [t if t is None else t.clone() for t in tensors]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = function(inputs)
    size = max(torch.cuda.memory_reserved(device) - before, 0)
    return Captured(graph.replay, inputs, results, size)


class Graphs:
    """The graphs of a cell's calls, by what a call's memory looks like.

    A first call of a kind runs as it is; the second is captured. Where all graphs would
    hold more than `most` bytes, the one that was used least lately goes, and calls of
    its kind are captured no more: captures take longer than calls.
    """

    def __init__(
        self,
        most: int = MOST_BYTES,
        capture: Callable[[Function, Tensors], Captured] = capture,
    ) -> None:
        self.most, self.capture = most, capture
        self.kept: OrderedDict[Hashable, Captured] = OrderedDict()
        self.again: dict[Hashable, bool] = {}  # kinds that ran: whether to capture one
        self.lock = threading.Lock()

    def run(self, key: Hashable, function: Function, tensors: Tensors) -> list[Any]:
        """What `function(tensors)` gives, in memory that is no graph's."""
        with self.lock:
            if key not in self.kept and self._once_more(key):
                self._keep(key, self.capture(function, tensors))
            if key not in self.kept:
                return function(tensors)
            self.kept.move_to_end(key)
            graph = self.kept[key]
            for own, given in zip(graph.inputs, tensors, strict=True):
                if own is not None and given is not None:
                    own.copy_(given)
            graph.replay()
            return [r if r is None else r.clone() for r in graph.results]

    def _once_more(self, key: Hashable) -> bool:
        """Whether a call is the second of its kind."""
        if key in self.again:
            return self.again[key]
        if len(self.again) < MOST_KINDS:
            self.again[key] = True
        return False

    def _keep(self, key: Hashable, graph: Captured) -> None:
        self.kept[key] = graph
        while sum(c.size for c in self.kept.values()) > self.most:
            oldest, _ = self.kept.popitem(last=False)
            self.again[oldest] = False


def key_of(tensors: Tensors, *more: Hashable) -> Hashable:
    """What tells one graph from another: shapes, the device and its stream, and how
    torch's products round."""
    like = next(t for t in tensors if t is not None)
    stream = torch.cuda.current_stream(like.device).cuda_stream
    shapes = tuple(None if t is None else tuple(t.shape) for t in tensors)
    return shapes, like.device.index, stream, rounding(), *more


def may_capture(tensors: Tensors) -> bool:
    """Whether a call is on CUDA, and in no other graph's capture."""
    like = next(t for t in tensors if t is not None)
    return like.is_cuda and not torch.cuda.is_current_stream_capturing()
