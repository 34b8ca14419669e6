"""`Call`: what an engine runs, one value for every engine."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from .items import ItemBatch
from .schedule import SequenceBatch
from .tree_schedule import TreeSchedule

States = Sequence[Tensor | None]


class Call(NamedTuple):
    """One pass of a layer·direction over a batch of sequences, or over a forest.

    A named tuple, and so frozen: a frozen dataclass takes three times as long to make,
    which the smallest call would notice.

    Attributes:
        x: (T, B, input_size), T ≥ 1; (Σ batch_sizes, input_size) if it is packed; of a
            forest (M, input_size).
        inputs: the named inputs, shaped like x; of sequences also (B, size): static,
            the same at every step.
        states: the initial states, (1, B, size) each; `None` is zeros. The final ones
            have the same shape. None of a forest.
        reset_state: what a reset starts from, (size,) each; empty without resets.
        batch: how the rows of x lie.
        reverse: scan from the last step to the first.
        taps: where the programs are tapped, a tensor shaped like each recorded value:
            its gradient is the value's, through all that the value feeds.
        items: the items of the step by name, packed, (Σ lengths, size): those of the
            first row of the batch, those of the second, ….
        sets: how many each row has, by the name of the set.
    """

    x: Tensor
    inputs: Mapping[str, Tensor]
    states: States
    reset_state: Sequence[Tensor]
    batch: SequenceBatch | TreeSchedule
    reverse: bool = False
    taps: Sequence[Tensor] = ()
    items: Mapping[str, Tensor] = {}
    sets: Mapping[str, ItemBatch] = {}

    @property
    def static(self) -> tuple[str, ...]:
        """The named inputs that are the same at every step.

        Packed ones differ from x in their rows alone. Where they do not, every sequence
        has one step, and both mean the same.
        """
        x = self.x
        return tuple(
            name
            for name, value in self.inputs.items()
            if value.dim() < x.dim() or (x.dim() == 2 and len(value) != len(x))
        )
