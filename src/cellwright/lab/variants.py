"""Which parts of an LSTM matter? Greff et al. 2017's eight variants on JSB Chorales.

"LSTM: A Search Space Odyssey" (IEEE TNNLS 28, 2017; arXiv 1503.04069) changes one part
of the vanilla LSTM at a time, and gives each variant a random search of 200 trials. So
does this: a trial is one draw of settings, the same for every variant, and a run that
is stopped has the first trials. docs/lab.md says what differs from the paper.
"""

from __future__ import annotations

import math
import statistics
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import cellwright as cw

from . import tasks
from .bai_tasks import products
from .experiment import Claim, Experiment, Keep, Record, Rows, Table
from .models import Readout
from .peers import parameters
from .plotting import COLOURS, label
from .tasks import Music, Sequences, music
from .training import Fit, Judge, Training, finite, fit_stream

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VARIANTS = {
    "vanilla": "vanilla",
    "nig": "no input gate",
    "nfg": "no forget gate",
    "nog": "no output gate",
    "niaf": "no input activation",
    "noaf": "no output activation",
    "np": "no peepholes",
    "cifg": "coupled gates",
    "fgr": "full gate recurrence",
}
# Greff et al. 2017, section V-B and figure 3: on JSB, against vanilla.
PAPER = {
    "nfg": "worse",
    "noaf": "worse",
    "fgr": "worse",
    "nig": "no clear change",
    "nog": "no clear change",
    "niaf": "no clear change",
    "np": "no clear change",
    "cifg": "no clear change",
}
#: What takes a part away; full gate recurrence adds weights.
LESS = tuple(name for name in PAPER if name != "fgr")
PUBLISHED = 8.45  # Bai et al. 2018, table 1: LSTM, 300 K parameters
TRIALS = 200
FRAMES = 13_578  # of the training pieces that are foretold
AXIS = 11.1  # of the plots: key frequencies alone have as much; beyond, it diverged
LEVEL = 0.05  # of significance, two-sided, as in the paper


def needs() -> str | None:
    """Why the experiment cannot run here."""
    return tasks.why_missing(tasks.load_music, "jsb")


@cache
def chorales() -> Music:
    return tasks.load_music("jsb")


def cases(quick: bool, seed: int) -> list[Record]:
    """Trial by trial, so that a run that is stopped has every variant as often."""
    names = ("vanilla", "nfg", "noaf") if quick else tuple(VARIANTS)
    trials, epochs = (2, 6) if quick else (TRIALS, 15)
    generator = torch.Generator().manual_seed(seed)
    settings = [_draw_settings(generator) for _ in range(trials)]
    return [
        {
            "variant": name,
            "trial": k,
            "epochs": epochs,
            "batch": 4,
            "seed": seed + k,
            **drawn,
        }
        for k, drawn in enumerate(settings)
        for name in names
    ]


def _draw_settings(generator: torch.Generator) -> Record:
    """Within the ranges of section IV-C, which are wider but for the momentum."""
    u = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    return {
        "rate": float(f"{10 ** (1.5 * u[0] - 3.5):.2g}"),  # 0.0003 to 0.01
        "units": round(50 * 3 ** u[1]),  # 50 to 150
        "momentum": round(1 - 10 ** (-2 * u[2]), 3),  # 0 to 0.99
        "noise": round(0.5 * u[3], 2),  # standard deviation, on the inputs
    }


def build(case: Record) -> Readout:
    """The net of a case; every weight from a normal distribution, deviation 0.1."""
    cell = getattr(cw.cells, case["variant"])
    model = Readout(cw.Recurrent(cell, music.KEYS, case["units"]), music.KEYS)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def work(case: Record) -> float:
    """Multiply-adds of the training of a case, forward and backward."""
    weights = _products(case["variant"], case["units"])
    return 3.0 * case["epochs"] * FRAMES * weights


