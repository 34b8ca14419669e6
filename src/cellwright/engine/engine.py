"""`Engine`: what every engine is. A new one is a file here and an entry in `choice`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..language import Cell
from .call import Call
from .items import ItemBatch
from .programs import Programs
from .torch_layout import TorchLayout

#: `advance(x, named, y)`: one step. Reads x and the named inputs, (B, size) each, in
#: the order of the cell; writes y, (B, output_size), and moves on the states.
Advance = Callable[[Tensor, Sequence[Tensor], Tensor], None]


#: `Call.items` and `Call.sets`.
Items = tuple[Mapping[str, Tensor], Mapping[str, ItemBatch]]


class BoundCell(Protocol):
    """A cell with concrete sizes, and what engines make of it.

    Attributes:
        cell: the equations.
        programs: its compiled programs; `programs.graph` has the sizes.
        layout: how torch packs its weights, or `None` where torch has no such cell.
    """

    @property
    def cell(self) -> Cell: ...
    @property
    def programs(self) -> Programs: ...
    @property
    def layout(self) -> TorchLayout | None: ...


class Weights(Protocol):
    """The weights of one call: also the `W` that the cell's function takes."""

    def in_order(self, parameters: Sequence[tuple[str, int]]) -> list[Tensor]:
        """The parameters that a binding lists."""
        ...

    def packed(self, bound: BoundCell) -> list[Tensor]:
        """torch's flat weights, where `bound.layout` is one."""
        ...

    def first_parameter(self) -> Tensor:
        """Any of them, for its device and dtype."""
        ...


class Bound(Protocol):
    """What a call runs on: `nn.direction.Direction`."""

    @property
    def bound(self) -> BoundCell: ...
    @property
    def weights(self) -> Weights: ...


class Engine(Protocol):
    """Runs bound cells over sequences and forests. It has no state of its own.

    Attributes:
        name: what users call it.
        title: what it is, for `engine_reason`; may be empty.
        caution: what `engine_reason` says first of an engine that nobody asked for.
        records: it gives the values that `bound.programs.recorded` asks for.
        recomputes: it can keep the states alone (`memory="recompute"`).
        calls_gates: it calls the gates' modules at every step, and so their hooks.
        runs_modules: a torch.nn module's own forward is what it would run.
        packs: it has a `stepper`, which packs the weights once.
    """

    name: str
    title: str = ""
    caution: str = ""
    records: bool = False
    recomputes: bool = False
    calls_gates: bool = False
    runs_modules: bool = False
    packs: bool = False

    def obstacle(
        self, bound: BoundCell, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        """Why it cannot run a cell whose parameters are there, or `None` if it can."""
        ...

    def run(self, bound: Bound, call: Call) -> tuple[Tensor, list[Tensor]]:
        """Run a call.

        Returns:
            The outputs (T, B, output_size), in the order of x, and the final states,
            shaped as the initial ones, then the recorded values, shaped as the outputs.
            Of a forest: (N, output_size), and the roots' states (trees, size). What is
            recorded of items has S · size columns, item after item, where S is the
            longest of the set; zeros after a row's own.
        """
        ...

    def stepper(
        self,
        stack: Sequence[Callable[[], Bound]],
        states: Sequence[Tensor],
        items: Sequence[Items] = (),
        precision: str = "full",
    ) -> Advance:
        """What takes single steps through a stack of layers; for engines that pack.

        Args:
            stack: gives each layer with the weights that it has now.
            states: (num_layers, B, size) each, contiguous: read and written in place.
            items: of cells that look at items: those of each layer.
            precision: of the products: "full", or "int8" for weights of 8 bits.
        """
        raise TypeError(f"the {self.name} engine packs nothing")

    def carried(self, dtype: torch.dtype) -> torch.dtype:
        """The type of the states of `stepper`, where the parameters are of `dtype`."""
        return dtype

    def detail(self, bound: BoundCell, dtype: torch.dtype) -> str:
        """What else `engine_reason` says of parameters of `dtype`; never asked for
        inside a traced call."""
        return ""
