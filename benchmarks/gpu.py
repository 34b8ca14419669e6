"""Cells on a GPU: the triton engine beside cuDNN, the Python loop, torch.compile, and
TorchRL's and FlashRNN's kernels where they are installed (`gpu_peers.py`).

    python benchmarks/gpu.py                   # correctness first, then the short table
    python benchmarks/gpu.py --all             # every size
    python benchmarks/gpu.py --check           # correctness alone
    python benchmarks/gpu.py --json FILE
    python benchmarks/gpu.py --dry-run         # every line of it on the CPU, tiny

A call is forward and backward of one layer, timed by CUDA events; peers take turns, the
figures are medians in milliseconds. A peer's first three calls compile, tune and
capture, and are not counted: `first` is what ours took, in seconds. A peer whose output
or gradient of x is not the reference's is not timed. Times of a dry run say nothing:
Triton's interpreter runs the kernels there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Triton decides when it is imported whether kernels are interpreted, on the CPU.
if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import torch
from gpu_peers import every_peer
from torch import Tensor, nn

import cellwright as cw
from cellwright import cell, sigmoid, tanh
from cellwright.engine.triton import Triton


@cell
def own(W, x, h, c):
    """A cell that no library has."""
    f = sigmoid(W.f(h, x) + W.p * c)
    c = f * c + (1 - f) * tanh(W.g(h, x))
    return tanh(c) * sigmoid(W.o(h, x)), c


CELLS = ["lstm", "peephole", "gru_reset_after", "coupled", "slstm", "min_gru", own]
SHORT = [(64, 256, 128), (64, 256, 512)]  # B, T, H
EVERY = [*itertools.product((32, 256), (128, 512), (64, 128, 256, 512, 1024))]
LOOP_STEPS = 256  # longer loops are not compiled: torch.compile unrolls them


class Kind(NamedTuple):
    """A type of numbers.

    Attributes:
        tf32: whether products in float32, ours and cuDNN's, may round so.
        allowed: error of one short call, of the largest entry.
        timed: error of a long call, beyond which it is not timed.
    """

    dtype: torch.dtype
    tf32: bool
    allowed: float
    timed: float


KINDS = {
    "float32": Kind(torch.float32, False, 1e-4, 1e-3),
    "tf32": Kind(torch.float32, True, 0.01, 0.03),
    "bf16": Kind(torch.bfloat16, False, 0.05, 0.1),
}
#: Kinds and hidden sizes: small ones' weights are kept by one kernel, in each kind.
CHECKS = [("float32", 72), ("bf16", 72), ("float32", 24), ("tf32", 24)]


class Plan(NamedTuple):
    """What is run, and where.

    Attributes:
        checks: (cell, kind, hidden size, whether with lengths and resets).
        shape: T and B of a check.
        sizes: (B, T, H) of the table.
        compiler: torch.compile's backend.
    """

    device: torch.device
    title: str
    checks: Sequence[tuple[str, str, int, bool]]
    shape: tuple[int, int]
    sizes: Sequence[tuple[int, int, int]]
    runs: int
    compiler: str = "inductor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every size")
    parser.add_argument("--check", action="store_true", help="correctness alone")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plan = dry_run() if options.dry_run else on_cuda(options.all, options.runs)
    print(plan.title, "torch", torch.__version__)
    wrong = [*filter(None, (check(plan, *case) for case in plan.checks))]
    print("\n".join(wrong) or "every cell is as the reference computes it")
    rows = [] if options.check else table(plan)
    wrong += [f"{row}" for row in rows if isinstance(row["triton"], str)]
    if options.json:
        found = {"device": plan.title, "wrong": wrong, "rows": rows}
        options.json.write_text(json.dumps(found, indent=1))
    sys.exit(bool(wrong))


def on_cuda(every: bool, runs: int) -> Plan:
    if not torch.cuda.is_available():
        sys.exit("[gpu] torch finds no CUDA device here; --dry-run needs none")
    checks = [
        (name, *sizes, orders)
        for sizes, name, orders in itertools.product(
            CHECKS, cw.cells.all(), (False, True)
        )
    ]
    title, sizes = torch.cuda.get_device_name(), EVERY if every else SHORT
    return Plan(torch.device("cuda"), title, checks, (9, 33), sizes, runs)


def dry_run() -> Plan:
    """The CPU, of the kinds of cells a few: a size, an input, a scan."""
    Triton.devices = ("cpu",)
    names = ["lstm_projected", "mc_lstm", "min_gru"]
    checks = [(name, kind, 5, True) for name in names for kind in KINDS]
    return Plan(torch.device("cpu"), "dry run", checks, (3, 4), [(4, 3, 8)], 1, "eager")


# -- correctness


def check(plan: Plan, name: str, kind: str, hidden: int, orders: bool) -> str:
    """What is wrong with a cell's values and gradients; thrice, for graphs."""
    torch.manual_seed(1)
    layer = layer_of(plan, name, kind, hidden)
    exact = copy_of(layer, torch.float64)
    for seed in range(3):
        more = arguments(plan, layer, orders)
        found, right = (everything(m, more, seed) for m in (layer, exact))
        for key, value in right.items():
            error = error_of(found[key], value)
            if not error <= KINDS[kind].allowed:
                where = f"{name}, {kind}, {hidden} units, call {seed}, orders {orders}"
                return f"{where}: {key} {error:.1e}"
    return ""


