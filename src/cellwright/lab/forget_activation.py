"""Could the forget gate use another function than the sigmoid, and why (not)?

The gate multiplies the cell state at every step: f below 1 lets it die, above 1 makes
it grow without bound, below 0 turns its sign. Nine functions in the one cell, by
`cells.lstm.replace(f=…)`: the state and its gradient before training, then what each
learns on two tasks, and what is left of it on sequences longer than those of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw

from .experiment import Claim, Experiment, Record, Rows, Table
from .jacobian import norms_back, step_jacobians
from .models import Readout
from .plotting import label, look
from .standout import flip_flop
from .tasks import Sequences, adding
from .training import Training, finite, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The function in the language, the same in torch, and the range of its values.
ACTIVATIONS: dict[str, tuple[Any, Callable[[Tensor], Tensor], str]] = {
    "sigmoid": (cw.sigmoid, torch.sigmoid, "(0, 1)"),
    "hard_sigmoid": (cw.hard_sigmoid, F.hardsigmoid, "[0, 1]"),
    "step": (cw.step, lambda v: (v > 0).to(v.dtype), "0 or 1"),
    "tanh": (cw.tanh, torch.tanh, "(−1, 1)"),
    "softsign": (cw.softsign, F.softsign, "(−1, 1)"),
    "relu": (cw.relu, torch.relu, "[0, ∞)"),
    "softplus": (cw.softplus, F.softplus, "(0, ∞)"),
    "exp": (cw.exp, torch.exp, "(0, ∞)"),
    "identity": (cw.identity, lambda v: v, "(−∞, ∞)"),
}
UNITS = 32
TRAINED = 64  # steps of a flip-flop sequence in training
PLACES = (10, 100, 1000)  # steps after which the untrained state is looked at
HUGE = 1e30  # a state beyond is taken for one without bound


def cases(quick: bool, seed: int) -> list[Record]:
    seeds = range(seed, seed + (1 if quick else 3))
    start = [{"part": "start", "f": f, "seed": s} for f in ACTIVATIONS for s in seeds]
    train = [
        {
            "part": "flip-flop",
            "f": f,
            "seed": s,
            "updates": 400 if quick else 2000,
            "lengths": [TRAINED, 1024 if quick else 4096],
        }
        for f in ACTIVATIONS
        for s in seeds
    ]
    add = [
        {"part": "adding", "f": f, "seed": s, "updates": 1200, "steps": 30}
        for f in ACTIVATIONS
        for s in seeds
        if not quick
    ]
    return start + train + add


def build(activation: str, inputs: int, dtype: torch.dtype | None = None) -> Any:
    """An LSTM with that function on its forget gate; the gate's bias is 1."""
    changed = cw.cells.lstm.replace(f=ACTIVATIONS[activation][0])
    return cw.init.forget_bias_(cw.Recurrent(changed, inputs, UNITS, dtype=dtype))


def start(case: Record) -> Record:
    """The cell state on a long stream before training, and how the gradient flows."""
    layer = build(case["f"], 3, torch.float64)
    x, _ = flip_flop(8, max(PLACES), torch.Generator().manual_seed(case["seed"]))
    sizes = {}
    with torch.no_grad():
        for steps in PLACES:
            _, (_, c) = layer(x[:steps].double())
            sizes[str(steps)] = _bounded(c.square().mean().sqrt().item())
    norms = norms_back(step_jacobians(layer, x[:50, 0].double())[0], UNITS)
    return {"state": sizes, "gradient_rate": (norms[50] / norms[10]) ** (1 / 40)}


def flip_flops(case: Record) -> Record:
    """Train on flip-flops; wrong answers, gate and state, at that length and later."""
    model = Readout(build(case["f"], 3), 1)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0])[0], batch[1])

    fitted = fit(
        model,
        lambda generator: flip_flop(32, TRAINED, generator),
        loss,
        Training(steps=case["updates"], lr=3e-3, seed=case["seed"]),
    )
    model.eval()
    found: Record = {"diverged": fitted.diverged, "wrong": {}, "state": {}, "gate": {}}
    for steps in case["lengths"]:
        generator = torch.Generator().manual_seed(steps)
        x, answer = flip_flop(16, steps, generator, rate=0.01)
        with torch.no_grad():
            logits, (_, c) = model(x)
            wrong = (~((logits > 0) == (answer > 0.5)) | logits.isnan()).float().mean()
            found["wrong"][str(steps)] = wrong.item()
            found["state"][str(steps)] = _bounded(c.abs().max().item())
            found["gate"][str(steps)] = _gate_range(case["f"], model, x)
    return found


