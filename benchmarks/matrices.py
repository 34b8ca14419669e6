"""mLSTM, 4 heads of 64, forward and backward, beside PyTorch's forms of it.

    python benchmarks/matrices.py [--rows 1,8] [--steps 1024] [--cpu] [--json FILE]

Ours is the whole layer: it has the products of the gates, q, k and v too, which the
others are given. The others: a loop over the steps, its best form in PyTorch that we
know; the parallel form (Beck et al. 2024, appendix A.3), quadratic in the steps; the
chunkwise form, parallel within 64 steps; and the native forms of `mlstm_kernels`. Then
one step of a stream, ours against PyTorch's; and sLSTM, a quarter of the steps, against
FlashRNN's form for the CPU (`vanilla_fwbw`), as it is and with its pointwise functions
under `torch.compile`, which is given the products of x. Medians of rounds in turn;
`--cpu` counts processor time, on one thread.

What is not installed is named and left out. To have all of it, without another torch:

    pip install --no-deps --target FOLDER mlstm_kernels flashrnn einops
    PYTHONPATH=FOLDER python benchmarks/matrices.py
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import cellwright as cw

HEADS, WIDTH, CHUNK = 4, 64, 64
UNITS = HEADS * WIDTH
Call = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1 if options.cpu else options.threads)
    clock = time.process_time if options.cpu else time.perf_counter
    found: dict[str, Any] = {
        "machine": machine.facts(),
        "clock": "processor time" if options.cpu else "wall",
        "threads": torch.get_num_threads(),
        "runs": options.runs,
        "cases": {},
    }
    for rows in map(int, options.rows.split(",")):
        cases = {
            f"training, T {options.steps}": training(options.steps, rows),
            "a step of a stream": streaming(rows),
            f"sLSTM, training, T {options.steps // 4}": slstm(options.steps // 4, rows),
        }
        for title, calls in cases.items():
            times = in_turn(calls, options.runs, clock)
            found["cases"][f"{title}, B {rows}"] = times
            print(f"{title}, B {rows}, {HEADS} heads of {WIDTH}: milliseconds")
            for name, ms in times.items():
                print(f"  {name:36}{ms:10.3f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def in_turn(
    calls: dict[str, Call], runs: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(runs + 1):
        for name, call in calls.items():
            begin = clock()
            call()
            if turn:  # the first warms up
                times[name].append(1e3 * (clock() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def training(steps: int, rows: int) -> dict[str, Call]:
    layer = cw.Recurrent("mlstm", UNITS, UNITS, heads=HEADS)
    assert layer.engine == "native"
    x = torch.randn(steps, rows, UNITS, requires_grad=True)
    g = torch.randn(steps, rows, UNITS)

    def ours() -> None:
        layer(x)[0].backward(g)
        x.grad = None
        layer.zero_grad()

    gates = [torch.randn(rows, HEADS, steps, requires_grad=True) for _ in range(2)]
    vectors = [torch.randn(rows, HEADS, steps, WIDTH) for _ in range(4)]
    q, k, v = (t.requires_grad_() for t in vectors[:3])

    def of(form: Callable[..., Tensor]) -> Call:
        def run() -> None:
            form(q, k, v, *gates).backward(vectors[3])
            for leaf in (q, k, v, *gates):
                leaf.grad = None

        return run

    forms = {"PyTorch loop": loop, "PyTorch parallel": parallel}
    forms |= {"PyTorch chunkwise": chunkwise, **kernels()}
    return {"ours, the whole layer": ours} | {n: of(f) for n, f in forms.items()}


def kernels() -> dict[str, Callable[..., Tensor]]:
    """The native forms of `mlstm_kernels`."""
    if not importlib.util.find_spec("mlstm_kernels"):
        print("mlstm_kernels is not installed")
        return {}
    from mlstm_kernels.torch.chunkwise.native import mlstm_chunkwise__native_autograd
    from mlstm_kernels.torch.parallel.native import mlstm_parallel__native_autograd
    from mlstm_kernels.torch.recurrent.native_sequence import (
        mlstm_recurrent_sequence__native_fw,
    )

    return {
        "mlstm_kernels recurrent": mlstm_recurrent_sequence__native_fw,
        "mlstm_kernels parallel": mlstm_parallel__native_autograd,
        "mlstm_kernels chunkwise": lambda *given: mlstm_chunkwise__native_autograd(
            *given, chunk_size=CHUNK
        ),
    }


# -- forms in PyTorch: q, k, v (B, heads, T, width); i, f (B, heads, T) before exp and σ


def one_step(
    state: tuple[Tensor, ...], q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Eq. 19–27 and 15 of the paper; `f` is log σ."""
    C, n, m = state
    new = torch.maximum(f + m, i)
    i, f = torch.exp(i - new)[..., None], torch.exp(f + m - new)[..., None]
    k = k * WIDTH**-0.5
    C = f[..., None] * C + (i * v)[..., None] * k[..., None, :]
    n = f * n + i * k
    length = torch.maximum((n * q).sum(-1).abs(), torch.exp(-new))
    return (C @ q[..., None])[..., 0] / length[..., None], (C, n, new)


