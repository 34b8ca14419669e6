"""An LSTM with products in bf16 beside float32, and torch's in both: time.

    python benchmarks/engine.py --precision bf16 [--json FILE] [--shapes …] [--cpu]

Everything of a shape is timed in turn in one run; with `--cpu` in processor time.
`product_ratio` says how many times as fast torch.mm multiplies 1024 x 1024 matrices of
bf16 as of float32.
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
    found["product_ratio"] = _product_ratio(args.runs, clock)
    print(f"torch.mm: bf16 {found['product_ratio']:.2f} times as fast as float32")
    for shape in shapes:
        timed = interleaved(_calls(shape), args.runs, clock)
        rows = {" ".join(key): summary for key, summary in timed.items()}
        found.setdefault("shapes", {})[str(shape)] = rows
        _print(shape, timed)
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


def _product_ratio(runs: int, clock: Callable[[], float]) -> float:
    square = torch.randn(SQUARE, SQUARE)
    narrow = square.to(torch.bfloat16)
    calls = {"float32": lambda: square @ square, "bf16": lambda: narrow @ narrow}
    timed = interleaved(calls, runs, clock)  # type: ignore[arg-type]
    return timed["float32"]["median_ms"] / timed["bf16"]["median_ms"]


def _print(shape: Shape, timed: Timed) -> None:
    for mode in ("train", "infer"):
        ms = {key[1:]: s["median_ms"] for key, s in timed.items() if key[0] == mode}
        own = ms["cellwright", "bf16"]
        others = (f"{'/'.join(k)} {v:.2f} ({v / own:.2f})" for k, v in ms.items())
        print(f"{shape!s:>18} {mode}: {', '.join(others)}", flush=True)
