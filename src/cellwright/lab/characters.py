"""Do the recurrent nets of 2024 predict characters better than the LSTM?

minGRU and minLSTM (Feng et al. 2024, arXiv 2410.01201), whose gates read the input
alone, and mLSTM (Beck et al. 2024) and Gated DeltaNet (Yang et al. 2025), whose states
are matrices, beside LSTM and GRU: models of equally many parameters, trained for as
many steps, or for as much time of one processor core.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

import cellwright as cw

from ..text.corpus import TextStream
from ..text.model import LanguageModel, ModelSizes
from ..train.schedules import Cosine
from .bai_tasks import nats_per_token
from .experiment import Claim, Experiment, Keep, Record, Rows, Table
from .peers import parameters
from .plotting import label, look
from .tasks import load_shakespeare, why_missing
from .tasks.prose import prose
from .training import Fit, Judge, Training, fit_stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS, EMBEDDING = 2, 32
BATCH, WINDOW = 24, 96
RATE = 4e-3  # of all nets, searched for none of them
STEPS, SECONDS = 300, 60
HELD_OUT = 0.1  # of the text
CALIBRATION = 5  # steps


@dataclass(frozen=True)
class Net:
    """A net of the comparison.

    Attributes:
        name: for tables.
        units: of a layer, such that all models have about as many parameters.
        heads: of a matrix state, each of 16 × 16; 0 where states are vectors.
        published: nats a character that its paper prints for this text.
    """

    name: str
    units: int
    heads: int = 0
    published: float | None = None


#: By the cell's name. Published: Feng et al. 2024, section 4.3; three layers with a
#: convolution and a perceptron each, and so more parameters, trained on a GPU.
NETS = {
    "lstm": Net("LSTM", 128),
    "gru": Net("GRU", 148),
    "min_gru": Net("minGRU", 302, published=1.548),
    "min_lstm": Net("minLSTM", 246, published=1.555),
    "mlstm": Net("mLSTM", 208, heads=13),
    "gated_delta_net": Net("Gated DeltaNet", 240, heads=15),
}
#: What is equal beside the parameters, by the name of a case's budget.
BUDGETS = {"steps": "equal steps", "time": "equal time"}


def cases(quick: bool, seed: int) -> list[Record]:
    return list(_quick_cases(seed) if quick else _full_cases(seed))


def _full_cases(seed: int) -> Iterator[Record]:
    for s in range(seed, seed + 3):
        for budget in BUDGETS:
            for net in NETS:
                limit = {"steps": STEPS} if budget == "steps" else {"seconds": SECONDS}
                yield case_of("shakespeare", net, budget, s) | limit


def _quick_cases(seed: int) -> Iterator[Record]:
    for net in ("lstm", "min_gru"):
        yield case_of("prose", net, "steps", seed) | {"steps": 40, "held_out": 0.02}


def case_of(text: str, net: str, budget: str, seed: int) -> Record:
    """The settings of a case, as plain data, but for how long it trains."""
    own = NETS[net]
    sizes = {"layers": LAYERS, "embedding": EMBEDDING, "batch": BATCH, "window": WINDOW}
    case = {"text": text, "net": net, "budget": budget, "seed": seed, "rate": RATE}
    widths = {"units": own.units, "heads": own.heads}
    return case | widths | sizes | {"held_out": HELD_OUT}


def missing() -> list[str]:
    return [reason for reason in [why_missing(load_shakespeare)] if reason]


# -- a case ------------------------------------------------------------------------


@cache
def read(text: str, held_out: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Character numbers to train on, those held out, and how many there are."""
    characters = {"shakespeare": load_shakespeare, "prose": prose}[text]()
    numbers = {c: k for k, c in enumerate(sorted(set(characters)))}
    tokens = np.array([numbers[c] for c in characters])
    cut = int(len(tokens) * (1 - held_out))
    return tokens[:cut], tokens[cut:], len(numbers)


def build(case: Record, vocabulary: int) -> LanguageModel:
    """The model, its layers started as the cell's authors do."""
    cell = cw.cells.get(case["net"])
    if case["heads"]:
        cell = cell.partial(heads=case["heads"])
    sizes = ModelSizes(vocabulary, case["embedding"], case["units"], case["layers"])
    model = LanguageModel(cell, sizes)
    if case["heads"]:
        cw.init.published_(model.rnn)
    return model


def objective(
    model: Any, batch: dict[str, Tensor], state: Any, step: float
) -> tuple[Tensor, Any]:
    """The mean cross entropy of a window, its state carried from the one before."""
    return model(batch["x"], None if batch["first"] else state, targets=batch["y"])


