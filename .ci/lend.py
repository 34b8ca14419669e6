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


def places(names: set[str]) -> dict[str, Path]:
    """What the distributions put into a folder of packages, and where it lies."""
    found = {}
    for each in map(distribution, names):
        tops = {file.parts[0] for file in each.files or ()} - {"..", "__pycache__"}
        found |= {top: Path(str(each.locate_file(top))) for top in tops}
    return found


def main() -> None:
    folder, *names = sys.argv[1:]
    base = {"base": folder, "platbase": folder}
    site = Path(sysconfig.get_path("purelib", vars=base))
    for name, place in places(closure(names)).items():
        if not (site / name).exists():
            os.symlink(place, site / name)


if __name__ == "__main__":
    main()
