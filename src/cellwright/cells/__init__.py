"""The zoo: cells as equations, each with its source. They know the language alone.

`cells.lstm` is the cell itself; `cells.get("lstm")` finds one by name, or a user's by
`"FILE.py:NAME"`; `cells.all()` lists those of sequences, `cells.all_with_matrices()`
those that compute with matrices, `cells.all_with_items()` those that look at sets of
items too, `cells.all_of_trees()` those of trees.
"""

from ..language import Cell, CellError, TreeCell, load_cell
from ..language.errors import did_you_mean
from . import (
    classic,
    linear,
    matrices,
    memory,
    minimal,
    modern,
    physical,
    search_space,
    searched,
    trees,
)
from .classic import (
    coupled,
    gru,
    gru_bias,
    gru_reset_after,
    lstm,
    lstm_book,
    lstm_projected,
    peephole,
    peephole_diagonal,
    rnn,
    rnn_relu,
)
from .linear import lru, min_gru, min_lstm, qrnn, rg_lru, sru
from .matrices import (
    delta_net,
    fast_weights,
    gated_delta_net,
    gla,
    mc_lstm_hydrology,
    mlstm,
    retention,
    rwkv6,
    selective_ssm,
)
from .memory import bahdanau_gru, luong_lstm
from .minimal import (
    fast_grnn,
    fast_rnn,
    indrnn,
    janet,
    leaky_rnn,
    li_gru,
    mgu,
    minimal_rnn,
    scrn,
    ugrnn,
)
from .modern import layer_norm_lstm, multiplicative_lstm, rhn, slstm, star
from .physical import (
    antisymmetric,
    cfc,
    cfn,
    cornn,
    gated_antisymmetric,
    lem,
    ltc,
    mc_lstm,
    unicornn,
)
from .search_space import cifg, fgr, nfg, niaf, nig, noaf, nog, vanilla
from .search_space import np as np
from .searched import mut1, mut2, mut3, nas
from .trees import binary_lstm, child_sum_gru, child_sum_lstm, nary_lstm, recursive


def all() -> dict[str, Cell]:
    """Every cell of sequences by name, in the order of the course."""
    rooms = (classic, minimal, search_space, searched, modern, physical, linear)
    return {n: v for r in rooms for n, v in vars(r).items() if isinstance(v, Cell)}


def all_with_matrices() -> dict[str, Cell]:
    """Every cell of sequences with a matrix, as a rule its state, by name."""
    return {n: v for n, v in vars(matrices).items() if isinstance(v, Cell)}


def all_with_items() -> dict[str, Cell]:
    """Every cell that looks at sets of items, by name; their layers take `items=`."""
    return {n: v for n, v in vars(memory).items() if isinstance(v, Cell)}


def all_of_trees() -> dict[str, TreeCell]:
    """Every cell of trees by name; `nary_lstm(arity)` makes one for any arity."""
    return {n: v for n, v in vars(trees).items() if isinstance(v, TreeCell)}


def get(name: str) -> Cell:
    """The cell of that name, or a user's cell from `"FILE.py:NAME"`.

    Raises:
        CellError: no such cell; the message names the nearest ones.
    """
    if ".py" in name:
        return load_cell(name)
    rooms = all(), all_with_matrices(), all_with_items(), all_of_trees()
    known = {name: cell for room in rooms for name, cell in room.items()}
    if name not in known:
        raise CellError(
            f"[cells] no cell is called {name!r}; expected a name of the zoo or "
            f"FILE.py:NAME. {did_you_mean(name, list(known))}"
        )
    return known[name]


def in_notation(cell: Cell) -> Cell:
    """A cell that was stored, which leaves its notation out: with that of the zoo's
    cell of its name, if it has the same values."""
    known = all().get(cell.name) or all_with_matrices().get(cell.name)
    if known is None or not {*known.graph.values} <= {*cell.graph.values}:
        return cell
    return Cell.from_graph(cell.graph, known.notation) if known.notation else cell


__all__ = [  # without np: `from … import *` would hide numpy's
    "all", "all_of_trees", "all_with_items", "all_with_matrices", "antisymmetric",
    "bahdanau_gru", "binary_lstm", "cfc", "cfn", "child_sum_gru", "child_sum_lstm",
    "cifg", "cornn", "coupled", "delta_net", "fast_grnn", "fast_rnn", "fast_weights",
    "fgr", "gated_antisymmetric", "gated_delta_net", "get", "gla", "gru", "gru_bias",
    "gru_reset_after", "indrnn", "janet", "layer_norm_lstm", "leaky_rnn", "lem",
    "li_gru", "lru", "lstm", "lstm_book", "lstm_projected", "ltc", "luong_lstm",
    "mc_lstm", "mc_lstm_hydrology", "mgu", "min_gru", "min_lstm", "minimal_rnn",
    "mlstm", "multiplicative_lstm", "mut1", "mut2", "mut3", "nary_lstm", "nas", "nfg",
    "niaf", "nig", "noaf", "nog", "peephole", "peephole_diagonal", "qrnn", "recursive",
    "retention", "rg_lru", "rhn", "rnn", "rnn_relu", "rwkv6", "scrn", "selective_ssm",
    "slstm", "sru", "star", "ugrnn", "unicornn", "vanilla",
]  # fmt: skip
