"""What makes recurrent nets stand out from the other architectures?

The length is not fixed, the weights do not depend on it, and a stream costs the same at
every step, in time and in memory. Measured beside a perceptron on a window, a causal
convolution and self-attention, on a task of memory: the flip-flop (Liu, Ash, Goel,
Krishnamurthy & Zhang 2023, "Exposing attention glitches with flip-flop language
modeling"). The stream writes a bit now and then; at every step the answer is the bit
that was written last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cellwright as cw

from .experiment import Claim, Experiment, Record, Rows, Table
from .peers import (
    TCN,
    CausalAttention,
    Recurrence,
    WindowMLP,
    parameters,
    size_in_bytes,
    stream,
)
from .plotting import label, look
from .training import Training, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINED = 64  # steps of a training sequence
UNITS = 32
REPEATS = 200  # of a step that is timed

#: A net that can look `context` steps back (a recurrent net and attention: any number).
BUILD: dict[str, Callable[[int, int], Any]] = {
    "GRU": lambda context, units: Recurrence(cw.Recurrent("gru_bias", 3, units), 1),
    "LSTM": lambda context, units: Recurrence(
        cw.init.forget_bias_(cw.Recurrent("lstm", 3, units)), 1
    ),
    "MLP on a window": lambda context, units: WindowMLP(3, units, 1, context),
    "convolution": lambda context, units: TCN(
        3, units, 1, kernel=3, levels=levels_for(context)
    ),
    "self-attention": lambda context, units: CausalAttention(3, units, 1),
}


def levels_for(context: int, kernel: int = 3) -> int:
    """Levels of a TCN whose receptive field is at least `context`."""
    levels = 1
    while 1 + 2 * (kernel - 1) * (2**levels - 1) < context:
        levels += 1
    return levels


def flip_flop(
    count: int, length: int, generator: torch.Generator, rate: float | None = None
) -> tuple[Tensor, Tensor]:
    """Symbols (T, B, 3): write 0, write 1, wait; answers (T, B, 1): the last bit.

    Args:
        count: B.
        length: T; the first step always writes.
        generator: of the draws.
        rate: the part of the steps that write; None: from 0.02 to 0.3, by sequence.
    """
    draws = torch.rand(count, generator=generator)
    rates = 0.02 * 15**draws if rate is None else torch.full((count,), rate)
    writes = torch.rand(length, count, generator=generator) < rates
    writes[0] = True
    bits = torch.randint(2, (length, count), generator=generator)
    symbols = torch.where(writes, bits, 2)
    steps = torch.arange(length)[:, None].expand(length, count)
    last = torch.where(writes, steps, 0).cummax(0).values
    answers = bits.gather(0, last)
    return F.one_hot(symbols, 3).float(), answers[..., None].float()


def cases(quick: bool, seed: int) -> list[Record]:
    seeds = range(seed, seed + (1 if quick else 3))
    longest = 1024 if quick else 4096
    lengths = [n for n in (64, 256, 1024, 4096) if n <= longest]
    memory = [
        {
            "part": "length",
            "net": net,
            "seed": s,
            "updates": 500 if quick else 2000,
            "lengths": lengths,
        }
        for net in BUILD
        for s in seeds
    ]
    sizes = [
        {"part": "weights", "net": net, "context": context}
        for net in BUILD
        for context in (16, 64, 256, 1024)
    ]
    streams = [
        {"part": "stream", "net": net, "positions": [64, 512, 4096], "seed": seed}
        for net in BUILD
    ]
    return memory + sizes + streams


def length(case: Record) -> Record:
    """Train at one length, test at others: the part of the answers that is wrong."""
    model = BUILD[case["net"]](TRAINED // 2, UNITS)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    fitted = fit(
        model,
        lambda generator: flip_flop(32, TRAINED, generator),
        loss,
        Training(steps=case["updates"], lr=3e-3, seed=case["seed"]),
    )
    model.eval()
    wrong = {}
    for steps in case["lengths"]:
        generator = torch.Generator().manual_seed(steps)
        x, answer = flip_flop(16, steps, generator, rate=0.01)
        with torch.no_grad():
            wrong[str(steps)] = ((model(x) > 0) != (answer > 0.5)).float().mean().item()
    return {
        "wrong": wrong,
        "parameters": parameters(model),
        "training_seconds": round(fitted.seconds, 2),
    }


def weights(case: Record) -> Record:
    """How many weights a net has that can look so far back."""
    return {"parameters": parameters(BUILD[case["net"]](case["context"], UNITS))}


def streaming(case: Record) -> Record:
    """Time and memory of one more step of a stream, at several places."""
    read = stream(BUILD[case["net"]](TRAINED, 64).eval(), 1)
    x, taken = torch.randn(1, 3), 0
    micros, sizes = {}, {}
    with torch.no_grad():
        for position in case["positions"]:
            for _ in range(position - taken):
                read(x)
            sizes[str(position)] = size_in_bytes(read.memory)
            micros[str(position)] = _microseconds(lambda: read(x))
            taken = position + REPEATS
    return {"microseconds": micros, "bytes": sizes}


def _microseconds(step: Callable[[], object]) -> float:
    """The shortest of many: what others do on the machine only ever adds."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        step()
        times.append(time.process_time() - began)
    return round(1e6 * min(times), 2)


