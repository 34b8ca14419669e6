"""What the layer adds to a scan: lengths, resets, regularisers, recording; a stepper.

    python benchmarks/layer.py --json benchmarks/results/layer.json
    python benchmarks/layer.py --only regularisers --threads 2

A section measures ratios: the time with a thing over the time without it, or over the
stepper's, calls interleaved. `--only` keeps the other sections.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import machine

SHAPES = ("1x100x64x128", "32x100x128x128", "64x100x256x256")  # B x T x I x H
CELLS = ("lstm", "gru")
REGULARISERS: dict[str, dict[str, Any]] = {
    "zoneout": {"zoneout": 0.1},
    "recurrent dropout": {"recurrent_dropout": 0.25},
    "update dropout, each step": {"update_dropout": 0.2},
    "update dropout, locked": {"update_dropout": 0.2, "locked": True},
    "weight drop": {"weight_drop": 0.5},
    "dropout of x and y, each step": {"input_dropout": 0.3, "output_dropout": 0.3},
    "dropout of x and y, locked": {
        "input_dropout": 0.3,
        "output_dropout": 0.3,
        "locked": True,
    },
}


def regularisers(shape: str, runs: int) -> dict[str, Any]:
    """Every regulariser of a layer over the layer without."""
    import torch
    from measure import interleaved

    import cellwright as cw

    B, T, width, H = map(int, shape.split("x"))
    x, cotangent = torch.randn(T, B, width, requires_grad=True), torch.randn(T, B, H)

    def training(layer: cw.Recurrent) -> Callable[[], object]:
        def call() -> None:
            y, _ = layer(x)
            y.backward(cotangent)

        return call

    calls = {
        (cell, name): training(cw.Recurrent(cell, width, H, **options))
        for cell in CELLS
        for name, options in {"none": {}, **REGULARISERS}.items()
    }
    times = interleaved(calls, runs)  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for (cell, name), figures in times.items():  # type: ignore[misc]
        without = times[cell, "none"]["median_ms"]
        ratio = round(figures["median_ms"] / without, 3)
        found.setdefault(cell, {})[name] = {**figures, "ratio": ratio}
    return found


def lengths(shape: str, runs: int) -> dict[str, Any]:
    """Variable length over the padded batch, half of it padding; and torch.nn's."""
    import torch
    from measure import interleaved
    from torch.nn.utils.rnn import pack_padded_sequence

    import cellwright as cw

    B, T, width, H = map(int, shape.split("x"))
    x, generator = torch.randn(T, B, width), torch.Generator().manual_seed(0)
    half = torch.randint(1, T, (B,), generator=generator)
    half = (half * (T * B / 2 / half.sum())).round().long().clamp(1, T)
    some = {
        "padded": {},
        "lengths, no padding": {"lengths": torch.full((B,), T)},
        "lengths, half padding": {"lengths": half},
        "starts, half padding": {"lengths": half, "starts": T - half},
        "packed, half padding": {},
        "torch.nn, padded": {},
        "torch.nn, packed, half padding": {},
    }

    def call(layer: Any, name: str) -> Any:
        leaf = x.clone().requires_grad_()

        def forward() -> Any:
            source: Any = leaf
            if "packed" in name:
                source = pack_padded_sequence(leaf, half, enforce_sorted=False)
            y = layer(source, **some[name])[0]
            return y.data if "packed" in name else y

        return forward

    found: dict[str, Any] = {}
    for cell in CELLS:
        ours = getattr(cw, cell.upper())(width, H)
        theirs = getattr(torch.nn, cell.upper())(width, H)
        theirs.load_state_dict(ours.state_dict())
        calls = {n: call(theirs if "torch" in n else ours, n) for n in some}
        found[cell] = _both_ways(calls, "padded", runs, interleaved)
    real = float(half.sum()) / (T * B)
    print(f"  {100 * real:.0f} % of the padded steps are real")
    return found


