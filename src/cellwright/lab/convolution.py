"""A convolution along the sequence, or a recurrent net: what is the difference?

Three answers: how well both do on music, with as many weights, beside the figures of
Bai, Kolter & Koltun 2018 ("An empirical evaluation of generic convolutional and
recurrent networks for sequence modeling", table 1); how the time grows with the length,
since a convolution computes all steps at once; and what lies beyond the receptive
field. The music is read from the folder that CELLWRIGHT_DATA names, and left out
where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw

from ..train.schedules import Cosine
from .experiment import Claim, Experiment, Record, Rows, Table
from .peers import TCN, Recurrence, parameters
from .plotting import label, look
from .tasks import Music, Sequences, load_music, why_missing
from .tasks.music import (
    KEYS,
    Epochs,
    frame_loss,
    frequency_logits,
    nats_per_frame,
)
from .training import Judge, Training, fit, fit_stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETS = ("RNN", "GRU", "LSTM", "TCN")
CELLS = {"RNN": "rnn", "GRU": "gru_bias", "LSTM": "lstm"}

#: Nats a frame: Bai et al. 2018, table 1.
PUBLISHED = {
    "jsb": {"RNN": 8.91, "GRU": 8.43, "LSTM": 8.45, "TCN": 8.10},
    "nottingham": {"RNN": 4.05, "GRU": 3.46, "LSTM": 3.29, "TCN": 3.07},
}
TITLES = {"jsb": "JSB Chorales", "nottingham": "Nottingham"}

#: Units that give each net about 250,000 weights.
UNITS = {"RNN": 420, "GRU": 235, "LSTM": 195, "TCN": 150}


def cases(quick: bool, seed: int) -> list[Record]:
    reach = [
        {"part": "reach", "net": net, "shift": shift, "updates": 1000, "seed": s}
        for net in NETS
        for shift in (-1, 0)
        for s in range(seed, seed + (1 if quick else 3))
    ]
    times = [
        {"part": "time", "net": net, "lengths": [16, 64, 256], "seed": seed}
        for net in NETS
    ]
    return music_cases(quick, seed) + times + reach


def music_cases(quick: bool, seed: int) -> list[Record]:
    """None of a collection that is not here; the tables say so."""
    plans = [("jsb", 3, 1)] if quick else [("jsb", 15, 3), ("nottingham", 2, 1)]
    return [
        {"part": "music", "music": music, "net": net, "epochs": epochs, "seed": s}
        for music, epochs, seeds in plans
        if not why_missing(load_music, music)
        for net in NETS
        for s in range(seed, seed + seeds)
    ]


# -- the nets on music -------------------------------------------------------------


#: Peak rates of Adam, from a few trials by hand on JSB's validation pieces.
RATES = {"RNN": 1e-3, "GRU": 3e-3, "LSTM": 5e-3, "TCN": 3e-3}


class Dropped(nn.Module):
    """A recurrent layer, dropout, a linear map."""

    def __init__(self, net: str, dropout: float):
        super().__init__()
        self.layer = cw.Recurrent(CELLS[net], KEYS, UNITS[net])
        cw.init.orthogonal_(cw.init.glorot_(self.layer))
        if net == "LSTM":
            cw.init.forget_bias_(self.layer)
        self.linear, self.dropout = nn.Linear(UNITS[net], KEYS), dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.dropout(self.layer(x)[0], self.dropout, self.training))


def net_for(net: str) -> Any:
    """A net of about 250,000 weights."""
    if net == "TCN":
        return TCN(KEYS, UNITS[net], KEYS, kernel=3, levels=2, dropout=0.25)
    return Dropped(net, 0.3)


def music(case: Record) -> Record:
    """Train; the test figure is that of the epoch that validated best."""
    data: Music = load_music(case["music"])
    model = net_for(case["net"])
    model.linear.bias.data.copy_(frequency_logits(data.train))
    stream = Epochs(data.train, 2 if case["music"] == "jsb" else 4, case["seed"])

    def objective(model: nn.Module, batch: Sequences, *_: Any) -> tuple[Tensor, None]:
        return frame_loss(model(batch.inputs), batch), None

    steps = case["epochs"] * len(stream)
    fitted = fit_stream(
        model,
        stream,
        objective,
        Training(
            steps=steps,
            lr=RATES[case["net"]],
            seed=case["seed"],
            schedule=Cosine(steps=steps, floor=0.05),
            every=len(stream),
        ),
        Judge(
            lambda model: nats_per_frame(model, data.validation),
            lambda model: nats_per_frame(model, data.test),
        ),
    )
    return {
        "parameters": parameters(model),
        "validation": fitted.best,
        "test": fitted.test,
        "cpu_seconds": round(fitted.seconds, 1),
    }


# -- time against length -----------------------------------------------------------


def timing(case: Record) -> Record:
    """Time a step of forward and backward, one sequence, by its length."""
    model = net_for(case["net"]).eval()
    micros = {}
    for steps in case["lengths"]:
        x = torch.randn(steps, 1, KEYS)

        def both(x: Tensor = x) -> None:
            model(x).sum().backward()

        micros[str(steps)] = round(1e6 * shortest(both) / steps, 2)
    chain = {str(n): 2 * 2 if case["net"] == "TCN" else n for n in case["lengths"]}
    return {"microseconds": micros, "chain": chain}


def shortest(work: Callable[[], None], repeats: int = 15) -> float:
    """Seconds of the shortest of many: what others do only ever adds."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


