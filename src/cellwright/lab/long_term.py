"""What is an LSTM, and how does it address the learning of long-term dependencies?

Three parts. `lags`: the tasks of Hochreiter & Schmidhuber 1997, sequences until solved
beside theirs. `adding` and `copy`: the tasks of Arjovsky et al. 2016 beside Bai et al.
2018, and chrono initialisation (Tallec & Ollivier 2018) against a forget bias of 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw
from cellwright import cell, sigmoid, tanh

from . import tasks
from .experiment import Claim, Experiment, Record, Rows, Table
from .models import Readout
from .plotting import label, look
from .tasks import Sequences
from .training import Fit, Training, fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BATCH = 32
RATE = 0.01
EVERY = 50  # steps between two tests


@cell
def lstm_1997(W, x, h, c):
    """The LSTM of 1997: no forget gate, so an error flows back through c unchanged.

    Hochreiter & Schmidhuber, section 4; g has the range (−2, 2), h (−1, 1).
    """
    i = sigmoid(W.i(h, x))
    g = 2 * tanh(W.g(h, x))
    c = c + i * g
    o = sigmoid(W.o(h, x))
    return o * tanh(c), c


# -- the nets ------------------------------------------------------------------


def _remember_1997(layer: cw.Recurrent, longest: int) -> None:
    """Input gates begin nearly closed, each more than the one before (section 4)."""
    for weights in layer.cells:
        weights.i.fill_bias_(torch.linspace(0.0, -6.0, layer.hidden_size))  # type: ignore[operator,union-attr]


def _chrono(**gates: str) -> Callable[[cw.Recurrent, int], None]:
    return lambda layer, longest: cw.init.chrono_(layer, longest, **gates) and None


@dataclass(frozen=True)
class Net:
    """A cell of the comparison, and how its gates are set to remember long."""

    name: str
    cell: cw.Cell
    initialise: Callable[[cw.Recurrent, int], object] = lambda layer, longest: None


NETS = {
    "rnn": Net("RNN", cw.cells.rnn),
    "lstm-bias-1": Net(
        "LSTM, forget bias 1",
        cw.cells.lstm,
        lambda layer, _: cw.init.forget_bias_(layer),
    ),
    "lstm-1997": Net("LSTM of 1997", lstm_1997, _remember_1997),
    "lstm": Net("LSTM, chrono", cw.cells.lstm, _chrono()),
    "peephole": Net("peephole, chrono", cw.cells.peephole, _chrono()),
    "coupled": Net("coupled, chrono", cw.cells.coupled, _chrono()),
    "gru-plain": Net("GRU", cw.cells.gru_reset_after),
    "gru": Net("GRU, chrono", cw.cells.gru_reset_after, _chrono(forget="z")),
}


def build(net: str, inputs: int, outputs: int, hidden: int, longest: int) -> Readout:
    """A net with its first weights."""
    layer = cw.Recurrent(NETS[net].cell, inputs, hidden)
    NETS[net].initialise(layer, longest)
    return Readout(layer, outputs)


# -- the tasks -----------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A task of 1997: how it is drawn, learnt and judged.

    Attributes:
        name: with the paper's number.
        draw: `draw(count, generator)`.
        outputs: units of the answer.
        loss: `loss(outputs (T, B, O), batch)`, to train on.
        right: `right(outputs, batch)`: (B,), the sequences processed correctly by the
            paper's definition.
        share: of the test sequences that must be right, to call the task solved.
        published: training sequences that the paper's LSTM needed.
    """

    name: str
    draw: Callable[[int, torch.Generator], Sequences]
    outputs: int
    loss: Callable[[Tensor, Sequences], Tensor]
    right: Callable[[Tensor, Sequences], Tensor]
    share: float
    published: str


def _squared(outputs: Tensor, batch: Sequences) -> Tensor:
    return F.mse_loss(batch.last(outputs), batch.targets)


def _classes(outputs: Tensor, batch: Sequences) -> Tensor:
    return F.cross_entropy(batch.last(outputs), batch.targets)


def _symbols(outputs: Tensor, batch: Sequences) -> Tensor:
    inside = batch.mask()
    return F.binary_cross_entropy_with_logits(outputs[inside], batch.targets[inside])


