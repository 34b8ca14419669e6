"""Lend packages of this environment, with all that they depend on, to another one.

    python .ci/lend.py VENV torch numpy

Links, not copies: a test in a fresh environment fetches no gigabytes.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def closure(names: list[str]) -> set[str]:
    """Distributions and what they depend on, as far as it is installed."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        if wanted.name in found or (
            wanted.marker and not wanted.marker.evaluate({"extra": ""})
        ):
            continue
        try:
            waiting += map(Requirement, distribution(wanted.name).requires or ())
        except PackageNotFoundError:
            continue
        found.add(wanted.name)
    return found


def modules(names: set[str]) -> set[str]:
    """What the distributions put into the folder of packages."""
    files = [file for name in names for file in distribution(name).files or ()]
    return {file.parts[0] for file in files} - {"..", "__pycache__"}


def main() -> None:
    folder, *names = sys.argv[1:]
    own = Path(sysconfig.get_path("purelib"))
    base = {"base": folder, "platbase": folder}
    site = Path(sysconfig.get_path("purelib", vars=base))
    for name in modules(closure(names)):
        if not (site / name).exists():
            os.symlink(own / name, site / name)


if __name__ == "__main__":
    main()
