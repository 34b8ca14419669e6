"""Forests: trees of any shapes, batched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..language import ArgumentError
from ..language.arguments import describe, plain, whole_numbers
from .tree_schedule import TreeSchedule

_TOKENS = re.compile(r"\(|\)|[^\s()]+")

Indices = Sequence[int] | np.ndarray | Tensor


class Forest:
    """Rooted, ordered trees; nodes are numbered 0 … N − 1 in the user's order.

    Made by `from_parents`, `from_children`, `from_brackets` or `batch`; not changed
    afterwards, so that its schedules are made once.

    Attributes:
        parents: (N,) each node's parent, −1 at a root.
        slots: (N,) which child of its parent each node is, from 0.
        heights: (N,) 0 at a leaf, else one more than the highest child's.
        roots: (trees,) the roots, in order.
        inputs: (M,) the nodes that have an input x, in the order of the rows of x.
        labels: (N,) the labels of the brackets, or `None`.
        words: (M,) the words of the brackets, one for each of `inputs`, or `None`.
    """

    def __init__(
        self,
        parents: np.ndarray,
        slots: np.ndarray,
        heights: np.ndarray,
        inputs: np.ndarray,
        labels: np.ndarray | None = None,
        words: np.ndarray | None = None,
    ) -> None:
        self.parents, self.slots, self.heights = parents, slots, heights
        self.inputs, self.labels, self.words = inputs, labels, words
        self._schedules: dict[int | None, TreeSchedule] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their schedules themselves: the core's cannot be pickled."""
        return {**self.__dict__, "_schedules": {}}

    # -- ways to make one ------------------------------------------------------

    @staticmethod
    def from_parents(
        parents: Indices, *, inputs: Indices | None = None, slots: Indices | None = None
    ) -> Forest:
        """A forest of parent pointers.

        Args:
            parents: (N,) the parent of each node, −1 at a root.
            inputs: the nodes that have an x, in the order of the rows of x; all nodes
                in their order without it.
            slots: (N,) which child of its parent a node is, from 0, so that a left
                child may be missing; without it, children are in the order of their
                numbers.

        Raises:
            ArgumentError: no node, a parent that is no node, a cycle, two nodes in
                one slot; names the node.
        """
        array = _indices("parents", parents)
        count = len(array)
        if count == 0:
            raise ArgumentError(
                "[Forest] a forest has at least one node; received no parents, "
                "expected such as from_parents([-1, 0, 0])"
            )
        wrong = (array < -1) | (array >= count)
        if wrong.any():
            node = int(np.argmax(wrong))
            raise ArgumentError(
                f"[Forest] the parent of node {node} is no node; received "
                f"{array[node]}, expected 0 … {count - 1}, or -1 at a root"
            )
        if slots is None:
            order, places = _slots_in_order(array), None
        else:
            places = _indices("slots", slots, count)
            order = _check_slots(array, places)
        heights = _heights(array)
        if inputs is None:
            having = np.arange(count)
        else:
            having = _check_inputs(_indices("inputs", inputs), count)
        return Forest(array, order if places is None else places, heights, having)

    @staticmethod
    def from_children(
        children: Sequence[Sequence[int | None]], *, inputs: Indices | None = None
    ) -> Forest:
        """A forest of child lists.

        Args:
            children: for each node the numbers of its children, in order; −1 or
                `None` where a child is missing before another.
            inputs: as in `from_parents`.

        Raises:
            ArgumentError: a child that is no node, a node with two parents, a cycle.
        """
        count = len(children)
        parents, slots = np.full(count, -1), np.zeros(count, np.int64)
        for node, own in enumerate(children):
            for slot, child in enumerate(own):
                child = plain(child)
                if child is None or child == -1:
                    continue
                whole = isinstance(child, int) and not isinstance(child, bool)
                if not whole or not 0 <= child < count:
                    raise ArgumentError(
                        f"[Forest] child {slot} of node {node} is no node; received "
                        f"{child}, expected 0 … {count - 1}, or None where it is "
                        "missing"
                    )
                if parents[child] >= 0:
                    raise ArgumentError(
                        f"[Forest] node {child} has two parents; received it as a "
                        f"child of {parents[child]} and of {node}, expected a tree"
                    )
                parents[child], slots[child] = node, slot
        return Forest.from_parents(parents, inputs=inputs, slots=slots)

    @staticmethod
    def from_brackets(
        text: str | Iterable[str],
        *,
        label: Callable[[str], Any] = str,
        word: Callable[[str], Any] = str,
    ) -> Forest:
        """Trees written in brackets, `(3 (2 It) (4 works))`, one a string.

        A bracket is a node: its label, a word if it has one, and its children. Nodes
        are numbered as they are written; those with a word have an x.

        Args:
            text: a tree, or several.
            label: makes `labels` of the labels, such as `int`.
            word: makes `words` of the words, such as a vocabulary's number of one.

        Raises:
            ArgumentError: brackets that do not match, a node with two words; names
                the tree and shows the place.
        """
        texts = [text] if isinstance(text, str) else list(text)
        return Forest.batch(_read(t, n, label, word) for n, t in enumerate(texts))

    @staticmethod
    def batch(forests: Iterable[Forest]) -> Forest:
        """Several forests as one; nodes, inputs and trees follow one another.

        Raises:
            ArgumentError: there is none.
        """
        parts = list(forests)
        if not parts:
            raise ArgumentError(
                "[Forest] received no trees, expected at least one tree"
            )
        if len(parts) == 1:
            return parts[0]
        sizes = [len(p.parents) for p in parts]
        starts = np.cumsum([0, *sizes[:-1]])
        shift = np.repeat(starts, sizes)
        parents = np.concatenate([p.parents for p in parts])
        inputs = np.concatenate([p.inputs for p in parts])
        return Forest(
            np.where(parents < 0, -1, parents + shift),
            np.concatenate([p.slots for p in parts]),
            np.concatenate([p.heights for p in parts]),
            inputs + np.repeat(starts, [len(p.inputs) for p in parts]),
            _joined([p.labels for p in parts]),
            _joined([p.words for p in parts]),
        )

    # -- what it is ------------------------------------------------------------

    def __len__(self) -> int:
        """How many trees there are."""
        return len(self.roots)

    @property
    def nodes(self) -> int:
        """N, the number of nodes of all trees."""
        return len(self.parents)

    @cached_property
    def roots(self) -> np.ndarray:
        return np.flatnonzero(self.parents < 0)

    @cached_property
    def widths(self) -> np.ndarray:
        """(N,) one more than the highest slot that a child of each node has."""
        found = np.zeros(self.nodes, np.int64)
        below = self.parents >= 0
        np.maximum.at(found, self.parents[below], self.slots[below] + 1)
        return found

    def __repr__(self) -> str:
        return (
            f"<forest of {len(self)} trees: {self.nodes} nodes, "
            f"{len(self.inputs)} with an input, height {self.heights.max()}>"
        )

    def schedule(self, arity: int | None) -> TreeSchedule:
        """The schedule of a cell that sees `arity` children, or sums over all.

        Raises:
            ArgumentError: a node has more children than that.
        """
        if arity not in self._schedules:
            if arity is not None and self.widths.max() > arity:
                node = int(np.argmax(self.widths > arity))
                raise ArgumentError(
                    f"[Forest] node {node} has a child in place "
                    f"{self.widths[node]}; received a cell of {arity} children, "
                    "expected at most as many: take a cell of a higher arity, or one "
                    "that sums over any number, such as cells.child_sum_lstm"
                )
            self._schedules[arity] = TreeSchedule(
                self.parents, self.slots, self.heights, self.inputs, self.roots, arity
            )
        return self._schedules[arity]


