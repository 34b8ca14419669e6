"""The tasks of the experiments: generators with a seed, and readers of data."""

from .chaos import LYAPUNOV_TIME, lorenz
from .files import DataMissing, find_data, why_missing
from .listops import Expression, listops
from .long_lags import (
    adding,
    copy,
    marked_product,
    marked_sum,
    temporal_order,
    two_sequence,
)
from .music import Music, load_music
from .permutations import permutations
from .ptb import TokenText, load_ptb
from .reber import embedded_reber
from .recall import NOTHING, associative_recall
from .sequences import Sequences
from .shakespeare import load_shakespeare

__all__ = [
    "LYAPUNOV_TIME",
    "NOTHING",
    "DataMissing",
    "Expression",
    "Music",
    "Sequences",
    "TokenText",
    "adding",
    "associative_recall",
    "copy",
    "embedded_reber",
    "find_data",
    "listops",
    "load_music",
    "load_ptb",
    "load_shakespeare",
    "lorenz",
    "marked_product",
    "marked_sum",
    "permutations",
    "temporal_order",
    "two_sequence",
    "why_missing",
]
