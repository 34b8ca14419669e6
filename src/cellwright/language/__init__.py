"""The cell language: operations, tracing, graphs. It knows no other part."""

from .cell import Cell, cell
from .errors import (
    ArgumentError,
    CellError,
    CellwrightError,
    SizeError,
    TraceError,
)
from .graph import Graph, Input, Node, State, Weight
from .items import Items
from .load import load_cell
from .ops import FUNCTIONS, OPS, Op
from .parser import parse_graph
from .printer import print_graph
from .replay import bind
from .trace import attend, name, total
from .tree import TreeCell, child_states, tree_cell
from .verify import verify

# A graph is data alone. Functions of other modules are its methods for users.
Graph.bind = bind
Graph.to_text = print_graph
Graph.from_text = staticmethod(parse_graph)

__all__ = [
    "FUNCTIONS",
    "OPS",
    "ArgumentError",
    "Cell",
    "CellError",
    "CellwrightError",
    "Graph",
    "Input",
    "Items",
    "Node",
    "Op",
    "SizeError",
    "State",
    "TraceError",
    "TreeCell",
    "Weight",
    "attend",
    "cell",
    "child_states",
    "load_cell",
    "name",
    "total",
    "tree_cell",
    "verify",
]
