"""What may seed torch's generators."""

from __future__ import annotations

from ..language.errors import ArgumentError

LOWEST, HIGHEST = -(2**63), 2**64 - 1


def check_seed(seed: int) -> int:
    """The seed itself.

    Raises:
        ArgumentError: torch's generators cannot take it.
    """
    if not LOWEST <= seed <= HIGHEST:
        raise ArgumentError(
            f"[seed] received {seed}, expected a number of 64 bits: from {LOWEST} to "
            f"{HIGHEST}"
        )
    return seed
