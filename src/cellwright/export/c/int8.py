"""Matrices in 8 bits: symmetric, with a scale for each row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...language import ArgumentError
from .blocks import Block

MOST = 127  # -128 is left out, so that a row may be negated

FORMATS = "float32", "int8"  # of matrices


def check_format(weights: object) -> None:
    """Raise ArgumentError unless matrices can be stored so."""
    if weights not in FORMATS:
        raise ArgumentError(
            f"[export_c] weights= says how matrices are stored; received {weights!r}, "
            f"expected {' or '.join(map(repr, FORMATS))}"
        )


def quantised(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (…, rows, columns) as whole numbers -127 … 127 of the same shape, and
    the scale of each row, (…, rows): numbers times scale are the matrix."""
    scale = np.abs(matrix).max(-1) / np.float32(MOST)
    divisor = np.where(scale == 0, np.float32(1), scale)[..., None]
    # Of the smallest floats a scale may be rounded down.
    numbers = np.rint(matrix / divisor).clip(-MOST, MOST)
    return numbers.astype(np.int8), scale


def rounded(matrix: np.ndarray) -> np.ndarray:
    """What the numbers of `quantised` stand for."""
    numbers, scale = quantised(matrix)
    return numbers * scale[..., None]


def is_stored_in_int8(matrix: np.ndarray) -> bool:
    """Whether a scale a row saves anything: not of one column."""
    return matrix.shape[-1] > 1


def with_rounded_matrices(block: Block) -> Block:
    """The same with matrices that 8 bits can say."""
    block = replace(block, parameters=[p.clone() for p in block.parameters])
    for weight, operand in block.binding.matrices:
        matrix = block.matrix(weight, operand)  # a view
        if is_stored_in_int8(matrix):
            matrix[...] = rounded(matrix)
    return block
