"""One step of a layer: exported C beside the stepper, torch's cells and ONNX Runtime.

    python benchmarks/export.py --json benchmarks/results/export.json

On one thread. Every peer steps the same weights from the same state; the C file is
compiled with gcc -std=gnu99 -O3 -march=native and called in a loop of C, as a plugin
would call it, the others in a loop of Python. `in_python` is the C step called by
ctypes: what is left of the ratio is not the language's.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import confine, facts

confine(1)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from measure import interleaved  # noqa: E402

import cellwright as cw  # noqa: E402

SHAPES = [(1, 16), (2, 8), (1, 24), (1, 40), (64, 64), (128, 128)]
KINDS = ["LSTM", "GRU"]
FLAGS = ["-std=gnu99", "-O3", "-march=native"]
STEPS = 1000  # of the C loop, a call

LOOP = """
#include "model.h"
void loop(model_state *state, const float *x, float *y, int steps) {
    for (int t = 0; t < steps; ++t) model_step(state, x, y);
}
"""


def in_c(layer: Any, folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """A thousand steps in a loop of C, and one step called from Python."""
    cw.export_c(layer, folder)
    (folder / "loop.c").write_text(LOOP)
    built = folder / "model.so"
    files = [str(folder / name) for name in ("model.c", "loop.c")]
    subprocess.run(
        ["gcc", *FLAGS, "-shared", "-fPIC", *files, "-o", str(built)], check=True
    )
    library = ctypes.CDLL(str(built))
    state = (ctypes.c_float * (4 * layer.hidden_size))()
    x = np.random.default_rng(0).normal(size=layer.input_size).astype(np.float32)
    y = np.zeros(layer.hidden_size, np.float32)
    x_at, y_at = (ctypes.c_void_p(v.ctypes.data) for v in (x, y))
    library.model_init(state)
    step, loop = library.model_step, library.loop

    def call() -> object:
        return x, y, step(state, x_at, y_at)  # keeps the arrays alive

    return lambda: (x, y, loop(state, x_at, y_at, STEPS)), call


def torch_cell(kind: str, layer: Any) -> Callable[[], object]:
    """torch.nn.LSTMCell or GRUCell, with the layer's weights."""
    cell = getattr(torch.nn, f"{kind}Cell")(layer.input_size, layer.hidden_size)
    own = {n.removesuffix("_l0"): v for n, v in layer.state_dict().items()}
    cell.load_state_dict(own)
    x, state = torch.randn(1, layer.input_size), None

    @torch.inference_mode()
    def step() -> None:
        nonlocal state
        state = cell(x, state)

    return step


def onnx_runtime(layer: Any) -> Callable[[], object] | None:
    """One step in ONNX Runtime, states in and out; `None` where it is missing."""
    try:
        import onnxruntime
    except ImportError:
        return None
    model = cw.export_onnx(layer, initial_states=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {
        i.name: np.zeros([1, 1, i.shape[-1]], np.float32) for i in session.get_inputs()
    }
    outputs = [o.name for o in session.get_outputs()]

    def step() -> None:
        found = dict(zip(outputs, session.run(outputs, feeds), strict=True))
        for name in feeds.keys() - {"x"}:
            feeds[name] = found[f"{name[:-2]}_n"]

    return step


def measured(kind: str, shape: tuple[int, int], runs: int) -> dict[str, Any]:
    """Nanoseconds a step of every peer, and its ratio to the stepper's."""
    layer = getattr(cw, kind)(*shape).eval()
    x, y = torch.randn(1, shape[0]), torch.empty(1, shape[1])
    stepper = layer.stepper()
    with tempfile.TemporaryDirectory() as folder:
        loop, call = in_c(layer, Path(folder))
        calls: dict[Any, Callable[[], object]] = {
            "c": loop,
            "in_python": call,
            "stepper": lambda: stepper(x, out=y),
            f"torch.nn.{kind}Cell": torch_cell(kind, layer),
        }
        runtime = onnx_runtime(layer)
        if runtime is not None:
            calls["onnxruntime"] = runtime
        times = interleaved(calls, runs)
    steps = {"c": STEPS}
    found: dict[str, Any] = {
        str(peer): {
            key: round(1e6 * value / steps.get(str(peer), 1), 1)
            for key, value in zip(
                ("median_ns", "q1_ns", "q3_ns", "min_ns"),
                (row["median_ms"], row["q1_ms"], row["q3_ms"], row["min_ms"]),
                strict=True,
            )
        }
        for peer, row in times.items()
    }
    ours = found["stepper"]["median_ns"]
    for row in found.values():
        row["of_stepper"] = round(row["median_ns"] / ours, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="Where to write the figures.")
    parser.add_argument("--runs", type=int, default=21, help="Samples a peer.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    version = subprocess.run(["gcc", "--version"], capture_output=True, text=True)
    result: dict[str, Any] = {
        "command": f"python benchmarks/export.py {' '.join(sys.argv[1:])}".strip(),
        "machine": facts(),
        "compiler": version.stdout.splitlines()[0],
        "flags": FLAGS,
        "not_measured": {"RTNeural": "not tried"},
        "steps": {},
    }
    for kind in KINDS:
        for shape in SHAPES:
            name = f"{kind} {shape[0]}x{shape[1]}"
            rows = result["steps"][name] = measured(kind, shape, options.runs)
            texts = (
                f"{peer} {row['median_ns']:.0f} ({row['of_stepper']:.2f})"
                for peer, row in rows.items()
            )
            print(f"{name:14} ns a step: {'   '.join(texts)}", flush=True)
    small = [
        rows["c"]["of_stepper"]
        for name, rows in result["steps"].items()
        if int(name.rpartition("x")[2]) <= 40
    ]
    result["of_stepper_up_to_40_units"] = {
        "largest": max(small),
        "geometric_mean": round(statistics.geometric_mean(small), 3),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
