"""Are the papers' tables of trees and rows met? Two of them, at their size.

`listops`: table 2 of Nangia & Bowman 2018 ("ListOps: A Diagnostic Dataset for Latent
Tree Learning", arXiv 1804.06028): 90,000 expressions of up to 20 levels, 128 units.
`sentiment`: the fine-grained column of table 2 of Tai, Socher & Manning 2015 ("Improved
Semantic Representations From Tree-Structured LSTM Networks", arXiv 1503.00075), with
word vectors that start at random. (`recursive` asks what smaller nets do on deeper
trees.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw

from ..train.schedules import Cosine
from . import tasks
from .experiment import Claim, Experiment, Keep, Record, Rows, Table
from .peers import parameters
from .plotting import label, look
from .recursive import (
    Batch,
    Net,
    Reader,
    accuracy,
    every_phrase,
    pairs,
    phrases,
    rows_of_tokens,
    rows_of_words,
    treebank,
    treebank_is_missing,
    vocabulary,
)
from .tasks.listops import TOKENS, Expression
from .training import Fit, Judge, Shuffled, Training, fit_stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The examples of each part: "train", "validation", "test".
Parts = dict[str, Sequence[Any]]


def _lstm(inputs: int, units: int) -> nn.Module:
    return cw.Recurrent("lstm", inputs, units)


def _both_ways(inputs: int, units: int) -> nn.Module:
    return cw.Recurrent("lstm", inputs, units, bidirectional=True)


def _tree(inputs: int, units: int) -> nn.Module:
    return cw.TreeRecurrent("binary_lstm", inputs, units)


@dataclass(frozen=True)
class Reading:
    """A table: what is read, by which nets.

    Attributes:
        title: of the table, with the unit.
        source: of the published figures, and what differs from the paper.
        nets: by name.
        trained: what a net is trained on, of the examples to train on, where that is
            not these.
        settings: of every net, and of single ones; searched on the validation part
            (docs/lab.md says what was tried).
        examples: `examples(count)`: the three parts, of at most `count` to train on.
        words, classes: how many there are.
        length: of an example: those of similar length make a batch.
        steps: `steps(net)`: steps or inner nodes of an epoch, for each example.
    """

    title: str
    source: str
    nets: dict[str, Net]
    trained: dict[str, Callable[[Sequence[Any]], Sequence[Any]]]
    settings: tuple[Record, dict[str, Record]]
    examples: Callable[[int], Parts]
    words: Callable[[], int]
    classes: int
    length: Callable[[Any], int]
    steps: dict[str, float]


def _length(expression: Expression) -> int:
    return sum(1 for _ in expression.tokens())


@cache
def _expressions(count: int) -> Parts:
    """Different expressions of one draw."""
    others = (1_000, 10_000) if count == 90_000 else (200, 500)
    sizes = {"train": count, "validation": others[0], "test": others[1]}
    drawn = tasks.listops(sum(sizes.values()), torch.Generator().manual_seed(2018))
    left = iter(drawn)
    return {part: [next(left) for _ in range(size)] for part, size in sizes.items()}


def _sentences(count: int) -> Parts:
    """All of the treebank, or so many of each part from all over it."""
    parts = {"train": "train", "validation": "dev", "test": "test"}
    found = {part: treebank(name) for part, name in parts.items()}
    return {part: all_[:: max(1, len(all_) // count)] for part, all_ in found.items()}


TABLES = {
    "listops": Reading(
        "ListOps: test accuracy (%)",
        "Nangia & Bowman 2018, table 2, 128 units: 90,000 expressions of up to 20 "
        "levels to train on, 10,000 to test on. Ours are drawn by the paper's grammar; "
        "1,000 more validate.",
        {
            "LSTM": Net("LSTM, the row of tokens", _lstm, rows_of_tokens, 73.3),
            "TreeLSTM": Net("TreeLSTM, given the tree", _tree, pairs, 98.7),
        },
        {},
        (
            {"count": 90_000, "units": 128, "inputs": 128, "batch": 64},
            {"LSTM": {"epochs": 20}, "TreeLSTM": {"epochs": 10}},
        ),
        _expressions,
        lambda: len(TOKENS),
        10,
        _length,
        {"LSTM": 37.0, "TreeLSTM": 36.0},
    ),
    "sentiment": Reading(
        "Stanford Sentiment Treebank, five classes: test accuracy (%)",
        "Tai et al. 2015, table 2, of 150 or 168 units: 43.9 with word vectors that "
        "start at random, as ours do; the LSTMs' figures, 46.4 and 49.1, are with "
        "GloVe vectors, and the tree's with them is 51.0. All are trained on every "
        "phrase.",
        {
            "tree": Net("constituency Tree-LSTM", _tree, every_phrase, 43.9),
            "LSTM": Net("LSTM", _lstm, rows_of_words),
            "bidirectional": Net("bidirectional LSTM", _both_ways, rows_of_words),
        },
        dict.fromkeys(("LSTM", "bidirectional"), phrases),
        (
            {"count": 8544, "units": 168, "inputs": 300, "batch": 25, "dropout": 0.5},
            {
                "tree": {"units": 150, "epochs": 12},
                "LSTM": {"epochs": 6, "batch": 100},
                "bidirectional": {"epochs": 6, "batch": 100},
            },
        ),
        _sentences,
        lambda: len(vocabulary()) + 1,
        5,
        lambda tree: tree.count("("),
        {"tree": 18.1, "LSTM": 133.0, "bidirectional": 133.0},
    ),
}

_SHARED = {"dropout": 0.0, "rate": 2e-3, "weight_decay": 0.01, "clip": 1.0}
_QUICK = {"count": 3000, "units": 32, "inputs": 32, "epochs": 4, "rate": 1e-2}
_QUICK_PARTS = {"listops": {"batch": 32}, "sentiment": {"count": 300, "epochs": 1}}


def cases(quick: bool, seed: int) -> list[Record]:
    return list(_cases(quick, seed))


def _cases(quick: bool, seed: int) -> Iterator[Record]:
    for part, table in TABLES.items():
        if part == "sentiment" and treebank_is_missing() is not None:
            continue
        for s in range(seed, seed + (1 if quick else 3)):
            for net in table.nets:
                short = _QUICK | _QUICK_PARTS[part] if quick else {}
                yield case_of(part, net, s) | short


def case_of(part: str, net: str, seed: int) -> Record:
    """The settings of a case, as plain data."""
    shared, own = TABLES[part].settings
    return {"part": part, "net": net, **_SHARED, **shared, **own[net], "seed": seed}


def work(case: Record) -> float:
    """Multiply-adds of training, forward and backward, without the embedding."""
    table, units = TABLES[case["part"]], case["units"]
    steps = case["epochs"] * case["count"] * table.steps[case["net"]]
    if case["net"] in (
        "tree",
        "TreeLSTM",
    ):  # five gates read the states of two children
        return 3.0 * steps * 10 * units**2
    ways = 2 if case["net"] == "bidirectional" else 1
    return 3.0 * steps * ways * 4 * units * (units + case["inputs"])


def batches(
    table: Reading, prepare: Callable[[Any], Batch], examples: Sequence[Any], size: int
) -> list[Batch]:
    """Examples of similar length together, so that little of a row is padding."""
    ordered = sorted(examples, key=table.length)
    return [prepare(ordered[k : k + size]) for k in range(0, len(ordered), size)]


def run(case: Record, keep: Keep | None = None) -> Record:
    """Train; the test accuracy is that of the epoch that validated best."""
    table, net = TABLES[case["part"]], TABLES[case["part"]].nets[case["net"]]
    examples = table.examples(case["count"])
    model = Reader(
        net.layer(case["inputs"], case["units"]),
        table.words(),
        table.classes,
        case["dropout"],
    )
    chosen = table.trained.get(case["net"], list)(examples["train"])
    stream = Shuffled(batches(table, net.prepare, chosen, case["batch"]), case["seed"])
    tests = {
        part: batches(table, net.prepare, examples[part], case["batch"])
        for part in ("validation", "test")
    }
    steps = case["epochs"] * len(stream)

    def measured(fitted: Fit) -> Record:
        return {
            "parameters": parameters(model),
            "test": None if fitted.test is None else 1 - fitted.test,
            "validation": None if fitted.best is None else 1 - fitted.best,
            "epoch": fitted.steps // len(stream),
            "frequent": frequent(tests["test"]),
            "curve": [round(1 - wrong, 4) for _, wrong in fitted.scores],
        }

    def report(fitted: Fit) -> None:
        if keep is not None:
            keep.report(measured(fitted), fitted.steps / steps)

    fitted = fit_stream(
        model,
        stream,
        _objective,
        Training(
            steps=steps,
            lr=case["rate"],
            seed=case["seed"],
            optimiser="adamw",
            schedule=Cosine(warm_up=min(200, steps // 10), steps=steps, floor=0.01),
            clip_norm=case["clip"],
            every=len(stream),
            weight_decay=case["weight_decay"],
        ),
        Judge(
            lambda model: 1 - accuracy(model, tests["validation"]),
            lambda model: 1 - accuracy(model, tests["test"]),
            report=report,
        ),
        keep and keep.directory,
    )
    return measured(fitted)


def frequent(batches: Sequence[Batch]) -> float:
    """The accuracy of the most frequent answer alone."""
    answers = torch.cat([b.answers() for b in batches])
    return answers.bincount().max().item() / len(answers)


def _objective(
    model: nn.Module, batch: Batch, state: Any, step: float
) -> tuple[Tensor, Any]:
    """The mean cross-entropy of what has a label."""
    return F.cross_entropy(model(batch), batch.targets), None


# -- what they show ----------------------------------------------------------------


def finished(rows: Rows, net: str) -> Rows:
    """The cases of a net that are at their end."""
    return Rows(tuple(r for r in rows.where(net=net) if r.get("done", 1) >= 1))


def tables(rows: Rows) -> list[Table]:
    return [_table(part, rows.where(part=part)) for part in rows.values("part")]


def _table(part: str, rows: Rows) -> Table:
    body = []
    for net in rows.values("net"):
        found = rows.where(net=net)
        figures = [
            _percent(r["test"])
            + (
                ""
                if r.get("done", 1) >= 1
                else f" (epoch {r['epoch']} of {r['epochs']})"
            )
            for r in found
        ]
        body.append(
            (
                TABLES[part].nets[net].name,
                f"{found.rows[0]['parameters']:,}",
                " / ".join(figures),
                TABLES[part].nets[net].published,
            )
        )
    return Table(
        TABLES[part].title,
        ("net", "weights", "ours, by seed", "published"),
        tuple(body),
        f"At the best validation. {TABLES[part].source}",
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def claims(rows: Rows) -> list[Claim]:
    """Every published figure is met by the median of the finished seeds.

    A short run learns something of ListOps; of sentiment nothing yet.
    """
    found = []
    for part in rows.values("part"):
        for net, read in TABLES[part].nets.items():
            ended = finished(rows.where(part=part), net)
            if not len(ended):
                continue
            if rows.quick and part == "listops":
                above = ended.median("test") - ended.median("frequent")
                name = (
                    f"{part}, {read.name}, a short run: above the most frequent answer"
                )
                found.append(Claim(f"{name} (points)", 100 * above, low=2.0))
            if not rows.quick and read.published is not None:
                name = f"{part}, {read.name}: test accuracy (%), as published"
                found.append(
                    Claim(name, 100 * ended.median("test"), low=read.published)
                )
    return found


def conclude(rows: Rows) -> str:
    said = []
    for part in rows.values("part"):
        of_part, nets = rows.where(part=part), TABLES[part].nets
        listed = [
            f"{read.name} {_percent(ended.median('test'))} %"
            + (f" (published {read.published})" if read.published else "")
            for net, read in nets.items()
            if len(ended := finished(of_part, net))
        ]
        if listed:
            said.append(f"{TABLES[part].title.split(':')[0]}: {', '.join(listed)}.")
    return " ".join(said) or "Nothing is finished yet."


def draw(rows: Rows, figure: Figure) -> None:
    """Validation accuracy by epoch; a line at what is published."""
    parts = rows.values("part")
    axes = figure.subplots(1, max(1, len(parts)), squeeze=False)[0]
    for ax, part in zip(axes, parts, strict=False):
        for k, net in enumerate(rows.where(part=part).values("net")):
            style = look(k)
            read = TABLES[part].nets[net]
            for j, r in enumerate(rows.where(part=part, net=net)):
                curve = [100 * a for a in r["curve"]]
                named = {"label": read.name} if j == 0 else {}
                ax.plot(range(1, len(curve) + 1), curve, **style, **named)
            if read.published is not None:
                ax.axhline(read.published, color=style["color"], linewidth=0.8)
        title = TABLES[part].title.split(":")[0]
        label(ax, f"{title} (lines: published)", "epoch", "validation accuracy (%)")
        ax.locator_params(axis="x", integer=True)
        ax.legend(loc="lower right")


EXPERIMENT = Experiment(
    name="tree-tables",
    question="Trees or rows: are Nangia & Bowman's and Tai et al.'s tables met?",
    minutes=200,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
    work=work,
)