def _gate_range(activation: str, model: Readout, x: Tensor) -> list[float] | None:
    """The gate's 1st and 99th percentile over all units and steps but the first."""
    h, _ = model.layer(x)
    pre = model.layer.cells[0].f(h[:-1], x[1:])  # type: ignore[operator]
    values = ACTIVATIONS[activation][1](pre).flatten()
    if not values.isfinite().all():
        return None
    ordered = values.sort().values
    return [ordered[round(q * (len(ordered) - 1))].item() for q in (0.01, 0.99)]


def add(case: Record) -> Record:
    """Train on the adding problem: to hold a number, and add another."""
    model = Readout(build(case["f"], 2), 1)
    test = adding(500, case["steps"], torch.Generator().manual_seed(10_000))

    def loss(model: nn.Module, batch: Sequences) -> Tensor:
        return (model(batch.inputs)[0][-1] - batch.targets).square().mean()

    fitted = fit(
        model,
        lambda generator: adding(32, case["steps"], generator),
        loss,
        Training(steps=case["updates"], lr=3e-3, seed=case["seed"]),
        evaluate=lambda model: loss(model, test).item(),
        solved=lambda score: score < 0.01,
    )
    return {
        "error": finite(fitted.best),
        "solved_at": fitted.solved_at,
        "diverged": fitted.diverged,
    }


PARTS: dict[str, Callable[[Record], Record]] = {
    "start": start,
    "flip-flop": flip_flops,
    "adding": add,
}


def run(case: Record) -> Record:
    return PARTS[case["part"]](case)


def _bounded(size: float) -> float | None:
    """None where the state has no bound: too large, or no number any more."""
    return size if math.isfinite(size) and size < HUGE else None


# -- what is said ------------------------------------------------------------------


def middle(values: list[float | None]) -> float:
    """The median; None counts as infinite."""
    ordered = sorted(math.inf if v is None else v for v in values)
    return ordered[len(ordered) // 2]


def state_at(rows: Rows, f: str, steps: int) -> float:
    column = rows.where(part="start", f=f).column("state")
    return middle([state[str(steps)] for state in column])


def wrong_at(rows: Rows, f: str, steps: int) -> float:
    column = rows.where(part="flip-flop", f=f).column("wrong")
    return middle([wrong[str(steps)] for wrong in column])


def lengths(rows: Rows) -> tuple[int, int]:
    near, far = rows.where(part="flip-flop").rows[0]["lengths"]
    return near, far


def tables(rows: Rows) -> list[Table]:
    found = [_state_table(rows), _flip_flop_table(rows)]
    if added := rows.where(part="adding"):
        found.append(_adding_table(added))
    return found


def _state_table(rows: Rows) -> Table:
    lines = [
        (
            f,
            ACTIVATIONS[f][2],
            *(_size(state_at(rows, f, p)) for p in PLACES),
            rows.where(part="start", f=f).spread("gradient_rate"),
        )
        for f in ACTIVATIONS
    ]
    return Table(
        "Before training, forget bias 1: size of the state on a random stream",
        ("f", "range", *(f"step {p}" for p in PLACES), "gradient per step"),
        tuple(lines),
        "The root mean square of c; ∞ beyond 1e30. The gradient: the factor by "
        "which ‖∂h_T/∂s_{T−k}‖ changes with k.",
    )


def _flip_flop_table(rows: Rows) -> Table:
    near, far = lengths(rows)
    lines = []
    for f in ACTIVATIONS:
        runs = rows.where(part="flip-flop", f=f)
        errors, gates = runs.column("wrong"), runs.column("gate")
        lines.append(
            (
                f,
                *(_percent([wrong[str(n)] for wrong in errors]) for n in (near, far)),
                *(_range([gate[str(n)] for gate in gates]) for n in (near, far)),
                _size(middle([s[str(far)] for s in runs.column("state")])),
            )
        )
    return Table(
        f"Flip-flop, trained on {near} steps: wrong answers in %, and the gate",
        (
            "f",
            f"wrong, {near}",
            f"{far} steps",
            f"gate, {near}",
            f"{far} steps",
            f"largest |c|, {far}",
        ),
        tuple(lines),
        "The gate: its 1st to 99th percentile over units and steps, first seed. An "
        "answer that is no number counts as wrong.",
    )


def _adding_table(added: Rows) -> Table:
    lines = []
    for f in ACTIVATIONS:
        runs = added.where(f=f)
        times = [str(s) for s in runs.column("solved_at") if s is not None]
        lines.append(
            (
                f,
                middle(runs.column("error")),
                f"{len(times)} of {len(runs)}",
                ", ".join(times),
            )
        )
    return Table(
        f"Adding problem, {added.rows[0]['steps']} steps, {added.rows[0]['updates']} "
        "updates at most",
        ("f", "best error", "solved", "updates"),
        tuple(lines),
        "Mean squared error, median; 0.167 is to guess; solved is below 0.01.",
    )


def _size(value: float) -> str:
    return "∞" if value == math.inf else f"{value:.2g}"


def _percent(values: list[float]) -> str:
    low, high = min(values), max(values)
    text = f"{100 * middle(list(values)):.2g}"
    return text if len(values) == 1 else f"{text} ({100 * low:.2g}–{100 * high:.2g})"


def _range(ranges: list[list[float] | None]) -> str:
    first = ranges[0]
    return "no number" if first is None else f"{first[0]:.2g} to {first[1]:.2g}"


def draw(rows: Rows, figure: Figure) -> None:
    near, far = lengths(rows)
    figure.set_size_inches(12, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 4))
    for k, f in enumerate(ACTIVATIONS):
        sizes = [min(state_at(rows, f, p), HUGE) for p in PLACES]
        left.plot(PLACES, sizes, label=f, **look(k))
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_ylim(1e-3, 1e12)
    label(left, "The state before training", "steps", "root mean square of c")
    left.legend(ncols=2)
    places = range(len(ACTIVATIONS))
    for shift, steps, k, hatch in ((-0.2, near, 0, ""), (0.2, far, 1, "//")):
        values = [100 * wrong_at(rows, f, steps) for f in ACTIVATIONS]
        bars = right.bar(
            [p + shift for p in places],
            values,
            0.38,
            color=look(k)["color"],
            hatch=hatch,
            edgecolor="white",
            label=f"{steps} steps",
        )
        right.bar_label(bars, fmt="%.0f", fontsize=8)
    right.set_xticks(list(places), list(ACTIVATIONS), rotation=30, ha="right")
    right.grid(axis="x", visible=False)
    label(right, f"Flip-flop, trained on {near} steps", "", "wrong answers, %")
    right.legend(title="tested on")


