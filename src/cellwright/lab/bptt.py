"""What is back-propagation through time, and what does truncating it cost?

Three answers: the gradient of a layer equals the autograd gradient of the unrolled
graph, and finite differences; a truncated gradient is biased, the more the shorter the
window; and the memory of saved tensors grows with the window alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import cellwright as cw

from ..train.bptt import backpropagate
from .experiment import Claim, Experiment, Record, Rows, Table
from .plotting import label, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS = ("rnn", "gru", "lstm", "peephole")
TRUNCATED = {"rnn": "RNN", "lstm": "LSTM", "lstm+3": "LSTM, forget bias 3"}
DIRECTIONS = 5  # random directions of the finite differences
STEP = 1e-5  # of the finite differences: about the cube root of float64's rounding


def cases(quick: bool, seed: int) -> list[Record]:
    length = 64 if quick else 256
    windows = [2**k for k in range(length.bit_length())]
    exact = [
        {"part": "exact", "cell": cell, "steps": 20, "seed": seed} for cell in CELLS
    ]
    truncated = [
        {"part": "truncated", "cell": cell, "steps": length, "seed": s, "window": w}
        for cell in TRUNCATED
        for s in range(seed, seed + 3)
        for w in windows
    ]
    memory = [
        {"part": "memory", "memory": memory, "steps": steps, "seed": seed}
        for memory in ("save", "recompute")
        for steps in (length, 4 * length)
    ]
    return exact + truncated + memory


def run(case: Record) -> Record:
    return PARTS[case["part"]](case)


def exact(case: Record) -> Record:
    """The native gradient beside autograd's of the unrolled graph, and differences."""
    layer = cw.Recurrent(case["cell"], 5, 7, dtype=torch.float64)
    unrolled = cw.Recurrent(case["cell"], 5, 7, dtype=torch.float64, engine="reference")
    unrolled.load_state_dict(layer.state_dict())
    x = torch.randn(case["steps"], 3, 5, dtype=torch.float64)
    cotangent = torch.randn(case["steps"], 3, 7, dtype=torch.float64)
    own = gradient(lambda: (layer(x)[0] * cotangent).sum(), layer)
    graph = gradient(lambda: (unrolled(x)[0] * cotangent).sum(), unrolled)
    worst = max(
        differences(lambda: (layer(x)[0] * cotangent).sum(), layer, own)
        for _ in range(DIRECTIONS)
    )
    return {
        "engine": layer.engine,
        "unrolled_error": relative(own, graph),
        "difference_error": worst,
    }


def truncated(case: Record) -> Record:
    """The gradient with a window beside that of the whole sequence."""
    name, _, bias = case["cell"].partition("+")
    layer = cw.Recurrent(name, 8, 32, dtype=torch.float64)
    if bias:
        cw.init.forget_bias_(layer, float(bias))
    x = torch.randn(case["steps"], 4, 8, dtype=torch.float64)
    target = torch.randn(case["steps"], 4, 32, dtype=torch.float64)

    def loss(x: Tensor, target: Tensor, state):
        y, state = layer(x, state)
        return (y - target).square().sum(), state

    def through(window: int | None) -> Tensor:
        layer.zero_grad()
        backpropagate(loss, x, target, window=window)
        return flat_gradient(layer)

    whole, cut = through(None), through(case["window"])
    window = slice(case["window"])
    size = saved_bytes(lambda: loss(x[window], target[window], None), layer)
    cosine = torch.dot(whole, cut) / (whole.norm() * cut.norm())
    return {"bias": relative(cut, whole), "cosine": cosine.item(), "bytes": size}


def memory(case: Record) -> Record:
    """What one call keeps for backward, and how long forward and backward take."""
    layer = cw.Recurrent("lstm", 32, 64, memory=case["memory"])
    x = torch.randn(case["steps"], 16, 32)
    size = saved_bytes(lambda: layer(x), layer)
    own, times = torch.empty(0), []
    for _ in range(9):
        began = time.process_time()
        own = gradient(lambda: layer(x)[0].square().sum(), layer)
        times.append(time.process_time() - began)
    saving = cw.Recurrent("lstm", 32, 64)
    saving.load_state_dict(layer.state_dict())
    whole = gradient(lambda: saving(x)[0].square().sum(), saving)
    return {
        "bytes": size,
        "milliseconds": round(1000 * min(times), 2),
        "error": relative(own, whole),
    }