def resets(shape: str, runs: int) -> dict[str, Any]:
    """Resets at 1 % of the steps and at all, over none."""
    import torch
    from measure import interleaved

    import cellwright as cw

    B, T, width, H = map(int, shape.split("x"))
    x, generator = torch.randn(T, B, width), torch.Generator().manual_seed(0)
    few = torch.rand(T, B, generator=generator) < 0.01
    every = torch.ones(T, B, dtype=torch.bool)
    found: dict[str, Any] = {}
    for cell in CELLS:
        layer, leaf = getattr(cw, cell.upper())(width, H), x.clone().requires_grad_()
        given = {"none": None, "1 % of the steps": few, "every step": every}
        calls = {n: partial(_output, layer, leaf, resets=r) for n, r in given.items()}
        found[cell] = _both_ways(calls, "none", runs, interleaved)
    return found


def _output(layer: Any, x: Any, **arguments: Any) -> Any:
    return layer(x, **arguments)[0]


def _both_ways(calls: dict[str, Any], base: str, runs: int, time_them: Any) -> Any:
    """Inference and training of calls that give an output, over the base's."""
    import torch

    def inference(call: Any) -> None:
        with torch.no_grad():
            call()

    def training(call: Any) -> None:
        y = call()
        y.backward(torch.ones_like(y))

    rows: dict[str, Any] = {}
    for way in (inference, training):
        times = time_them({n: partial(way, c) for n, c in calls.items()}, runs)
        for name, figures in times.items():
            ratio = round(figures["median_ms"] / times[base]["median_ms"], 3)
            rows[f"{way.__name__}: {name}"] = {**figures, "ratio": ratio}
    return rows


def recording(shape: str, runs: int) -> dict[str, Any]:
    """A layer that is recorded over one that is not."""
    import torch
    from measure import interleaved

    import cellwright as cw

    B, T, width, H = map(int, shape.split("x"))
    x, cotangent = torch.randn(T, B, width, requires_grad=True), torch.randn(T, B, H)
    found: dict[str, Any] = {}
    for cell in CELLS:
        layer = cw.Recurrent(cell, width, H)
        state = layer.cell.graph.states[-1].name
        calls = {
            (kind, what): _recorded(layer, kind, x, cotangent, names)
            for kind in ("inference", "training", "training, with gradients")
            for what, names in (("off", ()), (state, state), ("all", None))
            if (kind, what) != ("training, with gradients", "off")
        }
        times = interleaved(calls, runs)  # type: ignore[arg-type]
        for (kind, what), figures in times.items():  # type: ignore[misc]
            without = times[kind.partition(",")[0], "off"]["median_ms"]
            ratio = round(figures["median_ms"] / without, 3)
            name = f"{kind}: {what}"
            found.setdefault(cell, {})[name] = {**figures, "ratio": ratio}
    return found


def _recorded(layer: Any, kind: str, x: Any, cotangent: Any, names: Any) -> Any:
    import torch

    import cellwright as cw

    def run() -> None:
        if kind == "inference":
            with torch.no_grad():
                layer(x)
        else:
            layer(x)[0].backward(cotangent)

    def watched() -> None:
        with cw.record(layer, names, gradients="gradients" in kind):
            run()

    return run if names == () else watched


def stepper(shape: str, runs: int) -> dict[str, Any]:
    """One step of one LSTM layer: ours, torch's, ONNX Runtime's, over the stepper's."""
    import torch
    from measure import interleaved

    import cellwright as cw

    B, _, width, H = map(int, shape.split("x"))
    layer, theirs = cw.LSTM(width, H), torch.nn.LSTM(width, H)
    theirs.load_state_dict(layer.state_dict())
    cell = torch.nn.LSTMCell(width, H)
    step, x, y = layer.stepper(B), torch.randn(B, width), torch.empty(B, H)
    sequence, zero = x[None], torch.zeros(1, B, H)
    states, olds = (zero, zero), (zero[0], zero[0])
    calls = {
        "stepper": lambda: step(x),
        "stepper, out=": lambda: step(x, out=y),
        "our layer, T = 1": lambda: layer(sequence, states),
        "torch.nn.LSTMCell": lambda: cell(x, olds),
        "torch.nn.LSTM, T = 1": lambda: theirs(sequence, states),
    }
    session = _onnx_session(layer)
    if session is not None:
        names = ("x", "h_0", "c_0")
        feed = dict(
            zip(names, (t.numpy() for t in (sequence, zero, zero)), strict=True)
        )
        calls["ONNX Runtime, T = 1"] = lambda: session.run(None, feed)
    with torch.no_grad():
        times = interleaved(calls, runs)  # type: ignore[arg-type]
    base = times["stepper"]["median_ms"]
    rows = {
        str(n): {**f, "ratio": round(f["median_ms"] / base, 3)}
        for n, f in times.items()
    }
    return {"lstm": rows}


