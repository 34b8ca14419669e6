"""The sections of `engine.py`: a cell, a whole model, call overhead, memory."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import memory_peak
import numpy as np
import torch
from cases import CASES, QUICK_SHAPES, SHAPES, Shape
from measure import interleaved
from peers import PEERS, Calls, Job
from torch import Tensor, nn

import cellwright as cw

TOLERANCE = 1e-4  # of the largest value; float32 in another order of summing
SQUARE = 2048  # of the matrix product that counts as the machine's peak
Section = dict[str, Any]


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


# -- a cell --------------------------------------------------------------------------


def cell(name: str, args: argparse.Namespace, threads: int) -> Section:
    """One cell at every shape against every peer."""
    torch.set_num_threads(threads)
    shapes = _shapes(args)
    section: Section = {"missing": {}, "differs": {}, "compile_s": {}, "shapes": {}}
    peers = {"cellwright": PEERS["cellwright"]}
    peers |= {peer: PEERS[peer] for peer in args.peers}
    for shape in shapes:
        job = Job.make(CASES[name], shape, threads)
        assert job.layer.engine == "native", job.layer.engine_reason
        calls: dict[Any, Callable[[], Any]] = {}
        expected: dict[str, Any] = {}
        for peer, build in peers.items():
            offered = _build(peer, build, job, section)
            for mode, call in offered.items():
                if _agrees(peer, mode, call, expected, section, shape):
                    calls[mode, peer] = call
        _add_scales(calls, job)
        timed = interleaved(calls, args.runs)
        section["shapes"][str(shape)] = _by_mode(timed, job)
    return section


def _shapes(args: argparse.Namespace) -> list[Shape]:
    if args.shapes:
        return [Shape(*map(int, s.split("x"))) for s in args.shapes.split(",")]
    return list(QUICK_SHAPES if args.quick else SHAPES)


def _build(peer: str, build: Any, job: Job, section: Section) -> Calls:
    """A peer's calls; what is not installed, or fails, is said and left out."""
    if peer in section["missing"]:
        return {}
    try:
        return build(job)
    except Exception as error:
        section["missing"][peer] = f"{type(error).__name__}: {error}"[:300]
        _say(f"{peer} is left out: {section['missing'][peer]}")
        return {}


def _agrees(
    peer: str,
    mode: str,
    call: Callable[[], Any],
    expected: dict[str, Any],
    section: Section,
    shape: Shape,
) -> bool:
    """Whether y and the gradient of x are ours; a peer that differs is not timed."""
    start = time.perf_counter()
    try:
        values = [_array(v) for v in _tuple(call())]
    except Exception as error:
        section["missing"][peer] = f"{type(error).__name__}: {error}"[:300]
        _say(f"{peer} fails: {section['missing'][peer]}")
        return False
    if peer == "compile":
        section["compile_s"][str(shape)] = round(time.perf_counter() - start, 1)
    ours = expected.setdefault(mode, values)
    error = max(
        float(np.abs(a - b).max() / (np.abs(b).max() + 1e-30))
        for a, b in zip(values, ours, strict=True)
    )
    if error <= TOLERANCE:
        return True
    section["differs"][f"{peer} {mode} {shape}"] = error
    _say(f"{peer}, {mode}, {shape} differs from cellwright by {error:.1e}")
    return False


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _array(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _add_scales(calls: dict[Any, Callable[[], Any]], job: Job) -> None:
    """Beside the peers: the matrix peak, and our own LSTM at the same shape."""
    square = torch.randn(SQUARE, SQUARE)
    out = torch.empty_like(square)
    calls["scale", "mm"] = lambda: torch.mm(square, square, out=out)
    if job.case.name != "lstm":
        lstm = PEERS["cellwright"](Job.make(CASES["lstm"], job.shape, job.threads))
        for mode, call in lstm.items():
            calls[mode, "cellwright lstm"] = call


def _by_mode(timed: dict[Any, dict[str, float]], job: Job) -> Section:
    """The figures of a shape, with what follows from the counted operations."""
    peak = 2 * SQUARE**3 / timed.pop(("scale", "mm"))["median_ms"] / 1e6
    result: Section = {"peak_gflops": round(peak, 1)}
    for (mode, peer), figures in timed.items():
        row = dict(figures)
        if not peer.endswith(" lstm"):
            speed = job.case.flops(job.shape, mode) / figures["median_ms"] / 1e6
            row["gflops"] = round(speed, 2)
            row["of_peak"] = round(speed / peak, 3)
        result.setdefault(mode, {})[peer] = row
    for mode in ("inference", "training"):
        rows = result[mode]
        if "cellwright lstm" in rows:
            ours = rows["cellwright"]["median_ms"] / job.case.flops(job.shape, mode)
            lstm = rows.pop("cellwright lstm")["median_ms"]
            scale = lstm / CASES["lstm"].flops(job.shape, mode)
            rows["cellwright"]["per_flop_of_lstm"] = round(ours / scale, 3)
    return result


# -- a whole model -------------------------------------------------------------------

VOCABULARY = 64
MODEL_SHAPES = (
    Shape(32, 64, 64, 256),
    Shape(32, 100, 128, 128),
    Shape(64, 50, 512, 512),
)


class Model(nn.Module):
    """Embedding, layer, linear."""

    def __init__(self, rnn: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, shape.inputs)
        self.rnn = rnn
        self.head = nn.Linear(shape.hidden, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0])


