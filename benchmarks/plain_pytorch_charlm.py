"""The peer: a character language model in plain PyTorch, for the same minute.

It uses nothing of cellwright: `torch.nn.LSTM`, AdamW with cellwright's defaults, a
cosine schedule over the wall clock, one carried state a stream. The text is split and
evaluated as `cellwright train` and `cellwright evaluate` do: the last tenth is never
trained on, and is read whole, from a zero state, its sum of nats divided by its N−1
targets.

    python benchmarks/plain_pytorch_charlm.py TEXT --seconds 60
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


class CharLM(nn.Module):
    def __init__(self, vocab: int, embedding: int, hidden: int, layers: int):
        super().__init__()
        self.embed = nn.Embedding(vocab, embedding)
        self.rnn = nn.LSTM(embedding, hidden, layers)
        self.head = nn.Linear(hidden, vocab)

    def forward(self, tokens, state=None):
        y, state = self.rnn(self.embed(tokens), state)  # (T, B, H)
        return self.head(y), state  # (T, B, V)


def streams_of(ids: torch.Tensor, batch: int) -> torch.Tensor:
    """Cut (N,) into `batch` contiguous streams, time first: (N // batch, batch)."""
    length = len(ids) // batch
    return ids[: length * batch].view(batch, length).t().contiguous()


def train(model: CharLM, ids: torch.Tensor, args: argparse.Namespace) -> int:
    streams = streams_of(ids, args.batch)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, args.beta2), weight_decay=args.decay
    )
    start = time.perf_counter()
    state, position, step = None, 0, 0
    while True:
        elapsed = time.perf_counter() - start
        done = step / args.steps if args.steps else elapsed / args.seconds
        if done >= 1:
            return step
        warm_up = min(1.0, (step + 1) / args.warmup)
        factor = warm_up * 0.5 * (1 + math.cos(math.pi * done))
        optimiser.param_groups[0]["lr"] = args.lr * factor
        if position + args.window + 1 > len(streams):
            state, position = None, 0
        x = streams[position : position + args.window]  # (T, B)
        y = streams[position + 1 : position + args.window + 1]
        logits, state = model(x, state)
        state = tuple(s.detach() for s in state)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimiser.step()
        position += args.window
        step += 1
        if step % 200 == 0:
            print(f"step {step}  loss {loss.item():.3f}  {elapsed:.0f} s", flush=True)


@torch.no_grad()
def evaluate(model: CharLM, ids: torch.Tensor) -> float:
    """Nats per character over all of (N,): state from zero, N−1 targets."""
    model.eval()
    state, total = None, 0.0
    for start in range(0, len(ids) - 1, 1000):
        x = ids[start : min(start + 1000, len(ids) - 1)]
        y = ids[start + 1 : start + 1 + len(x)]
        logits, state = model(x[:, None], state)
        total += F.cross_entropy(logits[:, 0], y, reduction="sum").item()
    return total / (len(ids) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=0, help="instead of the clock")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--embedding", type=int, default=64)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--lr", type=float, default=8e-3)
    parser.add_argument("--beta2", type=float, default=0.99)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    text = args.text.read_text(encoding="utf-8")
    vocabulary = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([vocabulary[c] for c in text])
    cut = int(0.9 * len(ids))
    model = CharLM(len(vocabulary), args.embedding, args.hidden, args.layers)
    start = time.perf_counter()
    steps = train(model, ids[:cut], args)
    seconds = time.perf_counter() - start
    nats = evaluate(model, ids[cut:])
    report = {"nats_per_char": round(nats, 4), "steps": steps, "seconds": seconds}
    print(json.dumps({**report, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