# -- beyond the receptive field ----------------------------------------------------


def reach(case: Record) -> Record:
    """Recall the first bit of a sequence at its end, `field + shift` steps later.

    A receptive field of R steps holds the step itself and R − 1 before it: lag R − 1
    is the farthest that it sees, lag R the nearest that it does not.
    """
    tcn = TCN(2, 24, 1, kernel=3, levels=2)
    lag = tcn.receptive_field + case["shift"]
    model: Any = tcn
    if case["net"] != "TCN":
        model = Recurrence(_remembering(case["net"]), 1)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0])[-1], batch[1])

    def wrong(model: nn.Module) -> float:
        return ((model(x)[-1] > 0) != (bit > 0.5)).float().mean().item()

    x, bit = first_bit(1000, lag + 1, torch.Generator().manual_seed(10_000))
    fitted = fit(
        model,
        lambda generator: first_bit(32, lag + 1, generator),
        loss,
        Training(steps=case["updates"], lr=3e-3, seed=case["seed"]),
        evaluate=wrong,
        solved=lambda share: share < 0.002,
    )
    return {"steps_back": lag, "wrong": fitted.best, "parameters": parameters(model)}


def _remembering(net: str) -> cw.Recurrent:
    """A layer of 32 units that starts out with a memory."""
    layer = cw.init.orthogonal_(cw.Recurrent(CELLS[net], 2, 32))
    return cw.init.forget_bias_(layer) if net == "LSTM" else layer


