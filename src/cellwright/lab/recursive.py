"""How do recurrent nets generalise to recursive ones?

The step of a recursive net sees the states of a node's children in place of the state
before. `listops`: expressions whose answer hangs on their nesting (Nangia & Bowman
2018), by tree and as a row of tokens, and on deeper ones than were trained on.
`sentiment`: the Stanford Sentiment Treebank with and without its trees.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw

from . import tasks
from .experiment import Claim, Experiment, Record, Rows, Table
from .plotting import label, look
from .tasks.listops import TOKENS, Expression
from .training import Training, fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BATCH = 32
TRAINED = (2, 5)  # levels of the expressions to train on
TREEBANK = "https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip"


@dataclass(frozen=True)
class Batch:
    """Some examples, as trees or as rows of words.

    Attributes:
        words: (M,) of the forest's inputs, or (T, B).
        targets: (N,) of every node, or (B,); −100 where none is asked for.
        forest: the trees.
        lengths: (B,) of the rows.
    """

    words: Tensor
    targets: Tensor
    forest: cw.Forest | None = None
    lengths: Tensor | None = None

    def count(self) -> int:
        """How many examples."""
        return len(self.forest if self.forest is not None else self.targets)

    def answers(self) -> Tensor:
        """(B,): the targets of whole examples."""
        if self.forest is None:
            return self.targets
        return self.targets[torch.from_numpy(self.forest.roots)]


class Reader(nn.Module):
    """Embeds words, reads a tree or a row, and answers with a class.

    A batch of trees gives logits (N, classes) at every node, one of rows (B, classes)
    after the last word.
    """

    def __init__(self, layer: nn.Module, words: int, classes: int, dropout: float = 0):
        super().__init__()
        self.embedding = nn.Embedding(words, layer.input_size)  # type: ignore[arg-type]
        self.layer = layer
        self.linear = nn.Linear(layer.output_size, classes)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> Tensor:
        x = self.dropout(self.embedding(batch.words))
        if batch.forest is not None:
            y, _ = self.layer(x, batch.forest)
        else:
            y = self._row(x, batch.lengths)
        return self.linear(self.dropout(y))

    def _row(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, output_size): after the last word; backwards, after the first."""
        assert lengths is not None
        outputs, _ = self.layer(x, lengths=lengths)
        y = outputs[lengths - 1, torch.arange(len(lengths))]
        if not self.layer.bidirectional:
            return y
        forwards, _ = y.chunk(2, -1)
        _, backwards = outputs[0].chunk(2, -1)
        return torch.cat((forwards, backwards), -1)


def cases(quick: bool, seed: int) -> list[Record]:
    expressions = (
        {"count": 4000, "steps": 400, "hidden": 64}
        if quick
        else {"count": 20_000, "steps": 1500, "hidden": 64}
    )
    longest = 30 if quick else 60
    found: list[Record] = [
        {"part": "listops", "net": net, **expressions, "longest": longest, "seed": seed}
        for net in (("tree", "sequence") if quick else LISTOPS)
    ]
    if not quick and treebank_is_missing() is None:
        found += [
            {"part": "sentiment", "net": net, "epochs": 3, "hidden": 64, "seed": s}
            for net in SENTIMENT
            for s in (seed, seed + 1)
        ]
    return found


def run(case: Record) -> Record:
    return PARTS[case["part"]](case)


# -- ListOps -------------------------------------------------------------------


def lists(expressions: Sequence[Expression]) -> Batch:
    """A node a list: its operator is its x, digits are leaves."""
    grow = Grow()

    def node(part: Expression | int) -> int:
        if isinstance(part, int):
            return grow.add((), str(part))
        children = [node(a) for a in part.arguments]
        return grow.add(children, f"[{part.operator}")

    return grow.batch([(node(e), e.value) for e in expressions])