def _within(tolerance: float) -> Callable[[Tensor, Sequences], Tensor]:
    def right(outputs: Tensor, batch: Sequences) -> Tensor:
        error = (batch.last(outputs) - batch.targets).abs()
        return (error < tolerance).all(-1)

    return right


def _classified(outputs: Tensor, batch: Sequences) -> Tensor:
    """Every output unit within 0.3 of its target."""
    answers = batch.last(outputs).softmax(-1)
    targets = F.one_hot(batch.targets, answers.shape[-1])
    return ((answers - targets).abs() < 0.3).all(-1)


def _predicted(outputs: Tensor, batch: Sequences) -> Tensor:
    """At every step each symbol that may follow is above each that may not."""
    allowed = batch.targets > 0
    least = outputs.masked_fill(~allowed, math.inf).amin(-1)
    most = outputs.masked_fill(allowed, -math.inf).amax(-1)
    return ((least > most) | ~batch.mask()).all(0)


TASKS = {
    "reber": Task(
        "embedded Reber (1)",
        tasks.embedded_reber,
        7,
        _symbols,
        _predicted,
        1.0,
        "8,440–39,740",
    ),
    "two-sequence": Task(
        "two-sequence (3a)",
        lambda n, g: tasks.two_sequence(n, 100, g),
        1,
        _squared,
        _within(0.2),
        1.0,
        "27,380",
    ),
    "sum": Task(
        "adding (4)",
        lambda n, g: tasks.marked_sum(n, 100, g),
        1,
        _squared,
        _within(0.04),
        0.99,
        "74,000",
    ),
    "product": Task(
        "multiplication (5)",
        lambda n, g: tasks.marked_product(n, 100, g),
        1,
        _squared,
        _within(0.04),
        0.93,
        "482,000",
    ),
    "order": Task(
        "temporal order (6a)",
        tasks.temporal_order,
        4,
        _classes,
        _classified,
        0.99,
        "31,390",
    ),
    "order of three": Task(
        "temporal order (6b)",
        lambda n, g: tasks.temporal_order(n, g, marks=3),
        8,
        _classes,
        _classified,
        0.99,
        "571,100",
    ),
}

# Bai et al. 2018, table 1: mean squared error and mean cross-entropy on the test set.
BAI = {
    ("adding", 600): {"rnn": 0.177, "lstm": 0.164, "gru": 5.3e-5},
    ("copy", 1000): {"rnn": 0.0202, "lstm": 0.0204, "gru": 0.0197},
}
SOLVED = {"adding": 0.01, "copy": 0.002}  # a loss at which the answer is there


def cases(quick: bool, seed: int) -> list[Record]:
    if quick:
        nets, seeds = ("rnn", "lstm-bias-1", "lstm"), range(seed, seed + 1)
        lags = {"two-sequence": 400, "order": 600}
        long = [("adding", 100, 900, ("lstm-bias-1", "lstm"))]
    else:
        nets, seeds = tuple(n for n in NETS if n != "gru-plain"), range(seed, seed + 2)
        lags = {**dict.fromkeys(TASKS, 2000), "order of three": 4000}
        compared = ("rnn", "lstm-bias-1", "lstm", "gru-plain", "gru")
        long = [
            ("adding", 200, 1500, compared),
            ("adding", 600, 800, compared),
            ("copy", 100, 1500, compared),
            ("copy", 1000, 200, compared),
        ]
    shared = {"hidden": 32, "rate": RATE, "batch": BATCH}
    found: list[Record] = [
        {"part": "lags", "task": task, "net": net, "steps": s, "seed": n, **shared}
        for task, s in lags.items()
        for net in nets
        for n in seeds
    ]
    shared["hidden"] = 64
    found += [
        {"part": part, "length": length, "net": net, "steps": s, "seed": seed, **shared}
        for part, length, s, compared in long
        for net in compared
    ]
    return found


def run(case: Record) -> Record:
    return PARTS[case["part"]](case)


