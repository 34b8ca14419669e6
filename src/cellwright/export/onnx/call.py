"""One call of a layer·direction, as values of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class NamedCall:
    """As `engine.Call`, its tensors by their names in the graph; "" is none.

    Attributes:
        x: (time, batch, input size).
        inputs: the named inputs, laid out as x.
        static: those that are the same at every step, (batch, size).
        states: the initial states, (batch, size) each.
        reset_states: what a reset starts from, (size,) each; empty without resets.
        lengths, starts: (batch,) of int64.
        resets: (time, batch), of any type of integers.
        reverse: from the last step to the first.
        step: time is 1, and stays so.
        items: of each set by name, (batch, items, size).
        members: by set, which of them are the row's own: (batch, items, 1) of booleans.
        attention: the weights of the items are wanted, too.
    """

    x: str
    inputs: Mapping[str, str]
    static: Mapping[str, str]
    states: Sequence[str]
    reset_states: Sequence[str] = ()
    lengths: str = ""
    starts: str = ""
    resets: str = ""
    reverse: bool = False
    step: bool = False
    items: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)
    attention: bool = False