def pairs(expressions: Sequence[Expression]) -> Batch:
    """The paper's parse, to the left: (((([MAX 2) 9) 0) ]), with tokens for leaves."""
    grow = Grow()

    def node(part: Expression | int) -> int:
        if isinstance(part, int):
            return grow.add((), str(part))
        whole = grow.add((), f"[{part.operator}")
        for argument in part.arguments:
            whole = grow.add((whole, node(argument)))
        return grow.add((whole, grow.add((), "]")))

    return grow.batch([(node(e), e.value) for e in expressions])


def rows_of_tokens(expressions: Sequence[Expression]) -> Batch:
    """The tokens as they are written."""
    words = [torch.tensor([TOKENS.index(t) for t in e.tokens()]) for e in expressions]
    return Batch(
        nn.utils.rnn.pad_sequence(words),
        torch.tensor([e.value for e in expressions]),
        lengths=torch.tensor([len(w) for w in words]),
    )


class Grow:
    """Nodes of a forest, children before parents."""

    def __init__(self) -> None:
        self.children: list[Sequence[int]] = []
        self.inputs: list[int] = []
        self.words: list[int] = []

    def add(self, children: Sequence[int], token: str | None = None) -> int:
        if token is not None:
            self.inputs.append(len(self.children))
            self.words.append(TOKENS.index(token))
        self.children.append(children)
        return len(self.children) - 1

    def batch(self, answers: Sequence[tuple[int, int]]) -> Batch:
        """With the (root, answer) of each tree."""
        targets = torch.full((len(self.children),), -100)
        for root, answer in answers:
            targets[root] = answer
        forest = cw.Forest.from_children(self.children, inputs=self.inputs)
        return Batch(torch.tensor(self.words), targets, forest)


@dataclass(frozen=True)
class Net:
    """A way to read: its name, its layer, how it wants its examples, its published
    accuracy in per cent."""

    name: str
    layer: Callable[[int, int], nn.Module]
    prepare: Callable[[Any], Batch]
    published: float | None = None


LISTOPS = {
    "pairs": Net(
        "binary Tree-LSTM",
        lambda i, h: cw.TreeRecurrent("binary_lstm", i, h),
        pairs,
        98.7,
    ),
    "tree": Net(
        "child-sum Tree-LSTM",
        lambda i, h: cw.TreeRecurrent("child_sum_lstm", i, h),
        lists,
    ),
    "sequence": Net(
        "LSTM", lambda i, h: cw.Recurrent("lstm", i, h), rows_of_tokens, 73.3
    ),
}


@cache
def expressions(count: int, longest: int) -> tuple[list[Expression], ...]:
    """To train on, and to test on: as many levels, then each deeper level."""
    generator = torch.Generator().manual_seed(50)
    known = tasks.listops(count + 1000, generator, depths=TRAINED, longest=longest)
    order = torch.randperm(len(known), generator=generator).tolist()
    mixed = [known[k] for k in order]  # long ones are found late
    deeper = [
        tasks.listops(500, generator, depths=(d, d), longest=2 * longest)
        for d in range(TRAINED[1] + 1, TRAINED[1] + 5)
    ]
    return mixed[:count], mixed[count:], *deeper


def listops(case: Record) -> Record:
    """Train on shallow expressions; the accuracy on them, and on deeper ones."""
    net = LISTOPS[case["net"]]
    training, *tests = expressions(case["count"], case["longest"])
    model = Reader(net.layer(32, case["hidden"]), len(TOKENS), 10)
    began = time.process_time()
    done = fit(
        model,
        picked([net.prepare(group) for group in grouped(training)]),
        root_loss,
        Training(steps=case["steps"], lr=0.003, seed=case["seed"]),
    )
    seconds = time.process_time() - began
    scores = [accuracy(model, [net.prepare(g) for g in grouped(t)]) for t in tests]
    return {
        "accuracy": scores[0],
        "deeper": scores[1:],
        "curve": done.curve,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds, 1),
    }


# -- sentiment -----------------------------------------------------------------


