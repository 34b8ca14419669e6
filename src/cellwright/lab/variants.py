"""Which parts of an LSTM matter? Greff et al. 2017's eight variants on JSB Chorales.

Each variant changes one part of the vanilla LSTM. A small random search over rate,
units and input noise, with the same draws for every variant, gives each one budget.
"""

from __future__ import annotations

import math
import statistics
import time
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import cellwright as cw

from . import tasks
from .experiment import Claim, Experiment, Record, Rows, Table
from .models import Readout
from .plotting import COLOURS, label
from .tasks import Music, Sequences, music
from .training import Training, fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BATCH = 16
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
PUBLISHED = 8.45  # Bai et al. 2018, table 1: LSTM, 300 K parameters


def needs() -> str | None:
    """Why the experiment cannot run here."""
    return tasks.why_missing(tasks.load_music, "jsb")


@cache
def chorales() -> Music:
    return tasks.load_music("jsb")


def cases(quick: bool, seed: int) -> list[Record]:
    names = ("vanilla", "cifg", "fgr") if quick else tuple(VARIANTS)
    trials, epochs = (3, 15) if quick else (6, 40)
    generator = torch.Generator().manual_seed(seed)
    settings = [_draw_settings(generator) for _ in range(trials)]
    return [
        {"variant": name, "trial": k, "epochs": epochs, "seed": seed + k, **drawn}
        for k, drawn in enumerate(settings)
        for name in names
    ]


def _draw_settings(generator: torch.Generator) -> Record:
    """Rate and units log-uniform, noise uniform, as section IV-C draws them."""
    u = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    return {
        "rate": float(f"{10 ** (-2.3 + u[0]):.2g}"),  # 0.005 to 0.05
        "hidden": round(math.exp(math.log(32) + u[1] * math.log(4))),  # 32 to 128
        "noise": round(0.3 * u[2], 2),  # standard deviation, on the inputs
    }


def run(case: Record) -> Record:
    """Train one variant with one draw of settings; the best epoch by validation."""
    data = chorales()
    groups = list(music.batches(data.train, BATCH))
    cell = getattr(cw.cells, case["variant"])
    model = Readout(cw.Recurrent(cell, music.KEYS, case["hidden"]), music.KEYS)
    tests: list[tuple[float, float]] = []

    def draw(generator: torch.Generator) -> Sequences:
        k = int(torch.randint(len(groups), (1,), generator=generator))
        batch = groups[k]
        noise = torch.randn(batch.inputs.shape, generator=generator) * case["noise"]
        return Sequences(batch.inputs + noise, batch.targets, batch.lengths)

    def validate(model: nn.Module) -> float:
        validation = nats(model, data.validation)
        tests.append((validation, nats(model, data.test)))
        return validation

    began = time.process_time()
    done = fit(
        model,
        draw,
        lambda model, batch: music.frame_loss(model(batch.inputs)[0], batch),
        Training(
            steps=case["epochs"] * len(groups),
            lr=case["rate"],
            seed=case["seed"],
            every=len(groups),
        ),
        evaluate=validate,
    )
    validation, test = min(tests, default=(None, None))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": validation,
        "test": test,
        "diverged": done.diverged,
        "curve": [round(v, 4) for v, _ in tests],
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def nats(model: nn.Module, pieces: list[Tensor]) -> float:
    """Negative log-likelihood of a frame, over all pieces."""
    return music.nats_per_frame(lambda x: model(x)[0], pieces, 80)


def independent() -> float:
    """Nats of a test frame under each key's frequency in training: no memory."""
    data = chorales()
    rate = torch.cat(data.train).mean(0).clamp(1e-4, 1 - 1e-4)
    frames = torch.cat([p[1:] for p in data.test])
    logits = rate.logit().expand_as(frames)
    return (
        nn.functional.binary_cross_entropy_with_logits(logits, frames, reduction="sum")
        / len(frames)
    ).item()


# -- what it shows -------------------------------------------------------------


def differences(rows: Rows, variant: str) -> list[float]:
    """Validation nats above vanilla's at the same settings, trial by trial."""
    found = []
    for row in rows.where(variant=variant):
        vanilla = rows.one(variant="vanilla", trial=row["trial"])
        if row["validation"] is not None and vanilla["validation"] is not None:
            found.append(row["validation"] - vanilla["validation"])
    return found


def best(rows: Rows, variant: str) -> Record:
    """The trial with the lowest validation loss."""
    trials = [r for r in rows.where(variant=variant) if r["validation"] is not None]
    return min(trials, key=lambda row: row["validation"])


def verdict(rows: Rows, variant: str) -> str:
    """Against vanilla: worse or better where five of six trials agree."""
    found = differences(rows, variant)
    above = sum(d > 0 for d in found) / len(found)
    if above > 0.8:
        return "worse"
    return "better" if above < 0.2 else "no clear change"


