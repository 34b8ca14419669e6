"""Cells on a GPU: the triton engine beside cuDNN, the Python loop and torch.compile.

    python benchmarks/gpu.py                   # correctness first, then the short table
    python benchmarks/gpu.py --all             # every size
    python benchmarks/gpu.py --check           # correctness alone
    python benchmarks/gpu.py --json FILE

A call is forward and backward of one layer, timed by CUDA events; peers take turns, the
figures are medians. The loop's and its compiled form's first call are not counted, nor
is that of kernels: `first` is what it took, in seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import cellwright as cw
from cellwright import cell, sigmoid, tanh


@cell
def own(W, x, h, c):
    """A cell that no library has."""
    f = sigmoid(W.f(h, x) + W.p * c)
    c = f * c + (1 - f) * tanh(W.g(h, x))
    return tanh(c) * sigmoid(W.o(h, x)), c


CELLS = ["lstm", "gru_reset_after", "peephole", "coupled", "slstm", "min_gru", own]
TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
SHORT = [(64, 256, 128), (64, 256, 512)]  # B, T, H
EVERY = [*itertools.product((32, 256), (128, 512), (64, 128, 256, 512, 1024))]
#: Of the largest entry, float32 and 16 bits.
ALLOWED = {"float32": 1e-4, "bf16": 0.05}
LOOP_STEPS = 256  # longer loops are not compiled: torch.compile unrolls them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every size")
    parser.add_argument("--check", action="store_true", help="correctness alone")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("[gpu] torch finds no CUDA device here")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    wrong = [*filter(None, itertools.starmap(check, every_check()))]
    print("\n".join(wrong) or "every cell is as the reference computes it")
    rows = [] if options.check else table(options.all, options.runs)
    if options.json:
        found = {"device": torch.cuda.get_device_name(), "wrong": wrong, "rows": rows}
        options.json.write_text(json.dumps(found, indent=1))
    sys.exit(bool(wrong))


# -- correctness


def every_check() -> list[tuple[str, str, bool]]:
    return [*itertools.product(cw.cells.all(), TYPES, (False, True))]


def check(name: str, kind: str, orders: bool) -> str:
    """What is wrong with a cell's values and gradients; thrice, for graphs."""
    extra = (
        {"proj_size": 24} if "proj_size" in cw.cells.get(name).graph.size_names else {}
    )
    torch.manual_seed(1)
    made = {"device": "cuda", "dtype": TYPES[kind], **extra}
    layer = cw.Recurrent(name, 40, 72, engine="triton", **made)
    exact = cw.Recurrent(
        name, 40, 72, engine="reference", **{**made, "dtype": torch.float64}
    )
    exact.load_state_dict({n: v.double() for n, v in layer.state_dict().items()})
    for seed in range(3):
        x = torch.randn(9, 33, 40, device="cuda", dtype=TYPES[kind])
        more = {}
        if orders:
            more = {
                "lengths": torch.randint(0, 10, (33,)),
                "resets": torch.rand(9, 33) < 0.2,
            }
        torch.manual_seed(seed)
        like = torch.randn(9, 33, exact.output_size, device="cuda")
        found, right = (gradients(m, x, like, more) for m in (layer, exact))
        for key, value in right.items():
            scale = max(float(value.abs().max()), 1.0)
            error = float((found[key].double() - value).abs().max()) / scale
            if not error <= ALLOWED[kind]:
                return (
                    f"{name}, {kind}, call {seed}, orders {orders}: {key} {error:.1e}"
                )
    return ""


def gradients(
    layer: cw.Recurrent, x: Tensor, like: Tensor, more: dict[str, Tensor]
) -> dict[str, Tensor]:
    dtype = next(layer.parameters()).dtype
    x = x.to(dtype).detach().requires_grad_()
    y, _ = layer(x, **more)
    wanted = {"x": x, **dict(layer.named_parameters())}
    found = torch.autograd.grad(
        y, [*wanted.values()], like.to(dtype), allow_unused=True
    )
    pairs = zip(wanted, found, strict=True)
    return {"y": y.detach(), **{n: g for n, g in pairs if g is not None}}


# -- speed


def table(every: bool, runs: int) -> list[dict[str, object]]:
    rows = []
    sizes = EVERY if every else SHORT
    for definition, kind, (batch, steps, hidden) in itertools.product(
        CELLS, TYPES, sizes
    ):
        name = definition if isinstance(definition, str) else definition.name
        row: dict[str, object] = {"cell": name, "dtype": kind}
        row |= {"B": batch, "T": steps, "H": hidden}
        row |= milliseconds(peers(definition, kind, batch, steps, hidden), runs)
        rows.append(row)
        print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    return rows


def peers(
    definition: object, kind: str, batch: int, steps: int, hidden: int
) -> dict[str, Callable[[], None]]:
    """Calls by name: forward and backward of the same weights."""
    made = {"device": "cuda", "dtype": TYPES[kind]}
    x = torch.randn(steps, batch, hidden, **made)

    def call(layer: Callable[[Tensor], tuple[Tensor, object]]) -> Callable[[], None]:
        def run() -> None:
            y, _ = layer(x)
            y.sum().backward()

        return run

    layers = {
        e: cw.Recurrent(definition, hidden, hidden, engine=e, **made)  # type: ignore[arg-type]
        for e in ("triton", "reference")
    }
    found = {name: call(layer) for name, layer in layers.items()}
    if steps <= LOOP_STEPS:
        found["compiled loop"] = call(torch.compile(layers["reference"]))
    if definition in ("lstm", "gru_reset_after"):
        found["cuDNN"] = call(
            cw.Recurrent(definition, hidden, hidden, engine="torch", **made)  # type: ignore[arg-type]
        )
    return found


def milliseconds(calls: dict[str, Callable[[], None]], runs: int) -> dict[str, float]:
    """The median of each, and of ours its first call's seconds."""
    found: dict[str, float] = {}
    for name, call in calls.items():
        start = time.perf_counter()
        for _ in range(3):  # compiles, captures, replays
            call()
        torch.cuda.synchronize()
        if name == "triton":
            found["first"] = round(time.perf_counter() - start, 2)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
    return found | {n: round(statistics.median(t), 3) for n, t in times.items()}


if __name__ == "__main__":
    main()