def lags(case: Record) -> Record:
    """Train on a task of 1997 until enough test sequences are right."""
    task = TASKS[case["task"]]
    test = task.draw(256, torch.Generator().manual_seed(case["seed"] + 1000))
    model = build(case["net"], test.inputs.shape[-1], task.outputs, case["hidden"], 100)

    began = time.process_time()

    def wrong(model: nn.Module) -> float:
        return 1 - task.right(model(test.inputs)[0], test).float().mean().item()

    done = fit(
        model,
        lambda generator: task.draw(case["batch"], generator),
        lambda model, batch: task.loss(model(batch.inputs)[0], batch),
        Training(steps=case["steps"], lr=case["rate"], seed=case["seed"], every=EVERY),
        evaluate=wrong,
        solved=lambda score: score <= 1 - task.share + 1e-6,
    )
    return _record(done, case, began) | {"wrong": done.score}


def adding(case: Record) -> Record:
    """Train on the adding problem until the test error is below `SOLVED`."""
    return _long(
        case,
        lambda count, g: tasks.adding(count, case["length"], g),
        (2, 1),
        lambda outputs, batch: F.mse_loss(outputs[-1], batch.targets),
    )


def copy(case: Record) -> Record:
    """Train on the copy problem until the test error is below `SOLVED`."""
    return _long(
        case,
        lambda count, g: tasks.copy(count, case["length"], g),
        (10, 10),
        lambda outputs, batch: F.cross_entropy(
            outputs.flatten(0, 1), batch.targets.flatten()
        ),
    )


PARTS: dict[str, Callable[[Record], Record]] = {
    "lags": lags,
    "adding": adding,
    "copy": copy,
}


def _long(
    case: Record,
    draw: Callable[[int, torch.Generator], Sequences],
    sizes: tuple[int, int],
    loss: Callable[[Tensor, Sequences], Tensor],
) -> Record:
    test = draw(128, torch.Generator().manual_seed(case["seed"] + 1000))
    model = build(case["net"], *sizes, case["hidden"], case["length"])
    began = time.process_time()
    done = fit(
        model,
        lambda generator: draw(case["batch"], generator),
        lambda model, batch: loss(model(batch.inputs)[0], batch),
        Training(steps=case["steps"], lr=case["rate"], seed=case["seed"], every=EVERY),
        evaluate=lambda model: loss(model(test.inputs)[0], test).item(),
        solved=lambda score: score < SOLVED[case["part"]],
    )
    return _record(done, case, began) | {"loss": done.score, "best": done.best}


def _record(done: Fit, case: Record, began: float) -> Record:
    solved = done.solved_at
    return {
        "sequences": None if solved is None else solved * case["batch"],
        "seen": done.steps * case["batch"],
        "curve": [(step, round(score, 6)) for step, score in done.scores],
        "cpu_seconds": round(time.process_time() - began, 1),
    }


# -- what they show ------------------------------------------------------------


def tables(rows: Rows) -> list[Table]:
    found = [_lags_table(rows.where(part="lags"))]
    return found + [
        _long_table(rows.where(part=part, length=length))
        for part in ("adding", "copy")
        for length in rows.where(part=part).values("length")
    ]


def _lags_table(lags: Rows) -> Table:
    names = lags.values("task")
    body = [
        (NETS[net].name, *(_sequences(lags.where(net=net, task=t)) for t in names))
        for net in lags.values("net")
    ]
    body.append(
        ("LSTM, Hochreiter & Schmidhuber", *(TASKS[t].published for t in names))
    )
    return Table(
        "Sequences until solved (T = 100; > n: not within n)",
        ("net", *(TASKS[t].name for t in names)),
        tuple(body),
        "Theirs: tables 1, 4, 7, 8, 9; 2 to 8 cells, gradient descent one sequence at "
        "a time, solved when the last 2,000 training sequences were right (product: "
        "93 %; Reber: all of 256; two-sequence: all of 256). Ours: 32 units, Adam, "
        "batches of 32, solved when 99 % of 256 new sequences are right (product: "
        "93 %; Reber and two-sequence: all).",
    )


def _sequences(runs: Rows) -> str:
    parts = [
        f"> {r['seen']:,}" if r["sequences"] is None else f"{r['sequences']:,}"
        for r in runs
    ]
    return " / ".join(parts)