def weights(shape: str, runs: int) -> dict[str, Any]:
    """A step with weights in fewer bits, over float32's; in process time, for a step
    runs on one thread."""
    import torch
    from measure import interleaved

    import cellwright as cw
    from cellwright.engine import native

    B, _, width, H = map(int, shape.split("x"))
    layer = cw.LSTM(width, H)
    x, y = torch.randn(B, width), torch.empty(B, H)
    steppers = {
        kind: layer.stepper(B, weights=given)
        for kind, given in (("float32", None), ("bf16", "bf16"), ("int8", "int8"))
    }
    if "avx512_vnni" in native.info().get("isas", ()):
        with patch.dict(os.environ, CELLWRIGHT_ISA="avx512"):
            steppers["int8 without VNNI"] = layer.stepper(B, weights="int8")
    calls: dict[Any, Callable[[], object]] = {
        kind: partial(step, x, out=y) for kind, step in steppers.items()
    }
    times = interleaved(calls, runs, time.process_time)
    base = times["float32"]["min_ms"]
    return {
        "lstm": {
            str(kind): {**found, "ratio": round(found["min_ms"] / base, 3)}
            for kind, found in times.items()
        }
    }


def _onnx_session(layer: Any) -> Any:
    """The layer in ONNX Runtime, on one thread; None where that is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    import cellwright as cw

    model = cw.export_onnx(layer, initial_states=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


SECTIONS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "lengths": lengths,
    "resets": resets,
    "regularisers": regularisers,
    "recording": recording,
    "stepper": stepper,
    "weights": weights,
}
SEQUENCES = ("32x100x64x64", "64x100x128x128", "64x100x256x256")
SHAPES_OF = {
    "lengths": (*SEQUENCES, "256x100x32x64"),
    "resets": (*SEQUENCES, "256x365x32x64"),
    "stepper": ("1x1x64x64", "1x1x128x128", "1x1x256x256", "16x1x128x128"),
    "weights": (
        *("1x1x64x64", "1x1x128x128", "1x1x256x256", "1x1x512x512"),
        *("1x1x1024x1024", "16x1x256x256"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write, or bring up to date, this")
    parser.add_argument("--only", default=",".join(SECTIONS), help="some sections")
    parser.add_argument("--shapes", help="such as 32x100x128x128: B x T x I x H")
    parser.add_argument("--threads", type=int, default=len(machine.cores()))
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    machine.confine(args.threads)
    old = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    sections = old.get("sections", {})
    for name in args.only.split(","):
        if name not in SECTIONS:
            sys.exit(f"error: there is no {name!r}; expected some of {list(SECTIONS)}")
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        section: dict[str, Any] = {"when": when, "shapes": {}}
        default = SHAPES_OF.get(name, SHAPES)
        for shape in args.shapes.split(",") if args.shapes else default:
            section["shapes"][shape] = SECTIONS[name](shape, args.runs)
            show(name, shape, section["shapes"][shape])
        sections[f"{name}/{args.threads}"] = section
    if args.json:
        whole = {"machine": machine.facts(), "sections": sections}
        args.json.write_text(json.dumps(whole, indent=1) + "\n")


def show(name: str, shape: str, cells: dict[str, Any]) -> None:
    for cell, rows in cells.items():
        print(f"\n{name}, {cell}, {shape}")
        for row, figures in rows.items():
            print(
                f"  {row:42} {figures['median_ms']:10.4f} ms {figures['ratio']:6.2f}×"
            )


if __name__ == "__main__":
    main()