PARTS: dict[str, Callable[[Record], Record]] = {
    "length": length,
    "weights": weights,
    "stream": streaming,
}


def run(case: Record) -> Record:
    return PARTS[case["part"]](case)


# -- what is said ------------------------------------------------------------------


def wrong(rows: Rows, net: str, steps: int) -> list[float]:
    runs = rows.where(part="length", net=net)
    return sorted(w[str(steps)] for w in runs.column("wrong"))


def median_wrong(rows: Rows, net: str, steps: int) -> float:
    values = wrong(rows, net, steps)
    return values[len(values) // 2]


def longest(rows: Rows) -> int:
    return rows.where(part="length").rows[0]["lengths"][-1]


def growth(rows: Rows, net: str, key: str) -> float:
    """The last position's figure over the first's."""
    values = list(rows.one(part="stream", net=net)[key].values())
    return values[-1] / values[0]


def tables(rows: Rows) -> list[Table]:
    return [_length_table(rows), _weights_table(rows), _stream_table(rows)]


def _length_table(rows: Rows) -> Table:
    lengths = rows.where(part="length").rows[0]["lengths"]
    lines = [
        (
            net,
            rows.where(part="length", net=net).rows[0]["parameters"],
            *(_percent(wrong(rows, net, n)) for n in lengths),
        )
        for net in BUILD
    ]
    return Table(
        f"Flip-flop: wrong answers in %, trained on {TRAINED} steps, tested on",
        ("net", "weights", *(f"{n} steps" for n in lengths)),
        tuple(lines),
        f"Window and receptive field: {TRAINED // 2} steps or the next possible. "
        "In the test one step in a hundred writes. Self-attention's positions are "
        "sinusoids, and it has met none beyond its training.",
    )


def _weights_table(rows: Rows) -> Table:
    sizes = rows.where(part="weights")
    contexts = sizes.values("context")
    lines = [
        (net, *(sizes.one(net=net, context=c)["parameters"] for c in contexts))
        for net in BUILD
    ]
    return Table(
        f"Weights of a net of {UNITS} units that can look back",
        ("net", *(f"{c} steps" for c in contexts)),
        tuple(lines),
    )


def _stream_table(rows: Rows) -> Table:
    places = rows.where(part="stream").rows[0]["positions"]
    lines = []
    for net in BUILD:
        row = rows.one(part="stream", net=net)
        times = (f"{row['microseconds'][str(p)]:.0f} µs" for p in places)
        memory = (f"{row['bytes'][str(p)] / 1024:.1f} KiB" for p in places)
        lines.append((net, *times, *memory))
    return Table(
        "One more step of a stream, 64 units, after so many steps",
        ("net", *(f"{p}" for p in places), *(f"{p}" for p in places)),
        tuple(lines),
        f"Left the time, the shortest of {REPEATS}; right the memory carried on. "
        "The convolution keeps the past that each of its layers still reaches.",
    )


def _percent(values: list[float]) -> str:
    low, middle, high = values[0], values[len(values) // 2], values[-1]
    if len(values) == 1:
        return f"{100 * middle:.2g}"
    return f"{100 * middle:.2g} ({100 * low:.2g}–{100 * high:.2g})"


def draw(rows: Rows, figure: Figure) -> None:
    figure.set_size_inches(12, 4.4)
    first, second, third = figure.subplots(1, 3)
    lengths = rows.where(part="length").rows[0]["lengths"]
    for k, net in enumerate(BUILD):
        values = [100 * median_wrong(rows, net, n) for n in lengths]
        first.plot(lengths, values, label=net, **look(k))
        sizes = rows.where(part="weights", net=net)
        second.plot(sizes.column("context"), sizes.column("parameters"), **look(k))
        row = rows.one(part="stream", net=net)
        places = [int(p) for p in row["bytes"]]
        third.plot(places, [b / 1024 for b in row["bytes"].values()], **look(k))
    for axes in (first, second, third):
        axes.set_xscale("log", base=2)
    second.set_yscale("log")
    third.set_yscale("log")
    label(first, "Wrong answers at other lengths", "steps of the test", "%")
    label(second, "Weights", "steps that it can look back", "weights")
    label(third, "Memory of a stream", "steps read", "KiB")
    figure.legend(loc="outside lower center", ncols=len(BUILD))


def claims(rows: Rows) -> list[Claim]:
    return [*_length_claims(rows), *_weight_claims(rows), *_stream_claims(rows)]


def _length_claims(rows: Rows) -> list[Claim]:
    far = longest(rows)
    recurrent = min(("GRU", "LSTM"), key=lambda net: median_wrong(rows, net, far))
    return [
        Claim(
            f"recurrent: wrong at {far} steps, {far // TRAINED} times the length of "
            "training",
            median_wrong(rows, recurrent, far),
            high=0.02,
        ),
        Claim(
            f"MLP on a window: wrong at {far} steps",
            median_wrong(rows, "MLP on a window", far),
            low=0.1,
        ),
        Claim(
            f"convolution: wrong at {far} steps",
            median_wrong(rows, "convolution", far),
            low=0.05,
        ),
    ]


def _weight_claims(rows: Rows) -> list[Claim]:
    sizes = rows.where(part="weights")

    def growth_of(net: str) -> float:
        numbers = sizes.where(net=net).column("parameters")
        return numbers[-1] / numbers[0]

    return [
        Claim(
            "recurrent: weights to look 1024 steps back over those for 16",
            max(growth_of("GRU"), growth_of("LSTM")),
            1,
            1,
        ),
        Claim("MLP on a window: the same", growth_of("MLP on a window"), low=30),
    ]


def _stream_claims(rows: Rows) -> list[Claim]:
    return [
        Claim(
            "recurrent: memory of a stream after 4096 steps over that after 64",
            max(growth(rows, n, "bytes") for n in ("GRU", "LSTM")),
            1,
            1,
        ),
        Claim(
            "self-attention: the same", growth(rows, "self-attention", "bytes"), 60, 68
        ),
        Claim(
            "recurrent: time of a step after 4096 steps over that after 64",
            max(growth(rows, n, "microseconds") for n in ("GRU", "LSTM")),
            high=1.5,
        ),
        Claim(
            "self-attention: the same",
            growth(rows, "self-attention", "microseconds"),
            low=1.5,
        ),
    ]


def conclude(rows: Rows) -> str:
    far = longest(rows)
    names = ("GRU", "LSTM", "MLP on a window", "convolution", "self-attention")
    errors = ", ".join(f"{n} {100 * median_wrong(rows, n, far):.2g} %" for n in names)
    attention = growth(rows, "self-attention", "bytes")
    memory = growth(rows, "GRU", "bytes")
    own = "stays what it is" if memory == 1 else f"grows {memory:.2g}-fold"
    best = min(names, key=lambda n: median_wrong(rows, n, far))
    how = (
        "A recurrent net does best"
        if best in ("GRU", "LSTM")
        else f"Here {best} does best, not a recurrent net"
    )
    return (
        f"Trained on {TRAINED} steps and read on over {far}: {errors} wrong. {how}: "
        "the same weights run for as long as the stream lasts, and what happened is in "
        f"the state. From step 64 to 4096 of a stream its memory {own}, that of "
        f"self-attention grows {attention:.0f}-fold; a window or a receptive field is "
        "as long as it was built, and what lies before it is lost."
    )


EXPERIMENT = Experiment(
    name="standout",
    question="What makes recurrent nets stand out from other architectures?",
    minutes=4,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
