"""How many associations does a state hold?

Pairs of a key and a value are shown, and then every key is asked for. A vector state
must learn where to put each pair; in a matrix each has a place: outer(value, key) is
added, and a product with the key reads it (Schlag, Irie & Schmidhuber 2021, section 5;
Arora et al. 2023, arXiv 2312.04927). All states have the same bytes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw

from ..train.schedules import Cosine
from .experiment import Claim, Experiment, Record, Rows, Table
from .models import Readout
from .plotting import label, look
from .tasks import NOTHING, Sequences, associative_recall
from .training import Training, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = 256  # of a state, all told: 1 KiB
SYMBOLS = 32
BATCH, TESTED = 64, 256  # sequences to train on at a step, and to test each count on
PAIRS = (2, 4, 8, 16)  # tested; training draws from 1 to the last


@dataclass(frozen=True)
class Net:
    """A net of the comparison.

    Attributes:
        name: for tables.
        states: vectors of its state; 0 for a matrix with as many rows as columns.
    """

    name: str
    states: int


#: By the cell's name.
NETS = {
    "min_gru": Net("minGRU", 1),
    "lstm": Net("LSTM", 2),
    "fast_weights": Net("fast weights", 0),
    "delta_net": Net("DeltaNet", 0),
    "mlstm": Net("mLSTM", 0),
}


def hidden(net: str) -> int:
    """Units for a state of `NUMBERS` numbers, a matrix's normaliser not counted."""
    states = NETS[net].states
    return NUMBERS // states if states else math.isqrt(NUMBERS)


def cases(quick: bool, seed: int) -> list[Record]:
    nets = ("lstm", "delta_net")
    return [
        {"net": net, "hidden": hidden(net), "steps": 300 if quick else 1000, "seed": s}
        for net in NETS
        if net in nets or not quick
        for s in range(seed, seed + 1)
    ]


def run(case: Record) -> Record:
    """Train on 1 to 16 pairs; test at 2, 4, 8 and 16."""
    model = Readout(cw.Recurrent(case["net"], 2 * SYMBOLS, case["hidden"]), SYMBOLS)
    began = time.process_time()
    training = Training(
        steps=case["steps"],
        lr=0.01,
        seed=case["seed"],
        schedule=Cosine(steps=case["steps"]),
    )
    done = fit(model, training_batch, loss, training)
    seconds = time.process_time() - began
    return {
        "pairs": list(PAIRS),
        "accuracy": [accuracy(model, pairs) for pairs in PAIRS],
        "curve": done.curve,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds, 1),
    }


def training_batch(generator: torch.Generator) -> Sequences:
    """Sequences of as many pairs each, drawn anew for every batch."""
    pairs = int(torch.randint(1, PAIRS[-1] + 1, (), generator=generator))
    return associative_recall(BATCH, pairs, SYMBOLS, generator)


def loss(model: nn.Module, batch: Sequences) -> Tensor:
    scores = model(batch.inputs)[0].flatten(0, 1)
    return F.cross_entropy(scores, batch.targets.flatten(), ignore_index=NOTHING)


@torch.no_grad()
def accuracy(model: nn.Module, pairs: int) -> float:
    """The share of the keys that are answered with their value."""
    generator = torch.Generator().manual_seed(1000 + pairs)
    batch = associative_recall(TESTED, pairs, SYMBOLS, generator)
    asked = batch.targets != NOTHING
    right = model(batch.inputs)[0].argmax(-1)[asked] == batch.targets[asked]
    return round(right.double().mean().item(), 4)


# -- what it shows -------------------------------------------------------------


def curve(rows: Rows, net: str) -> list[float]:
    """Accuracy over `PAIRS`, in per cent: the mean of the seeds."""
    runs = rows.where(net=net).column("accuracy")
    return [100 * sum(values) / len(values) for values in zip(*runs, strict=True)]


def level(rows: Rows, net: str, pairs: int) -> float:
    return curve(rows, net)[PAIRS.index(pairs)]


def tables(rows: Rows) -> list[Table]:
    body = []
    for net in rows.values("net"):
        runs = rows.where(net=net)
        width = runs.rows[0]["hidden"]
        states = NETS[net].states
        state = f"{states} × {width}" if states else f"{width} × {width}"
        found = (f"{value:.0f}" for value in curve(rows, net))
        seconds = round(runs.median("cpu_seconds"))
        body.append(
            (NETS[net].name, state, *found, runs.rows[0]["parameters"], seconds)
        )
    steps, seeds = rows.rows[0]["steps"], len(rows.values("seed"))
    return [
        Table(
            "Keys that are answered with their value (%), by the number of pairs",
            ("net", "state", *map(str, PAIRS), "parameters", "CPU s"),
            tuple(body),
            f"One layer with a state of {NUMBERS} numbers, {SYMBOLS} keys and as many "
            f"values, trained on 1 to {PAIRS[-1]} pairs for {steps} steps of {BATCH}; "
            + ("one seed. " if seeds == 1 else f"the mean of {seeds} seeds. ")
            + f"{100 / SYMBOLS:.2g} % by chance. Fast weights and mLSTM also have a "
            "vector that normalises.",
        )
    ]


def draw(rows: Rows, figure: Figure) -> None:
    ax = figure.subplots()
    for k, net in enumerate(rows.values("net")):
        ax.plot(PAIRS, curve(rows, net), label=NETS[net].name, **look(k))
    ax.set_xscale("log", base=2)
    ax.set_xticks(PAIRS, [str(pairs) for pairs in PAIRS])
    ax.set_ylim(0, 105)
    label(ax, f"States of {NUMBERS} numbers", "pairs", "keys answered (%)")
    figure.legend(loc="outside right upper")


def claims(rows: Rows) -> list[Claim]:
    matrix, vector = (level(rows, net, PAIRS[-1]) for net in ("delta_net", "lstm"))
    return [
        Claim(f"DeltaNet, {PAIRS[-1]} pairs: keys answered (%)", matrix, low=40.0),
        Claim(
            f"{PAIRS[-1]} pairs: keys answered by DeltaNet above LSTM, states of equal "
            "bytes (points)",
            matrix - vector,
            low=20.0,
        ),
    ]


def conclude(rows: Rows) -> str:
    few, many = PAIRS[0], PAIRS[-1]
    found = (
        f"{NETS[net].name} {level(rows, net, few):.0f} % and "
        f"{level(rows, net, many):.0f} %"
        for net in rows.values("net")
    )
    return (
        f"With states of {NUMBERS} numbers, of {few} and of {many} pairs so many keys "
        f"are answered with their value: {', '.join(found)}."
    )


EXPERIMENT = Experiment(
    name="recall",
    question="How many associations does a state hold, as a vector and as a matrix?",
    minutes=2,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
