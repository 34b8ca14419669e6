"""`TreeRecurrent`: any tree cell as a layer over forests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import cells as zoo
from ..engine.call import Call
from ..engine.forest import Forest
from ..language import ArgumentError, Cell, TreeCell
from ..language.arguments import plain
from ..language.tree import as_tree
from .direction import BoundCell, Direction, bind_cells
from .layer import Layer, State
from .recurrent import configure
from .weights import CellWeights, first_tensor, gates_must_be_called, made


class TreeRecurrent(Layer, nn.Module):
    """A recursive net: one cell at every node of every tree, from leaves to roots.

    Takes x (M, input_size), one row for each node that has an input, and a forest;
    gives y (N, output size), one row for each node in the forest's order, and the
    states of the roots, (trees, size) each: bare where the cell has one state, else a
    tuple in the order the cell returns them.

    Args:
        cell: a `TreeCell`; the name of one of the zoo's; or a `Cell` of sequences,
            which sees the node's only child as the step before.
        input_size: units of x.
        hidden_size: units of every state and weight that declares no other size.
        inputs: sizes of the further named inputs, passed to `forward` by name, shaped
            like x.
        engine: "native", "reference" (the cell's graph level by level in PyTorch), or
            "auto": the first of these that can run it.
        device, dtype: of the parameters.
        **options: further sizes that the cell names, and its hyperparameters.

    Attributes:
        cells: the weights, in a list of one, named as those of `Recurrent`.
        output_size: units of y.

    Raises:
        CellError: sizes that do not fit the cell, unknown options, a cell of
            sequences whose states do not start from 0.
        ArgumentError: wrong layer arguments.
    """

    def __init__(
        self,
        cell: TreeCell | Cell | str,
        input_size: int,
        hidden_size: int,
        *,
        inputs: Mapping[str, int] | None = None,
        engine: str = "auto",
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        cell = zoo.get(cell) if isinstance(cell, str) else cell
        input_size, hidden_size = plain(input_size), plain(hidden_size)
        if not isinstance(cell, Cell):
            raise ArgumentError(
                f"[TreeRecurrent] needs a cell; received {type(cell).__name__}, "
                "expected a function under @cellwright.tree_cell, or a name such as "
                "'child_sum_lstm'"
            )
        if cell.graph.items:
            as_tree(cell.graph)  # it is refused
        cell, sizes = configure(cell, dict(inputs or {}), {}, options, hidden_size)
        self.cell = Cell.from_graph(as_tree(cell.graph), cell.notation)
        self.input_size, self.hidden_size, self.sizes = input_size, hidden_size, sizes
        known = {"input_size": input_size, "hidden_size": hidden_size, **sizes}
        wanted = self.cell.graph.size_names
        self.graph = self.cell.graph.bind(
            **{name: known.get(name, hidden_size) for name in wanted}
        )
        self.arity = None if self.graph.many else len(self.graph.children)
        self.output_size = int(self.graph.output_size)
        self.cells = nn.ModuleList(
            [CellWeights(self.graph, hidden_size, device, dtype)]
        )
        self._bound = bind_cells(self.cell, [self.graph], None, recompute=False)
        self._choose_engine(engine, "save")

    def bound_cells(self) -> Sequence[BoundCell]:
        return self._bound

    def placement(self) -> tuple[torch.device, torch.dtype]:
        like = first_tensor(self.cells)
        return like.device, like.dtype

    @property
    def _gates_have_hooks(self) -> bool:
        return gates_must_be_called(self.cells)

    def stepper(self, batch_size: int = 1, *, weights: str | None = None) -> NoReturn:
        """A tree has no next step.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError(
            "[stepper] a tree is walked whole, from its leaves; received a "
            "TreeRecurrent, expected a layer of sequences (Recurrent, LSTM, GRU, RNN)"
        )

    def reset_parameters(self) -> None:
        """Draw every parameter anew, U(±1/√hidden_size) but for declared values."""
        self.cells[0].reset_parameters()  # type: ignore[operator]

    def forward(
        self, x: Tensor, forest: Forest, **inputs: Tensor
    ) -> tuple[Tensor, State]:
        """Scan the forest, from the leaves to the roots.

        Args:
            x: (M, input_size), a row for each node of `forest.inputs`; the x of every
                other node is 0.
            forest: the trees; those of a batch are one forest (`Forest.batch`).
            **inputs: the named inputs, (M, size) each.

        Returns:
            y (N, output_size) in the order of the forest's nodes, and the states of
            its roots, as the class says.

        Raises:
            ArgumentError: shapes, dtypes or devices that do not fit, a node with more
                children than the cell sees.
        """
        self._check_inputs(x, forest, inputs)
        schedule = forest.schedule(self.arity)
        engine = self._engine_of_call()
        direction = Direction(self._bound[0], made(self.cells[0]))  # type: ignore[arg-type]
        y, roots = engine.run(direction, Call(x, inputs, (), (), schedule))
        return y, roots[0] if len(roots) == 1 else tuple(roots)

    def _check_inputs(
        self, x: Tensor, forest: Forest, inputs: Mapping[str, Tensor]
    ) -> None:
        """Check every shape, dtype and device."""
        if not isinstance(forest, Forest):
            raise ArgumentError(
                f"[TreeRecurrent] needs the trees; received {type(forest).__name__}, "
                "expected a cellwright.Forest, such as Forest.from_parents(parents)"
            )
        sizes = {i.name: int(i.size) for i in self.graph.inputs}
        given = {"x": x, **inputs}
        for name in given.keys() | sizes.keys():
            if name not in sizes:
                raise ArgumentError(
                    f"[TreeRecurrent] cell {self.cell.name!r} has no input {name!r}; "
                    f"received {name}=, expected {', '.join(sizes)}"
                )
            expected = (len(forest.inputs), sizes[name])
            shape = tuple(getattr(given.get(name), "shape", ()))
            if shape != expected:
                raise ArgumentError(
                    f"[TreeRecurrent] {name} has a row for each of the "
                    f"{expected[0]} nodes that have an input (forest.inputs; the "
                    f"forest has {forest.nodes} nodes); received "
                    f"{shape or type(given.get(name)).__name__}, expected {expected}"
                )
            self._check_like(name, given[name])

    def _check_like(self, name: str, tensor: Tensor) -> None:
        device, dtype = self.placement()
        if tensor.device != device:
            raise ArgumentError(
                f"[TreeRecurrent] {name} is on another device than the weights; "
                f"received {tensor.device}, expected {device}. Move it with .to(...)"
            )
        autocast = torch.is_autocast_enabled(device.type)
        if tensor.dtype != dtype and not autocast:
            raise ArgumentError(
                f"[TreeRecurrent] {name} has another dtype than the weights; received "
                f"{tensor.dtype}, expected {dtype}. Convert one with .to(dtype)"
            )

    def extra_repr(self) -> str:
        sizes = [f"{n}={v}" for n, v in self.sizes.items()]
        parts = [self.cell.name, str(self.input_size), str(self.hidden_size), *sizes]
        return ", ".join([*parts, f"engine={self.engine!r}"])