PARTS: dict[str, Callable[[Record], Record]] = {
    "exact": exact,
    "truncated": truncated,
    "memory": memory,
}


def gradient(loss: Callable[[], Tensor], layer: torch.nn.Module) -> Tensor:
    layer.zero_grad()
    loss().backward()
    return flat_gradient(layer)


def flat_gradient(layer: torch.nn.Module) -> Tensor:
    """All gradients of a layer as one vector."""
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    return torch.cat([grad.flatten() for grad in grads])


def relative(value: Tensor, truth: Tensor) -> float:
    return ((value - truth).norm() / truth.norm()).item()


@torch.no_grad()
def differences(
    loss: Callable[[], Tensor], layer: torch.nn.Module, own: Tensor
) -> float:
    """How far a central difference along a random direction is from the gradient.

    Relative to the gradient's norm: along one direction the slope itself may vanish.
    """
    weights = torch.nn.utils.parameters_to_vector(layer.parameters())
    direction = torch.randn_like(weights)
    direction /= direction.norm()
    values = []
    for sign in (1, -1):
        moved = weights + sign * STEP * direction
        torch.nn.utils.vector_to_parameters(moved, layer.parameters())
        values.append(loss())
    torch.nn.utils.vector_to_parameters(weights, layer.parameters())
    slope = (values[0] - values[1]) / (2 * STEP)
    return ((slope - torch.dot(own, direction)).abs() / own.norm()).item()


def saved_bytes(forward: Callable[[], object], layer: torch.nn.Module) -> int:
    """Bytes of the tensors that autograd saves for the backward pass, without weights.

    A storage that several tensors share counts once; of a view, the part that it shows.
    """
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            size = tensor.numel() * tensor.element_size()
            sizes[storage.data_ptr()] = max(size, sizes.get(storage.data_ptr(), 0))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # holds the saved tensors until they are counted
    del result
    return sum(sizes.values())


def tables(rows: Rows) -> list[Table]:
    exact = [
        (
            r["cell"],
            r["engine"],
            f"{r['unrolled_error']:.1e}",
            f"{r['difference_error']:.1e}",
        )
        for r in rows.where(part="exact")
    ]
    cut = rows.where(part="truncated")
    windows = [
        (
            window,
            *(cut.where(cell=c, window=window).spread("bias", 2) for c in TRUNCATED),
            round(cut.where(cell="lstm", window=window).median("bytes") / 1024),
        )
        for window in cut.values("window")
    ]
    return [
        Table(
            "The gradient of a layer, relative error in float64, 20 steps",
            ("cell", "engine", "to the unrolled graph", "to finite differences"),
            tuple(exact),
        ),
        Table(
            f"Truncation to a window, {cut.rows[0]['steps']} steps: ‖g_w − g‖ / ‖g‖, "
            "median (range) of 3 seeds",
            ("window", *TRUNCATED.values(), "kept for backward, LSTM (KiB)"),
            tuple(windows),
        ),
        Table(
            "What an LSTM keeps for the backward pass (64 units, batch 16)",
            ("memory=", "steps", "MiB", "ms, forward and backward", "error"),
            tuple(
                (
                    r["memory"],
                    r["steps"],
                    f"{r['bytes'] / 2**20:.2f}",
                    f"{r['milliseconds']:.1f}",
                    f"{r['error']:.0e}",
                )
                for r in rows.where(part="memory")
            ),
            "Recompute keeps the states alone and computes the gates again. The error "
            "is that of its gradient, relative, in float32.",
        ),
    ]


