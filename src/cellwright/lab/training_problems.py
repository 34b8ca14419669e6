"""Which problems occur when recurrent nets are trained, and what helps?

Two parts. *Flow*: ‖∂h_T/∂h_{T−k}‖ against k, by cell and spectral radius of the
recurrent matrices. It shrinks or grows geometrically (Hochreiter 1991; Bengio, Simard &
Frasconi 1994; Pascanu, Mikolov & Bengio 2013); for a linear net with ρ times an
orthogonal matrix it is ρ^k exactly, which holds the measurement to the truth.
*Remedies*: each by itself on one task, the adding problem, against the plain net.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import cellwright as cw
from cellwright import cell, layer_norm, tanh

from ..train.bptt import detach
from .experiment import Claim, Experiment, Record, Rows, Table
from .jacobian import norms_back, step_jacobians
from .models import Readout
from .plotting import label, look
from .tasks import Sequences, adding
from .training import Training, finite, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GUESS = 1 / 6  # mean squared error of always answering 1, the mean: 0.167
SOLVED = 0.01  # mean squared error on the test sequences
EVERY = 20  # steps between two norms in the result
SMALLEST = 1e-300  # norms below are written as this: their logarithm must exist


@cell
def linear(W, x, h):
    """A recurrent net without nonlinearity: the gradient's flow is known exactly."""
    return W.h(h, x)


@cell
def skip(W, x, h, h2, h3, h4):
    """A simple recurrent net that also reads its state of four steps before.

    Skip connections through time (Lin et al. 1996; Goodfellow et al. 2016, section
    10.9.1): k steps back are k/4 products.
    """
    return tanh(W.h(h, h4, x)), h, h2, h3


@cell
def normalised(W, x, h):
    """A simple recurrent net with layer normalisation (Ba et al. 2016, eq. 4)."""
    a = W.h(h, x, bias=False)
    return tanh(W.vector("gain", init=1.0) * layer_norm(a) + W.vector("b", init=0.0))


# -- the flow of the gradient ------------------------------------------------------

FLOW_CELLS: dict[str, cw.Cell] = {
    "linear": linear,
    "tanh": cw.cells.rnn,
    "ReLU": cw.cells.rnn_relu,
    "LSTM": cw.cells.lstm,
    "LSTM, forget bias 3": cw.cells.lstm,
    "GRU": cw.cells.gru_bias,
}
RADII = (0.5, 0.9, 1.0, 1.1, 1.5)
UNITS, INPUTS = 32, 4


def flow(case: Record) -> Record:
    """Norms of the gradient k steps back, at the start of training, in float64."""
    layer = cw.Recurrent(FLOW_CELLS[case["cell"]], INPUTS, UNITS, dtype=torch.float64)
    cw.init.orthogonal_(layer, case["radius"])  # an orthogonal matrix has radius 1
    if case["cell"].endswith("forget bias 3"):
        cw.init.forget_bias_(layer, 3.0)
    x = torch.randn(case["steps"], INPUTS, dtype=torch.float64)
    norms = norms_back(step_jacobians(layer, x)[0], UNITS)
    # The rate is of the second half: what the first input did is over by then.
    half = case["steps"] // 2
    ratio = max(norms[-1], SMALLEST) / max(norms[half], SMALLEST)
    return {
        "norms": [[k, float(f"{norms[k]:.4g}")] for k in range(0, len(norms), EVERY)],
        "rate": ratio ** (1 / (case["steps"] - half)),
        "off_power": max(abs(n / case["radius"] ** k - 1) for k, n in enumerate(norms)),
    }


# -- the remedies ------------------------------------------------------------------


@dataclass(frozen=True)
class Remedy:
    """One way to train the task.

    Attributes:
        title: in the table.
        against: the remedy that it changes in one point.
        cell: of the layer; `options` are its hyperparameters.
        prepare: initialises the layer.
        clip: limit of the gradient's norm; None for no clipping.
        window: the last part of the sequence that the gradient flows through.
    """

    title: str
    against: str
    cell: cw.Cell
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[cw.Recurrent], Any] = lambda layer: layer
    clip: float | None = 1.0
    window: float = 1.0