def first_bit(
    count: int, length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A marked ±1, then ±0.3 (T, B, 2); whether the first was positive (B, 1)."""
    signs = 2.0 * torch.randint(2, (length, count), generator=generator) - 1
    signs[1:] *= 0.3
    mark = torch.zeros(length, count)
    mark[0] = 1.0
    return torch.stack((signs, mark), -1), (signs[0, :, None] > 0).float()


PARTS: dict[str, Callable[[Record], Record]] = {
    "music": music,
    "time": timing,
    "reach": reach,
}


def run(case: Record) -> Record:
    return PARTS[case["part"]](case)


# -- what is said ------------------------------------------------------------------


def recall(rows: Rows, net: str, shift: int) -> float:
    return rows.where(part="reach", net=net, shift=shift).median("wrong")


def best_recurrent(rows: Rows) -> str:
    return min(CELLS, key=lambda net: recall(rows, net, 0))


def falls(rows: Rows, net: str) -> float:
    """Time a step in the longest sequence over that in the shortest."""
    micros = list(rows.one(part="time", net=net)["microseconds"].values())
    return micros[-1] / micros[0]


def tables(rows: Rows) -> list[Table]:
    found = [_music_table(rows, music) for music in PUBLISHED]
    lengths = rows.where(part="time").rows[0]["lengths"]
    times = []
    for net in NETS:
        row = rows.one(part="time", net=net)
        micros = (f"{row['microseconds'][str(n)]:.3g}" for n in lengths)
        times.append((net, *micros, row["chain"][str(lengths[-1])]))
    lag = rows.where(part="reach", shift=0).rows[0]["steps_back"]
    far = [
        (
            net,
            rows.where(part="reach", net=net).rows[0]["parameters"],
            *(
                rows.where(part="reach", net=net, shift=s).spread("wrong", 2)
                for s in (-1, 0)
            ),
        )
        for net in NETS
    ]
    return [
        *(table for table in found if table is not None),
        Table(
            "Time a step in µs, forward and backward, one sequence of so many steps",
            ("net", *map(str, lengths), f"chain at {lengths[-1]}"),
            tuple(times),
            "Processor time, the shortest of 15. Chain: matrix products that must wait "
            "for each other.",
        ),
        Table(
            f"Recall of the first bit: wrong answers (½ is to guess); the "
            f"convolution's receptive field is {lag} steps",
            ("net", "weights", f"{lag - 1} steps back", f"{lag} steps back"),
            tuple(far),
        ),
    ]


def _music_table(rows: Rows, music: str) -> Table | None:
    of_music = rows.where(part="music", music=music)
    if not of_music:
        return None
    lines = [
        (
            net,
            of_music.where(net=net).rows[0]["parameters"],
            of_music.where(net=net).spread("test"),
            PUBLISHED[music][net],
            round(of_music.where(net=net).median("cpu_seconds")),
        )
        for net in NETS
    ]
    size = "300,000" if music == "jsb" else "1,000,000"
    return Table(
        f"{TITLES[music]}: nats a frame on the test pieces, "
        f"{of_music.rows[0]['epochs']} epochs",
        ("net", "weights", "here", "Bai et al. 2018", "seconds"),
        tuple(lines),
        f"Bai et al.: about {size} weights, each net's settings searched, trained to "
        "the end; here a cosine down to 5 % over so many epochs, one dropout for each "
        "kind of net, the epoch that validated best. More epochs and a search would "
        "bring figures down further.",
    )


def draw(rows: Rows, figure: Figure) -> None:
    figure.set_size_inches(12, 4.4)
    first, second, third = figure.subplots(1, 3)
    _draw_music(first, rows)
    for k, net in enumerate(NETS):
        row = rows.one(part="time", net=net)
        lengths = [int(n) for n in row["microseconds"]]
        second.plot(lengths, list(row["microseconds"].values()), label=net, **look(k))
    second.set_xscale("log", base=2)
    second.set_ylim(bottom=0)
    label(second, "Time a step, training, batch 1", "steps of the sequence", "µs")
    second.legend()
    lag = rows.where(part="reach", shift=0).rows[0]["steps_back"]
    for shift, k, hatch in ((-1, 0, ""), (0, 1, "//")):
        values = [100 * recall(rows, net, shift) for net in NETS]
        bars = third.bar(
            [p + 0.2 + 0.4 * shift for p in range(len(NETS))],
            values,
            0.38,
            color=look(k)["color"],
            hatch=hatch,
            edgecolor="white",
            label=f"{lag + shift} steps back",
        )
        third.bar_label(bars, fmt="%.0f", fontsize=8)
    third.set_xticks(range(len(NETS)), NETS)
    third.set_ylim(0, 75)
    label(third, f"Recall; the TCN sees {lag} steps", "", "wrong answers, %")
    third.legend(ncols=2)


def _draw_music(axes: Any, rows: Rows) -> None:
    """Ours beside the published figures, for the first collection that is there."""
    shown = rows.where(part="music")
    if not shown:
        axes.axis("off")
        axes.text(0.5, 0.5, "no music here", ha="center", transform=axes.transAxes)
        return
    music = shown.values("music")[0]
    of_music = shown.where(music=music)
    ours = [of_music.where(net=net).median("test") for net in NETS]
    theirs = [PUBLISHED[music][net] for net in NETS]
    for shift, values, k, hatch, name in (
        (-0.2, ours, 0, "", "here"),
        (0.2, theirs, 1, "//", "Bai et al. 2018"),
    ):
        bars = axes.bar(
            [p + shift for p in range(len(NETS))],
            values,
            0.38,
            color=look(k)["color"],
            hatch=hatch,
            edgecolor="white",
            label=name,
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(range(len(NETS)), NETS)
    axes.set_ylim(min(ours + theirs) - 1, max(ours + theirs) + 0.8)
    label(axes, f"{TITLES[music]}, test pieces", "", "nats a frame (axis cut)")
    axes.legend(ncols=2)


def claims(rows: Rows) -> list[Claim]:
    recurrent = best_recurrent(rows)
    found = [
        Claim(
            "convolution: wrong one step within its receptive field",
            recall(rows, "TCN", -1),
            high=0.05,
        ),
        Claim(
            "convolution: wrong one step beyond it (½ is to guess)",
            recall(rows, "TCN", 0),
            0.43,
            0.57,
        ),
        Claim(
            f"recurrent ({recurrent}): wrong at that lag",
            recall(rows, recurrent, 0),
            high=0.05,
        ),
        Claim(
            "convolution: time of a step in 256 steps over that in 16",
            falls(rows, "TCN"),
            high=0.6,
        ),
    ]
    chorales = rows.where(part="music", music="jsb")
    for net in chorales.values("net"):
        above = chorales.where(net=net).median("test") - PUBLISHED["jsb"][net]
        name = f"JSB Chorales, {net}: nats a frame above the published"
        found.append(Claim(name, above, -0.6, 1.0 if rows.quick else 0.6))
    return found


def conclude(rows: Rows) -> str:
    within, beyond = recall(rows, "TCN", -1), recall(rows, "TCN", 0)
    recurrent = best_recurrent(rows)
    lag = rows.where(part="reach", shift=0).rows[0]["steps_back"]
    sees = (
        "it recalls what is just inside its receptive field and guesses just beyond it"
        if within < 0.1 and beyond > 0.4
        else "the receptive field made no clear difference here"
    )
    return (
        f"A convolution sees a window that is built into it: {sees} "
        f"({within:.0%} wrong {lag - 1} steps back, {beyond:.0%} at {lag}), where the "
        f"{recurrent} has {recall(rows, recurrent, 0):.0%} wrong. In return its steps "
        f"need not wait for each other. {_about_time(rows)} {_about_music(rows)}"
    )


def _about_time(rows: Rows) -> str:
    tcn, lstm = (rows.one(part="time", net=net) for net in ("TCN", "LSTM"))
    longest = list(tcn["microseconds"])[-1]
    ours, theirs = tcn["microseconds"][longest], lstm["microseconds"][longest]
    gain = theirs / ours
    buys = "buys little" if gain < 1.5 else f"makes it {gain:.1f} times as fast"
    return (
        f"In {longest} steps {tcn['chain'][longest]} products wait for each other, "
        f"where the LSTM has {lstm['chain'][longest]}; on one core that {buys}: "
        f"{ours:.0f} µs a step against {theirs:.0f}. Many cores, or a GPU, gain more."
    )


def _about_music(rows: Rows) -> str:
    sentences = []
    for music in rows.where(part="music").values("music"):
        of_music = rows.where(part="music", music=music)
        ours = {net: of_music.where(net=net).median("test") for net in NETS}
        order = sorted(NETS, key=lambda net: ours[net])
        ranks = ", ".join(f"{net} {ours[net]:.2f}" for net in order)
        sentences.append(f"On {TITLES[music]}, best first: {ranks} nats a frame.")
    if not sentences:
        return "Music was left out: set CELLWRIGHT_DATA to where its files are."
    return " ".join(sentences)


EXPERIMENT = Experiment(
    name="convolution",
    question="A 1-D convolution along the sequence, or a recurrent net?",
    minutes=5,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
