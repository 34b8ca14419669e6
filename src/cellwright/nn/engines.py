"""Which engine runs a layer, and why: one choice for `Recurrent` and the drop-ins."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from ..engine import native
from ..language import ArgumentError, Cell, Graph
from .recording import Watchers
from .stepper import Stepper, make_stepper
from .torch_kernels import TorchLayout

ENGINES = ("auto", "native", "torch", "reference")
MEMORY = ("save", "recompute")
HOOKS = "a gate has hooks (or is another module), to be called at every step"


class ChoosesEngine:
    """Gives a layer `engine` and `engine_reason`: they follow its parameters.

    A layer calls `_want_engine` when it is made, has a `cell` and a `_layout` (how
    torch packs it, where torch has it), and says in `_placement` where it is.

    Attributes:
        memory: what training keeps: "save" or "recompute".
    """

    memory: str

    _watchers = Watchers()  # who records its values: see nn/recording.py
    _gates_have_hooks = False  # of their user's; a drop-in's gates are no modules
    _told_of_hooks = False

    @property
    def engine(self) -> str:
        """The engine that runs the layer where its parameters are now."""
        return self._choice()[0]

    @property
    def engine_reason(self) -> str:
        """Why it is this engine."""
        engine, reason = self._choice()
        # Asked for here alone: what traces a layer can follow no call into the core.
        return f"{reason}, {native.info()['isa']}" if engine == "native" else reason

    @property
    def watched_engine(self) -> str:
        """The engine that runs while values are recorded: torch's kernels keep them."""
        engine = self.engine
        if engine != "torch":
            return engine
        return "reference" if self._obstacle(*self._placement()) else "native"

    def _engine_of_call(self) -> str:
        """The engine that runs a call now, and a warning where hooks have chosen it."""
        engine, reason = self._choice()
        if reason is HOOKS and not torch.compiler.is_compiling():
            self._tell_of_hooks()
        return self.watched_engine if self._watchers else engine

    def _tell_of_hooks(self) -> None:
        if self._told_of_hooks:
            return
        self._told_of_hooks = True
        warnings.warn(
            f"[engine] {HOOKS}: the layer runs the reference, which is slow, until "
            "they are removed. To look at values, cellwright.record(layer) is the fast "
            "way; a hook on the layer itself costs nothing",
            stacklevel=6,  # who calls the layer, beyond torch's two frames
        )

    def _alone(self, engine: str) -> bool:
        """One layer in one direction, unwatched, on the native engine: its states go
        through as they are, and start from the core's own zeros."""
        natives: list[native.NativeCell] = self._natives  # type: ignore[attr-defined]
        return engine == "native" and len(natives) == 1 and not self._watchers

    def stepper(self, batch_size: int = 1) -> Stepper:
        """The layer step by step, without autograd: see docs/streaming.md.

        Args:
            batch_size: rows that are stepped together.

        Raises:
            ArgumentError: the layer is bidirectional, or batch_size not positive.
        """
        return make_stepper(self, batch_size)

    def _want_engine(self, wanted: str, memory: str) -> None:
        self._wanted, self.memory = wanted, memory
        self._choices: dict[tuple[torch.device, torch.dtype], tuple[str, str]] = {}
        self._choice()  # what cannot be met is an error now

    def _choice(self) -> tuple[str, str]:
        key = device, dtype = self._placement()
        if key not in self._choices:
            layout: TorchLayout | None = self._layout  # type: ignore[attr-defined]
            obstacle = self._obstacle(device, dtype)
            self._choices[key] = choose_engine(
                self._wanted, layout, obstacle, self.memory
            )
        chosen = self._choices[key]
        if self._gates_have_hooks and chosen[0] != "reference":
            return "reference", HOOKS
        return chosen

    def _obstacle(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why the native engine cannot run the layer there, or `None` if it can."""
        found = (native.unavailable(g, device, dtype) for g in self._step_graphs())
        return next(filter(None, found), None)

    def _step_graphs(self) -> Sequence[Graph]:
        """The steps that run, each once; with concrete sizes where any differ."""
        cell: Cell = self.cell  # type: ignore[attr-defined]
        return [cell.graph]

    def _placement(self) -> tuple[torch.device, torch.dtype]:
        """Where the parameters are, and their type."""
        raise NotImplementedError


def plain_layer(layer: Any) -> Any:
    """The layer itself, where `torch.compile(layer)` has wrapped it."""
    return getattr(layer, "_orig_mod", layer)


def choose_engine(
    wanted: str, layout: TorchLayout | None, obstacle: str | None, memory: str
) -> tuple[str, str]:
    """The engine that will run, and why; `obstacle` is why native cannot."""
    _check_memory(wanted, obstacle, memory)
    if wanted not in ENGINES:
        raise ArgumentError(
            f"[engine] received {wanted!r}, expected one of {', '.join(ENGINES)}"
        )
    if wanted == "native" and obstacle:
        raise ArgumentError(
            f"[engine] the native engine cannot run this layer: {obstacle}; received "
            "'native', expected 'auto', 'torch' or 'reference'"
        )
    if wanted == "torch" and layout is None:
        raise ArgumentError(
            "[engine] torch has no kernel for this cell; received 'torch', expected "
            "'auto', 'native' or 'reference'"
        )
    if wanted == "reference":
        return "reference", "asked for"
    if wanted == "native" or (wanted == "auto" and not obstacle):
        how = "asked for" if wanted == "native" else "default"
        return "native", f"{how}: the compiled core"
    if layout is None:
        return (
            "reference",
            f"torch has no kernel for these equations; native: {obstacle}",
        )
    how = f"the equations are torch's; native: {obstacle}"
    if wanted == "torch":
        how = "asked for"
    return "torch", f"{how}: torch._VF.{layout.kernel}"


def _check_memory(wanted: str, obstacle: str | None, memory: str) -> None:
    if memory not in MEMORY:
        raise ArgumentError(
            f"[memory] received {memory!r}, expected one of {', '.join(MEMORY)}"
        )
    if memory == "save":
        return
    if wanted in ("torch", "reference"):
        obstacle = f"the layer asks for engine={wanted!r}"
    if obstacle:
        raise ArgumentError(
            f"[memory] only the native engine computes again: {obstacle}; received "
            "memory='recompute', expected 'save'"
        )
