"""A training step of Bahdanau's GRU decoder beside the same in PyTorch.

    python benchmarks/attention.py --json benchmarks/results/attention.json

The peer is a loop over steps as one would write it for speed: the keys made once, the
gates' products stacked, those of x before the loop. With `--compile` torch.compile of
it too, which takes minutes to make. Items are as wide as the states. Memory is what a
forward pass keeps for the backward pass beside its inputs and parameters.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import confine, facts
from measure import interleaved
from torch import Tensor

import cellwright as cw

SHAPES = {"32x30x30x256": (32, 30, 30, 256), "64x100x50x128": (64, 100, 50, 128)}
AXES = "batch, items, steps, units"


def loop(layer: cw.Recurrent, x: Tensor, source: Tensor) -> Tensor:
    """The layer's outputs, (T, B, H), stepped in PyTorch; source is (B, S, H)."""
    W, size = layer.cells[0], x.shape[-1]
    gates = (W.z, W.r, W.n)
    of_h, of_x, of_items = zip(
        *(gate.weight.split([layer.hidden_size, size, size], 1) for gate in gates),
        strict=True,
    )
    keys = F.linear(source, W.key.weight, W.key.bias)
    bias = torch.cat([gate.bias for gate in gates])
    inputs = F.linear(x, torch.cat(of_x), bias)
    recurrent, read = torch.cat([W.query.weight, *of_h[:2]]), torch.cat(of_items)
    h = x.new_zeros(x.shape[1], layer.hidden_size)
    outputs = []
    for now in inputs:
        query, z, r = F.linear(h, recurrent).chunk(3, 1)
        scores = torch.tanh(query[:, None] + keys) @ W.e.weight[0]
        weights = torch.softmax(scores, 1)
        context = torch.bmm(weights[:, None], source)[:, 0]
        az, ar, an = (now + F.linear(context, read)).chunk(3, 1)
        z, r = torch.sigmoid(z + az), torch.sigmoid(r + ar)
        n = torch.tanh(an + F.linear(r * h, of_h[2]))
        h = (1 - z) * h + z * n
        outputs.append(h)
    return torch.stack(outputs)


def kept(forward: Callable[[], Tensor], given: list[Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, beside what is given."""
    found = {t.untyped_storage().data_ptr(): 0 for t in given}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    assert result.requires_grad
    return sum(found.values())


def measured(shape: tuple[int, int, int, int], runs: int, compiled: bool) -> Any:
    """Milliseconds of a training step, ours and the peers', and what both keep."""
    batch, items, steps, size = shape
    layer = cw.Recurrent("bahdanau_gru", size, size, items={"source": size})
    assert layer.engine == "native"
    x = torch.randn(steps, batch, size, requires_grad=True)
    source = torch.randn(batch, items, size, requires_grad=True)
    given, cotangent = [x, source, *layer.parameters()], torch.randn(steps, batch, size)
    forwards: dict[Any, Callable[[], Tensor]] = {
        "cellwright": lambda: layer(x, source=source.transpose(0, 1))[0],
        "loop": lambda: loop(layer, x, source),
    }
    if compiled:
        made = torch.compile(loop)
        forwards["torch.compile"] = lambda: made(layer, x, source)
    values = [forward() for forward in forwards.values()]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-4, atol=1e-5)

    def training(forward: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(), given, cotangent)

    times = interleaved({n: training(f) for n, f in forwards.items()}, runs)
    bytes_kept = {n: kept(forwards[n], given) for n in ("cellwright", "loop")}
    ours = times["cellwright"]
    return {
        "times": times,
        "times_as_fast": {
            n: {
                k: round(row[f"{k}_ms"] / ours[f"{k}_ms"], 2) for k in ("median", "min")
            }
            for n, row in times.items()
            if n != "cellwright"
        },
        "kept_bytes": bytes_kept,
        "kept_of_loop": round(bytes_kept["cellwright"] / bytes_kept["loop"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="Where to write the figures.")
    parser.add_argument("--runs", type=int, default=11, help="Samples a peer.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile too.")
    options = parser.parse_args()
    confine(options.threads)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    old = json.loads(options.json.read_text()) if _there(options.json) else {}
    result: dict[str, Any] = {
        "command": f"python benchmarks/attention.py {' '.join(sys.argv[1:])}".strip(),
        "machine": facts(),
        "axes": AXES,
        "threads": old.get("threads", {}),
    }
    rows = result["threads"][str(options.threads)] = {}
    for name, shape in SHAPES.items():
        rows[name] = row = measured(shape, options.runs, options.compile)
        ours = row["times"]["cellwright"]["median_ms"]
        print(
            f"{name}: {ours:.1f} ms; as fast as {row['times_as_fast']} times;", end=" "
        )
        print(f"keeps {row['kept_of_loop']:.2f} of the loop's bytes", flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _there(path: Path | None) -> bool:
    return path is not None and path.exists()


if __name__ == "__main__":
    main()
