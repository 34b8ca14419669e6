"""Peak memory of one training step, above its inputs, in a fresh process.

    python benchmarks/memory_peak.py PEER [--shape BxTxIxH] [--threads N]

Prints one line of JSON. The peak is the kernel's own high-water mark where it can be
reset (Linux); elsewhere the largest resident size so far. "… bf16" is under
torch.autocast: x and the weights are float32, y and its cotangent bf16.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LONG = "32x2000x256x256"
SHORT = "8x200x64x64"
PEERS = (
    *("cellwright", "cellwright recompute", "cellwright bf16"),
    *("cellwright recompute bf16", "torch.nn", "torch.nn bf16", "loop"),
)
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def compare(threads: int, quick: bool = False) -> dict[str, Any]:
    """Every peer in its own process."""
    result: dict[str, Any] = {"shape": SHORT if quick else LONG, "peers": {}}
    for peer in PEERS:
        command = [
            sys.executable,
            __file__,
            peer,
            "--threads",
            str(threads),
            "--shape",
            result["shape"],
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().splitlines() or ["no message"]
            result["peers"][peer] = {"error": reason[-1][:300]}
        else:
            result["peers"][peer] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--shape", default=LONG)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(json.dumps(measure(args.peer, args.shape, args.threads)))


def measure(peer: str, shape: str, threads: int) -> dict[str, Any]:
    import torch
    from cases import Shape

    torch.set_num_threads(threads)
    sizes = Shape(*map(int, shape.split("x")))
    _training(peer, Shape(2, 3, sizes.inputs, sizes.hidden))()  # kernels, thread pools
    step = _training(peer, sizes)
    before = _resident()
    _reset_peak()
    step()
    peak = _peak() - before
    seconds = [_timed(step) for _ in range(3)]
    one = 4 * sizes.steps * sizes.batch * sizes.hidden
    return {
        "peak_mib": round(peak / 2**20, 1),
        "planes": round(peak / one, 2),  # tensors of T·B·H floats
        "median_ms": round(1000 * statistics.median(seconds), 1),
    }


def _training(peer: str, shape: Any) -> Any:
    import torch
    from cases import CASES
    from peers import Job

    job = Job.make(CASES["lstm"], shape, 1)
    if peer.endswith(" bf16"):
        half = torch.bfloat16
        job.cotangent = job.cotangent.to(half)
        train = _training_of(peer.removesuffix(" bf16"), shape, job)
        return torch.autocast("cpu", half)(train)
    return _training_of(peer, shape, job)


def _training_of(peer: str, shape: Any, job: Any) -> Any:
    import torch
    from peers import Loop, of_module

    import cellwright as cw

    if peer == "cellwright recompute":
        sizes = shape.inputs, shape.hidden
        job.layer = cw.Recurrent("lstm", *sizes, engine="native", memory="recompute")
    module = {"torch.nn": torch.nn.LSTM, "loop": Loop}.get(peer)
    if peer == "loop":
        return of_module(module(job), job)["training"]
    if module is not None:
        return of_module(module(shape.inputs, shape.hidden), job)["training"]
    return of_module(job.layer, job)["training"]


def _timed(step: Any) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _resident() -> int:
    if STATUS.exists():
        return _status("VmRSS")
    return _peak()


def _reset_peak() -> None:
    if RESET.exists():
        RESET.write_text("5")


def _peak() -> int:
    if STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(key: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


if __name__ == "__main__":
    main()