@cache
def _products(variant: str, units: int) -> int:
    return products(build({"variant": variant, "units": units}))


def run(case: Record, keep: Keep | None = None) -> Record:
    """Train one variant with one draw of settings; the best epoch by validation."""
    data, model = chorales(), build(case)
    stream = music.Epochs(data.train, case["batch"], case["seed"])
    steps = case["epochs"] * len(stream)

    def measured(fitted: Fit) -> Record:
        return {
            "parameters": parameters(model),
            "validation": finite(fitted.best),
            "test": finite(fitted.test),
            "epoch": fitted.steps // len(stream),
            "curve": [score and round(score, 4) for score in _scores(fitted)],
            "diverged": fitted.diverged,
        }

    def report(fitted: Fit) -> None:
        if keep is not None:
            keep.report(measured(fitted), fitted.steps / steps)

    fitted = fit_stream(
        model,
        stream,
        partial(_objective, noise=case["noise"]),
        Training(
            steps=steps,
            lr=case["rate"] * (1 - case["momentum"]),
            seed=case["seed"],
            optimiser="sgd",
            momentum=case["momentum"],
            clip_norm=None,
            every=len(stream),
        ),
        Judge(
            lambda model: nats(model, data.validation),
            lambda model: nats(model, data.test),
            report=report,
        ),
        keep and keep.directory,
    )
    return measured(fitted)


def _scores(fitted: Fit) -> list[float | None]:
    return [finite(score) for _, score in fitted.scores]


def _objective(
    model: Any, batch: Sequences, state: Any, step: float, *, noise: float
) -> tuple[Tensor, None]:
    """The sum over all frames: pieces of a batch add up, as updates after each do."""
    x = batch.inputs + noise * torch.randn(batch.inputs.shape)
    return music.frame_loss(model(x)[0], batch) * batch.lengths.sum(), None


def nats(model: nn.Module, pieces: list[Tensor]) -> float:
    """Negative log-likelihood of a frame, over all pieces."""
    return music.nats_per_frame(lambda x: model(x)[0], pieces, 80)


def independent() -> float:
    """Nats of a test frame under each key's frequency in training: no memory."""
    data = chorales()
    frames = torch.cat([p[1:] for p in data.test])
    logits = music.frequency_logits(data.train).expand_as(frames)
    return (
        nn.functional.binary_cross_entropy_with_logits(logits, frames, reduction="sum")
        / len(frames)
    ).item()


# -- what it shows -------------------------------------------------------------


def whole(rows: Rows) -> Rows:
    """The trials that every variant has finished."""
    names = rows.values("variant")
    ended: dict[int, int] = {}
    for row in rows:
        if row["done"] >= 1:
            ended[row["trial"]] = ended.get(row["trial"], 0) + 1
    kept = (row for row in rows if ended.get(row["trial"]) == len(names))
    return Rows(tuple(kept), rows.quick)


def better_half(rows: Rows, variant: str) -> list[float]:
    """Test nats of the better half of a variant's trials by validation, best first.

    Infinite where a trial has no figure: its loss was not finite from the first epoch.
    """
    trials = sorted(
        (_or_infinite(row["validation"]), _or_infinite(row["test"]))
        for row in rows.where(variant=variant)
    )
    return [test for _, test in trials[: math.ceil(len(trials) / 2)]]


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


def chance(rows: Rows, variant: str) -> float | None:
    """How likely so much above vanilla is where both are alike.

    One-sided p of Mann & Whitney's U, of the test figures of the better halves; None
    where they are too few to be clearly apart in any order. The paper takes Welch's t;
    ranks can also compare a trial whose error has grown beyond all bounds.
    """
    from scipy.stats import mannwhitneyu

    ours, vanilla = better_half(rows, variant), better_half(rows, "vanilla")
    if math.comb(len(ours) + len(vanilla), len(ours)) < 2 / LEVEL:
        return None
    return float(mannwhitneyu(ours, vanilla, alternative="greater").pvalue)


