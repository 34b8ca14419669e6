"""The laboratory: the subject's questions, answered by experiment::

    from cellwright import lab

    lab.NAMES                                 # the experiments
    experiment = lab.get("bptt")
    result = lab.run_experiment(experiment, Path("out"), quick=True)
    result = lab.load_result("bptt")          # of the full form, as it was committed
    result.question, result.seed, result.date, result.claims, result.conclusion
    lab.plot_path("bptt")                     # its plot, a PNG

`cellwright lab` is the same on the command line.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from ..language.errors import did_you_mean
from .experiment import Claim, Experiment, Keep, Record, Rows, Table
from .long import run_long
from .result import SHIPPED, CaseResult, LabError, Result
from .runner import run_experiment

#: Every experiment, in the order of the questions; one file each.
NAMES = (
    "standout",
    "convolution",
    "bai-2018",
    "bptt",
    "training-problems",
    "recursive",
    "tree-tables",
    "teacher-forcing",
    "attention",
    "long-term",
    "forget-activation",
    "variants",
    "state-tracking",
    "recall",
    "characters",
)

__all__ = [
    "NAMES",
    "CaseResult",
    "Claim",
    "Experiment",
    "Keep",
    "LabError",
    "Record",
    "Result",
    "Rows",
    "Table",
    "get",
    "load_result",
    "plot_path",
    "run_experiment",
    "run_long",
]


def get(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        LabError: there is none.
    """
    if name not in NAMES:
        raise LabError(
            f"[lab] no experiment {name!r}. {did_you_mean(name, list(NAMES))}"
        )
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    return module.EXPERIMENT


def load_result(name: str, directory: Path = SHIPPED) -> Result:
    """The last result of an experiment: of the full form that comes with cellwright.

    Args:
        name: of the experiment.
        directory: of another run, as `cellwright lab NAME --out` wrote it.

    Raises:
        LabError: no such experiment, or no result there.
    """
    get(name)
    return Result.load(_existing(directory / f"{name}.json", name))


def plot_path(name: str, directory: Path = SHIPPED) -> Path:
    """The PNG of an experiment's plot; arguments and errors as `load_result`'s."""
    get(name)
    return _existing(directory / f"{name}.png", name)


def _existing(path: Path, name: str) -> Path:
    if not path.exists():
        raise LabError(
            f"[{path}] there is no result of {name!r}. Make one: cellwright lab {name} "
            f"--out {path.parent}"
        )
    return path
