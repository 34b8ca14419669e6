"""Layers of cells: `Recurrent`, torch.nn's names, initialisers, conversion."""

from . import initialise
from .convert import (
    from_keras_weights,
    from_torch,
    to_keras_weights,
    to_torch,
)
from .encoder_decoder import EncoderDecoder
from .penalties import activation_regularisation, temporal_activation_regularisation
from .recurrent import Recurrent
from .state import detach, reset_rows
from .torch_names import GRU, LSTM, RNN
from .tree import Forest, TreeRecurrent

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "EncoderDecoder",
    "Forest",
    "Recurrent",
    "TreeRecurrent",
    "activation_regularisation",
    "detach",
    "from_keras_weights",
    "from_torch",
    "initialise",
    "reset_rows",
    "temporal_activation_regularisation",
    "to_keras_weights",
    "to_torch",
]