def draw(rows: Rows, figure: Figure) -> None:
    cut = rows.where(part="truncated")
    windows = cut.values("window")
    left, right = figure.subplots(1, 2)
    for k, (cell, name) in enumerate(TRUNCATED.items()):
        of_cell = [cut.where(cell=cell, window=w) for w in windows[:-1]]
        left.plot(
            windows[:-1], [r.median("bias") for r in of_cell], label=name, **look(k)
        )
        left.fill_between(
            windows[:-1],
            [min(r.column("bias")) for r in of_cell],
            [max(r.column("bias")) for r in of_cell],
            color=look(k)["color"],
            alpha=0.15,
        )
        sizes = [cut.where(cell=cell, window=w).median("bytes") / 1024 for w in windows]
        if cell != "lstm+3":
            right.plot(windows, sizes, label=name, **look(k))
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    label(left, "Bias of the truncated gradient", "window (steps)", "‖g_w − g‖ / ‖g‖")
    label(right, "Kept for the backward pass", "window (steps)", "KiB")
    left.legend()
    right.legend()


def claims(rows: Rows) -> list[Claim]:
    exact, memory = rows.where(part="exact"), rows.where(part="memory")
    return [
        Claim(
            "BPTT equals autograd over the unrolled graph: largest relative error",
            max(exact.column("unrolled_error")),
            high=1e-12,
        ),
        Claim(
            "BPTT equals finite differences: largest relative error",
            max(exact.column("difference_error")),
            high=1e-7,
        ),
        *_window_claims(rows.where(part="truncated")),
        Claim(
            "recomputing keeps less: bytes over those of saving",
            saving(rows, "bytes"),
            high=0.7,
        ),
        Claim(
            "recomputing gives the same gradient: largest relative error, float32",
            max(memory.column("error")),
            high=1e-5,
        ),
    ]


def _window_claims(cut: Rows) -> list[Claim]:
    length = cut.rows[0]["steps"]

    def bias(cell: str, window: int) -> float:
        return cut.where(cell=cell, window=window).median("bias")

    def size(window: int) -> float:
        return cut.where(cell="lstm", window=window).median("bytes")

    return [
        Claim(
            "a window of the whole sequence has no bias",
            max(bias(cell, length) for cell in TRUNCATED),
            high=1e-12,
        ),
        Claim(
            "a window of 1 step is biased, also in the RNN", bias("rnn", 1), low=0.02
        ),
        Claim(
            "the longer the memory, the larger the bias at 8 steps: LSTM with forget "
            "bias 3 over plain LSTM",
            bias("lstm+3", 8) / bias("lstm", 8),
            low=2.0,
        ),
        Claim(
            f"memory follows the window: kept at {length} steps over kept at "
            f"{length // 4}",
            size(length) / size(length // 4),
            low=3.5,
            high=4.1,
        ),
    ]


def saving(rows: Rows, key: str) -> float:
    """Recomputing over saving, of the longest sequence."""
    steps = rows.where(part="memory").values("steps")[-1]
    return (
        rows.one(part="memory", memory="recompute", steps=steps)[key]
        / rows.one(part="memory", memory="save", steps=steps)[key]
    )


def conclude(rows: Rows) -> str:
    exact, cut = rows.where(part="exact"), rows.where(part="truncated")
    worst = max(exact.column("unrolled_error"))
    length = cut.rows[0]["steps"]
    window = max(w for w in cut.values("window") if w <= length // 8)
    biases = ", ".join(
        f"{name} {cut.where(cell=cell, window=window).median('bias'):.0%}"
        for cell, name in TRUNCATED.items()
    )
    first = (
        "Back-propagation through time is ordinary back-propagation on the unrolled "
        f"graph: the two gradients agree to {worst:.0e}."
        if worst < 1e-9
        else f"The two gradients disagree by {worst:.1e}: something is wrong."
    )
    return (
        f"{first} Cut to windows, it loses what reaches back beyond them: windows of "
        f"{window} steps ({length} in all) make it wrong by {biases}. How long a "
        "window must be is a matter of how long the cell remembers. What is kept for "
        "the backward pass grows with the window, not with the sequence; recomputing "
        f"keeps {saving(rows, 'bytes'):.0%} of it for "
        f"{saving(rows, 'milliseconds'):.2f} times the time."
    )


EXPERIMENT = Experiment(
    name="bptt",
    question="What is back-propagation through time, and what does truncation cost?",
    minutes=1,
    cases=cases,
    run=run,
    tables=tables,
    draw=draw,
    claims=claims,
    conclude=conclude,
)
