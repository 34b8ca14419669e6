"""Layers of cells: `Recurrent`, torch.nn's names, initialisers."""

from . import initialise
from .recurrent import Recurrent
from .torch_names import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "initialise"]