REMEDIES = {
    "plain": Remedy("tanh RNN", "", cw.cells.rnn, clip=None),
    "clipping": Remedy("+ clipping", "plain", cw.cells.rnn),
    "orthogonal": Remedy(
        "+ orthogonal",
        "clipping",
        cw.cells.rnn,
        prepare=cw.init.orthogonal_,
    ),
    "identity, no clipping": Remedy(
        "ReLU, identity",
        "plain",
        cw.cells.rnn_relu,
        prepare=cw.init.identity_,
        clip=None,
    ),
    "identity": Remedy(
        "ReLU, identity, clipping",
        "identity, no clipping",
        cw.cells.rnn_relu,
        prepare=cw.init.identity_,
    ),
    "leaky": Remedy("+ leaky units", "clipping", cw.cells.leaky_rnn, {"alpha": 0.1}),
    "skip": Remedy("+ skips of 4", "clipping", skip),
    "layer norm": Remedy("+ layer norm", "clipping", normalised),
    "GRU": Remedy("gates: GRU", "clipping", cw.cells.gru_bias),
    "LSTM": Remedy("gates: LSTM", "clipping", cw.cells.lstm),
    "forget bias": Remedy(
        "LSTM, forget bias 2",
        "LSTM",
        cw.cells.lstm,
        prepare=lambda layer: cw.init.forget_bias_(layer, 2.0),
    ),
    "short window": Remedy(
        "the same, window T/4",
        "forget bias",
        cw.cells.lstm,
        prepare=lambda layer: cw.init.forget_bias_(layer, 2.0),
        window=0.25,
    ),
}


def remedy(case: Record) -> Record:
    """Train the adding problem one way."""
    how, length = REMEDIES[case["remedy"]], case["steps"]
    layer = cw.Recurrent(how.cell, 2, case["units"], **how.options)
    how.prepare(layer)
    model = Readout(layer, 1)
    reach = reaching(layer, length)
    test = adding(500, length, torch.Generator().manual_seed(1000 + case["seed"]))
    split = length - round(how.window * length)

    def loss(model: Any, batch: Sequences) -> Tensor:
        state = None
        if split:
            state = detach(model(batch.inputs[:split])[1])
        y, _ = model(batch.inputs[split:], state)
        return (y[-1] - batch.targets).square().mean()

    fitted = fit(
        model,
        lambda generator: adding(32, length, generator),
        loss,
        Training(
            steps=case["updates"],
            lr=3e-3,
            seed=case["seed"],
            clip_norm=how.clip,
            every=case["updates"] // 20,
        ),
        evaluate=lambda model: loss(model, test).item(),
        solved=lambda score: score < SOLVED,
    )
    return {
        "reach": reach,
        "curve": [[step, finite(score)] for step, score in fitted.scores],
        "best": finite(fitted.best),
        "last": finite(fitted.score),
        "solved_at": fitted.solved_at,
        "diverged": fitted.diverged,
        "largest_norm": finite(fitted.largest_norm),
    }


def reaching(layer: cw.Recurrent, length: int) -> float:
    """‖∂h_T/∂s_1‖ on one sequence of the task, before training."""
    generator = torch.Generator().manual_seed(0)
    x = adding(1, length, generator).inputs[:, 0]
    jacobians, _ = step_jacobians(layer, x)
    return norms_back(jacobians[1:], layer.hidden_size)[-1]


def cases(quick: bool, seed: int) -> list[Record]:
    seeds = range(seed, seed + (1 if quick else 3))
    steps, updates = (40, 1500) if quick else (100, 4000)
    flows = [
        {
            "part": "flow",
            "cell": c,
            "radius": r,
            "steps": 60 if quick else 200,
            "seed": s,
        }
        for c in FLOW_CELLS
        for r in RADII
        for s in seeds
    ]
    remedies = [
        {
            "part": "remedy",
            "remedy": name,
            "steps": steps,
            "units": 32,
            "updates": updates,
            "seed": s,
        }
        for name in REMEDIES
        for s in seeds
    ]
    return flows + remedies


PARTS: dict[str, Callable[[Record], Record]] = {"flow": flow, "remedy": remedy}


def run(case: Record) -> Record:
    return PARTS[case["part"]](case)


# -- what is said ------------------------------------------------------------------


def oracle_error(rows: Rows) -> float:
    """How far the linear net's norms are from ρ^k, relative, at worst."""
    return max(rows.where(part="flow", cell="linear").column("off_power"))


def solved(rows: Rows, name: str) -> float:
    """The part of the seeds that solve the task this way."""
    steps = rows.where(part="remedy", remedy=name).column("solved_at")
    return sum(s is not None for s in steps) / len(steps)


