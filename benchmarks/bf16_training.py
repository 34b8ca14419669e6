"""Whether long training in bf16 ends where it does in float32: the character model.

    python benchmarks/bf16_training.py TEXT OUT [--steps 10000] [--seeds 1,2,3]

It trains a run for each seed and precision with `cellwright train`, each in a
directory of OUT, and prints the held-out losses and their differences, which should be
within 0.01 nats. An interrupted run goes on from its checkpoint when the command is
given again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PRECISIONS = ("no", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", default="1,2,3")
    args = parser.parse_args()
    differences = []
    for seed in args.seeds.split(","):
        losses = {
            precision: _loss(args, args.out / f"{precision}-{seed}", seed, precision)
            for precision in PRECISIONS
        }
        differences.append(losses["bf16"] - losses["no"])
        print(f"seed {seed}: {losses}, bf16 - float32 {differences[-1]:+.4f} nats")
    print(f"mean difference {statistics.fmean(differences):+.4f} nats")


def _loss(args: argparse.Namespace, run: Path, seed: str, precision: str) -> float:
    """The held-out loss of a run in nats a character, once it is trained."""
    command = [sys.executable, "-m", "cellwright"]
    options = ["--steps", str(args.steps), "--seed", seed, "--precision", precision]
    train = [*command, "train", str(args.text), "--out", str(run), *options]
    if (run / "config.json").exists():
        train = [*command, "train", "--out", str(run), "--resume"]
    subprocess.run(train, check=True)
    evaluate = [*command, "evaluate", str(run), "--json"]
    done = subprocess.run(evaluate, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["nats_per_char"])


if __name__ == "__main__":
    main()