def verdict(rows: Rows, variant: str) -> str | None:
    """Against vanilla at the paper's level; None where there is too little."""
    p = chance(rows, variant)
    if p is None:
        return None
    if p <= LEVEL / 2:
        return "worse"
    return "better" if p >= 1 - LEVEL / 2 else "no clear change"


def above(rows: Rows, variant: str) -> float:
    """Median test nats of the better half above vanilla's."""
    ours, vanilla = better_half(rows, variant), better_half(rows, "vanilla")
    return statistics.median(ours) - statistics.median(vanilla)


def differences(rows: Rows, variant: str) -> list[float]:
    """Test nats above vanilla's at the same settings, trial by trial."""
    trials = rows.values("trial")
    ours, vanilla = (
        [_or_infinite(rows.one(variant=v, trial=k)["test"]) for k in trials]
        for v in (variant, "vanilla")
    )
    return [a - b for a, b in zip(ours, vanilla, strict=True)]


def tables(rows: Rows) -> list[Table]:
    rows = whole(rows)
    if not len(rows):
        return []
    trials = len(rows.values("trial"))
    return [
        Table(
            f"JSB Chorales, nats a test frame: {trials} trials a variant, "
            f"{rows.rows[0]['epochs']} epochs",
            (
                "variant",
                "best trial",
                "better half, median",
                "above vanilla",
                "p",
                "so",
                "Greff et al.",
                "above, same settings (median)",
            ),
            tuple(_line(rows, name) for name in rows.values("variant")),
            "At the best validation; the better half of the trials is chosen by "
            "validation, too. p: one-sided, of Mann & Whitney's U over the better "
            f"halves; 'worse' at {LEVEL / 2}, which is {LEVEL} two-sided. Greff et al. "
            f"2017, section V-B: {TRIALS} trials a variant, the best tenth compared by "
            f"Welch's t at {LEVEL}. Bai et al. 2018: LSTM {PUBLISHED}, of 300 K "
            "parameters.",
        )
    ]


def _line(rows: Rows, name: str) -> tuple[Any, ...]:
    tests = better_half(rows, name)
    middle = (f"{_nats(tests[0])}", f"{_nats(statistics.median(tests))}")
    if name == "vanilla":
        return (VARIANTS[name], *middle, *[None] * 5)
    p, same = chance(rows, name), statistics.median(differences(rows, name))
    return (
        VARIANTS[name],
        *middle,
        _nats(above(rows, name), "+"),
        None if p is None else f"{p:.2g}",
        verdict(rows, name),
        PAPER[name],
        _nats(same, "+"),
    )


def _nats(value: float, sign: str = "") -> str:
    """For a table; without any memory a frame has 11."""
    return "grew beyond 100" if value > 100 else f"{value:{sign}.2f}"