def tables(rows: Rows) -> list[Table]:
    body = []
    for name in rows.values("variant"):
        top, found = best(rows, name), differences(rows, name)
        against = name != "vanilla"
        body.append(
            (
                VARIANTS[name],
                f"{top['test']:.2f}",
                f"{statistics.median(found):+.2f}" if against else None,
                f"{min(found):+.2f} to {max(found):+.2f}" if against else None,
                verdict(rows, name) if against else None,
                PAPER.get(name),
            )
        )
    first = rows.rows[0]
    trials = len(rows.values("trial"))
    return [
        Table(
            f"JSB Chorales, nats a frame: {trials} trials a variant, "
            f"{first['epochs']} epochs",
            (
                "variant",
                "best trial, test",
                "above vanilla (median)",
                "range",
                "so",
                "Greff et al.",
            ),
            tuple(body),
            "Differences are of validation losses at the same settings, seed included; "
            "'worse' where five of six trials are. Greff et al. 2017, figure 3: 200 "
            "trials a variant with gradient descent and momentum, the best tenth "
            f"compared. Bai et al. 2018: LSTM {PUBLISHED}, of 300 K parameters.",
        )
    ]


def draw(rows: Rows, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    _draw_differences(rows, left)
    _draw_rates(rows, right)


def _draw_differences(rows: Rows, ax: Axes) -> None:
    names = [v for v in rows.values("variant") if v != "vanilla"]
    names.sort(key=lambda v: statistics.median(differences(rows, v)))
    for k, name in enumerate(names):
        found = differences(rows, name)
        ax.plot(found, [k] * len(found), "o", color=COLOURS[0], alpha=0.5)
        ax.plot(statistics.median(found), k, "D", color=COLOURS[1], markersize=8)
    ax.plot([], [], "o", color=COLOURS[0], alpha=0.5, label="a trial")
    ax.plot([], [], "D", color=COLOURS[1], markersize=8, label="median")
    ax.axvline(0, color="#000000", linewidth=0.8)
    ax.set_yticks(range(len(names)), [VARIANTS[n] for n in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    label(
        ax, "Against vanilla at the same settings", "validation nats a frame above", ""
    )
    ax.legend(loc="lower right")


def _draw_rates(rows: Rows, ax: Axes) -> None:
    trials = rows.where(variant="vanilla")
    points = ax.scatter(
        trials.column("rate"),
        trials.column("validation"),
        c=trials.column("noise"),
        s=[r["hidden"] for r in trials],
        cmap="cividis",
        edgecolors="#000000",
        linewidths=0.5,
    )
    ax.set_xscale("log")
    ticks = (0.005, 0.01, 0.02, 0.05)
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.0045, 0.055)
    ax.figure.colorbar(points, ax=ax, label="input noise (standard deviation)")
    label(
        ax, "Vanilla's trials (area: units)", "learning rate", "validation nats a frame"
    )


def claims(rows: Rows) -> list[Claim]:
    return [
        Claim(
            "vanilla's best trial, test nats a frame (Bai et al.: 8.45)",
            best(rows, "vanilla")["test"],
            low=8.0,
            high=10.3 if rows.quick else 9.6,
        ),
        Claim(
            "coupled gates: median nats above vanilla",
            statistics.median(differences(rows, "cifg")),
            low=-0.4,
            high=0.4,
        ),
        Claim(
            "full gate recurrence: median nats above vanilla",
            statistics.median(differences(rows, "fgr")),
            low=0.0,
        ),
    ]


def conclude(rows: Rows) -> str:
    names = [v for v in rows.values("variant") if v != "vanilla"]
    groups: dict[str, list[str]] = {"worse": [], "better": [], "no clear change": []}
    for name in names:
        groups[verdict(rows, name)].append(VARIANTS[name])
    listed = "; ".join(
        f"{what}: {', '.join(members)}" for what, members in groups.items() if members
    )
    agreed = [n for n in names if verdict(rows, n) == PAPER[n]]
    spread = rows.where(variant="vanilla").column("validation")
    reach = max(spread) - min(spread)
    smaller = [n for n in names if abs(statistics.median(differences(rows, n))) < reach]
    top = best(rows, "vanilla")
    return (
        f"At equal budgets and against vanilla, {listed}. This agrees with Greff et "
        f"al. on {len(agreed)} of {len(names)} variants. Settings alone move vanilla's "
        f"trials by {reach:.2f} nats: more than the change of a part does, at the "
        f"median, for {len(smaller)} of {len(names)} variants. The best vanilla trial "
        f"has {top['test']:.2f} nats a test frame; without any memory, the frequency "
        f"of each key alone has {independent():.2f}."
    )


EXPERIMENT = Experiment(
    name="variants",
    question="Which parts of an LSTM matter?",
    minutes=4,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
    needs=needs,
)