def loop(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    shape = q.shape[:2]
    C, n = q.new_zeros(*shape, WIDTH, WIDTH), q.new_zeros(*shape, WIDTH)
    state: tuple[Tensor, ...] = (C, n, q.new_full(shape, -1e9))
    outputs = []
    steps = zip(*(t.unbind(2) for t in (q, k, v, i, logsigmoid(f))), strict=True)
    for given in steps:
        h, state = one_step(state, *given)
        outputs.append(h)
    return torch.stack(outputs, 2)


def parallel(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    steps = q.shape[2]
    decay = logsigmoid(f).cumsum(-1)
    logs = decay[..., :, None] - decay[..., None, :] + i[..., None, :]
    after = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    logs = logs.masked_fill(after, -torch.inf)
    m = logs.amax(-1, keepdim=True)
    scores = (q @ k.transpose(-1, -2)) * WIDTH**-0.5 * torch.exp(logs - m)
    length = torch.maximum(scores.sum(-1, keepdim=True).abs(), torch.exp(-m))
    return (scores / length) @ v


def chunkwise(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """Parallel within a chunk, a loop from chunk to chunk."""
    shape = q.shape[:2]
    C, n = q.new_zeros(*shape, WIDTH, WIDTH), q.new_zeros(*shape, WIDTH, 1)
    m = q.new_full((*shape, 1), -1e9)
    after = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    outputs = []
    parts = zip(*(t.split(CHUNK, 2) for t in (q, k, v, i, logsigmoid(f))), strict=True)
    for q, k, v, i, f in parts:
        k, decay = k * WIDTH**-0.5, f.cumsum(-1)
        steps = decay.shape[-1]
        logs = decay[..., :, None] - decay[..., None, :] + i[..., None, :]
        logs = logs.masked_fill(after[:steps, :steps], -torch.inf)
        carried = decay + m
        top = torch.maximum(logs.amax(-1), carried)
        scores = (q @ k.transpose(-1, -2)) * torch.exp(logs - top[..., None])
        old = q * torch.exp(carried - top)[..., None]
        total = (scores.sum(-1, keepdim=True) + old @ n).abs()
        length = torch.maximum(total, torch.exp(-top)[..., None])
        outputs.append((scores @ v + old @ C) / length)
        last = decay[..., -1:]
        writes = last - decay + i
        new = torch.maximum(writes.amax(-1, keepdim=True), last + m)
        weighted = (k * torch.exp(writes - new)[..., None]).transpose(-1, -2)
        kept = torch.exp(last + m - new)[..., None]
        C, n, m = (
            kept * C + weighted @ v,
            kept * n + weighted.sum(-1, keepdim=True),
            new,
        )
    return torch.cat(outputs, 2)


# -- sLSTM


def slstm(steps: int, rows: int) -> dict[str, Call]:
    layer = cw.Recurrent("slstm", UNITS, UNITS, heads=HEADS)
    x = torch.randn(steps, rows, UNITS, requires_grad=True)
    g = torch.randn(steps, rows, UNITS)

    def ours() -> None:
        layer(x)[0].backward(g)
        x.grad = None
        layer.zero_grad()

    calls: dict[str, Call] = {"ours, the whole layer": ours}
    if not importlib.util.find_spec("flashrnn"):
        print("flashrnn is not installed")
        return calls
    from flashrnn.flashrnn.vanilla_fwbw import bw, fw, fwbw

    heads = rows, HEADS, WIDTH
    leaves = [
        torch.randn(rows, steps, 4, HEADS, WIDTH),
        torch.randn(4, HEADS, WIDTH, WIDTH) * UNITS**-0.5,
        torch.zeros(4, HEADS, WIDTH),
    ]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    cotangent = g.view(steps, *heads)
    for name, wrap in {
        "FlashRNN": lambda f: f,
        "FlashRNN, compiled": torch.compile,
    }.items():
        form = fwbw._rnn_fwbw_generator(
            torch.float32, wrap(fw.slstm_pointwise_fw), wrap(bw.slstm_pointwise_bw)
        )

        def theirs(form: Any = form) -> None:
            states, _ = form.apply(torch.zeros(4, *heads), *leaves, None)
            states[:, 0].backward(cotangent)
            for leaf in leaves:
                leaf.grad = None

        calls[name] = theirs
    return calls


# -- a stream


def streaming(rows: int) -> dict[str, Call]:
    layer = cw.Recurrent("mlstm", UNITS, UNITS, heads=HEADS)
    step, x, y = layer.stepper(batch_size=rows), torch.randn(rows, UNITS), None
    y = torch.empty(rows, UNITS)
    weight = torch.randn(4 * UNITS + 2 * HEADS, UNITS) * UNITS**-0.5
    shape = rows, HEADS, WIDTH
    state: tuple[Tensor, ...] = (
        torch.zeros(*shape, WIDTH),
        torch.zeros(shape),
        torch.full(shape[:2], -1e9),
    )

    @torch.no_grad()
    def torchs() -> Tensor:
        nonlocal state
        *vectors, gates = (x @ weight.T).split([UNITS] * 4 + [2 * HEADS], -1)
        q, k, v, o = (t.view(shape) for t in vectors)
        i, f = gates.chunk(2, -1)
        h, state = one_step(state, q, k, v, i, logsigmoid(f))
        return torch.sigmoid(o) * h

    def many(call: Callable[[], object]) -> Call:
        return lambda: [call() for _ in range(100)]

    return {
        "ours, 100 steps": many(lambda: step(x, out=y)),
        "PyTorch, 100 steps": many(torchs),
    }


if __name__ == "__main__":
    main()