def layer_of(
    plan: Plan, definition: Any, kind: str, hidden: int, inputs: int = 40
) -> cw.Recurrent:
    """Ours on the plan's device; products round as the kind says from now on."""
    torch.backends.cuda.matmul.allow_tf32 = KINDS[kind].tf32
    torch.backends.cudnn.allow_tf32 = KINDS[kind].tf32
    made = {"device": plan.device, "dtype": KINDS[kind].dtype}
    return new_layer(definition, inputs, hidden, "triton", made)


def new_layer(
    definition: Any, inputs: int, hidden: int, engine: str, made: dict[str, Any]
) -> cw.Recurrent:
    of = cw.cells.get(definition) if isinstance(definition, str) else definition
    extra = {"proj_size": hidden // 3} if "proj_size" in of.graph.size_names else {}
    return cw.Recurrent(definition, inputs, hidden, engine=engine, **made, **extra)


def copy_of(layer: cw.Recurrent, dtype: torch.dtype) -> cw.Recurrent:
    """The same layer on the reference."""
    made = {"device": next(layer.parameters()).device, "dtype": dtype}
    sizes = layer.input_size, layer.hidden_size
    other = new_layer(layer.cell, *sizes, "reference", made)
    other.load_state_dict(layer.state_dict())
    return other


def arguments(plan: Plan, layer: cw.Recurrent, orders: bool) -> dict[str, Tensor]:
    """The inputs of a call, and its lengths and resets."""
    (steps, batch), like = plan.shape, next(layer.parameters())
    found = {
        i.name: torch.randn(steps, batch, int(i.size)).to(like)
        for i in layer.graphs[0].inputs
    }
    if orders:
        found["lengths"] = torch.randint(0, steps + 1, (batch,))
        found["resets"] = torch.rand(steps, batch) < 0.2
    return found


def everything(
    layer: cw.Recurrent, given: dict[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """Every result and every gradient, by name, of cotangents that the seed draws."""
    like = next(layer.parameters())
    floats = {n: v for n, v in given.items() if v.is_floating_point()}
    leaves = {n: v.to(like.dtype).requires_grad_() for n, v in floats.items()}
    x, *named = leaves
    more = {n: v for n, v in given.items() if n not in floats}
    y, finals = layer(leaves[x], **{n: leaves[n] for n in named}, **more)
    results = [y, *(finals if isinstance(finals, tuple) else (finals,))]
    draws = torch.Generator().manual_seed(seed)
    cotangents = [
        torch.randn(r.shape, generator=draws).bfloat16().to(like) for r in results
    ]
    wanted = {**leaves, **dict(layer.named_parameters())}
    found = torch.autograd.grad(
        results, [*wanted.values()], cotangents, allow_unused=True
    )
    values = {f"result {n}": r.detach() for n, r in enumerate(results)}
    pairs = zip(wanted, found, strict=True)
    return values | {f"d.{n}": g for n, g in pairs if g is not None}


def error_of(found: Tensor, right: Tensor) -> float:
    """The largest, of the largest entry."""
    error = (found.to(right.dtype) - right).abs().max()
    return float(error / right.abs().max().clamp(min=1))


# -- speed

#: y and the gradient of x, both (T, B, size).
Pair = tuple[Tensor, Tensor]


def table(plan: Plan) -> list[dict[str, Any]]:
    rows = []
    cases = itertools.product(CELLS, KINDS, plan.sizes)
    for definition, kind, (batch, steps, hidden) in cases:
        name = definition if isinstance(definition, str) else definition.name
        row: dict[str, Any] = {"cell": name, "dtype": kind}
        row |= {"B": batch, "T": steps, "H": hidden}
        row |= times_of(plan, definition, kind, batch, steps, hidden)
        rows.append(row)
        print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    return rows


def times_of(
    plan: Plan, definition: Any, kind: str, batch: int, steps: int, hidden: int
) -> dict[str, Any]:
    """The median of each peer, or why there is none; of ours its first calls' seconds,
    and how many times as fast it is as each."""
    torch.manual_seed(0)
    layer = layer_of(plan, definition, kind, hidden, hidden)
    like = next(layer.parameters())
    x, cotangent = (torch.randn(steps, batch, hidden).to(like) for _ in range(2))
    exact = call_of(copy_of(layer, torch.float32), x.float(), cotangent.float())()
    found: dict[str, Any] = {}
    calls = {}
    for name, make in peers(layer, steps, plan.compiler).items():
        start = time.perf_counter()
        try:
            calls[name] = call_of(make(), x, cotangent)
            found[name] = prepare(calls[name], exact, KINDS[kind].timed)
        except ImportError as missing:
            found[name] = f"not installed ({missing})"
        except Exception as error:  # compilers', of sizes that a peer does not take
            found[name] = f"{type(error).__name__}: {str(error)[:200]!r}"
        if name == "triton":
            found["first"] = round(time.perf_counter() - start, 2)
    sound = {name: call for name, call in calls.items() if not found.get(name)}
    found |= milliseconds(sound, clock(plan.device), plan.runs)
    times = {n: found[n] for n in sound if n != "triton" and "triton" in sound}
    return found | {
        f"{n} / triton": round(t / found["triton"], 2) for n, t in times.items()
    }


def peers(
    layer: cw.Recurrent, steps: int, compiler: str
) -> dict[str, Callable[[], nn.Module]]:
    """What makes each, with the layer's weights."""
    dtype = next(layer.parameters()).dtype
    found: dict[str, Callable[[], Any]] = {
        "triton": lambda: layer,
        "reference": lambda: copy_of(layer, dtype),
    }
    if steps <= LOOP_STEPS:
        found["compiled loop"] = lambda: torch.compile(
            copy_of(layer, dtype), backend=compiler
        )
    if layer.cell.name in ("lstm", "gru_reset_after"):
        found["cuDNN"] = lambda: cw.to_torch(layer)
    return found | every_peer(layer)


def call_of(module: nn.Module, x: Tensor, cotangent: Tensor) -> Callable[[], Pair]:
    """Forward and backward, with the gradients of x and of every weight."""
    turned = getattr(module, "batch_first", False)
    order = (1, 0, 2) if turned else (0, 1, 2)
    x = x.permute(order).contiguous().requires_grad_()
    cotangent = cotangent.permute(order).contiguous()
    leaves = [x, *module.parameters()]

    def call() -> Pair:
        out = module(x)
        y = out[0] if isinstance(out, tuple) else out
        of_x, *_ = torch.autograd.grad(y, leaves, cotangent.to(y.dtype))
        return y.detach().permute(order), of_x.permute(order)

    return call


def prepare(call: Callable[[], Pair], exact: Pair, allowed: float) -> str:
    """Compile, capture, replay; and what is wrong with the values."""
    for _ in range(3):
        error = max(map(error_of, call(), exact))
        if not error <= allowed:
            return f"not timed: differs by {error:.1e}"
    return ""


def milliseconds(
    calls: dict[str, Callable[[], Pair]],
    clock: Callable[[Callable[[], Pair]], float],
    runs: int,
) -> dict[str, float]:
    """The median of each; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(clock(call))
    return {n: round(statistics.median(t), 3) for n, t in times.items()}


def clock(device: torch.device) -> Callable[[Callable[[], Pair]], float]:
    """How long a call takes there, in milliseconds."""
    return by_events if device.type == "cuda" else by_processor


def by_events(call: Callable[[], Pair]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def by_processor(call: Callable[[], Pair]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