def draw(rows: Rows, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    rows = whole(rows)
    if len(rows):
        _draw_tests(rows, left)
        _draw_rates(rows, right)


def _draw_tests(rows: Rows, ax: Axes) -> None:
    names = rows.values("variant")
    names.sort(key=lambda name: statistics.median(better_half(rows, name)))
    for k, name in enumerate(names):
        tests = [min(test, AXIS) for test in better_half(rows, name)]
        ax.plot(tests, [k] * len(tests), "o", color=COLOURS[0], alpha=0.5)
        ax.plot(statistics.median(tests), k, "D", color=COLOURS[1], markersize=8)
    ax.plot([], [], "o", color=COLOURS[0], alpha=0.5, label="a trial")
    ax.plot([], [], "D", color=COLOURS[1], markersize=8, label="median")
    middle = statistics.median(better_half(rows, "vanilla"))
    ax.axvline(middle, color="#000000", linewidth=0.8)
    ax.set_yticks(range(len(names)), [VARIANTS[n] for n in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    label(ax, "The better half of the trials", f"test nats a frame (≤ {AXIS})", "")
    ax.legend(loc="lower right")


def _draw_rates(rows: Rows, ax: Axes) -> None:
    found = [r for r in rows.where(variant="vanilla") if r["test"] is not None]
    points = ax.scatter(
        [r["rate"] for r in found],
        [min(r["test"], AXIS) for r in found],
        c=[r["noise"] for r in found],
        s=[r["units"] for r in found],
        cmap="cividis",
        edgecolors="#000000",
        linewidths=0.5,
    )
    ax.set_xscale("log")
    ticks = (0.0003, 0.001, 0.003, 0.01)
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.00025, 0.012)
    ax.figure.colorbar(points, ax=ax, label="input noise (standard deviation)")
    label(ax, "Vanilla's trials (area: units)", "learning rate", "test nats a frame")


def claims(rows: Rows) -> list[Claim]:
    """Written before the run, after Greff et al. 2017, section V-B."""
    rows = whole(rows)
    if not len(rows):
        return []
    tests = better_half(rows, "vanilla")
    name = f"vanilla's best trial, test nats a frame (Bai et al.: {PUBLISHED})"
    found = [Claim(name, finite(tests[0]), high=10.5 if rows.quick else 8.8)]
    return found if rows.quick else [*found, *_paper_claims(rows)]


def _paper_claims(rows: Rows) -> list[Claim]:
    more = finite(above(rows, "nfg"))
    found = [Claim("no forget gate: test nats above vanilla", more, low=0.0)]
    places = ranking(rows)
    worst = max(places["nfg"], places["noaf"])
    name = "the lack of forget gate and output activation: their places among seven"
    found.append(Claim(f"{name} parts, by what it costs", worst, high=2))
    for name, printed in PAPER.items():
        p = chance(rows, name)
        if p is None:
            continue
        if printed == "worse":
            words = f"{VARIANTS[name]} is worse: p, one-sided"
            found.append(Claim(words, p, high=LEVEL / 2))
        else:
            words = f"{VARIANTS[name]} is not clearly worse: p, one-sided"
            found.append(Claim(words, p, low=LEVEL / 2))
    return found


def ranking(rows: Rows) -> dict[str, int]:
    """The place of each part that is taken away: 1 where its lack costs the most."""
    order = sorted(LESS, key=lambda name: -above(rows, name))
    return {name: place for place, name in enumerate(order, start=1)}


def conclude(rows: Rows) -> str:
    rows = whole(rows)
    if not len(rows):
        return "No trial is finished yet."
    trials = len(rows.values("trial"))
    spread = [r["test"] for r in rows.where(variant="vanilla") if r["test"] is not None]
    return (
        f"{trials} trials a variant. {_verdicts(rows)} Settings alone move vanilla's "
        f"trials by {max(spread) - min(spread):.2f} nats. The best vanilla trial has "
        f"{better_half(rows, 'vanilla')[0]:.2f} nats a test frame; without any memory, "
        f"the frequency of each key alone has {independent():.2f}."
    )


def _verdicts(rows: Rows) -> str:
    names = [name for name in PAPER if verdict(rows, name) is not None]
    if rows.quick or not names:
        return "They are too few to judge a part."
    groups = {
        what: [VARIANTS[n] for n in names if verdict(rows, n) == what]
        for what in ("worse", "better", "no clear change")
    }
    listed = "; ".join(f"{what}: {', '.join(n)}" for what, n in groups.items() if n)
    agreed = sum(verdict(rows, name) == PAPER[name] for name in names)
    order = ", ".join(VARIANTS[name] for name in ranking(rows))
    return (
        f"Against vanilla, {listed}. This agrees with Greff et al. on {agreed} of "
        f"{len(names)} variants. What is missed most when it is taken away comes "
        f"first: {order}."
    )


EXPERIMENT = Experiment(
    name="variants",
    question="Which parts of an LSTM matter?",
    minutes=180,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
    needs=needs,
    work=work,
)