def updates(rows: Rows, name: str) -> float:
    """The median of the updates to the solution; of all of them where there is none."""
    runs = rows.where(part="remedy", remedy=name)
    return statistics.median(r["solved_at"] or r["updates"] for r in runs)


def best(rows: Rows, name: str) -> float:
    """The median over seeds of the lowest error; a run without one counts as inf."""
    values = rows.where(part="remedy", remedy=name).column("best")
    return sorted(math.inf if v is None else v for v in values)[len(values) // 2]


def tables(rows: Rows) -> list[Table]:
    flows, trained = rows.where(part="flow"), rows.where(part="remedy")
    rates = [
        (f"{name}", *(flows.where(cell=name, radius=r).spread("rate") for r in RADII))
        for name in FLOW_CELLS
    ]
    length = trained.rows[0]["steps"]
    return [
        Table(
            "Factor per step by which the gradient's norm changes, by spectral radius "
            f"of the recurrent matrices ({UNITS} units, before training)",
            ("cell", *(f"ρ = {r}" for r in RADII)),
            tuple(rates),
            f"The linear net must give ρ: it does to {oracle_error(rows):.0e} over "
            f"{flows.rows[0]['steps']} steps. LSTM and GRU: ρ of every gate's matrix.",
        ),
        Table(
            f"Remedies on the adding problem, {length} steps, "
            f"{trained.rows[0]['units']} units, at most "
            f"{trained.rows[0]['updates']} updates of 32 sequences (Adam, 0.003)",
            (
                "remedy",
                "reaches step 1",
                "largest norm",
                "best error",
                "solved",
                "updates",
            ),
            tuple(_remedy_row(trained, name) for name in REMEDIES),
            "Rows with + have clipping. Reaches step 1: ‖∂h_T/∂s_1‖ before training. "
            "Largest norm: of a gradient before clipping. Best error: "
            f"mean squared, on 500 other sequences, median; {GUESS:.3f} is to guess. "
            f"Solved: below {SOLVED}, then the run ends. One learning rate for all.",
        ),
    ]


def _remedy_row(trained: Rows, name: str) -> tuple[Any, ...]:
    runs = trained.where(remedy=name)
    times = sorted(s for s in runs.column("solved_at") if s is not None)
    norms = [n for n in runs.column("largest_norm") if n is not None]
    return (
        REMEDIES[name].title,
        runs.spread("reach", 2),
        f"{max(norms):.2g}" if norms else None,
        best(trained, name),
        f"{len(times)} of {len(runs)}",
        ", ".join(map(str, times)),
    )


def draw(rows: Rows, figure: Figure) -> None:
    flows, trained = rows.where(part="flow"), rows.where(part="remedy")
    figure.set_size_inches(12, 7.5)
    grid = figure.add_gridspec(2, 4)
    for place, name in enumerate(("tanh", "ReLU", "LSTM", "LSTM, forget bias 3")):
        _draw_flow(figure.add_subplot(grid[0, place]), flows, name)
    figure.axes[0].set_ylabel("‖∂h(T) / ∂h(T−k)‖")
    figure.axes[-1].legend(loc="lower left")
    axes = figure.add_subplot(grid[1, :3])
    for k, name in enumerate(DRAWN):
        curve = _median_curve(trained.where(remedy=name))
        axes.plot(*curve, label=REMEDIES[name].title.removeprefix("+ "), **look(k))
    axes.axhline(GUESS, color="#888888", linewidth=1, zorder=0)
    axes.set_yscale("log")
    label(
        axes,
        "Adding problem, by remedy (the grey line is to guess)",
        "updates",
        "mean squared error",
    )
    side = figure.add_subplot(grid[1, 3])
    side.axis("off")
    side.legend(*axes.get_legend_handles_labels(), loc="center left")


#: The remedies that are drawn: one picture has room for eight curves.
DRAWN = (
    "clipping",
    "orthogonal",
    "identity, no clipping",
    "identity",
    "skip",
    "GRU",
    "LSTM",
    "forget bias",
)


def _draw_flow(axes: Any, flows: Rows, name: str) -> None:
    for k, radius in enumerate(RADII):
        runs = flows.where(cell=name, radius=radius)
        places = [k for k, _ in runs.rows[0]["norms"]]
        by_step = zip(*runs.column("norms"), strict=True)
        norms = [statistics.median(norm for _, norm in pairs) for pairs in by_step]
        style = {**look(k), "marker": None}  # lines alone: the points are a sample
        drawn = [max(n, SMALLEST) for n in norms]
        axes.plot(places, drawn, label=f"ρ = {radius}", **style)
    axes.set_yscale("log")
    axes.set_ylim(1e-15, 1e9)
    label(axes, name, "k, steps back", "")


def _median_curve(runs: Rows) -> tuple[list[int], list[float]]:
    """Median over seeds; a solved run stays where it ended."""
    steps = sorted({step for row in runs for step, _ in row["curve"]})
    medians = []
    for step in steps:
        values = [_score_at(row["curve"], step) for row in runs]
        medians.append(sorted(values)[len(values) // 2])
    return steps, medians


def _score_at(curve: list[list[float]], step: int) -> float:
    return next((y for s, y in reversed(curve) if s <= step and y is not None), GUESS)


def claims(rows: Rows) -> list[Claim]:
    return [*_flow_claims(rows), *_remedy_claims(rows)]


def _flow_claims(rows: Rows) -> list[Claim]:
    flows = rows.where(part="flow")

    def rate(cell: str, radius: float) -> float:
        return flows.where(cell=cell, radius=radius).median("rate")

    return [
        Claim(
            "a linear net with ρ × orthogonal has the gradient ρ^k: relative error",
            oracle_error(rows),
            high=1e-6,
        ),
        Claim("tanh, ρ = 0.5: factor per step (vanishing)", rate("tanh", 0.5), 0, 0.5),
        Claim(
            "ReLU, ρ = 1.5: factor per step over its ρ = 1's",
            rate("ReLU", 1.5) / rate("ReLU", 1.0),
            1.2,
            2.0,
        ),
        Claim(
            "LSTM, ρ = 0.5: factor per step, over tanh's",
            rate("LSTM", 0.5) / rate("tanh", 0.5),
            low=1.1,
        ),
    ]


def _remedy_claims(rows: Rows) -> list[Claim]:
    trained = rows.where(part="remedy")

    def largest(name: str) -> float:
        norms = trained.where(remedy=name).column("largest_norm")
        return max(math.inf if n is None else n for n in norms)

    return [
        Claim(
            "the plain net solves the task: part of the seeds",
            solved(rows, "plain"),
            high=0.0,
        ),
        Claim(
            "forget bias 2: its LSTM solves the task",
            solved(rows, "forget bias"),
            low=0.6,
        ),
        Claim("GRU solves the task", solved(rows, "GRU"), low=0.6),
        Claim(
            "ReLU with identity explodes: largest gradient norm over the plain net's",
            largest("identity, no clipping") / largest("plain"),
            low=5.0,
        ),
        Claim(
            "clipping lets it learn sooner: updates without over those with clipping",
            updates(rows, "identity, no clipping") / updates(rows, "identity"),
            low=1.2,
        ),
        Claim(
            "a window of T/4 needs longer: updates over those with the whole gradient",
            updates(rows, "short window") / updates(rows, "forget bias"),
            low=1.1,
        ),
    ]


def conclude(rows: Rows) -> str:
    flows = rows.where(part="flow")
    shrink = flows.where(cell="tanh", radius=0.9).median("rate")
    grow = flows.where(cell="ReLU", radius=1.5).median("rate")
    helped = [n for n in REMEDIES if solved(rows, n) > 0.5]
    failed = [n for n in REMEDIES if solved(rows, n) <= 0.5]
    return (
        "A gradient through time is a product of as many Jacobians as there are steps, "
        f"so it changes geometrically: by {shrink:.2f} a step for tanh at ρ = 0.9 "
        f"({shrink**100:.0e} over a hundred steps: it vanishes), by {grow:.2f} for "
        f"ReLU at ρ = 1.5 ({grow**100:.0e}: it explodes). On the adding problem "
        f"{_list(helped)} solved the task in time; {_list(failed)} did not. A gradient "
        "cut to the last quarter of the steps took "
        f"{updates(rows, 'short window'):.0f} updates against "
        f"{updates(rows, 'forget bias'):.0f}: it can only teach how to read what the "
        "state happens to carry over the cut."
    )


def _list(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


EXPERIMENT = Experiment(
    name="training-problems",
    question="Which problems occur in training recurrent nets, and what helps?",
    minutes=6,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