def treebank_is_missing() -> str | None:
    try:
        tasks.find_data("sst/train.txt", TREEBANK)
    except tasks.DataMissing as error:
        return str(error)
    return None


@cache
def treebank(part: str) -> list[str]:
    """The trees of "train", "dev" or "test", in brackets.

    A word such as "1 1/2" has a blank that does not break; here it is an underscore.
    """
    path = tasks.find_data(f"sst/{part}.txt", TREEBANK)
    text = path.read_text(encoding="utf-8-sig").replace("\u00a0", "_")
    return text.strip().split("\n")


@cache
def vocabulary() -> dict[str, int]:
    """The words of the training trees that come twice, small letters; 0 is the rest."""
    words = re.findall(r"([^ ()]+)\)", "\n".join(treebank("train")).lower())
    counts = Counter(words)
    often = [word for word, count in counts.items() if count > 1]
    return {word: k for k, word in enumerate(often, 1)}


def _read(trees: Sequence[str]) -> cw.Forest:
    known = vocabulary()
    return cw.Forest.from_brackets(
        trees, label=int, word=lambda w: known.get(w.lower(), 0)
    )


def every_phrase(trees: Sequence[str]) -> Batch:
    """Trees, with the label of every node."""
    forest = _read(trees)
    return Batch(torch.as_tensor(forest.words), torch.as_tensor(forest.labels), forest)


def root_alone(trees: Sequence[str]) -> Batch:
    """Trees, with the label of the root."""
    batch = every_phrase(trees)
    assert batch.forest is not None
    roots = torch.from_numpy(batch.forest.roots)
    targets = torch.full_like(batch.targets, -100)
    targets[roots] = batch.targets[roots]
    return Batch(batch.words, targets, batch.forest)


def rows_of_words(trees: Sequence[str]) -> Batch:
    """The words of each tree in a row, with the label of the whole."""
    forests = [_read([tree]) for tree in trees]
    words = [torch.as_tensor(f.words) for f in forests]
    return Batch(
        nn.utils.rnn.pad_sequence(words),
        torch.tensor([int(f.labels[0]) for f in forests]),  # type: ignore[index]
        lengths=torch.tensor([len(w) for w in words]),
    )


def phrases(trees: Sequence[str]) -> list[str]:
    """Every phrase of the trees, once: a part in brackets is a tree itself."""
    found: dict[str, None] = {}
    for tree in trees:
        begins = []
        for at, sign in enumerate(tree):
            if sign == "(":
                begins.append(at)
            elif sign == ")":
                found[tree[begins.pop() : at + 1]] = None
    return list(found)


def _binary(inputs: int, hidden: int) -> nn.Module:
    return cw.TreeRecurrent("binary_lstm", inputs, hidden)


SENTIMENT = {
    "phrases": Net("Tree-LSTM, every phrase's label", _binary, every_phrase, 43.9),
    "root": Net("Tree-LSTM, the sentence's label", _binary, root_alone),
    "row": Net(
        "LSTM, the sentence's label",
        lambda i, h: cw.Recurrent("lstm", i, h),
        rows_of_words,
    ),
}


