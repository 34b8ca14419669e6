"""Sentiment of every phrase of a sentence, by a Tree-LSTM over its parse.

    python examples/sentiment_tree.py --train train.txt --dev dev.txt

Each line of a file is a tree in brackets, `(3 (2 It) (4 works))`, with a class 0 to 4
at every node, as in the Stanford Sentiment Treebank. Word vectors are learned from
scratch, so the accuracy is below that with pretrained ones.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import cellwright as cw


class Sentiment(nn.Module):
    def __init__(self, words: int, width: int, units: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + 1, width)  # 0: a word not seen
        self.tree = cw.TreeRecurrent("binary_lstm", width, units)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(units, 5)

    def forward(self, forest: cw.Forest) -> torch.Tensor:
        words = torch.from_numpy(forest.words)  # (M,), one for each leaf
        x = self.dropout(self.embedding(words))
        y, _ = self.tree(x, forest)  # (N, units), one row a node
        return self.classify(self.dropout(y))  # (N, 5)


def accuracy(model: Sentiment, trees: list[cw.Forest]) -> tuple[float, float]:
    """Of all phrases, and of whole sentences."""
    model.eval()
    with torch.no_grad():
        forest = cw.Forest.batch(trees)
        right = model(forest).argmax(1) == torch.from_numpy(forest.labels)
    model.train()
    return right.float().mean().item(), right[forest.roots].float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--units", type=int, default=150)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--limit", type=int, help="only so many trees of a file")
    arguments = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)

    vocabulary: dict[str, int] = {}

    def learn(word: str) -> int:
        return vocabulary.setdefault(word.lower(), len(vocabulary) + 1)

    def look_up(word: str) -> int:
        return vocabulary.get(word.lower(), 0)

    def read(path: Path, word) -> list[cw.Forest]:
        lines = path.read_text(encoding="utf-8").splitlines()[: arguments.limit]
        return [cw.Forest.from_brackets(n, label=int, word=word) for n in lines]

    train, dev = read(arguments.train, learn), read(arguments.dev, look_up)
    model = Sentiment(len(vocabulary), arguments.width, arguments.units, dropout=0.5)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    print(f"{len(train)} trees, {len(vocabulary)} words, engine {model.tree.engine}")
    for epoch in range(1, arguments.epochs + 1):
        random.shuffle(train)
        total = 0.0
        for start in range(0, len(train), arguments.batch):
            forest = cw.Forest.batch(train[start : start + arguments.batch])
            loss = F.cross_entropy(model(forest), torch.from_numpy(forest.labels))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * forest.nodes
        nodes = sum(tree.nodes for tree in train)
        phrases, sentences = accuracy(model, dev)
        print(
            f"epoch {epoch}: loss {total / nodes:.4f}, dev accuracy of phrases "
            f"{phrases:.3f}, of sentences {sentences:.3f}"
        )


if __name__ == "__main__":
    main()
