"""What is teacher forcing, and what does it cost?

A net that predicts a sequence is trained on the truth (teacher forcing), on what it
predicted itself (free running), or on a toss between both (scheduled sampling; Bengio,
Vinyals, Jaitly & Shazeer 2015). Afterwards each runs freely: its loss by horizon lies
above the forced one, and the gap is the exposure bias. On a text, on a chaotic series,
and on what an encoder-decoder copies.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw

from ..train.forcing import parse_forcing, run_forced
from . import tasks
from .experiment import Claim, Experiment, Record, Rows, Table
from .models import Readout
from .plotting import label, look
from .tasks.prose import LETTERS, prose
from .tasks.sequences import integers
from .training import Draw, Training, fit
from .training import Loss as Objective

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORCINGS = {
    "1": "teacher forcing",
    "linear:0.25": "scheduled sampling",
    "0": "free running",
}
INTERVAL = 0.05  # time between two samples of the series
WARM_UP = 30  # true steps before a net predicts
HORIZON = 100  # steps that it then runs freely
SYMBOLS, COPIED = 8, 10  # kinds of tokens, and how many are copied


def cases(quick: bool, seed: int) -> list[Record]:
    sizes = (
        {"text": (96, 250), "series": (48, 250), "copying": (64, 300)}
        if quick
        else {"text": (128, 500), "series": (64, 600), "copying": (64, 1200)}
    )
    forcings = ("1", "0") if quick else tuple(FORCINGS)
    return [
        {"part": part, "forcing": forcing, "hidden": hidden, "steps": steps, "seed": s}
        for part, (hidden, steps) in sizes.items()
        for s in range(seed, seed + (1 if quick else 2))
        for forcing in (("1",) if quick and part == "text" else forcings)
    ]


def run(case: Record) -> Record:
    return PARTS[case["part"]](case)


# -- a text --------------------------------------------------------------------


@cache
def letters() -> tuple[Tensor, Tensor]:
    """Training text and its held-out last tenth, as classes of `LETTERS`."""
    codes = torch.tensor([LETTERS.index(c) for c in prose()])
    cut = len(codes) * 9 // 10
    return codes[:cut], codes[cut:]


def text(case: Record) -> Record:
    """A language model of letters."""
    training, held_out = letters()
    count = len(LETTERS)
    model = Readout(cw.Recurrent("lstm", count, case["hidden"]), count)

    def sample(logits: Tensor) -> Tensor:
        drawn = torch.distributions.Categorical(logits=logits).sample()
        return F.one_hot(drawn, count).float()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        """(T, B) of outputs and one-hot targets (T, B, 27)."""
        classes = targets.argmax(-1)
        return F.cross_entropy(outputs.transpose(1, 2), classes, reduction="none")

    def cut(source: Tensor, rows: int, length: int, g: torch.Generator) -> Tensor:
        return F.one_hot(windows(source, rows, length, g), count).float()

    seconds = train(
        case, model, model, lambda g: cut(training, 32, 81, g), loss, sample
    )
    test = cut(held_out, 512, WARM_UP + HORIZON + 1, _generator(case))
    forced, free, written = by_horizon(model, test, loss, sample)
    return {
        "forced": _list(forced.mean(1)),
        "free": _list(free.mean(1)),
        "words": known_words(written.argmax(-1)),
        "true_words": known_words(test[WARM_UP:].argmax(-1)),
        "cpu_seconds": seconds,
    }


def known_words(codes: Tensor) -> list[float]:
    """Share of whole words (T, B) that the training text has, in quarters of T.

    A word at the edge of a row is cut and not counted.
    """
    vocabulary = set(prose()[: len(letters()[0])].split())
    quarter = len(codes) // 4
    known, seen = [0] * 4, [0] * 4
    for row in codes.T.tolist():
        start = 0
        for word in "".join(LETTERS[c] for c in row).split(" "):
            if start > 0 and start + len(word) < len(row) and word:
                k = min(start // quarter, 3)
                seen[k] += 1
                known[k] += word in vocabulary
            start += len(word) + 1
    return [round(a / b, 4) for a, b in zip(known, seen, strict=True)]


# -- a chaotic series ----------------------------------------------------------


@cache
def attractor(rows: int, steps: int, seed: int) -> Tensor:
    """x of the Lorenz system alone, (steps, rows, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return tasks.lorenz(rows, steps, generator, interval=INTERVAL)[..., :1]


def series(case: Record) -> Record:
    """A net that sees x of the Lorenz system, and not y and z."""
    model = Readout(cw.Recurrent("lstm", 1, case["hidden"]), 1)
    training = attractor(64, 1500, seed=7)[..., 0].T.reshape(-1)  # row after row

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        change, state = model(x, state)
        return x + change, state

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().squeeze(-1)

    def cut(g: torch.Generator) -> Tensor:
        length = WARM_UP + 41
        row = torch.randint(64, (32,), generator=g)
        begin = torch.randint(1500 - length, (32,), generator=g)
        steps = torch.arange(length)[:, None]
        return training[row * 1500 + begin + steps].unsqueeze(-1)

    seconds = train(case, model, step, cut, loss, lambda outputs: outputs)
    test = attractor(512, WARM_UP + HORIZON + 1, seed=8)
    forced, free, _ = by_horizon(step, test, loss, lambda outputs: outputs)
    return {
        "forced": _list(forced.mean(1).sqrt()),
        "free": _list(free.mean(1).sqrt()),
        "typical": _list(free.sqrt().median(1).values),
        "cpu_seconds": seconds,
    }


# -- an encoder-decoder --------------------------------------------------------


def copying(case: Record) -> Record:
    """A GRU reads random tokens, another one writes them again; no attention.

    The errors are shares of wrong tokens, by their place; free is greedy search.
    """
    hidden = case["hidden"]
    model = cw.EncoderDecoder(
        cw.Recurrent("gru", 32, hidden, bidirectional=True),
        cw.Recurrent("gru", 32, hidden),
        SYMBOLS + 1,
        SYMBOLS + 1,
    )
    probability = probabilities(case)

    def objective(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        source, target = batch
        return model(source, None, target, None, next(probability))[1]

    seconds = timed_fit(case, model, lambda g: copies(64, g), objective, lr=0.003)
    source, target = copies(512, _generator(case))
    with torch.no_grad():
        forced = model(source, None, target)[0].argmax(-1) != target
    free = written(model, source) != target
    return {
        "forced": _list(forced[:-1].double().mean(1)),  # without the end token's
        "free": _list(free[:-1].double().mean(1)),
        "exact": round(1 - free.any(0).double().mean().item(), 4),
        "cpu_seconds": seconds,
    }


def copies(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random tokens (T, B), and the same with the end token (T + 1, B)."""
    source = integers(generator, 1, SYMBOLS, COPIED, rows)
    return source, F.pad(source, (0, 0, 0, 1))


def written(model: cw.EncoderDecoder, source: Tensor) -> Tensor:
    """What a model writes greedily: (T + 1, B), end tokens after an output's last."""
    found = model.greedy(source, max_length=len(source) + 1)
    tokens = torch.full((len(source) + 1, len(found)), model.end)
    for row, best in enumerate(found):
        tokens[: len(best.tokens), row] = torch.tensor(best.tokens, dtype=torch.long)
    return tokens


PARTS: dict[str, Callable[[Record], Record]] = {
    "text": text,
    "series": series,
    "copying": copying,
}


# -- what they share -----------------------------------------------------------

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]


def train(
    case: Record,
    model: nn.Module,
    step: Step,
    draw: Callable[[torch.Generator], Tensor],
    loss: Loss,
    feedback: Callable[[Tensor], Tensor],
) -> float:
    """Train by the case's forcing: true steps to warm up, then tosses.

    Returns:
        The processor's seconds.
    """
    probability = probabilities(case)

    def objective(model: nn.Module, batch: Tensor) -> Tensor:
        _, state = step(batch[:WARM_UP], None)
        inputs, targets = batch[WARM_UP:-1], batch[WARM_UP + 1 :]
        outputs, _ = run_forced(step, inputs, state, next(probability), feedback)
        return loss(outputs, targets).mean()

    return timed_fit(case, model, draw, objective, lr=0.005)


def probabilities(case: Record) -> Iterator[float]:
    """The probability of reading the truth, at each step of the training."""
    return map(parse_forcing(case["forcing"], case["steps"]), itertools.count())


def timed_fit(
    case: Record, model: nn.Module, draw: Draw, objective: Objective, *, lr: float
) -> float:
    """Train as long as the case says; the processor's seconds."""
    began = time.process_time()
    fit(model, draw, objective, Training(steps=case["steps"], lr=lr, seed=case["seed"]))
    return round(time.process_time() - began, 1)


@torch.no_grad()
def by_horizon(
    step: Step, test: Tensor, loss: Loss, feedback: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of every horizon and row, forced and free, and what was fed back.

    The net reads `WARM_UP` + 1 true steps; the first horizon is its prediction of the
    next one, so there both losses are the same.
    """
    _, state = step(test[:WARM_UP], None)
    inputs, targets = test[WARM_UP:-1], test[WARM_UP + 1 :]
    forced, _ = step(inputs, state)
    outputs, written, read = [], [], inputs[:1]
    for _ in range(len(inputs)):
        output, state = step(read, state)
        outputs.append(output)
        written.append(read)
        read = feedback(output)
    free = torch.cat(outputs)
    return loss(forced, targets), loss(free, targets), torch.cat(written)


def windows(
    source: Tensor, rows: int, length: int, generator: torch.Generator
) -> Tensor:
    """Windows of a sequence at random places: (length, rows)."""
    begin = torch.randint(len(source) - length, (rows,), generator=generator)
    return source[begin + torch.arange(length)[:, None]]


def _generator(case: Record) -> torch.Generator:
    return torch.Generator().manual_seed(case["seed"] + 1000)


def _list(values: Tensor) -> list[float]:
    return [round(v, 5) for v in values.tolist()]


# -- what it shows -------------------------------------------------------------

UNITS = {
    "text": "nats a letter",
    "series": "error / spread",
    "copying": "share of wrong tokens",
}
HORIZONS = {
    "text": (1, 10, 30, 100),
    "series": (1, 10, 30, 100),
    "copying": (1, 4, 7, 10),
}


def curve(rows: Rows, part: str, forcing: str, key: str) -> list[float]:
    """A curve over the horizons, the mean of its seeds."""
    runs = rows.where(part=part, forcing=forcing).column(key)
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]


def gap(rows: Rows, part: str, forcing: str, horizon: int) -> float:
    """Exposure bias: the free loss above the forced one at a horizon."""
    free = curve(rows, part, forcing, "free")[horizon - 1]
    return free - mean(curve(rows, part, forcing, "forced"))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def reach(rows: Rows, forcing: str) -> float:
    """Lyapunov times until the typical error of a free run is half the spread.

    The typical error is the median over test windows: a mean would show the few that
    fail first.
    """
    errors = curve(rows, "series", forcing, "typical")
    steps = next((k for k, e in enumerate(errors) if e > 0.5), len(errors))
    return steps * INTERVAL / tasks.LYAPUNOV_TIME


def tables(rows: Rows) -> list[Table]:
    true = mean(curve(rows, "text", "1", "true_words"))
    return [
        _table(
            rows,
            "text",
            "words known",
            lambda f: f"{curve(rows, 'text', f, 'words')[-1]:.1%}",
            "Free: the letter of the text, while the net reads what it wrote itself, "
            "which may be as good a text. Words known: of those written last, how "
            f"many the training text has; of the true ones {true:.1%}.",
        ),
        _table(
            rows,
            "series",
            "valid (Lyapunov times)",
            lambda f: f"{reach(rows, f):.1f}",
            "Root mean square of the error of x over its standard deviation. Valid: "
            "until the median error is half of that.",
        ),
        _table(
            rows,
            "copying",
            "exact match",
            lambda f: f"{rows.where(part='copying', forcing=f).median('exact'):.0%}",
            f"An encoder-decoder without attention copies {COPIED} random tokens of "
            f"{SYMBOLS} kinds. Free: greedy search. A step is a token of the output.",
        ),
    ]


def _table(
    rows: Rows, part: str, heading: str, last: Callable[[str], str], note: str
) -> Table:
    runs, horizons = rows.where(part=part), HORIZONS[part]
    body = [
        (
            FORCINGS[f],
            f"{mean(curve(rows, part, f, 'forced')):.2g}",
            *(f"{curve(rows, part, f, 'free')[h - 1]:.2g}" for h in horizons),
            last(f),
            round(runs.where(forcing=f).median("cpu_seconds"), 1),
        )
        for f in runs.values("forcing")
    ]
    return Table(
        f"{part}: loss ({UNITS[part]}), {runs.rows[0]['steps']} steps of training",
        (
            "trained by",
            "forced",
            *(f"free, {h} steps" for h in horizons),
            heading,
            "CPU s",
        ),
        tuple(body),
        note,
    )


#: Title and horizon of each panel, and the horizon of one step.
PANELS = {
    "text": ("A text, read freely", "horizon (letters)", 1.0),
    "series": (
        "The Lorenz system, run freely",
        "horizon (Lyapunov times)",
        INTERVAL / tasks.LYAPUNOV_TIME,
    ),
    "copying": ("Copying, by an encoder-decoder", "token of the output", 1.0),
}


def draw(rows: Rows, figure: Figure) -> None:
    axes = figure.subplots(1, len(PANELS))
    for ax, part in zip(axes, PANELS, strict=True):
        _draw_part(rows, part, ax)
    handles, names = axes[1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)


def _draw_part(rows: Rows, part: str, ax: Axes) -> None:
    title, horizon, per_step = PANELS[part]
    forced = curve(rows, part, "1", "forced")
    horizons = [(k + 1) * per_step for k in range(len(forced))]
    names = list(FORCINGS)
    for forcing in rows.where(part=part).values("forcing"):
        k = names.index(forcing)
        style: dict[str, Any] = look(k) | {"markevery": max(1, len(forced) // 7)}
        free = curve(rows, part, forcing, "free")
        ax.plot(horizons, free, label=FORCINGS[forcing], **style)
        if forcing == "1":
            ax.plot(horizons, forced, color="#000000", label="teacher forcing, forced")
            ax.fill_between(horizons, forced, free, color="#000000", alpha=0.07)
            middle = len(forced) // 2
            ax.text(
                horizons[middle],
                (forced[middle] * free[middle]) ** 0.5,
                "exposure bias",
                bbox={"facecolor": "#ffffff", "edgecolor": "none", "pad": 1},
            )
    if part == "series":
        ax.set_yscale("log")
    label(ax, title, horizon, UNITS[part])


def claims(rows: Rows) -> list[Claim]:
    first = abs(gap_at_first(rows))
    return [
        Claim("text: free above forced at 1 step (nats)", first, high=1e-4),
        Claim(
            "text: exposure bias of teacher forcing at 30 steps (nats)",
            gap(rows, "text", "1", 30),
            low=0.3,
        ),
        Claim(
            "series: error of a free run at 30 steps over the forced one",
            curve(rows, "series", "1", "free")[29]
            / mean(curve(rows, "series", "1", "forced")),
            low=5.0,
        ),
        Claim(
            "series: forced error after free-running training over that after teacher "
            "forcing",
            mean(curve(rows, "series", "0", "forced"))
            / mean(curve(rows, "series", "1", "forced")),
            low=1.0,
        ),
        *_copying_claims(rows),
    ]


def _copying_claims(rows: Rows) -> list[Claim]:
    forced, own = (biases(rows, forcing) for forcing in ("1", "0"))
    return [
        Claim(
            "copying: free error less the forced one, first token (share)",
            abs(forced[0]),
            high=0.005,
        ),
        Claim(
            "copying: exposure bias of teacher forcing (share of wrong tokens)",
            mean(forced),
            low=0.05,
        ),
        Claim(
            "copying: exposure bias after free-running training over that after "
            "teacher forcing",
            mean(own) / mean(forced),
            high=0.5,
        ),
    ]


def biases(rows: Rows, forcing: str) -> list[float]:
    """Exposure bias by the place in a copy: the free error above the forced one."""
    both = (curve(rows, "copying", forcing, key) for key in ("free", "forced"))
    return [free - forced for free, forced in zip(*both, strict=True)]


def gap_at_first(rows: Rows) -> float:
    """Free above forced where the net has read the truth alone: 0 but for rounding."""
    free, forced = (curve(rows, "text", "1", key)[0] for key in ("free", "forced"))
    return free - forced


def conclude(rows: Rows) -> str:
    runs = rows.where(part="series")
    valid = {f: reach(rows, f) for f in runs.values("forcing")}
    best = max(valid, key=lambda f: valid[f])
    listed = ", ".join(f"{FORCINGS[f]} {v:.1f}" for f, v in valid.items())
    said = [
        "Teacher forcing trains on the truth: every step's gradient is right at once, "
        "and the whole window is one call of the layer. What it never sees is its own "
        "mistakes. On the text a net that reads itself loses "
        f"{gap(rows, 'text', '1', 30):.2f} nats a letter after 30 letters; on the "
        "Lorenz system the error of one step, "
        f"{mean(curve(rows, 'series', '1', 'forced')):.2g} of the spread, is "
        f"{curve(rows, 'series', '1', 'free')[29]:.2g} after 30.",
        f"Until its typical error is half the spread, a free run holds for (Lyapunov "
        f"times): {listed}; the longest is that of {FORCINGS[best]}.",
    ]
    others = [f for f in rows.where(part="text").values("forcing") if f != "1"]
    for f in others:
        known, base = (curve(rows, "text", k, "words")[-1] for k in (f, "1"))
        said.append(
            f"After {FORCINGS[f]} the gap on the text is "
            f"{gap(rows, 'text', f, 30):.2f} nats, and {known:.0%} of the "
            "words that it writes are known, beside "
            f"{base:.0%} after teacher forcing"
            + (": it closes where a net stops heeding what it reads." * (known < base))
            + ("." * (known >= base))
        )
    of_series = rows.where(part="series")
    base, own = (of_series.where(forcing=f).median("cpu_seconds") for f in ("1", "0"))
    said.append(
        "Reading itself cannot be one call: as many steps of training take "
        f"{own / base:.0f} times as long on the series."
    )
    said.append(_conclude_copying(rows))
    return " ".join(said)


def _conclude_copying(rows: Rows) -> str:
    """What the encoder-decoder shows."""
    runs = rows.where(part="copying")
    exact = {f: runs.where(forcing=f).median("exact") for f in runs.values("forcing")}
    best = max(exact, key=lambda f: exact[f])
    last = [curve(rows, "copying", "1", key)[-1] for key in ("forced", "free")]
    listed = ", ".join(f"{FORCINGS[f]} {share:.0%}" for f, share in exact.items())
    return (
        f"After teacher forcing an encoder-decoder gets {last[0]:.0%} of the last "
        f"tokens wrong when it reads the truth before them, and {last[1]:.0%} when it "
        f"reads what it wrote. Whole outputs that are right: {listed}; the most after "
        f"{FORCINGS[best]}."
    )


EXPERIMENT = Experiment(
    name="teacher-forcing",
    question="What is teacher forcing, and what are its advantages and problems?",
    minutes=7,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
