"""minGRU over long sequences, forward and backward, beside its peers.

    python benchmarks/linear.py [--steps 4096,65536] [--rows 1,8] [--json FILE]

Ours with the loop apart from the products, and level by level as every other cell; its
bar, 1.3 × the larger of two times that this run measures: the multiply-adds by
`torch.mm`, and the compulsory bytes (x, y, saved values, gradients) by a copy;
torch.nn.GRU of the same width; `minGRU-pytorch` and a jitted
`jax.lax.associative_scan`, where they are installed. Medians of rounds in turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from measure import interleaved
from torch import nn

import cellwright as cw
from cellwright.engine import programs

UNITS = 256
SLOW = 20_000  # rows from which torch.nn.GRU is left out: it takes minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default="4096,65536")
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"machine": machine.facts(), "cases": {}}
    for steps in map(int, options.steps.split(",")):
        for rows in map(int, options.rows.split(",")):
            calls = calls_of(steps, rows)
            times = interleaved(calls, options.runs)  # type: ignore[arg-type]
            case = {str(name): t["median_ms"] for name, t in times.items()}
            products, copy = case.pop("torch.mm"), case.pop("copy")
            case["bar"] = 1.3 * max(products, copy)
            found["cases"][f"T {steps}, B {rows}"] = case
            print(f"T {steps}, B {rows}, H {UNITS}: milliseconds")
            for name, ms in case.items():
                print(f"  {name:36}{ms:10.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def calls_of(steps: int, rows: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name: a training step each, and what bounds it."""
    x = torch.randn(steps, rows, UNITS, requires_grad=True)
    g = torch.randn(steps, rows, UNITS)
    layer = cw.Recurrent("min_gru", UNITS, UNITS)

    def ours(most: int) -> Callable[[], None]:
        step = training(lambda: layer(x)[0], layer, x, g)

        def run() -> None:
            programs.MANY_ROWS = most
            step()

        return run

    flat, weights = x.detach().reshape(-1, UNITS), torch.randn(UNITS, 6 * UNITS)
    # Written: y, z, n, dx. Read: x, dy; in the backward pass x, y, z, n again.
    kept = torch.randn(10, steps * rows, UNITS)
    calls = {
        "ours": ours(programs.MANY_ROWS),
        "ours, level by level": ours(0),
        "torch.mm": lambda: flat @ weights,  # both products, forward and twice back
        "copy": lambda: kept[:5].copy_(kept[5:]),
    }
    if steps * rows < SLOW:
        gru = nn.GRU(UNITS, UNITS)
        calls["torch.nn.GRU"] = training(lambda: gru(x)[0], gru, x, g)
    return calls | peers(x, g)


def peers(x: torch.Tensor, g: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Those that are installed; the others are named."""
    found: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("minGRU_pytorch"):
        from minGRU_pytorch import minGRU

        peer, turned = minGRU(UNITS), x.detach().transpose(0, 1).requires_grad_()
        cotangent = g.transpose(0, 1)
        found["minGRU-pytorch"] = training(
            lambda: peer(turned), peer, turned, cotangent
        )
    else:
        print("minGRU-pytorch is not installed")
    if importlib.util.find_spec("jax"):
        found["jax.lax.associative_scan"] = jax_scan(x, g)
    else:
        print("jax is not installed")
    return found


def training(
    run: Callable[[], torch.Tensor], module: nn.Module, x: torch.Tensor, g: torch.Tensor
) -> Callable[[], None]:
    def step() -> None:
        run().backward(g)
        x.grad = None
        module.zero_grad()

    return step


def jax_scan(x: torch.Tensor, g: torch.Tensor) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    def outputs(w: Any, x: Any) -> Any:
        z, n = jnp.split(x @ w, 2, axis=-1)
        z = jax.nn.sigmoid(z)

        def combine(first: Any, then: Any) -> Any:
            return first[0] * then[0], then[0] * first[1] + then[1]

        return jax.lax.associative_scan(combine, (1 - z, z * n))[1]

    @jax.jit
    def step(w: Any, x: Any, g: Any) -> Any:
        y, pull = jax.vjp(outputs, w, x)
        return y, pull(g)

    weights = jnp.asarray(torch.randn(UNITS, 2 * UNITS).numpy()) / UNITS**0.5
    arrays = [jnp.asarray(t.detach().numpy()) for t in (x, g)]
    return lambda: jax.block_until_ready(step(weights, *arrays))


if __name__ == "__main__":
    main()