def _long_table(runs: Rows) -> Table:
    first = runs.rows[0]
    part, length = first["part"], first["length"]
    published = BAI.get((part, length), {})
    body = [
        (
            NETS[row["net"]].name,
            f"{row['loss']:.2g}",
            _sequences(Rows((row,))),
            published.get(row["net"].split("-")[0]),
            f"{1000 * row['cpu_seconds'] / (row['seen'] / row['batch']):.0f}",
        )
        for row in runs
    ]
    floor = memoryless(part, length)
    return Table(
        f"{part}, T = {length}: test loss ({floor:.3g} without memory)",
        ("net", "loss", f"sequences until {SOLVED[part]}", "Bai et al.", "CPU ms/step"),
        tuple(body),
        f"{first['hidden']} units, at most {first['steps']} steps of {BATCH} sequences."
        " Bai et al. 2018, table 1: 70 K parameters (adding) and 16 K (copy), their "
        "own rate and clipping for each net, no chrono initialisation, far longer "
        "training."
        if published
        else "",
    )


def memoryless(part: str, length: int) -> float:
    """The loss of the best answer that remembers nothing."""
    return 1 / 6 if part == "adding" else 10 * math.log(8) / (length + 20)


def draw(rows: Rows, figure: Figure) -> None:
    long = [("adding", n) for n in rows.where(part="adding").values("length")]
    long += [("copy", n) for n in rows.where(part="copy").values("length")]
    shown = [long[0], *([] if rows.quick else [long[-2]])]
    axes = figure.subplots(1, 1 + len(shown), width_ratios=[1.5] + [1] * len(shown))
    _draw_lags(rows.where(part="lags"), axes[0])
    for ax, (part, length) in zip(axes[1:], shown, strict=True):
        _draw_curves(rows.where(part=part, length=length), ax, part, length)
    named = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=4, fontsize=9
    )


