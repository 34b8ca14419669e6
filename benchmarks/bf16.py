"""An LSTM with products in bf16 beside float32, and torch's in both: time.

    python benchmarks/engine.py --precision bf16 [--json FILE] [--shapes …] [--cpu]

Everything of a shape is timed in turn in one run; with `--cpu` in processor time.
`product_ratio`, r, says how many times as fast torch.mm multiplies 1024 x 1024 matrices
of bf16 as of float32. `pointwise_share`, p, is the part of our float32 time that the
layer's products would not take at the rate of torch.mm in float32. The bar is 80 % of
1 / (p + (1 - p) / r), against our own float32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import machine
import torch
from cases import QUICK_SHAPES, SHAPES, Shape
from measure import interleaved
from torch import Tensor, nn

import cellwright as cw

SQUARE = 1024
BAR = 0.8  # of what products in bf16 can give
PEERS = {"cellwright": cw.LSTM, "torch.nn": nn.LSTM}
Timed = dict[Any, dict[str, float]]


def main(args: argparse.Namespace) -> None:
    """Measure the shapes that were asked for, print each, save them all."""
    threads = max(args.threads)
    torch.set_num_threads(threads)
    shapes = QUICK_SHAPES if args.quick else SHAPES
    if args.shapes:
        shapes = [Shape(*map(int, s.split("x"))) for s in args.shapes.split(",")]
    found: dict[str, Any] = {"machine": machine.facts(), "threads": threads}
    clock = time.process_time if args.cpu else time.perf_counter
    found["clock"] = clock.__name__
    rates = _product_rates(args.runs, clock)
    found["products_gflops"] = rates
    ratio = found["product_ratio"] = rates["bf16"] / rates["float32"]
    print(f"torch.mm: bf16 {ratio:.2f} times as fast as float32")
    for shape in shapes:
        timed = interleaved(_calls(shape), args.runs, clock)
        rows = {" ".join(key): summary for key, summary in timed.items()}
        found.setdefault("shapes", {})[str(shape)] = rows
        _print(shape, timed)
        judged = {m: _judged(shape, m, timed, rates) for m in ("train", "infer")}
        found.setdefault("bars", {})[str(shape)] = judged
        if args.json:
            Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


def _calls(shape: Shape) -> dict[Any, Callable[[], object]]:
    torch.manual_seed(0)
    x = torch.randn(shape.steps, shape.batch, shape.inputs)
    calls: dict[Any, Callable[[], object]] = {}
    for peer, kind in PEERS.items():
        layer = kind(shape.inputs, shape.hidden)
        g = torch.randn(shape.steps, shape.batch, shape.hidden)
        for precision in ("float32", "bf16"):
            given = layer, x, g, precision == "bf16"
            calls["train", peer, precision] = partial(_train, *given)
            calls["infer", peer, precision] = partial(_infer, *given)
    return calls


def _train(layer: nn.Module, x: Tensor, g: Tensor, bf16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y, _ = layer(x)
    y.backward(g.to(y.dtype))
    layer.zero_grad()


def _infer(layer: nn.Module, x: Tensor, g: Tensor, bf16: bool) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        layer(x)


def _product_rates(runs: int, clock: Callable[[], float]) -> dict[str, float]:
    """GFLOP/s of torch.mm in both precisions."""
    square = torch.randn(SQUARE, SQUARE)
    narrow = square.to(torch.bfloat16)
    calls = {"float32": lambda: square @ square, "bf16": lambda: narrow @ narrow}
    timed = interleaved(calls, runs, clock)  # type: ignore[arg-type]
    flops = 2 * SQUARE**3 / 1e6
    return {name: flops / summary["median_ms"] for name, summary in timed.items()}


def _judged(
    shape: Shape, mode: str, timed: Timed, rates: dict[str, float]
) -> dict[str, float]:
    """What was asked of bf16 against our float32, and what was reached; printed too."""
    weights = 4 * shape.hidden * (shape.inputs + shape.hidden)
    flops = 2 * shape.batch * shape.steps * weights * (3 if mode == "train" else 1)
    own = timed[mode, "cellwright", "float32"]["median_ms"]
    narrow = timed[mode, "cellwright", "bf16"]["median_ms"]
    share = max(0.0, 1 - flops / 1e6 / rates["float32"] / own)
    bar = BAR / (share + (1 - share) * rates["float32"] / rates["bf16"])
    reached = own / narrow
    peer = timed[mode, "torch.nn", "bf16"]["median_ms"] / narrow
    print(
        f"{'':>18} {mode}: p {share:.2f}, bar {bar:.2f}, reached {reached:.2f}; "
        f"{peer:.2f} times as fast as torch's bf16",
        flush=True,
    )
    return {"pointwise_share": share, "bar": bar, "reached": reached, "torch": peer}


def _print(shape: Shape, timed: Timed) -> None:
    for mode in ("train", "infer"):
        ms = {key[1:]: s["median_ms"] for key, s in timed.items() if key[0] == mode}
        own = ms["cellwright", "bf16"]
        others = (f"{'/'.join(k)} {v:.2f} ({v / own:.2f})" for k, v in ms.items())
        print(f"{shape!s:>18} {mode}: {', '.join(others)}", flush=True)
