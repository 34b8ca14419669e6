"""What does attention add to an encoder-decoder?

Without attention all that the decoder knows of the source is the encoder's final
states, as wide for a long source as for a short one (Sutskever, Vinyals & Le 2014).
With attention it looks at every output of the encoder, at each step again (Bahdanau,
Cho & Bengio 2015; their figure 2 shows the quality against the length). Random tokens
are copied and reversed: nothing can be guessed, each token must come through.
"""

from __future__ import annotations

import time
from functools import partial
from operator import eq
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import cellwright as cw

from .experiment import Claim, Experiment, Record, Rows, Table
from .plotting import label, look
from .tasks.sequences import integers
from .training import Training, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = {"copy": "Copying", "reverse": "Reversing"}
NETS = {"bahdanau_gru": "with attention", "gru": "without attention"}
SYMBOLS = 10  # tokens 1 to 10; 0 is the end token
EMBEDDING = 32
BATCH, TESTED = 64, 256  # sequences to train on at a step, and to test each length on

#: Source (S, B), its lengths (B,), target (S + 1, B) and its lengths: the arguments of
#: `cw.EncoderDecoder`.
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def cases(quick: bool, seed: int) -> list[Record]:
    longest, steps = (8, 300) if quick else (12, 1200)
    # Units for about as many parameters; without attention, rather more.
    units = {"bahdanau_gru": 48, "gru": 64}
    return [
        {
            "task": task,
            "net": net,
            "hidden": units[net],
            "longest": longest,
            "steps": steps,
            "seed": s,
        }
        for s in range(seed, seed + (1 if quick else 3))
        for task in TASKS
        for net in NETS
    ]


def run(case: Record) -> Record:
    """Train on lengths of 1 to `longest`; test at eight, up to twice the longest."""
    model = make_model(case["net"], case["hidden"])
    began = time.process_time()
    done = fit(
        model,
        partial(training_batch, case),
        lambda model, batch: model(*batch)[1],
        Training(steps=case["steps"], lr=0.003, seed=case["seed"]),
    )
    seconds = time.process_time() - began
    lengths = [case["longest"] * quarter // 4 for quarter in range(1, 9)]
    scores = [score(model, case["task"], length) for length in lengths]
    return {
        "lengths": lengths,
        **{key: [s[key] for s in scores] for key in scores[0]},
        "curve": done.curve,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds, 1),
    }


def make_model(net: str, hidden: int) -> cw.EncoderDecoder:
    """A GRU that reads in both directions, and a decoder of the cell called `net`."""
    encoder = cw.Recurrent("gru", EMBEDDING, hidden, bidirectional=True)
    items = {"source": encoder.output_size} if net == "bahdanau_gru" else None
    decoder = cw.Recurrent(net, EMBEDDING, hidden, items=items)
    return cw.EncoderDecoder(encoder, decoder, SYMBOLS + 1, SYMBOLS + 1)


# -- the data ------------------------------------------------------------------


def training_batch(case: Record, generator: torch.Generator) -> Batch:
    lengths = integers(generator, 1, case["longest"], BATCH)
    return pairs(case["task"], lengths, generator)


def pairs(task: str, lengths: Tensor, generator: torch.Generator) -> Batch:
    """Random tokens, and the same ones as they were read or from last to first."""
    longest = int(lengths.max())
    source = integers(generator, 1, SYMBOLS, longest, len(lengths))  # (S, B)
    steps = torch.arange(longest + 1)[:, None]
    source = source.masked_fill(steps[:-1] >= lengths, 0)
    order = aligned_items(task, lengths, steps).clamp(0, longest - 1)  # (S + 1, B)
    target = source.gather(0, order).masked_fill(steps >= lengths, 0)
    return source, lengths, target, lengths + 1


def aligned_items(task: str, lengths: Tensor, steps: Tensor) -> Tensor:
    """Where in the source the token is that each step writes: (T, B)."""
    return lengths - 1 - steps if task == "reverse" else steps + 0 * lengths


# -- what is measured ----------------------------------------------------------


def score(model: cw.EncoderDecoder, task: str, length: int) -> dict[str, float | None]:
    """The `MEASURES` at one length; its sequences are the same ones for every net.

    An output is searched for greedily. A token is right where the target has it.
    """
    generator = torch.Generator().manual_seed(1000 + length)
    batch = pairs(task, torch.full((TESTED,), length), generator)
    source, lengths, target, _ = batch
    found = model.greedy(source, lengths, max_length=2 * length)
    rows = list(zip(found, target[:length].T.tolist(), strict=True))
    exact = sum(own.tokens == row for own, row in rows)
    right = sum(sum(map(eq, own.tokens, row)) for own, row in rows)
    return {
        "exact": round(exact / TESTED, 4),
        "accuracy": round(right / (TESTED * length), 4),
        "aligned": None if model.items is None else aligned(model, task, batch),
    }


def aligned(model: cw.EncoderDecoder, task: str, batch: Batch) -> float:
    """How often the largest weight is that of the token to be written, while forced."""
    weights = model.attention(*batch)[:-1]  # (S, B, S), without the end token's
    steps = torch.arange(len(weights))[:, None]
    hits = weights.argmax(-1) == aligned_items(task, batch[1], steps)  # (S, B)
    return round(hits.double().mean().item(), 4)


# -- what it shows -------------------------------------------------------------

MEASURES = {
    "exact": "Exact match",
    "accuracy": "Token accuracy",
    "aligned": "Largest weight on the token to be written",
}


