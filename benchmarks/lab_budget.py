"""How long the papers' tables take: multiply-adds over this machine's measured rate.

    python benchmarks/lab_budget.py [--threads 2] [--json FILE]

A row is one entry of a table: multiply-adds of its training, forward and backward, and
the hours that they take at the rate of `torch.mm` of 2048 × 2048. That is the least:
small nets, pointwise work and validation stay below that rate. (`cellwright lab NAME
--full` tells the time left by the rate of the case that runs.) The rows of an
experiment of the laboratory are its own cases, by its own `work`; the others are
planned, and counted here from the papers' sizes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from machine import facts

from cellwright.lab import bai_2018, tree_tables, variants


@dataclass(frozen=True)
class Row:
    """An entry of a table.

    Attributes:
        table, net, recipe: which.
        multiply_adds: of one epoch of one run, forward and backward.
        epochs: at most.
        runs: seeds, or trials.
        planned: whether its experiment is yet to be written at this size.
    """

    table: str
    net: str
    recipe: str
    multiply_adds: float
    epochs: int
    runs: int
    planned: bool = True

    @property
    def total(self) -> float:
        """Multiply-adds of all runs."""
        return self.multiply_adds * self.epochs * self.runs


def laboratory() -> list[Row]:
    """Table 1 of Bai et al. 2018, as `bai_2018.py` runs it; no data is read."""
    return [
        Row(
            task,
            net,
            bai_2018.RECIPES[recipe],
            bai_2018.work(case) / case["epochs"],
            case["epochs"],
            bai_2018.SEEDS.get(task, 3),
            planned=False,
        )
        for task in bai_2018.TASKS
        for recipe in bai_2018.RECIPES
        for net in bai_2018.NETS
        for case in [bai_2018.case_of(task, net, recipe, 0)]
    ]


PAPERS = {"listops": "Nangia & Bowman 2018", "sentiment": "Tai et al. 2015"}


def trees() -> list[Row]:
    """The tables of trees, as `tree_tables.py` runs them, with the treebank or not."""
    return [
        Row(
            PAPERS[part],
            tree_tables.TABLES[part].nets[net].name,
            "as printed",
            tree_tables.work(case) / case["epochs"],
            case["epochs"],
            3,
            planned=False,
        )
        for part, table in tree_tables.TABLES.items()
        for net in table.nets
        for case in [tree_tables.case_of(part, net, 0)]
    ]


def search_space() -> list[Row]:
    """The trials of Greff et al. 2017, as `variants.py` runs them; no data is read."""
    cases = variants.cases(False, 0)
    found = []
    for name, words in variants.VARIANTS.items():
        trials = [c for c in cases if c["variant"] == name]
        epochs = trials[0]["epochs"]
        each = sum(map(variants.work, trials)) / len(trials) / epochs
        table = ("Greff et al. 2017", words, "as printed")
        found.append(Row(*table, each, epochs, len(trials), planned=False))
    return found


def _lstm(inputs: int, units: int, layers: int = 1) -> int:
    """Weights of an LSTM's matrices."""
    return 4 * units * (inputs + units) + (layers - 1) * 8 * units**2


#: table, net, weights that a step multiplies with, steps of an epoch, epochs, runs.
PLANNED: list[tuple[str, str, int, float, int, int]] = [
    (
        "Zaremba et al. 2014",
        "small: 2 × 200",
        _lstm(200, 200, 2) + 200 * 10_000,
        929_589,
        13,
        1,
    ),
    (
        "≤ 90 with ≤ 4 M weights",
        "LSTM, 280, tied",
        _lstm(280, 280, 2) + 280 * 10_000,
        929_589,
        60,
        1,
    ),
]


def planned() -> list[Row]:
    """What is not in the laboratory at the papers' sizes."""
    return [
        Row(table, net, "as printed", 3.0 * weights * steps, epochs, runs)
        for table, net, weights, steps, epochs, runs in PLANNED
    ]


def rate(threads: int, seconds: float = 3.0) -> float:
    """Multiply-adds a second of `torch.mm`, the best of many, by processor time."""
    torch.set_num_threads(threads)
    size = 2048
    a, b = torch.randn(2, size, size).unbind()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        start = time.process_time()
        torch.mm(a, b)
        times.append((time.process_time() - start) / threads)
    return size**3 / min(times)


def table(rows: list[Row], per_second: float) -> str:
    """As Markdown."""
    lines = [
        "| table | net | recipe | 10¹² multiply-adds an epoch | epochs × runs "
        "| hours |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        hours, epoch = row.total / per_second / 3600, row.multiply_adds / 1e12
        lines.append(
            f"| {row.table} | {row.net} | {row.recipe} | {epoch:.3g} "
            f"| {row.epochs} × {row.runs} | {hours:.2g} |"
        )
    total = sum(row.total for row in rows) / per_second / 3600
    lines.append(f"| all | | | | | {total:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began, rows = facts(), [*laboratory(), *trees(), *search_space(), *planned()]
    per_second = rate(options.threads)
    print(f"{2 * per_second / 1e9:.0f} GFLOP/s, {options.threads} threads\n")
    print(table(rows, per_second))
    if options.json:
        content: dict[str, Any] = {
            "command": f"python benchmarks/lab_budget.py --threads {options.threads}",
            "date": datetime.date.today().isoformat(),
            "machine": began,
            "threads": options.threads,
            "multiply_adds_per_second": round(per_second),
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        )


if __name__ == "__main__":
    main()
