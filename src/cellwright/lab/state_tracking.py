"""Which recurrent nets can keep track of a state, at any length?

The word problem of permutations: a step permutes some things, and after every step the
net says where each is. Two things are parity. A recurrence that is linear in its state,
with positive factors, cannot solve parity at every length; one whose factors reach from
−1 to 1 can (Sarrof et al. 2024; Grazzi et al. 2025, arXiv 2411.12537v5, theorem 1).
With five things the steps do not commute: a diagonal recurrence is not enough. If every
step exchanges two, a reflection is (the delta rule with a rate up to 2); of any
permutation, a step makes up to four exchanges (Merrill, Petty & Sabharwal 2024, arXiv
2404.08819). LSTM and sLSTM mix their states through a nonlinearity.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw
from cellwright import cell, sigmoid

from ..train.schedules import Cosine
from .experiment import Claim, Experiment, Record, Rows, Table
from .models import Readout
from .plotting import label, look
from .tasks import Sequences, permutations
from .training import Training, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH, TESTED = 64, 512  # sequences to train on at a step, and to test each length on
LENGTHS = (0.5, 1, 2, 4, 8)  # tested, as multiples of the longest that is trained
MATRIX_RATE = 0.03  # of learning, for nets whose state is a matrix


@cell
def signed_min_gru(W, x, h):
    """minGRU with a factor of h from −1 to 1, where its own is 1 − z, from 0 to 1.

    Grazzi et al. 2025 change Mamba and DeltaNet in this way: from a to 2a − 1.
    """
    z = sigmoid(W.z(x))
    n = W.n(x)
    return (1 - 2 * z) * h + z * n


# -- the nets and the tasks ----------------------------------------------------


@dataclass(frozen=True)
class Net:
    """A net of the comparison: its cell, and what a step does to the old state.

    Attributes:
        matrix: whether its state is a matrix; it has as many numbers as an LSTM's two.
    """

    name: str
    cell: cw.Cell
    kind: str
    matrix: bool = False
    options: Record = field(default_factory=dict)


NETS = {
    "lru": Net("LRU", cw.cells.lru, "fixed factors"),
    "min_gru": Net("minGRU", cw.cells.min_gru, "factors of 0 to 1"),
    "rg_lru": Net("RG-LRU", cw.cells.rg_lru, "factors of 0 to 1"),
    "signed_min_gru": Net("minGRU, signed", signed_min_gru, "factors of −1 to 1"),
    "delta_net": Net("DeltaNet", cw.cells.delta_net, "shortens one direction", True),
    "signed_delta_net": Net(
        "DeltaNet, signed",
        cw.cells.delta_net,
        "may reflect one direction",
        True,
        {"negative_eigenvalues": True},
    ),
    "gated_delta_net": Net(
        "gated DeltaNet, signed",
        cw.cells.gated_delta_net,
        "may reflect one direction",
        True,
        {"negative_eigenvalues": True},
    ),
    "slstm": Net("sLSTM", cw.cells.slstm, "nonlinear"),
    "lstm": Net("LSTM", cw.cells.lstm, "nonlinear"),
}
NETS_OF_S5 = ("signed_min_gru", "signed_delta_net", "gated_delta_net", "slstm", "lstm")


@dataclass(frozen=True)
class Task:
    """A word problem, the nets that try it, and how they are trained.

    Attributes:
        title: for tables.
        things: how many are permuted.
        swaps: whether every step exchanges two.
        nets: keys of `NETS`.
        longest: steps of a training sequence.
        hidden, steps, lr: of a net, of its training.
        seeds: runs of each net.
    """

    title: str
    things: int
    swaps: bool
    nets: tuple[str, ...]
    longest: int
    hidden: int
    steps: int
    lr: float
    seeds: int


TASKS = {
    "parity": Task("Parity", 2, False, tuple(NETS), 40, 32, 1000, 0.03, 1),
    "swaps": Task("S5 by swaps", 5, True, NETS_OF_S5, 8, 128, 2500, 0.01, 1),
    "S5": Task("S5", 5, False, NETS_OF_S5, 8, 128, 3000, 0.01, 1),
}


def cases(quick: bool, seed: int) -> list[Record]:
    """The quick form has parity alone, of half the length, with three nets."""
    nets = ("min_gru", "signed_min_gru", "lstm")
    return [
        {
            "task": key,
            "net": net,
            "longest": task.longest // 2 if quick else task.longest,
            "hidden": hidden(task, net),
            "steps": task.steps * 2 // 5 if quick else task.steps,
            "lr": MATRIX_RATE if NETS[net].matrix else task.lr,
            "seed": s,
        }
        for key, task in TASKS.items()
        if key == "parity" or not quick
        for net in task.nets
        if net in nets or not quick
        for s in range(seed, seed + (1 if quick else task.seeds))
    ]


def hidden(task: Task, net: str) -> int:
    return math.isqrt(2 * task.hidden) if NETS[net].matrix else task.hidden


def run(case: Record) -> Record:
    """Train on sequences of 2 to `longest` steps; test at up to 8 times as many."""
    model = make_model(case)
    began = time.process_time()
    done = fit(
        model,
        partial(training_batch, case),
        loss,
        Training(
            steps=case["steps"],
            lr=case["lr"],
            seed=case["seed"],
            schedule=Cosine(steps=case["steps"]),
        ),
    )
    seconds = time.process_time() - began
    lengths = [round(share * case["longest"]) for share in LENGTHS]
    right = accuracy(model, case["task"], lengths[-1])
    return {
        "lengths": lengths,
        "accuracy": [round(right[length - 1].item(), 4) for length in lengths],
        "curve": done.curve,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds, 1),
    }


def make_model(case: Record) -> Readout:
    task = TASKS[case["task"]]
    inputs = draw(task, 1, 1, torch.Generator()).inputs.shape[-1]
    net = NETS[case["net"]]
    layer = cw.Recurrent(net.cell, inputs, case["hidden"], **net.options)
    if case["net"] in ("lru", "rg_lru"):
        cw.init.ring_(layer)
    return Readout(layer, task.things**2)


def draw(task: Task, count: int, length: int, generator: torch.Generator) -> Sequences:
    return permutations(count, length, task.things, generator, swaps=task.swaps)


def training_batch(case: Record, generator: torch.Generator) -> Sequences:
    """Sequences of one length, drawn anew for every batch: short ones teach first."""
    length = int(torch.randint(2, case["longest"] + 1, (), generator=generator))
    return draw(TASKS[case["task"]], BATCH, length, generator)


def answers(model: nn.Module, batch: Sequences) -> Tensor:
    """(T, B, things, things): scores of every place, for each thing."""
    things = batch.targets.shape[-1]
    return model(batch.inputs)[0].unflatten(-1, (things, things))


def loss(model: nn.Module, batch: Sequences) -> Tensor:
    scores = answers(model, batch).flatten(0, 2)
    return F.cross_entropy(scores, batch.targets.flatten())


@torch.no_grad()
def accuracy(model: nn.Module, task: str, length: int) -> Tensor:
    """(T,): after every step, the share of sequences with every thing in its place."""
    batch = draw(TASKS[task], TESTED, length, torch.Generator().manual_seed(1000))
    found = answers(model, batch).argmax(-1)
    return (found == batch.targets).all(-1).double().mean(1)


# -- what it shows -------------------------------------------------------------


def curve(rows: Rows, task: str, net: str) -> list[float]:
    """Accuracy over `LENGTHS`, in per cent: the median of the seeds."""
    runs = rows.where(task=task, net=net).column("accuracy")
    return [
        100 * sorted(values)[len(values) // 2] for values in zip(*runs, strict=True)
    ]


def level(rows: Rows, task: str, net: str, share: float) -> float:
    return curve(rows, task, net)[LENGTHS.index(share)]


def chance(task: Task) -> float:
    """Accuracy of a guess, in per cent: by swaps, only half of all can be reached."""
    count = math.factorial(task.things)
    return 100 / (count / 2 if task.swaps else count)


def tables(rows: Rows) -> list[Table]:
    return [_table(rows, task) for task in rows.values("task")]


def _table(rows: Rows, key: str) -> Table:
    task, first = TASKS[key], rows.where(task=key).rows[0]
    body = []
    for net in rows.where(task=key).values("net"):
        runs = rows.where(task=key, net=net)
        found = (f"{value:.0f}" for value in curve(rows, key, net))
        seconds = round(runs.median("cpu_seconds"))
        parameters = runs.rows[0]["parameters"]
        body.append((NETS[net].name, NETS[net].kind, *found, parameters, seconds))
    seeds = len(rows.where(task=key).values("seed"))
    return Table(
        f"{task.title}: accuracy (%) after as many steps; {first['longest']} were the "
        "most in training",
        ("net", "old state", *map(str, first["lengths"]), "parameters", "CPU s"),
        tuple(body),
        f"One layer of {first['hidden']} units, {first['steps']} steps of {BATCH} "
        f"sequences, tested on {TESTED}; "
        + ("one seed. " if seeds == 1 else f"the median of {seeds} seeds. ")
        + f"{chance(task):.3g} % by chance.",
    )


def plot(rows: Rows, figure: Figure) -> None:
    keys = rows.values("task")
    axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for key, ax in zip(keys, axes, strict=True):
        lengths = rows.where(task=key).rows[0]["lengths"]
        for k, net in enumerate(NETS):
            if net in rows.where(task=key).values("net"):
                ax.plot(lengths, curve(rows, key, net), label=NETS[net].name, **look(k))
        ax.axvline(lengths[LENGTHS.index(1)], color="#555555", linewidth=0.8)
        ax.set_xscale("log", base=2)
        ax.set_xticks(lengths, [str(length) for length in lengths])
        ax.set_ylim(-3, 105)
        label(ax, TASKS[key].title, "steps", "every thing in its place (%)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, fontsize=8.5)


NONLINEAR = ("slstm", "lstm")
NEVER_NEGATIVE = ("lru", "min_gru", "rg_lru", "delta_net")


def claims(rows: Rows) -> list[Claim]:
    """What theory expects; those of S5 are of the full form."""
    return [claim for task in rows.values("task") for claim in _CLAIMS[task](rows)]


def _extreme(
    rows: Rows,
    task: str,
    nets: tuple[str, ...],
    share: float,
    pick: Callable[..., float],
) -> float:
    """The lowest or highest accuracy among the nets that ran."""
    ran = rows.where(task=task).values("net")
    return pick(level(rows, task, net, share) for net in nets if net in ran)


def _of_parity(rows: Rows) -> list[Claim]:
    return [
        Claim(
            "Parity, nonlinear nets: lowest accuracy at 8 times the longest trained "
            "length (%)",
            _extreme(rows, "parity", NONLINEAR, 8, min),
            low=99.0,
        ),
        Claim(
            "Parity, no factor that x makes negative: highest accuracy at the longest "
            "trained length (%)",
            _extreme(rows, "parity", NEVER_NEGATIVE, 1, max),
            high=65.0,
        ),
        Claim(
            "Parity, minGRU with factors of −1 to 1: accuracy at twice the longest "
            "trained length (%)",
            level(rows, "parity", "signed_min_gru", 2),
            low=90.0,
        ),
    ]


def _of_s5(rows: Rows, task: str) -> list[Claim]:
    title = TASKS[task].title
    at = "at the longest trained length (%)"
    return [
        Claim(
            f"{title}, nonlinear nets: lowest accuracy {at}",
            _extreme(rows, task, NONLINEAR, 1, min),
            low=80.0,
        ),
        Claim(
            f"{title}, a factor of −1 to 1 for each unit: accuracy {at}",
            level(rows, task, "signed_min_gru", 1),
            high=50.0,
        ),
        Claim(
            f"{title}, one reflection a step: accuracy of DeltaNet {at}",
            level(rows, task, "signed_delta_net", 1),
            **({"low": 70.0} if TASKS[task].swaps else {"high": 50.0}),
        ),
    ]


_CLAIMS: dict[str, Callable[[Rows], list[Claim]]] = {
    "parity": _of_parity,
    "swaps": partial(_of_s5, task="swaps"),
    "S5": partial(_of_s5, task="S5"),
}


def conclude(rows: Rows) -> str:
    return " ".join(_sentence(rows, task) for task in rows.values("task"))


def _sentence(rows: Rows, key: str) -> str:
    lengths = rows.where(task=key).rows[0]["lengths"]
    trained, last = lengths[LENGTHS.index(1)], lengths[-1]
    parts = []
    for net in rows.where(task=key).values("net"):
        found = (level(rows, key, net, share) for share in (1, LENGTHS[-1]))
        parts.append(f"{NETS[net].name} " + " and ".join(f"{v:.0f} %" for v in found))
    return (
        f"{TASKS[key].title}, trained on up to {trained} steps: after {trained} and "
        f"after {last} steps, every thing is in its place in so many sequences: "
        f"{', '.join(parts)}."
    )


EXPERIMENT = Experiment(
    name="state-tracking",
    question="Which recurrent nets can keep track of a state, at any length?",
    minutes=5,
    cases=cases,
    run=run,
    tables=tables,
    draw=plot,
    claims=claims,
    conclude=conclude,
)