def sentiment(case: Record) -> Record:
    """Train on the treebank; the test accuracy of the epoch best on its dev part."""
    net = SENTIMENT[case["net"]]
    model = Reader(
        net.layer(case["hidden"], case["hidden"]), len(vocabulary()) + 1, 5, dropout=0.3
    )
    training = [net.prepare(group) for group in grouped(treebank("train"))]
    dev, test = (
        [net.prepare(group) for group in grouped(treebank(part))]
        for part in ("dev", "test")
    )
    scores: list[tuple[float, float]] = []

    def wrong(model: nn.Module) -> float:
        scores.append((accuracy(model, dev), accuracy(model, test)))
        return 1 - scores[-1][0]

    began = time.process_time()
    fit(
        model,
        picked(training),
        root_loss,
        Training(
            steps=case["epochs"] * len(training),
            lr=0.002,
            seed=case["seed"],
            every=len(training) // 2,
        ),
        evaluate=wrong,
    )
    dev_best, test_best = max(scores)
    return {
        "accuracy": test_best,
        "dev": dev_best,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


PARTS: dict[str, Callable[[Record], Record]] = {
    "listops": listops,
    "sentiment": sentiment,
}


# -- what both share -----------------------------------------------------------


def grouped(examples: Sequence[Any]) -> list[Sequence[Any]]:
    return [examples[k : k + BATCH] for k in range(0, len(examples), BATCH)]


def picked(batches: list[Batch]) -> Callable[[torch.Generator], Batch]:
    """One of the batches at random."""
    return lambda generator: batches[
        int(torch.randint(len(batches), (1,), generator=generator))
    ]


def root_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy over all nodes, or rows, that have a target."""
    return F.cross_entropy(model(batch), batch.targets)


@torch.no_grad()
def accuracy(model: nn.Module, batches: Sequence[Batch]) -> float:
    """The share of whole examples that are right."""
    was, right, count = model.training, 0, 0
    model.eval()
    for batch in batches:
        hits = model(batch).argmax(-1) == batch.targets
        if batch.forest is not None:
            hits = hits[torch.from_numpy(batch.forest.roots)]
        right += int(hits.sum())
        count += batch.count()
    model.train(was)
    return right / count


# -- what they show ------------------------------------------------------------


def tables(rows: Rows) -> list[Table]:
    found = [_listops_table(rows.where(part="listops"))]
    if len(rows.where(part="sentiment")):
        found.append(_sentiment_table(rows.where(part="sentiment")))
    return found


def _listops_table(lists: Rows) -> Table:
    levels = _levels(lists)
    first = lists.rows[0]
    body = [
        (
            LISTOPS[r["net"]].name,
            _percent(r["accuracy"]),
            *(_percent(a) for a in r["deeper"]),
            LISTOPS[r["net"]].published,
            f"{r['cpu_seconds']:.0f}",
        )
        for r in lists
    ]
    return Table(
        f"ListOps, trained on up to {TRAINED[1]} levels: accuracy (%)",
        (
            "net",
            f"≤ {TRAINED[1]} levels",
            *(f"{n} levels" for n in levels),
            "Nangia & Bowman",
            "CPU s",
        ),
        tuple(body),
        f"{first['count']:,} expressions of at most {first['longest']} tokens, "
        f"{first['steps']} steps of {BATCH}, {first['hidden']} units; deeper ones may "
        "have twice the tokens. Nangia & Bowman 2018, table 2: 90,000 expressions of "
        "up to 20 levels, 128 units, trained to the end. One of ten digits: 10 % by "
        "chance.",
    )


def _levels(lists: Rows) -> list[int]:
    return [TRAINED[1] + 1 + k for k in range(len(lists.rows[0]["deeper"]))]


def _sentiment_table(runs: Rows) -> Table:
    body = [
        (
            SENTIMENT[net].name,
            " / ".join(_percent(a) for a in runs.where(net=net).column("accuracy")),
            SENTIMENT[net].published,
            f"{runs.where(net=net).median('cpu_seconds'):.0f}",
        )
        for net in runs.values("net")
    ]
    first = runs.rows[0]
    return Table(
        "Stanford Sentiment Treebank, five classes: test accuracy (%), two seeds",
        ("net", "ours", "Tai et al.", "CPU s"),
        tuple(body),
        f"No word vectors: embeddings start at random, and {first['epochs']} epochs of "
        f"{first['hidden']} units train them. Tai et al. 2015, table 2, at 150 units: "
        "43.9 with vectors that start at random too; with GloVe vectors, tuned, 51.0, "
        "and 46.4 for an LSTM that was trained on every phrase as well.",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def draw(rows: Rows, figure: Figure) -> None:
    lists, trees = rows.where(part="listops"), rows.where(part="sentiment")
    if len(trees):
        left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
        _draw_sentiment(trees, right)
    else:
        left = figure.subplots()
    levels = [f"≤ {TRAINED[1]}", *(str(n) for n in _levels(lists))]
    for k, r in enumerate(lists):
        scores = [100 * a for a in (r["accuracy"], *r["deeper"])]
        left.plot(levels, scores, label=LISTOPS[r["net"]].name, **look(k))
    left.axhline(10, color="#555555", linewidth=0.8, label="chance")
    left.set_ylim(0, 100)
    label(left, "ListOps: deeper than trained", "levels of the tree", "accuracy (%)")
    left.legend(loc="upper right")


def _draw_sentiment(runs: Rows, ax: Axes) -> None:
    nets = runs.values("net")
    for k, net in enumerate(nets):
        found = [100 * a for a in runs.where(net=net).column("accuracy")]
        style: dict[str, Any] = look(k) | {"linestyle": ""}
        ax.plot(found, [k] * len(found), **style)
    ax.axvline(43.9, color="#555555", linewidth=0.8, linestyle="--")
    ax.text(43.9, -0.42, " Tai et al., random vectors", fontsize=8.5)
    ax.set_yticks(
        range(len(nets)), [SENTIMENT[n].name.replace(", ", ",\n") for n in nets]
    )
    ax.set_ylim(len(nets) - 0.5, -0.6)
    label(ax, "Sentiment, five classes (no word vectors)", "test accuracy (%)", "")


def claims(rows: Rows) -> list[Claim]:
    lists, trees = rows.where(part="listops"), rows.where(part="sentiment")
    tree, row = lists.one(net="tree"), lists.one(net="sequence")
    found = [
        Claim(
            f"ListOps, up to {TRAINED[1]} levels: tree above row (points)",
            100 * (tree["accuracy"] - row["accuracy"]),
            low=3.0,
        ),
        Claim(
            "ListOps, deeper than trained: tree above row (points, mean)",
            100 * (_mean(tree["deeper"]) - _mean(row["deeper"])),
            low=8.0,
        ),
        Claim(
            "ListOps: the tree keeps of its accuracy, deeper than trained (share)",
            _mean(tree["deeper"]) / tree["accuracy"],
            low=0.7,
        ),
    ]
    if len(trees):
        phrases, row_alone = (
            _mean(trees.where(net=net).column("accuracy")) for net in ("phrases", "row")
        )
        name = "sentiment: the tree with every phrase's label above the row (points)"
        found.append(Claim(name, 100 * (phrases - row_alone), low=0.0))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def conclude(rows: Rows) -> str:
    lists, trees = rows.where(part="listops"), rows.where(part="sentiment")
    tree, row = lists.one(net="tree"), lists.one(net="sequence")
    said = [
        "A recurrent net is a recursive one over a chain: its step sees one state, "
        "that of a tree's node the states of its children, and the path from a leaf to "
        "the root is as long as the tree is deep, not as the row is long.",
        f"On ListOps the Tree-LSTM has {_percent(tree['accuracy'])} %, the LSTM on the "
        f"row of tokens {_percent(row['accuracy'])} %; on expressions deeper than any "
        f"trained on {_percent(_mean(tree['deeper']))} % and "
        f"{_percent(_mean(row['deeper']))} %.",
    ]
    if len(trees):
        best = {n: max(trees.where(net=n).column("accuracy")) for n in SENTIMENT}
        order = sorted(best, key=lambda n: -best[n])
        listed = ", ".join(f"{SENTIMENT[n].name} {_percent(best[n])} %" for n in order)
        alone = best["root"] - best["row"]
        said.append(
            f"On sentiment without word vectors: {listed}. With the same labels, the "
            f"tree alone {'adds' if alone > 0 else 'costs'} "
            f"{abs(100 * alone):.1f} points; what its inner nodes' labels add is "
            f"{100 * (best['phrases'] - best['root']):.1f}."
        )
    return " ".join(said)


EXPERIMENT = Experiment(
    name="recursive",
    question="How do recurrent nets generalise to recursive ones?",
    minutes=8,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
