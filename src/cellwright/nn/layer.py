"""What layers share: an engine that follows the parameters, and the one forward."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..engine.call import Call
from ..engine.choice import ENGINES, choose
from ..engine.engine import Engine
from ..engine.schedule import SequenceBatch
from .direction import BoundCell, Direction
from .items import ItemInputs
from .quantization import Qconfig
from .recording import WATCHING, Watcher, Watchers, run_watched
from .sequences import Layout
from .stepper import Stepper, make_stepper

HOOKS = "a gate has hooks (or is another module), to be called at every step"
State = Tensor | tuple[Tensor, ...]
Drop = Callable[[str, Tensor], Tensor]

_REVERSED = {1: (False,), 2: (False, True)}  # by the number of directions


class Layer:
    """Gives a module `engine` and `engine_reason`: they follow its parameters.

    A subclass calls `_choose_engine` when it is made, and says in `placement` where its
    parameters are and in `bound_cells` what it may run.

    Attributes:
        memory: what training keeps: "save" or "recompute".
    """

    memory: str

    _watchers = Watchers()  # who records its values: see nn/recording.py
    _gates_have_hooks = False  # of their user's; a drop-in's gates are no modules
    _warned_of_hooks = False

    @property
    def engine(self) -> str:
        """The engine that runs the layer where its parameters are now."""
        return self.current_engine.name

    @property
    def engine_reason(self) -> str:
        """Why it is this engine."""
        engine, reason = self._choice()
        detail = engine.detail(self.bound_cells()[0], self.placement()[1])
        return f"{reason}, {detail}" if detail else reason

    @property
    def current_engine(self) -> Engine:
        """The same as an object."""
        return self._choice()[0]

    def placement(self) -> tuple[torch.device, torch.dtype]:
        """Where the parameters are, and their type."""
        raise NotImplementedError

    def bound_cells(self) -> Sequence[BoundCell]:
        """Its cells with their sizes, as they are evaluated."""
        raise NotImplementedError

    def _choose_engine(self, wanted: str, memory: str) -> None:
        self._wanted, self.memory = wanted, memory
        self._choices: dict[tuple[torch.device, torch.dtype], tuple[Engine, str]] = {}
        self._choice()  # what cannot be met is an error now

    def _choice(self) -> tuple[Engine, str]:
        key = self.placement()
        if key not in self._choices:
            obstacles = {name: self._obstacle(e, *key) for name, e in ENGINES.items()}
            self._choices[key] = choose(self._wanted, self.memory, obstacles)
        chosen = self._choices[key]
        if self._gates_have_hooks and not chosen[0].calls_gates:
            return next(e for e in ENGINES.values() if e.calls_gates), HOOKS
        return chosen

    def _recording_engine(self) -> Engine:
        """The engine that runs while values are recorded: torch's kernels keep them."""
        engine = self.current_engine
        if engine.records:
            return engine
        able = (e for e in ENGINES.values() if e.records)
        return next(e for e in able if not self._obstacle(e, *self.placement()))

    def _obstacle(
        self, engine: Engine, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        """Why an engine cannot run the layer there, or `None` if it can."""
        cells = {id(bound.programs): bound for bound in self.bound_cells()}
        found = (engine.obstacle(bound, device, dtype) for bound in cells.values())
        return next(filter(None, found), None)

    @contextmanager
    def running_on(self, engine: Engine) -> Iterator[None]:
        """Run on this engine, whatever was chosen, for what traces the layer."""
        chosen = self._choices
        self._choices = {self.placement(): (engine, "traced")}
        try:
            yield
        finally:
            self._choices = chosen

    def _engine_of_call(self) -> Engine:
        """The engine that runs a call now, and a warning where hooks have chosen it."""
        engine, reason = self._choice()
        if reason is HOOKS:
            self._warn_of_hooks()
        return self._recording_engine() if self._watchers else engine

    def _warn_of_hooks(self) -> None:
        if self._warned_of_hooks or torch.compiler.is_compiling():
            return
        self._warned_of_hooks = True
        warnings.warn(
            f"[engine] {HOOKS}: the layer runs the reference, which is slow, until "
            "they are removed. To look at values, cellwright.record(layer) is the fast "
            "way; a hook on the layer itself costs nothing",
            stacklevel=6,  # who calls the layer, beyond torch's two frames
        )


class SequenceLayer(Layer):
    """The one forward of `Recurrent`, `LSTM`, `GRU` and `RNN`.

    A subclass checks its arguments in `forward` and hands them to `_scan`. It has
    `first_states`, and says in `_direction` what layer·direction k computes with.

    Attributes:
        item_sizes: units of an item of each set that the cell looks at, by name.
    """

    num_layers: int
    bidirectional: bool
    training: bool
    qconfig = Qconfig()
    item_sizes: Mapping[str, int] = {}

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def first_states(self, batch: int) -> list[Tensor]:
        """The states that a call without them starts from, (layers·directions, batch,
        size) each. Nobody may write them."""
        raise NotImplementedError

    def own_states(self) -> list[Tensor]:
        """The same without a batch, (layers·directions, size) each: a reset's."""
        return [state[:, 0] for state in self.first_states(1)]

    def direction(self, k: int) -> Direction:
        """Layer·direction k as it is evaluated now."""
        return self._direction(k, False)

    def stepper(self, batch_size: int = 1, *, weights: str | None = None) -> Stepper:
        """The layer step by step, without autograd: see docs/streaming.md.

        Args:
            batch_size: rows that are stepped together.
            weights: "int8" packs matrices in 8 bits, with a scale for each row of each
                operand's; "bf16" in 16 bits (float32 layers on the native engine);
                `None` as they are.

        Raises:
            ArgumentError: the layer is bidirectional, batch_size not positive, or its
                weights cannot be packed so.
        """
        return make_stepper(self, batch_size, weights)

    # -- watching: `cellwright.record`

    @property
    def watchers(self) -> list[Watcher]:
        """Who records its values in this thread."""
        return self._watchers.of_this_thread()

    @property
    def watched_engine(self) -> str:
        """The engine that runs while values are recorded."""
        return self._recording_engine().name

    def watch(self, watcher: Watcher) -> None:
        """Give the values of each call that this thread makes to a watcher."""
        with WATCHING:
            self._watchers = self._watchers.and_one(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """The opposite of `watch`."""
        with WATCHING:
            self._watchers = self._watchers.without(watcher)
            if not self._watchers:
                del self._watchers  # the class's again: what copies the layer sees none

    # -- the forward

    def _direction(self, k: int, training: bool) -> Direction:
        raise NotImplementedError

    def _dropout(self, batch: SequenceBatch) -> Drop | None:
        """`(where, x) -> x`: dropout of what flows along, if there is any now."""
        raise NotImplementedError

    def _scan(
        self,
        engine: Engine,
        layout: Layout,
        x: Tensor,
        states: Sequence[Tensor | None],
        inputs: Mapping[str, Tensor],
        items: ItemInputs | None = None,
    ) -> tuple[Any, State]:
        """Scan the sequences with every layer and direction.

        Args:
            engine: of this call.
            layout: of the call.
            x, inputs: as engines take them.
            states: (layers·directions, B, size) each, or `None` for zeros.
            items: what every step of every layer looks at.

        Returns:
            y and the final states, laid out as the user has x.
        """
        batch, reverses = layout.batch, _REVERSED[self.directions]
        count = self.num_layers * len(reverses)
        own = None if batch.resets is None else self.own_states()
        drop, training, k = self._dropout(batch), self.training, 0
        finals: list[list[Tensor]] = []
        for layer in range(self.num_layers):
            if drop is not None:
                x = drop("dropout" if layer else "input_dropout", x)
            outputs = []
            for reverse in reverses:
                direction = self._direction(k, training)
                given = direction.with_masks(inputs, batch)
                olds = states if count == 1 else _of(states, k)
                resets = () if own is None else [state[k] for state in own]
                call = Call(x, given, olds, resets, batch, reverse)
                if items is not None:
                    call = direction.with_items(call, items)
                if self._watchers:
                    how = engine, direction, call, layout.padded
                    y, news = run_watched(self, k, *how)
                else:
                    y, news = engine.run(direction, call)
                outputs.append(y)
                finals.append(news)
                k += 1
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        if drop is not None:
            x = drop("output_dropout", x)
        whole = finals[0] if count == 1 else _joined(finals)
        whole = layout.leave_states(whole)
        return layout.leave(x), whole[0] if len(whole) == 1 else tuple(whole)


def _of(states: Iterable[Tensor | None], k: int) -> list[Tensor | None]:
    """The states of layer·direction k, (1, B, size) each."""
    return [None if state is None else state[k : k + 1] for state in states]


def _joined(finals: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The states of all layers and directions, (layers·directions, B, size) each."""
    return [torch.cat(column) for column in zip(*finals, strict=True)]


def plain_layer(layer: Any) -> Any:
    """The layer itself, where `torch.compile(layer)` has wrapped it."""
    return getattr(layer, "_orig_mod", layer)
