"""Pairs as batches of padded token numbers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...language.errors import ArgumentError
from .files import PairError

POOL = 64  # batches whose pairs are sorted by length together: less padding
Tokens = Sequence[np.ndarray]


def padded(rows: Tokens) -> tuple[Tensor, Tensor]:
    """Token numbers (T, B), zero beyond each row's end, and the lengths (B,)."""
    tensors = [torch.from_numpy(row) for row in rows]
    return pad_sequence(tensors), torch.tensor([len(row) for row in rows])


class PairStream:
    """Pairs as an endless stream of batches (a `train.plan.Stream`).

    In every epoch the pairs come in another order. Those of a batch have about the same
    lengths; the few that fill no batch wait for the next epoch.

    A batch is {"source": (S, B), "source_lengths": (B,), "target": (T, B),
    "target_lengths": (B,), "weight": ()}; the weight is that of this process's mean
    loss, so that the mean over processes is the one over all tokens.

    Args:
        inputs, outputs: token numbers of every pair, an output's with its end token.
        batch: rows over all processes.
        seed: of the order.
        share: (k, n) of the rows, those that process k of n reads.

    Raises:
        PairError: there are fewer pairs than rows.
        ArgumentError: the rows cannot be shared equally.
    """

    def __init__(
        self,
        inputs: Tokens,
        outputs: Tokens,
        batch: int,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ):
        if batch % share[1]:
            raise ArgumentError(
                f"[batch] {batch} rows cannot be shared by {share[1]} processes; "
                f"expected a multiple of {share[1]}"
            )
        check_batch(len(inputs), batch)
        self._inputs, self._outputs = inputs, outputs
        self._batch, self._seed, self._share = batch, seed, share
        self._lengths = [(len(o), len(i)) for i, o in zip(inputs, outputs, strict=True)]
        self.batches = len(inputs) // batch
        self.size = batch * sum(map(len, outputs)) // len(outputs)  # on average
        self._order: list[list[int]] = []
        self._ordered = -1  # the epoch of that order
        self.epoch = self.position = 0

    def next(self) -> dict[str, Tensor]:
        if self._ordered != self.epoch:
            self._order, self._ordered = self._batches(), self.epoch
        rows = self._order[self.position]
        self.position += 1
        if self.position == self.batches:
            self.epoch, self.position = self.epoch + 1, 0
        process, processes = self._share
        mine = rows[process::processes]
        source, source_lengths = padded([self._inputs[row] for row in mine])
        target, target_lengths = padded([self._outputs[row] for row in mine])
        tokens = sum(self._lengths[row][0] for row in rows)
        weight = target_lengths.sum() * processes / tokens
        return {
            "source": source,
            "source_lengths": source_lengths,
            "target": target,
            "target_lengths": target_lengths,
            "weight": weight,
        }

    def _batches(self) -> list[list[int]]:
        """The rows of every batch of this epoch."""
        random, size = Random(f"{self._seed} {self.epoch}"), self._batch
        order = list(range(len(self._inputs)))
        random.shuffle(order)
        del order[self.batches * size :]
        found = []
        for start in range(0, len(order), POOL * size):
            pool = order[start : start + POOL * size]
            pool.sort(key=self._lengths.__getitem__)
            found += [pool[i : i + size] for i in range(0, len(pool), size)]
        random.shuffle(found)
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        epoch, position = state["epoch"], state["position"]
        if epoch < 0 or not 0 <= position < self.batches:
            raise ArgumentError(
                f"[pairs] no batch {position} of epoch {epoch}; expected 0 to "
                f"{self.batches - 1}"
            )
        self.epoch, self.position = epoch, position


def check_batch(pairs: int, batch: int) -> None:
    """Raise PairError where the pairs do not fill one batch."""
    if pairs < batch:
        raise PairError(
            f"[batch] {pairs} pairs to train on do not fill {batch} rows; expected at "
            f"least {batch} pairs. Use more, or a smaller batch"
        )
