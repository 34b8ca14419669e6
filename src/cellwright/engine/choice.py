"""Which engine runs a layer, and why."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from ..language import ArgumentError
from .engine import Engine
from .native import Native
from .reference import Reference
from .torch_kernels import TorchKernels
from .triton import Triton

REFERENCE = Reference()  # it can run everything, and steps for those that pack nothing
#: In the order in which "auto" tries them.
ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (Native(), TorchKernels(), Triton(), REFERENCE)
}
MEMORY = ("save", "recompute")


def choose(
    wanted: str, memory: str, obstacles: Mapping[str, str | None]
) -> tuple[Engine, str]:
    """The engine that will run, and why.

    Args:
        wanted: an engine's name, or "auto".
        memory: what training keeps: "save" or "recompute".
        obstacles: for each engine why it cannot run the layer, or `None` if it can.

    Raises:
        ArgumentError: names that are none, or what the wanted engine cannot do.
    """
    names = ("auto", *ENGINES)
    if wanted not in names:
        raise ArgumentError(
            f"[engine] received {wanted!r}, expected one of {', '.join(names)}"
        )
    if memory not in MEMORY:
        raise ArgumentError(
            f"[memory] received {memory!r}, expected one of {', '.join(MEMORY)}"
        )
    able = [name for name, obstacle in obstacles.items() if not obstacle]
    if wanted != "auto" and wanted not in able:
        others = ", ".join(repr(name) for name in ("auto", *able))
        raise ArgumentError(
            f"[engine] the {wanted} engine cannot run this layer: {obstacles[wanted]}; "
            f"received {wanted!r}, expected one of {others}"
        )
    engine = ENGINES[able[0] if wanted == "auto" else wanted]
    if memory == "recompute" and not engine.recomputes:
        _refuse_recompute(wanted, obstacles)
    if wanted != "auto":
        return engine, f"asked for: {engine.title}" if engine.title else "asked for"
    before = takewhile(lambda name: name != engine.name, obstacles)
    why = [f"{name}: {obstacles[name]}" for name in before]
    if not why:
        return engine, f"default: {engine.title}"
    return engine, "; ".join([*filter(None, [engine.caution, engine.title]), *why])


def _refuse_recompute(wanted: str, obstacles: Mapping[str, str | None]) -> None:
    able = [name for name, engine in ENGINES.items() if engine.recomputes]
    why = f"the layer asks for engine={wanted!r}"
    if wanted == "auto":
        why = "; ".join(f"{name}: {obstacles[name]}" for name in able)
    raise ArgumentError(
        f"[memory] only the engines {' and '.join(able)} compute again: {why}; "
        "received memory='recompute', expected 'save'"
    )