def _indices(what: str, values: Any, count: int | None = None) -> np.ndarray:
    found = whole_numbers(values)
    listed = found is not None and found.dim() == 1 and found.dtype != torch.bool
    if listed and count in (None, len(found)):  # type: ignore[arg-type]
        return found.cpu().numpy().astype(np.int64)  # type: ignore[union-attr]
    length = "" if count is None else f" {count}"
    known: Any = values if found is None else found
    if isinstance(known, Sequence):
        with suppress(ValueError):  # lists of unequal lengths
            known = np.asarray(known)
    raise ArgumentError(
        f"[Forest] {what} is a list of{length} whole numbers; received "
        f"{describe(known)}"
    )


def _check_inputs(inputs: np.ndarray, count: int) -> np.ndarray:
    wrong = (inputs < 0) | (inputs >= count)
    if wrong.any():
        raise ArgumentError(
            f"[Forest] inputs names the nodes that have an x; received "
            f"{inputs[np.argmax(wrong)]}, expected 0 … {count - 1}"
        )
    if len(np.unique(inputs)) != len(inputs):
        raise ArgumentError(
            "[Forest] inputs names the nodes that have an x; received one twice, "
            "expected each node at most once"
        )
    return inputs


def _slots_in_order(parents: np.ndarray) -> np.ndarray:
    """Children of one parent, numbered in their order."""
    order = np.argsort(parents, kind="stable")
    sorted_parents = parents[order]
    first = np.searchsorted(sorted_parents, sorted_parents)
    slots = np.empty_like(parents)
    slots[order] = np.arange(len(parents)) - first
    slots[parents < 0] = 0
    return slots


