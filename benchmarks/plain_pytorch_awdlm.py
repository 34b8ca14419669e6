"""The peer by word: AWD-LSTM in plain PyTorch, for the same minutes.

It uses nothing of cellwright, and follows Merity, Keskar & Socher 2018, "Regularizing
and Optimizing LSTM Language Models": weight drop, locked dropout, dropout of whole
words, AR and TAR, windows of random length, NT-ASGD. As `cellwright train --recipe awd`
it has three layers of one width, that of the tied embedding, and dropouts that are the
paper's times width / 1150. A line's end is the token <eos>; a perplexity is per word.

    python benchmarks/plain_pytorch_awdlm.py TRAIN VALID TEST --minutes 20
    cellwright train TRAIN --valid VALID --test TEST --recipe awd --hidden 400 \\
        --minutes 20
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, BATCH, WINDOW, PATIENCE = 3, 40, 70, 5
DROPOUT = {
    "embedding": 0.1,
    "input": 0.4,
    "between": 0.25,
    "output": 0.4,
    "weight": 0.5,
}


class AWDLSTM(nn.Module):
    def __init__(self, vocabulary: int, hidden: int):
        super().__init__()
        scale = min(1.0, hidden / 1150)
        self.drop = {name: p * scale for name, p in DROPOUT.items()}
        self.embed = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(nn.LSTM(hidden, hidden) for _ in range(LAYERS))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def forward(
        self, tokens: Tensor, states: list
    ) -> tuple[Tensor, list, Tensor, Tensor]:
        """(T, B) -> logits (T, B, V), states, and the last outputs around dropout."""
        kept = self._mask("embedding", torch.ones(len(self.embed.weight), 1))
        x = self.embed(tokens) * F.embedding(tokens, kept)
        x, after = self._locked("input", x), []
        for k, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            y, state = self._lstm(layer, x, state)
            after.append(state)
            x = self._locked("between" if k < LAYERS - 1 else "output", y)
        return F.linear(x, self.embed.weight, self.bias), after, y, x

    def _lstm(self, layer: nn.LSTM, x: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
        weights = [getattr(layer, name) for name in names]
        weights[1] = weights[1] * self._mask("weight", torch.ones_like(weights[1]))
        y, h, c = torch._VF.lstm(x, state, weights, True, 1, 0.0, False, False, False)
        return y, (h, c)

    def _locked(self, name: str, x: Tensor) -> Tensor:
        return x * self._mask(name, torch.ones_like(x[:1]))

    def _mask(self, name: str, ones: Tensor) -> Tensor:
        return F.dropout(ones, self.drop[name], self.training)

    def zero_states(self, rows: int) -> list:
        size = 1, rows, self.embed.embedding_dim
        return [(torch.zeros(size), torch.zeros(size)) for _ in range(LAYERS)]


def words_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").replace("\n", " <eos> ").split()


def train(model: AWDLSTM, ids: Tensor, valid: Tensor, args: argparse.Namespace) -> dict:
    length = len(ids) // BATCH
    streams = ids[: length * BATCH].view(BATCH, length).t().contiguous()
    optimiser = torch.optim.SGD(model.parameters(), lr=args.lr, weight_decay=1.2e-6)
    start, losses, best, kept, step = time.perf_counter(), [], math.inf, None, 0

    def used() -> float:
        return time.perf_counter() - start

    while used() < 60 * args.minutes:
        states, position = model.zero_states(BATCH), 0
        model.train()
        while position < length - 1 and used() < 60 * args.minutes:
            mean = WINDOW if random.random() < 0.95 else WINDOW / 2
            steps = min(max(5, int(random.gauss(mean, 5))), length - 1 - position)
            x, y = (streams[position + k : position + k + steps] for k in (0, 1))
            optimiser.param_groups[0]["lr"] = args.lr * steps / WINDOW
            logits, states, raw, dropped = model(x, states)
            states = [(h.detach(), c.detach()) for h, c in states]
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            loss = loss + 2 * dropped.square().mean() + raw.diff(dim=0).square().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimiser.step()
            position, step = position + steps, step + 1
        own = [p.detach().clone() for p in model.parameters()]
        averages = [optimiser.state[p].get("ax") for p in model.parameters()]
        if averages[0] is not None:
            set_weights(model, averages)
        loss = evaluate(model, valid)
        if loss < best:
            best, kept = loss, [p.detach().clone() for p in model.parameters()]
        set_weights(model, own)
        if averages[0] is None and loss > min(losses[:-PATIENCE], default=math.inf):
            options = {"lr": args.lr, "t0": 0, "lambd": 0.0, "weight_decay": 1.2e-6}
            optimiser = torch.optim.ASGD(model.parameters(), **options)
        losses.append(loss)
        print(f"{used():.0f} s, step {step}: valid {math.exp(loss):.2f}", flush=True)
    set_weights(model, kept)
    return {"steps": step, "seconds": used(), "valid": math.exp(best)}


@torch.no_grad()
def set_weights(model: nn.Module, weights: list[Tensor]) -> None:
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        parameter.copy_(weight)


@torch.no_grad()
def evaluate(model: AWDLSTM, ids: Tensor) -> float:
    """Nats per word over all of (N,): state from zero, N − 1 targets."""
    model.eval()
    states, total = model.zero_states(1), 0.0
    for start in range(0, len(ids) - 1, 1000):
        y = ids[start + 1 : start + 1001]
        logits, states, *_ = model(ids[start : start + len(y), None], states)
        total += F.cross_entropy(logits[:, 0], y, reduction="sum").item()
    return total / (len(ids) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("train", "valid", "test"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--hidden", type=int, default=400)
    parser.add_argument("--lr", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    texts = [words_of(path) for path in (args.train, args.valid, args.test)]
    known = {word: number for number, word in enumerate(sorted(set(texts[0])))}
    unknown = known.get("<unk>", 0)
    ids, valid, test = (
        torch.tensor([known.get(word, unknown) for word in text]) for text in texts
    )
    model = AWDLSTM(len(known), args.hidden)
    report = train(model, ids, valid, args)
    parameters = sum(p.numel() for p in model.parameters())
    perplexity = math.exp(evaluate(model, test))
    print(json.dumps({**report, "test": perplexity, "parameters": parameters}))


if __name__ == "__main__":
    main()
