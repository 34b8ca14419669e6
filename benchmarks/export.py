"""One step of a layer: exported C and ONNX beside the stepper, torch and RTNeural.

    python benchmarks/export.py --json benchmarks/results/export.json --rtneural FOLDER

On one thread. Every peer steps the same weights from the same state, and is held to the
same values first. The C file is compiled with gcc -std=gnu99 -O3 -march=native, in one
source with a loop that calls it, as a plugin would; so is RTNeural, in its compile-time
form (FOLDER is a checkout of it, with modules/xsimd), with g++ -std=c++17 and the same
flags. The others are called in a loop of Python. `in_python` is the C step called by
ctypes: what is left of the ratio is not the language's. ONNX Runtime steps the file
with ONNX's operator, with a Scan, and the Scan's body by itself (`step=True`).
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

import measure  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import cellwright as cw  # noqa: E402

SHAPES = [(1, 16), (2, 8), (1, 24), (1, 40), (64, 64), (128, 128)]
KINDS = ["LSTM", "GRU"]
FLAGS = ["-std=gnu99", "-O3", "-march=native"]
STEPS = 1000  # of the C loop, a call
ALIGNMENT = {"Eigen": 32, "xsimd": 64}  # the most that RTNeural knows of each
ONNX: dict[str, dict[str, Any]] = {
    "onnxruntime": {},
    "onnxruntime, Scan": {"operators": False},
    "onnxruntime, step": {"operators": False, "step": True},
}

LOOP = """
#include "model.c"
static model_state state;
void begin(void) { model_init(&state); }
void step(const float *x, float *y) { model_step(&state, x, y); }
void loop(const float *x, float *y, int steps) {
    for (int t = 0; t < steps; ++t) step(x, y);
}
"""


def compiled(command: list[str], built: Path) -> ctypes.CDLL:
    # The last: calls inside a library are what they are in a program.
    shared = ["-shared", "-fPIC", "-fno-semantic-interposition"]
    flags = ["-O3", "-march=native", *shared, "-o", str(built)]
    subprocess.run([*command, *flags], check=True)
    return ctypes.CDLL(str(built))


def at(value: Any) -> ctypes.c_void_p:
    """Where an array or a tensor lies."""
    tensor = isinstance(value, torch.Tensor)
    return ctypes.c_void_p(value.data_ptr() if tensor else value.ctypes.data)


def sample(layer: Any) -> np.ndarray:
    """The x of every step."""
    drawn = np.random.default_rng(0).normal(size=layer.input_size)
    return drawn.astype(np.float32)


def hold(peer: str, layer: Any, y: np.ndarray, steps: int = STEPS) -> None:
    """Compare what a peer gives after so many steps with the layer."""
    x = torch.from_numpy(sample(layer)).expand(steps, 1, -1)
    with torch.inference_mode():
        wanted = layer(x)[0][-1, 0].numpy()
    off = np.abs(y - wanted).max()
    if not off <= 1e-4:
        raise SystemExit(f"{peer} gives other values: largest difference {off}")


def in_c(layer: Any, folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """A thousand steps in a loop of C, and one step called from Python."""
    cw.export_c(layer, folder)
    (folder / "loop.c").write_text(LOOP)
    source = str(folder / "loop.c")
    library = compiled(["gcc", "-std=gnu99", source], folder / "model.so")
    x, y = sample(layer), np.zeros(layer.hidden_size, np.float32)
    x_at, y_at = at(x), at(y)
    library.begin()
    step, loop = library.step, library.loop
    loop(x_at, y_at, STEPS)
    hold("the C file", layer, y)

    def call() -> object:
        return x, y, step(x_at, y_at)  # keeps the arrays alive

    return lambda: (x, y, loop(x_at, y_at, STEPS)), call


def rtneural(layer: Any, checkout: Path, library: str, folder: Path) -> Any:
    """A thousand steps of RTNeural's in a loop of C++."""
    kind = type(layer).__name__
    flags = [
        "-std=c++17",
        "-w",
        f"-DKIND={kind}",
        f"-DINPUT={layer.input_size}",
        f"-DUNITS={layer.hidden_size}",
        f"-DRTNEURAL_USE_{library.upper()}=1",
        f"-DRTNEURAL_DEFAULT_ALIGNMENT={ALIGNMENT[library]}",
        "-DEIGEN_STACK_ALLOCATION_LIMIT=0",
        *(f"-I{checkout / part}" for part in ("", "modules/Eigen")),
        f"-I{checkout / 'modules/xsimd/include'}",
        str(Path(__file__).with_name("rtneural.cpp")),
    ]
    built = compiled(["g++", *flags], folder / f"{library}.so")
    own = layer.state_dict()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    built.begin(*(at(own[name]) for name in names), {"LSTM": 4, "GRU": 3}[kind])
    x, y = sample(layer), np.zeros(layer.hidden_size, np.float32)
    x_at, y_at = at(x), at(y)
    built.loop(x_at, y_at, STEPS)
    hold(f"RTNeural with {library}", layer, y)
    return lambda: (x, y, built.loop(x_at, y_at, STEPS))


