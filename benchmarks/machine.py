"""Where a figure was measured: the processor, its limits, the versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "cellwright",
    "torch",
    "numpy",
    "jax",
    "jaxlib",
    "onnx",
    "onnxruntime",
    "torchrecurrent",
)


def facts() -> dict[str, Any]:
    """What the JSON says of the machine."""
    return {
        "processor": _processor(),
        "cores": len(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average_at_start": [round(v, 2) for v in os.getloadavg()],
        "versions": {p: v for p in PACKAGES if (v := _version(p))},
    }


def cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def busy_seconds() -> float | None:
    """Seconds that all processes have kept cores busy since the start (Linux)."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    ticks = [int(v) for v in path.read_text().splitlines()[0].split()[1:9]]
    idle, waiting = ticks[3], ticks[4]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def confine(threads: int) -> None:
    """Keep this process to as many cores as threads: for peers that take no number."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[:threads])


def _processor() -> dict[str, str]:
    """The first processor's name, family and model, as the system reports them."""
    wanted = ("model name", "cpu family", "model", "cache size")
    found = {"name": platform.processor()}
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            if key.strip() in wanted:
                found[key.strip()] = value.strip()
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