def model(args: argparse.Namespace, threads: int) -> Section:
    """A training step of a language model, the optimiser's included."""
    torch.set_num_threads(threads)
    result: Section = {"shapes": {}}
    layers = {
        ("lstm", "cellwright"): cw.LSTM,
        ("lstm", "torch.nn"): nn.LSTM,
        ("gru", "cellwright"): cw.GRU,
        ("gru", "torch.nn"): nn.GRU,
    }
    for shape in MODEL_SHAPES:
        calls = {
            key: _training_step(layer(shape.inputs, shape.hidden), shape)
            for key, layer in layers.items()
        }
        rows: Section = {}
        for (kind, peer), figures in interleaved(calls, args.runs).items():
            rows.setdefault(kind, {})[peer] = figures
        result["shapes"][str(shape)] = rows
    return result


def _training_step(rnn: nn.Module, shape: Shape) -> Callable[[], None]:
    torch.manual_seed(0)
    assert getattr(rnn, "engine", "native") == "native"
    whole = Model(rnn, shape)
    optimiser = torch.optim.AdamW(whole.parameters(), lr=1e-3)
    tokens = torch.randint(VOCABULARY, (shape.steps + 1, shape.batch))

    def step() -> None:
        logits = whole(tokens[:-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


# -- call overhead -------------------------------------------------------------------


def overhead(args: argparse.Namespace, threads: int) -> Section:
    """The smallest layer, B = T = I = H = 1: what a call costs by itself."""
    torch.set_num_threads(threads)
    x = torch.randn(1, 1, 1, requires_grad=True)
    modules = {
        "cellwright.LSTM": cw.LSTM(1, 1),
        "cellwright.GRU": cw.GRU(1, 1),
        "cellwright.Recurrent(peephole)": cw.Recurrent("peephole", 1, 1),
        "torch.nn.LSTM": nn.LSTM(1, 1),
        "torch.nn.GRU": nn.GRU(1, 1),
    }
    calls: dict[Any, Callable[[], Any]] = {}
    for name, module in modules.items():
        calls[name, "inference"] = partial(_without_grad, module, x)
        calls[name, "training"] = partial(_with_backward, module, x)
    result: Section = {"microseconds": {}}
    for (name, mode), figures in interleaved(calls, args.runs).items():
        rows = result["microseconds"].setdefault(name, {})
        rows[mode] = {
            k.removesuffix("_ms"): round(1000 * v, 2) if k.endswith("_ms") else v
            for k, v in figures.items()
        }
    return result


def _without_grad(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def _with_backward(module: nn.Module, x: Tensor) -> None:
    """As users write it: gradients are stored in the parameters."""
    module(x)[0].sum().backward()


# -- memory --------------------------------------------------------------------------


def memory(args: argparse.Namespace, threads: int) -> Section:
    """Peak memory of a training step, each peer in a process of its own."""
    return memory_peak.compare(threads, quick=args.quick)