def torch_cell(kind: str, layer: Any) -> Callable[[], object]:
    """torch.nn.LSTMCell or GRUCell, with the layer's weights."""
    cell = getattr(torch.nn, f"{kind}Cell")(layer.input_size, layer.hidden_size)
    own = {n.removesuffix("_l0"): v for n, v in layer.state_dict().items()}
    cell.load_state_dict(own)
    x, state = torch.from_numpy(sample(layer))[None], None

    @torch.inference_mode()
    def step() -> None:
        nonlocal state
        state = cell(x, state)

    return step


def onnx_runtime(layer: Any, **options: Any) -> Callable[[], object] | None:
    """One step in ONNX Runtime, states in and out; `None` where it is missing.

    Args:
        layer: whose.
        **options: of `export_onnx`.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    model = cw.export_onnx(layer, initial_states=True, **options)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = threads.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), threads, providers=["CPUExecutionProvider"]
    )
    feeds: dict[str, Any] = {
        i.name: np.zeros([1, 1, i.shape[-1]], np.float32) for i in session.get_inputs()
    }
    feeds["x"][:] = sample(layer)
    outputs = [o.name for o in session.get_outputs()]

    def step() -> Any:
        found: dict[str, Any] = dict(
            zip(outputs, session.run(outputs, feeds), strict=True)
        )
        for name in feeds.keys() - {"x"}:
            feeds[name] = found[f"{name[:-2]}_n"]
        return found["y"][0, 0]

    hold("ONNX Runtime", layer, [step() for _ in range(5)][-1], 5)
    return step


def measured(
    kind: str, shape: tuple[int, int], runs: int, checkout: Path | None
) -> dict[str, Any]:
    """Nanoseconds a step of every peer, and its ratio to the stepper's."""
    layer = getattr(cw, kind)(*shape).eval()
    x, y = torch.from_numpy(sample(layer))[None], torch.empty(1, shape[1])
    stepper = layer.stepper()
    with tempfile.TemporaryDirectory() as folder:
        loop, call = in_c(layer, Path(folder))
        calls: dict[Any, Callable[[], object]] = {
            "c": loop,
            "in_python": call,
            "stepper": lambda: stepper(x, out=y),
            f"torch.nn.{kind}Cell": torch_cell(kind, layer),
        }
        for peer, options in ONNX.items():
            runtime = onnx_runtime(layer, **options)
            if runtime is not None:
                calls[peer] = runtime
        if checkout is not None:
            for library in ALIGNMENT:
                peer = f"RTNeural, {library}"
                calls[peer] = rtneural(layer, checkout, library, Path(folder))
        times = measure.interleaved(calls, runs)
    steps = {"c": STEPS, **{f"RTNeural, {library}": STEPS for library in ALIGNMENT}}
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


def of_rtneural(rows: dict[str, Any]) -> dict[str, float]:
    """The C file's time over that of RTNeural's faster library."""
    theirs = [rows[f"RTNeural, {library}"] for library in ALIGNMENT]
    return {
        key: round(rows["c"][key] / min(row[key] for row in theirs), 2)
        for key in ("median_ns", "min_ns")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="Where to write the figures.")
    parser.add_argument("--runs", type=int, default=101, help="Samples a peer.")
    parser.add_argument("--rtneural", type=Path, help="A checkout of RTNeural.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measure.SAMPLE = 0.002  # a step is short; so few samples are interrupted
    version = subprocess.check_output(["gcc", "--version"]).decode()
    result: dict[str, Any] = {
        "command": "python benchmarks/export.py "
        + " ".join(sys.argv[1:]).replace(str(options.rtneural), "FOLDER"),
        "machine": facts(),
        "compiler": version.splitlines()[0],
        "flags": FLAGS,
        "not_measured": {} if options.rtneural else {"RTNeural": "no checkout given"},
        "steps": {},
    }
    for kind in KINDS:
        for shape in SHAPES:
            name = f"{kind} {shape[0]}x{shape[1]}"
            rows = result["steps"][name] = measured(
                kind, shape, options.runs, options.rtneural
            )
            texts = (
                f"{peer} {row['median_ns']:.0f} (least {row['min_ns']:.0f})"
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
    if options.rtneural:
        result["of_rtneural"] = {
            name: of_rtneural(rows) for name, rows in result["steps"].items()
        }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