def _check_slots(parents: np.ndarray, slots: np.ndarray) -> np.ndarray:
    if (slots < 0).any():
        raise ArgumentError(
            f"[Forest] slots counts children from 0; received {slots.min()} at node "
            f"{slots.argmin()}"
        )
    below = np.flatnonzero(parents >= 0)
    pairs = parents[below] * (slots.max() + 1) + slots[below]
    order = np.argsort(pairs, kind="stable")
    twice = np.flatnonzero(np.diff(pairs[order]) == 0)
    if len(twice):
        first, second = below[order[twice[0]]], below[order[twice[0] + 1]]
        raise ArgumentError(
            f"[Forest] nodes {first} and {second} are both child {slots[first]} of "
            f"node {parents[first]}; expected one node in each place"
        )
    return slots


def _heights(parents: np.ndarray) -> np.ndarray:
    """From the leaves upwards, all nodes of a height at once."""
    heights = np.zeros(len(parents), np.int64)
    waiting = np.bincount(parents[parents >= 0], minlength=len(parents))
    ready = np.flatnonzero(waiting == 0)
    done, height = 0, 0
    while len(ready):
        done += len(ready)
        heights[ready] = height
        above = parents[ready]
        above, counts = np.unique(above[above >= 0], return_counts=True)
        waiting[above] -= counts
        ready = above[waiting[above] == 0]
        height += 1
    if done < len(parents):
        raise ArgumentError(
            f"[Forest] the parents make a cycle: node {np.argmax(waiting > 0)} is "
            "among its own ancestors; expected every node to reach a root"
        )
    return heights


def _read(
    text: str, number: int, label: Callable[[str], Any], word: Callable[[str], Any]
) -> Forest:
    """One tree of brackets."""

    def fail(fact: str) -> ArgumentError:
        return ArgumentError(
            f"[Forest] tree {number}: {fact}; received {text.strip()[:60]!r}, expected "
            "such as '(3 (2 It) (4 works))'"
        )

    parents: list[int] = []
    labels: list[Any] = []
    words: dict[int, Any] = {}  # by node
    at, named = -1, True  # the open node; whether it has its label
    for token in _TOKENS.findall(text):
        if token == "(":
            if at < 0 and parents:
                raise fail("a string holds one tree")
            if not named:
                labels[at] = label("")
            parents.append(at)
            labels.append(None)
            at, named = len(parents) - 1, False
        elif token == ")":
            if at < 0:
                raise fail("a bracket closes that was not opened")
            if not named:
                labels[at] = label("")
            at, named = parents[at], True
        elif at < 0:
            raise fail(f"{token!r} stands outside the brackets")
        elif not named:
            labels[at], named = label(token), True
        elif at in words:
            raise fail(f"a node has one word, and {token!r} is its second")
        else:
            words[at] = word(token)
    if at >= 0 or not parents:
        raise fail("a bracket stays open" if parents else "there is no tree")
    array = np.array(parents, np.int64)
    return Forest(
        array,
        _slots_in_order(array),
        _heights(array),
        np.array(list(words), np.int64),
        _as_array(labels),
        _as_array(list(words.values())),
    )


def _as_array(values: list[Any]) -> np.ndarray:
    """Numbers as numbers, all else as objects: strings are not cut to one width."""
    if all(isinstance(v, int) for v in values):
        return np.array(values, np.int64)
    if all(isinstance(v, int | float) for v in values):
        return np.array(values, np.float64)
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _joined(parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [p for p in parts if p is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
