"""Two checkouts of cellwright beside each other: is the new one slower?

    git worktree add /tmp/old COMMIT   # and put its compiled core into its sources
    python benchmarks/paired.py --old /tmp/old/src [--new src] [--pairs 40]

Each checkout runs in a process of its own, on the same torch; the two take turns, the
order within a pair alternating, so that a drifting machine meets both alike. It
reports the growth new / old − 1: its median over the pairs, and the 95 % interval of
that median (by ranks). `--cpu` counts processor time, which a busy machine changes
little; waiting threads count too, so take one thread. Both need their core,
`_core.*.so`, in `src/cellwright/`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 0.1  # of one sample
_wall = time.perf_counter
CASES: dict[str, tuple[str, tuple[int, int, int, int], bool]] = {
    # name: layer, (B, T, I, H), with gradients
    "smallest call": ("LSTM", (1, 1, 1, 1), False),
    "smallest call, gradients": ("LSTM", (1, 1, 1, 1), True),
    "Recurrent, smallest call": ("peephole", (1, 1, 1, 1), False),
    "Recurrent, smallest call, gradients": ("peephole", (1, 1, 1, 1), True),
    "LSTM 1x100x64x128": ("LSTM", (1, 100, 64, 128), True),
    "GRU 32x100x128x128": ("GRU", (32, 100, 128, 128), True),
    "peephole 64x50x256x256": ("peephole", (64, 50, 256, 256), True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, help="the old checkout's src")
    parser.add_argument("--new", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="processor time")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return _work(options.threads, time.process_time if options.cpu else _wall)
    more = ["--threads", str(options.threads), *["--cpu"] * options.cpu]
    sides = [_start(path, more) for path in (options.old, options.new)]
    found = {}
    for name in CASES:
        if options.only in name:
            found[name] = _compare(sides, name, options.pairs)
            print(f"{name:38} {_sentence(found[name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return None


def _compare(
    sides: list[subprocess.Popen[str]], name: str, pairs: int
) -> dict[str, float]:
    for side in sides:
        _ask(side, name)  # compiles, warms up
    ratios, times = [], ([], [])
    for pair in range(pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        seconds = {which: _ask(sides[which], name) for which in order}
        ratios.append(seconds[1] / seconds[0])
        for which in order:
            times[which].append(seconds[which])
    ratios.sort()
    low, high = _ranks(len(ratios))
    return {
        "old_us": round(1e6 * statistics.median(times[0]), 2),
        "new_us": round(1e6 * statistics.median(times[1]), 2),
        "growth": round(statistics.median(ratios) - 1, 4),
        "low": round(ratios[low] - 1, 4),
        "high": round(ratios[high] - 1, 4),
        "pairs": pairs,
    }


def _ranks(n: int) -> tuple[int, int]:
    """Order statistics that hold the median with 95 % (normal approximation)."""
    half = 0.98 * math.sqrt(n)
    return max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))


def _sentence(found: dict[str, float]) -> str:
    return (
        f"{found['old_us']:10.1f} → {found['new_us']:10.1f} µs   growth "
        f"{100 * found['growth']:+.1f} % ({100 * found['low']:+.1f} … "
        f"{100 * found['high']:+.1f})"
    )


def _start(source: Path, more: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--worker", *more]
    environment = {**os.environ, "PAIRED_SOURCE": str(source.resolve())}
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(side: subprocess.Popen[str], name: str) -> float:
    assert side.stdin is not None
    assert side.stdout is not None
    side.stdin.write(name + "\n")
    side.stdin.flush()
    return float(side.stdout.readline())


def _work(threads: int, clock: Callable[[], float]) -> None:
    """Answer every line, a case's name, with its seconds a call."""
    source = os.environ["PAIRED_SOURCE"]
    sys.path.insert(0, source)
    sys.meta_path = [f for f in sys.meta_path if "editable" not in type(f).__module__]
    import torch

    import cellwright as cw

    assert Path(cw.__file__).is_relative_to(source), cw.__file__
    torch.set_num_threads(threads)
    calls: dict[str, tuple[object, int]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in calls:
            calls[name] = _call(cw, torch, *CASES[name]), 1
        call, repeats = calls[name]
        start = clock()
        for _ in range(repeats):
            call()  # type: ignore[operator]
        seconds = (clock() - start) / repeats
        calls[name] = call, max(1, min(20_000, int(SECONDS / seconds)))
        print(seconds, flush=True)


def _call(cw, torch, kind: str, shape: tuple[int, int, int, int], gradients: bool):
    batch, steps, inputs, hidden = shape
    torch.manual_seed(0)
    make = getattr(cw, kind, None) if kind.isupper() else None
    layer = make(inputs, hidden) if make else cw.Recurrent(kind, inputs, hidden)
    assert layer.engine == "native", layer.engine_reason
    x = torch.randn(steps, batch, inputs, requires_grad=gradients)
    if not gradients:

        def run() -> None:
            with torch.no_grad():
                layer(x)

        return run
    cotangent = torch.randn(steps, batch, hidden)

    def train() -> None:
        layer(x)[0].backward(cotangent)

    return train


if __name__ == "__main__":
    main()