def _draw_lags(lags: Rows, ax: Axes) -> None:
    nets, names = lags.values("net"), lags.values("task")
    for k, net in enumerate(nets):
        style = _style(net, linestyle="", label=NETS[net].name)
        shift = 0.7 * ((k + 0.5) / len(nets) - 0.5)
        runs = [r for r in lags.where(net=net) if r["sequences"] is not None]
        ax.plot(
            [r["sequences"] for r in runs],
            [names.index(r["task"]) + shift for r in runs],
            **style,
        )
        failed = [r for r in lags.where(net=net) if r["sequences"] is None]
        ax.plot(
            [r["seen"] for r in failed],
            [names.index(r["task"]) + shift for r in failed],
            **_style(net, linestyle="", marker="x"),
        )
    ax.set_yticks(range(len(names)), [TASKS[t].name for t in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50]
    ax.set_xticks([1000 * t for t in ticks], [str(t) for t in ticks])
    ax.minorticks_off()
    title = "Tasks of 1997, until solved (×: not solved)"
    label(ax, title, "training sequences (thousands)", "")


def _draw_curves(runs: Rows, ax: Axes, part: str, length: int) -> None:
    for row in runs:
        steps, losses = zip(*row["curve"], strict=True)
        style = _style(row["net"], marker="", label=NETS[row["net"]].name)
        ax.plot([s * BATCH / 1000 for s in steps], losses, **style)
    floor = memoryless(part, length)
    ax.axhline(floor, color="#555555", linewidth=0.8, label="no memory")
    if part == "adding":
        ax.set_yscale("log")
        name = "mean squared error"
    else:
        ax.set_ylim(0, 2 * floor)
        name = "cross-entropy (nats)"
    label(ax, f"{part}, T = {length}", "sequences (thousands)", f"test {name}")


def _style(net: str, **changes: Any) -> dict[str, Any]:
    """The same colour, marker and dash for a net in every panel."""
    return look(list(NETS).index(net)) | changes


def claims(rows: Rows) -> list[Claim]:
    return [
        *_lag_claims(rows.where(part="lags")),
        *_adding_claims(rows.where(part="adding")),
        *_copy_claims(rows.where(part="copy")),
    ]


def _lag_claims(lags: Rows) -> list[Claim]:
    far = _without(lags, "reber")
    return [
        Claim(
            "tasks of 1997 (but Reber) that the RNN solves: share of its runs",
            _share(far.where(net="rnn")),
            high=0.25,
        ),
        Claim(
            "tasks of 1997 that an LSTM told how long to remember solves: share",
            _share(lags.where(net="lstm")),
            low=0.8,
        ),
        Claim(
            "two-sequence: sequences with forget bias 1 over chrono initialisation",
            _speed_up(lags.where(task="two-sequence")),
            low=2.0,
        ),
    ]


def _adding_claims(adding: Rows) -> list[Claim]:
    lengths, found = adding.values("length"), []
    for length in lengths:
        runs = adding.where(length=length)
        chrono, plain = (runs.one(net=n)["loss"] for n in ("lstm", "lstm-bias-1"))
        found.append(
            Claim(
                f"adding, T = {length}: loss with chrono over that with forget bias 1, "
                "after as many sequences at most",
                chrono / plain,
                high=0.2,
            )
        )
    shortest = Claim(
        "adding, the shortest: sequences with forget bias 1 over chrono (Tallec & "
        "Ollivier 2018: 7 at T = 750)",
        _speed_up(adding.where(length=lengths[0])),
        low=1.3,
    )
    return [*found, shortest]


def _copy_claims(copies: Rows) -> list[Claim]:
    return [
        Claim(
            f"copy, T = {length}: the best loss over that without memory (Bai et "
            "al. at 1,000: 0.97)",
            min(copies.where(length=length).column("loss"))
            / memoryless("copy", length),
            low=0.3,
            high=1.15,
        )
        for length in copies.values("length")
    ]


def _without(lags: Rows, task: str) -> Rows:
    return Rows(tuple(r for r in lags if r["task"] != task), lags.quick)


def _share(runs: Rows) -> float:
    """Of these runs, how many solved their task."""
    return sum(s is not None for s in runs.column("sequences")) / len(runs)


def _speed_up(runs: Rows) -> float | None:
    """How many times the sequences a forget bias of 1 needs, of chrono's; a run that
    did not solve its task counts what it has seen: the least it may be."""

    def needed(net: str) -> float:
        of_net = runs.where(net=net)
        return sum(r["sequences"] or r["seen"] for r in of_net) / len(of_net)

    if _share(runs.where(net="lstm")) < 1:
        return None
    return needed("lstm-bias-1") / needed("lstm")


def conclude(rows: Rows) -> str:
    lags = rows.where(part="lags")
    shares = ", ".join(
        f"{NETS[net].name} {_share(lags.where(net=net)):.0%}"
        for net in lags.values("net")
    )
    said = [
        "An LSTM adds to its state c where an RNN overwrites it, and gates decide what "
        "goes in, stays and comes out; while the forget gate is open an error flows "
        f"back unchanged. Runs of the tasks of 1997 that were solved: {shares}.",
        "The gate alone is not enough: it must begin open for as long as the task "
        "needs (a forget bias of 1 halves what is stored in about two steps).",
    ]
    for length in rows.where(part="adding").values("length"):
        factor = _speed_up(rows.where(part="adding", length=length))
        slow = rows.one(part="adding", length=length, net="lstm-bias-1")
        least = "at least " if slow["sequences"] is None else ""
        said.append(
            f"On adding with T = {length}, chrono initialisation did not solve it."
            if factor is None
            else f"On adding with T = {length} chrono initialisation needs {least}"
            f"{factor:.1f} times fewer sequences."
        )
    for length in rows.where(part="copy").values("length"):
        runs = rows.where(part="copy", length=length)
        best = min(runs, key=lambda row: row["loss"])
        ratio = best["loss"] / memoryless("copy", length)
        said.append(
            f"On copy with T = {length} the best of our short runs "
            f"({NETS[best['net']].name}) has {ratio:.2f} times the loss of no memory."
        )
    return " ".join(said)


EXPERIMENT = Experiment(
    name="long-term",
    question="What is an LSTM, and how does it learn long-term dependencies?",
    minutes=10,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
