"""Sizes of blocks: the one table. It is a guess by rule; no GPU has measured it yet."""

from __future__ import annotations

from typing import NamedTuple

from .source import Kernel

ELEMENTS = 512  # of a block: four warps, four elements a thread
MOST_UNITS = 128
MOST_LIVE = 64  # lines beyond which a thread has fewer elements


class Block(NamedTuple):
    """Rows and units that one program of a kernel computes, and its warps."""

    rows: int
    units: int
    warps: int


def block_of(kernel: Kernel, rows: int) -> Block:
    """The block for a kernel that is launched over so many rows."""
    units = power_of_two(kernel.units)
    if not kernel.whole:
        units = min(units, MOST_UNITS)
    elements = ELEMENTS if kernel.lines <= MOST_LIVE else ELEMENTS // 2
    height = max(1, min(elements // units, power_of_two(rows)))
    return Block(height, units, min(max(height * units // 128, 1), 8))


def power_of_two(number: int) -> int:
    """The least that is no smaller."""
    return 1 << max(number - 1, 0).bit_length()
