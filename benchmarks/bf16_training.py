"""Whether long training in bf16 ends where it does in float32: the character model.

    python benchmarks/bf16_training.py TEXT OUT [--steps 10000] [--seeds 1,2,3]
        [--json FILE] [--hidden 128 --batch 8 …]

It trains a run for each seed and precision with `cellwright train`, each in a
directory of OUT, and prints the held-out losses and their differences, which should be
within 0.01 nats. Further options are those of `cellwright train`. An interrupted run
goes on from its checkpoint when the command is given again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import machine

PRECISIONS = {"float32": "no", "bf16": "bf16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--json", type=Path)
    args, options = parser.parse_known_args()
    found: dict[str, Any] = {"machine": machine.facts(), "text": args.text.name}
    found |= {"steps": args.steps, "options": options, "seeds": {}}
    for seed in args.seeds.split(","):
        losses = {
            name: _loss(args, options, seed, precision)
            for name, precision in PRECISIONS.items()
        }
        difference = losses["bf16"] - losses["float32"]
        found["seeds"][seed] = {**losses, "difference": difference}
        print(f"seed {seed}: {losses}, bf16 - float32 {difference:+.4f} nats")
    differences = [seed["difference"] for seed in found["seeds"].values()]
    found["mean_difference"] = statistics.fmean(differences)
    print(f"mean difference {found['mean_difference']:+.4f} nats")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def _loss(
    args: argparse.Namespace, options: list[str], seed: str, precision: str
) -> float:
    """The held-out loss of a run in nats a character, once it is trained."""
    run = args.out / f"{precision}-{seed}"
    command = [sys.executable, "-m", "cellwright"]
    own = ["--steps", str(args.steps), "--seed", seed, "--precision", precision]
    train = [*command, "train", str(args.text), "--out", str(run), *own, *options]
    if (run / "config.json").exists():
        train = [*command, "train", "--out", str(run), "--resume"]
    subprocess.run(train, check=True)
    evaluate = [*command, "evaluate", str(run), "--json"]
    done = subprocess.run(evaluate, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["nats_per_char"])


if __name__ == "__main__":
    main()