def curve(rows: Rows, task: str, net: str, key: str) -> list[float]:
    """A measure over the tested lengths, in per cent: the mean of the seeds."""
    runs = rows.where(task=task, net=net).column(key)
    return [100 * sum(values) / len(values) for values in zip(*runs, strict=True)]


def level(rows: Rows, task: str, net: str, key: str, share: float) -> float:
    """A measure at a share of the longest trained length, in per cent."""
    first = rows.rows[0]
    place = first["lengths"].index(round(share * first["longest"]))
    return curve(rows, task, net, key)[place]


def tables(rows: Rows) -> list[Table]:
    first, seeds = rows.rows[0], len(rows.values("seed"))
    notes = {
        "exact": f"Random tokens of {SYMBOLS} kinds, trained on 1 to "
        f"{first['longest']} of them, {first['steps']} steps of {BATCH}; tested on "
        f"{TESTED} sequences of each length with greedy search; "
        + ("one seed. " if seeds == 1 else f"the mean of {seeds} seeds. ")
        + " and ".join(_size(rows, net) for net in NETS)
        + ". Bahdanau et al. 2015, figure 2, translation: the BLEU score of the net "
        "without attention falls steeply with the length, that of the net with "
        "attention, trained on up to 50 words, does not.",
        "accuracy": "The share of the target's tokens that are written in their "
        f"places; {100 // SYMBOLS} % by chance.",
        "aligned": "While the target is forced. An output of the encoder tells of the "
        "tokens beside its own, too, so other weights can serve as well.",
    }
    return [_table(rows, key, note) for key, note in notes.items()]


def _table(rows: Rows, key: str, note: str) -> Table:
    first, body = rows.rows[0], []
    for task in TASKS:
        for net in NETS if key != "aligned" else ("bahdanau_gru",):
            runs = rows.where(task=task, net=net)
            scores = (f"{v:.0f}" for v in curve(rows, task, net, key))
            seconds = round(runs.median("cpu_seconds"))
            body.append((f"{task}, {NETS[net]}", *scores, seconds))
    return Table(
        f"{MEASURES[key]} (%) by length; {first['longest']} is the longest trained",
        ("net", *map(str, first["lengths"]), "CPU s"),
        tuple(body),
        note,
    )


def _size(rows: Rows, net: str) -> str:
    row = rows.where(net=net).rows[0]
    return f"{row['parameters']:,} parameters {NETS[net]}"


def draw(rows: Rows, figure: Figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    lengths, longest = (rows.rows[0][key] for key in ("lengths", "longest"))
    dashes = {"exact": "-", "accuracy": ":"}
    for task, ax in zip(TASKS, axes, strict=True):
        for k, net in enumerate(NETS):
            for key, dash in dashes.items():
                name = f"{MEASURES[key].lower()}, {NETS[net]}"
                style: dict[str, Any] = look(k) | {"linestyle": dash}
                ax.plot(lengths, curve(rows, task, net, key), label=name, **style)
        ax.axvline(longest, color="#555555", linewidth=0.8)
        ax.text(longest, 103, "longest trained", ha="center", fontsize=8.5)
        ax.set_xticks(lengths)
        ax.set_ylim(0, 110)
        label(ax, TASKS[task], "length of the source (tokens)", "%")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8.5)


def claims(rows: Rows) -> list[Claim]:
    return [claim for task in TASKS for claim in _task_claims(rows, task)]


def _task_claims(rows: Rows, task: str) -> list[Claim]:
    seeing, blind = NETS
    lost = {
        net: level(rows, task, net, "exact", 0.25) - level(rows, task, net, "exact", 1)
        for net in NETS
    }
    beyond = {net: level(rows, task, net, "accuracy", 1.5) for net in NETS}
    within = "exact match lost from a quarter of the longest trained length to it"
    return [
        Claim(
            f"{task}, with attention: exact match at the longest trained length (%)",
            level(rows, task, seeing, "exact", 1),
            low=80.0,
        ),
        Claim(f"{task}, with attention: {within} (points)", lost[seeing], high=20.0),
        Claim(f"{task}, without attention: {within} (points)", lost[blind], low=50.0),
        Claim(
            f"{task}, at 1.5 times the longest trained length: token accuracy with "
            "attention above without (points)",
            beyond[seeing] - beyond[blind],
            low=10.0,
        ),
    ]


def conclude(rows: Rows) -> str:
    first = rows.rows[0]
    longest, last = first["longest"], first["lengths"][-1]
    seeing, blind = NETS
    said = [
        "Without attention a source of any length must fit into states of one width; "
        "with it the decoder looks at the outputs of the encoder at every step."
    ]
    for task in TASKS:
        short, whole, double = (
            [level(rows, task, net, key, share) for net in (seeing, blind)]
            for key, share in (("exact", 0.25), ("exact", 1), ("accuracy", 2))
        )
        said.append(
            f"{TASKS[task]} {longest // 4} tokens, {short[0]:.0f} % of the outputs "
            f"are right with attention and {short[1]:.0f} % without; {longest} tokens, "
            f"the longest trained, {whole[0]:.0f} % and {whole[1]:.0f} %; of the "
            f"tokens of {last}, {double[0]:.0f} % and {double[1]:.0f} %."
        )
    within, beyond = (
        min(level(rows, task, seeing, "aligned", share) for task in TASKS)
        for share in (1, 2)
    )
    said.append(
        f"The largest weight is that of the token to be written in {within:.0f} % of "
        f"the steps or more at the longest trained length, and in {beyond:.0f} % or "
        "more at twice that length."
    )
    return " ".join(said)


EXPERIMENT = Experiment(
    name="attention",
    question="What does attention add to an encoder-decoder?",
    minutes=3,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