def claims(rows: Rows) -> list[Claim]:
    _, far = lengths(rows)
    inside = ("sigmoid", "hard_sigmoid")
    return [
        Claim(
            "sigmoid, hard sigmoid: wrong on flip-flops of many times the length",
            max(wrong_at(rows, f, far) for f in inside),
            high=0.05,
        ),
        Claim(
            "sigmoid, hard sigmoid: state after 1000 steps, untrained, at worst",
            max(state_at(rows, f, 1000) for f in inside),
            high=10,
        ),
        Claim(
            "exp: log10 of the state after 100 steps, untrained",
            _digits(state_at(rows, "exp", 100)),
            low=6,
        ),
        Claim(
            "softplus: log10 of the state after 1000 steps, untrained",
            _digits(state_at(rows, "softplus", 1000)),
            low=6,
        ),
        Claim("exp: wrong at the long sequences", wrong_at(rows, "exp", far), low=0.1),
    ]


def _digits(size: float) -> float:
    return math.log10(min(max(size, 1 / HUGE), HUGE))


def conclude(rows: Rows) -> str:
    near, far = lengths(rows)
    holds = [f for f in ACTIVATIONS if wrong_at(rows, f, far) < 0.02]
    loses = [
        f
        for f in ACTIVATIONS
        if wrong_at(rows, f, near) < 0.02 <= wrong_at(rows, f, far)
    ]
    fails = [f for f in ACTIVATIONS if wrong_at(rows, f, near) >= 0.02]
    grows = [f for f in ACTIVATIONS if state_at(rows, f, 1000) > 1e6]
    return (
        f"Others can be used: {_list(holds)} answer the flip-flop at {far} steps as "
        f"well as at the {near} of training. {_list(loses)}: learned, and lost on "
        f"longer sequences; {_list(fails)}: not learned in time. A gate above 1 "
        f"multiplies: before training the state of {_list(grows)} has grown beyond a "
        "million after a thousand steps. A gate in (0, 1) is a share that is kept: the "
        "state is bounded, nothing turns its sign, 1 holds it and 0 deletes it; and "
        "the gradient along c is that same factor, so it does not explode."
        f"{_about_adding(rows.where(part='adding'))}"
    )


def _about_adding(added: Rows) -> str:
    if not added:
        return ""
    solved = [
        f
        for f in ACTIVATIONS
        if all(s is not None for s in added.where(f=f).column("solved_at"))
    ]
    return f" The adding problem was solved, with every seed, by {_list(solved)}."


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"


EXPERIMENT = Experiment(
    name="forget-activation",
    question="Could the forget gate use another function than the sigmoid?",
    minutes=5,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
