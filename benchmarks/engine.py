"""The native engine beside its peers: time, memory, call overhead, a whole model.

    python benchmarks/engine.py --json benchmarks/results/engine.json
    python benchmarks/engine.py --quick
    python benchmarks/engine.py --only lstm,gru --threads 2 --json FILE
    python benchmarks/engine.py --precision bf16

Every section runs in a process of its own, confined to as many cores as threads, and is
saved as soon as it is done: `--only` measures some sections anew and keeps the others,
`--shapes` some shapes of a section.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machine
import report

HERE = Path(__file__).parent
CELLS = (
    "lstm",
    "gru",
    "rnn",
    "peephole_diagonal",
    "peephole",
    "coupled",
    "gru_bias",
    "own",
)
OTHERS = ("model", "overhead", "memory")
PEERS = "torch.nn,loop,jax,onnxruntime,torchrecurrent,compile"
ONE_THREAD_PEERS = "torch.nn,loop"  # unless --peers says more: the run has its limits
BUSY = (
    0.5  # of the load average: figures of a busy machine are wrong, most at 2 threads
)


def main() -> None:
    args = _arguments()
    if args.worker:
        _work(args)
        return
    if args.precision == "bf16":
        import bf16

        bf16.main(args)
        return
    target = Path(args.json) if args.json else None
    old = json.loads(target.read_text()) if target and target.exists() else {}
    whole = {"machine": machine.facts(), "sections": old.get("sections", {})}
    start = time.perf_counter()
    for threads in args.threads:
        for name in args.only:
            if name == "memory" and threads != max(args.threads):
                continue  # memory does not depend on threads
            print(f"\n{name}, {_count(threads)}", flush=True)
            section = _section(args, name, threads)
            key = f"{name}/{threads}"
            if args.shapes and "error" not in section:
                section = _merged(whole["sections"].get(key, {}), section)
            whole["sections"][key] = section
            others = section.get("other_jobs_cores", 0)
            if others > BUSY:
                print(f"  Other jobs kept {others:.1f} cores busy: no fair figures.")
            report.print_section(name, section)
            _save(target, whole)
    report.print_summary(whole["sections"])
    print(f"\n{time.perf_counter() - start:.0f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write, or bring up to date, this file")
    parser.add_argument("--only", help=f"of {','.join((*CELLS, *OTHERS))}")
    parser.add_argument("--peers", help=f"of {PEERS}")
    parser.add_argument("--shapes", help="such as 32x100x128x128: B x T x I x H")
    parser.add_argument("--threads", help="such as 2,1 (the default, as cores allow)")
    parser.add_argument("--runs", type=int, help="rounds, 7 if not given")
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="bf16: the LSTM in both, ours and torch's, and nothing else",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="of --precision bf16: processor time"
    )
    parser.add_argument("--quick", action="store_true", help="a glance, in a minute")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    allowed = len(machine.cores())
    everything = CELLS if args.quick else (*CELLS, *OTHERS)
    args.only = _listed(args.only, everything, (*CELLS, *OTHERS))
    peers = PEERS.split(",")
    args.chosen = args.peers is not None
    args.peers = _listed(args.peers, peers[:-1] if args.quick else peers, peers)
    wanted = args.threads.split(",") if args.threads else ["2"] if args.quick else "21"
    args.threads = list(dict.fromkeys(min(int(t), allowed) for t in wanted))
    args.runs = args.runs or (3 if args.quick else 7)
    return args


def _listed(text: str | None, default: Any, known: Any) -> list[str]:
    names = text.split(",") if text else list(default)
    for name in names:
        if name not in known:
            sys.exit(f"error: there is no {name!r}; expected some of {','.join(known)}")
    return names


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _save(target: Path | None, whole: dict[str, Any]) -> None:
    """Written aside and renamed: an interrupted run leaves the last whole file."""
    if target is None:
        return
    whole["summary"] = report.summary(whole["sections"])
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".part")
    aside.write_text(json.dumps(whole, indent=1) + "\n")
    aside.replace(target)


# -- a section's own process ---------------------------------------------------------


def _section(args: argparse.Namespace, name: str, threads: int) -> dict[str, Any]:
    few = threads == 1 and max(args.threads) > 1 and not args.chosen
    peers = ONE_THREAD_PEERS if few else ",".join(args.peers)
    command = [
        sys.executable,
        __file__,
        "--worker",
        name,
        "--threads",
        str(threads),
        "--runs",
        str(args.runs),
        "--peers",
        peers,
    ]
    command += ["--quick"] * args.quick
    command += ["--shapes", args.shapes] if args.shapes else []
    start, busy, own = time.perf_counter(), machine.busy_seconds(), _own_seconds()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    about: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
    }
    if busy is not None:
        others = (machine.busy_seconds() or 0) - busy - (_own_seconds() - own)
        about["other_jobs_cores"] = round(max(0.0, others) / seconds, 2)
    if done.returncode:
        return {**about, "error": f"the process ended with status {done.returncode}"}
    return {**about, **json.loads(done.stdout.splitlines()[-1])}


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A section with some of its shapes measured anew: each with all peers at once."""
    parts = ("shapes", "missing", "differs", "compile_s")
    joined = {p: {**old.get(p, {}), **new[p]} for p in parts if p in new}
    more = {
        "seconds": round(old.get("seconds", 0) + new["seconds"], 1),
        "other_jobs_cores": max(s.get("other_jobs_cores", 0) for s in (old, new)),
    }
    return {**new, **more, **joined}


def _own_seconds() -> float:
    """Processor time of the sections' processes so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _work(args: argparse.Namespace) -> None:
    """Measure one section, and print it as one line of JSON."""
    threads = args.threads[0]
    machine.confine(threads)  # before torch and JAX count the cores
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # compile times are real
    import sections

    measure = getattr(sections, args.worker, None)
    if measure:
        result = measure(args, threads)
    else:
        result = sections.cell(args.worker, args, threads)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