def fit(case: Record, model: LanguageModel, train: np.ndarray, steps: int) -> Fit:
    """Train a model in place for so many steps."""
    stream = TextStream(train, case["batch"], case["window"], case["seed"])
    training = Training(
        steps=steps,
        lr=case["rate"],
        seed=case["seed"],
        optimiser="adamw",
        weight_decay=0.1,
        schedule=Cosine(warm_up=min(50, steps // 10), steps=steps),
        every=20,
    )
    return fit_stream(model, stream, objective, training, Judge())


def steps_for(case: Record, model: LanguageModel, train: np.ndarray) -> int:
    """How many steps the case's seconds of processor time are, measured on a copy."""
    trial = copy.deepcopy(model)
    fit(case, trial, train, 1)  # which makes plans and warms caches
    seconds = fit(case, trial, train, CALIBRATION).seconds / CALIBRATION
    return max(1, round(case["seconds"] / seconds))


def run(case: Record, keep: Keep | None = None) -> Record:
    """Train for the case's steps, or processor time; read the held-out text whole."""
    train, held_out, vocabulary = read(case["text"], case["held_out"])
    model = build(case, vocabulary)
    steps = case.get("steps") or steps_for(case, model, train)
    done = fit(case, model, train, steps)
    model.eval()
    return {
        "nats": round(nats_per_token(model, held_out, rows=1), 4),
        "curve": done.curve,
        "parameters": parameters(model),
        "trained_steps": done.steps,
        "cpu_seconds": round(done.seconds, 1),
    }


def work(case: Record) -> float:
    """Multiply-adds of the training of a case; of a time, about."""
    tokens = case["batch"] * case["window"] * case.get("steps", 4 * STEPS)
    return 3.0 * tokens * 220_000  # parameters


# -- what it shows -----------------------------------------------------------------


def nats(rows: Rows, net: str, budget: str) -> float | None:
    """Nats a character, the mean of the seeds; None where the cases are not there."""
    found = rows.where(net=net, budget=budget).column("nats")
    return sum(found) / len(found) if found else None


def tables(rows: Rows) -> list[Table]:
    return [table(rows, budget) for budget in rows.values("budget")]


COLUMNS = (
    "net",
    "units",
    "parameters",
    "nats: mean (range)",
    "seeds",
    "steps",
    "CPU s",
    "as published",
)


def table(rows: Rows, budget: str) -> Table:
    """The nets with one budget, the best first."""
    own = rows.where(budget=budget)
    body = []
    for net in sorted(own.values("net"), key=lambda n: nats(rows, n, budget) or 0):
        runs, what = own.where(net=net), NETS[net]
        found = runs.column("nats")
        body.append(
            (
                what.name,
                runs.rows[0]["units"],
                runs.rows[0]["parameters"],
                f"{nats(rows, net, budget):.3f} ({min(found):.3f}–{max(found):.3f})",
                len(runs),
                round(runs.median("trained_steps")),
                round(runs.median("cpu_seconds")),
                what.published if runs.rows[0]["text"] == "shakespeare" else None,
            )
        )
    case = own.rows[0]
    limit = f"{case['steps']} steps" if budget == "steps" else f"{case['seconds']} s"
    return Table(
        f"Nats a character of the held-out text, {BUDGETS[budget]}",
        COLUMNS,
        tuple(body),
        f"{case['layers']} layers, trained for {limit} of {case['batch']} rows of "
        f"{case['window']} characters; the last {case['held_out']:.0%} of the text is "
        "held out, and read whole. Matrix states have heads of 16 × 16. As "
        "published: Feng et al. 2024, larger nets with convolutions and perceptrons.",
    )


def draw(rows: Rows, figure: Figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (budget, title) in zip(axes, BUDGETS.items(), strict=True):
        for k, net in enumerate(NETS):
            found = rows.where(net=net, budget=budget).column("nats")
            ax.plot([k] * len(found), found, **{**look(k), "linestyle": ""})
        ax.set_xticks(range(len(NETS)), [net.name for net in NETS.values()])
        ax.tick_params(axis="x", labelrotation=30)
        label(ax, f"Equal parameters, {title}", "", "nats a character")


def claims(rows: Rows) -> list[Claim]:
    """One: given its time, the LSTM is ahead; in a few steps minGRU learns more."""
    budget = "steps" if rows.quick else "time"
    lstm, linear = (nats(rows, net, budget) for net in ("lstm", "min_gru"))
    more = None if lstm is None or linear is None else linear - lstm
    what = f"equal parameters, {BUDGETS[budget]}: minGRU above LSTM (nats a character)"
    limit = {"high": 0.0} if rows.quick else {"low": 0.0}
    return [Claim(what, more, **limit)]


def conclude(rows: Rows) -> str:
    parts = []
    for budget in rows.values("budget"):
        own = rows.where(budget=budget)
        ranked = sorted((nats(rows, n, budget) or 0, n) for n in own.values("net"))
        found = ", ".join(f"{NETS[n].name} {value:.3f}" for value, n in ranked)
        parts.append(
            f"With equal parameters and {BUDGETS[budget]}, best first: {found}"
        )
    return ". ".join(parts) + " nats a character."


EXPERIMENT = Experiment(
    name="characters",
    question="Do the recurrent nets of 2024 predict characters better than the LSTM?",
    minutes=60,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
    missing=missing,
    work=work,
)
