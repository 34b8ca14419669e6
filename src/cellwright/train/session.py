"""What a checkpoint of a run holds, and how it is put back, over all processes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..schema import check
from .averaging import Average
from .bptt import State, map_state
from .checkpoint import CheckpointError, Store, random_state, set_random_state
from .plan import Progress, Stream
from .schedules import Schedule

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Session:
    """The parts of a run that change while it trains.

    Attributes:
        model: bare: its names are the checkpoint's.
        wrapped: the same as accelerate runs it.
        optimiser: prepared by accelerate.
        schedule, stream, accelerator, store, average: as for `train`.
    """

    model: nn.Module
    wrapped: nn.Module
    optimiser: Any
    schedule: Schedule
    stream: Stream
    accelerator: Accelerator
    store: Store | None
    average: Average | None = None

    def begin(self, resume: bool) -> tuple[Progress, State]:
        """Where the run stands: at its beginning, or at the store's last checkpoint.

        Raises:
            CheckpointError: there is one and `resume` is false; it, or the best one, is
                damaged; or it is of another model or number of processes. Nothing on
                the disk has changed then.
        """
        if self.store is None or not self.store.has():
            return Progress(), None
        if resume:
            return self._restore(self.store)
        raise CheckpointError(
            f"[{self.store.directory}] holds a run already; nothing was changed. "
            "Resume it, or choose another directory"
        )

    def update(self) -> None:
        """Take the optimiser's step."""
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.average is not None:
            self.average.update()

    def save(self, progress: Progress, carried: State, best: bool) -> None:
        """Collect every process's part; the main process writes all of it.

        Args:
            best: whether it becomes the best checkpoint, too.

        Raises:
            CheckpointError: it cannot be written.
        """
        from accelerate.utils import gather_object

        assert self.store is not None
        own = {
            "carried": map_state(Tensor.cpu, carried),
            "stream": self.stream.state_dict(),
            "random": random_state(),
        }
        processes = gather_object([own])
        if self.accelerator.is_main_process:
            shared = {name: part.state_dict() for name, part in self._shared().items()}
            training = {"progress": vars(progress), "scaler": None, **shared}
            training["processes"] = processes
            with self.averaged():
                weights = self.model.state_dict()
                pointers = ("best", "last") if best else ("last",)
                self.store.save(progress.step, weights, training, pointers)
        self.accelerator.wait_for_everyone()

    def _restore(self, store: Store) -> tuple[Progress, State]:
        if store.has("best"):
            store.load("best")  # a damaged one would be found with the next best
        checkpoint = store.load()
        load_weights(self.model, checkpoint.model, store)
        try:
            progress, carried = self._put_back(store, checkpoint.training)
        except CheckpointError:
            raise
        except Exception as error:  # torch, NumPy and Python say what they do not take
            raise CheckpointError(
                f"[{store.directory}] the last checkpoint cannot be gone on from: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        if progress.best is not None and not store.has("best"):
            self._find_best(store, progress)
        return progress, carried

    def _put_back(
        self, store: Store, training: dict[str, Any]
    ) -> tuple[Progress, State]:
        written, received = len(training["processes"]), self.accelerator.num_processes
        if written != received:
            raise CheckpointError(
                f"[{store.directory}] was written by {written} processes; "
                f"received {received}. Resume with as many as before"
            )
        progress = progress_of(store, training)
        own = training["processes"][self.accelerator.process_index]
        self._check_moments(training["optimiser"]["state"])
        for name, part in {**self._shared(), "stream": self.stream}.items():
            kept = (own if name == "stream" else training)[name]
            _check_like(name, kept, part.state_dict())
            part.load_state_dict(kept)
        set_random_state(own["random"])
        device = self.accelerator.device
        return progress, map_state(lambda t: t.to(device), own["carried"])

    def _shared(self) -> dict[str, Any]:
        """What has a state that is the same on every process."""
        parts = {"optimiser": self.optimiser, "schedule": self.schedule}
        more = {"scaler": self.accelerator.scaler, "average": self.average}
        return {**parts, **{n: part for n, part in more.items() if part is not None}}

    def averaged(self) -> AbstractContextManager[None]:
        """Meanwhile the model has the average of its weights, where one was begun."""
        return nullcontext() if self.average is None else self.average.applied()

    def _check_moments(self, saved: dict[int, dict[str, Any]]) -> None:
        """Raise ValueError for a state of the optimiser that torch does not refuse."""
        groups = self.optimiser.param_groups
        shapes = [p.shape for group in groups for p in group["params"]]
        kinds = {
            frozenset((name, type(moment)) for name, moment in moments.items())
            for moments in saved.values()
        }
        if len(kinds) > 1:
            raise ValueError("not every parameter has the same moments")
        for number, moments in saved.items():
            for name, moment in moments.items():
                shape, expected = getattr(moment, "shape", ()), shapes[number]
                if shape not in ((), expected):
                    raise ValueError(
                        f"{name} of parameter {number} has the shape {tuple(shape)}, "
                        f"expected {tuple(expected)}"
                    )

    def _find_best(self, store: Store, progress: Progress) -> None:
        """Point at the best checkpoint again; without it the search starts anew."""
        if self.accelerator.is_main_process:
            for name, checkpoint in store.whole():
                found = checkpoint.training["progress"]
                if found["validation"] == found["best"] == progress.best:
                    store.point("best", name)
                    break
        self.accelerator.wait_for_everyone()
        if not store.has("best"):
            progress.best, progress.waited = None, 0


def progress_of(store: Store, training: Any) -> Progress:
    """How far a run had come, from its checkpoint's training data.

    Raises:
        CheckpointError: it is not what training stores.
    """
    where = store.directory / "training.progress"
    saved = training.get("progress") if isinstance(training, dict) else None
    progress = check(Progress, saved, where, CheckpointError)
    assert saved is not None
    for name in vars(progress).keys() - saved.keys():  # no default says how far
        raise CheckpointError(f"[{where}, {name}] is missing")
    return progress


def load_weights(model: nn.Module, weights: dict[str, Tensor], store: Store) -> None:
    """Load a checkpoint's weights into a model.

    Raises:
        CheckpointError: names, shapes or types differ from the model's, or a weight is
            no finite number, which training never stores.
    """
    own = model.state_dict()
    found, expected = (
        {n: tuple(t.shape) for n, t in d.items()} for d in (weights, own)
    )
    check_shapes(found, expected, store)
    for name, tensor in weights.items():
        wrong = None
        if tensor.dtype != own[name].dtype:
            wrong = f"received {tensor.dtype}, expected {own[name].dtype}"
        elif not bool(tensor.isfinite().all()):
            wrong = "received NaN or infinity, expected finite numbers"
        if wrong:
            raise CheckpointError(
                f"[{store.directory}, {name}] is no weight of this model; {wrong}"
            )
    model.load_state_dict(weights)


def check_shapes(
    found: dict[str, tuple[int, ...]],
    expected: dict[str, tuple[int, ...]],
    store: Store,
) -> None:
    """Raise CheckpointError where names or shapes of weights are not the model's."""
    for name in [*expected, *found]:
        received, wanted = (d.get(name, "no such weight") for d in (found, expected))
        if received != wanted:
            raise CheckpointError(
                f"[{store.directory}, {name}] the checkpoint is of another model; "
                f"received {received}, expected {wanted}"
            )


def _check_like(what: str, saved: Any, own: Any) -> None:
    """Raise ValueError unless saved data is of the kinds that our own data is of."""
    if isinstance(own, dict) and isinstance(saved, dict):
        for key in own.keys() & saved.keys():  # torch's versions add and drop some
            _check_like(f"{what}.{key}", saved[key], own[key])
        return
    if isinstance(own, list | tuple) and isinstance(saved, list | tuple):
        if len(own) == len(saved):
            for key, (one, other) in enumerate(zip(saved, own, strict=True)):
                _check_like(f"{what}.{key}", one, other)
            return
    elif _is_number(own) and _is_number(saved):
        if math.isfinite(saved):
            return
    elif own is None or type(saved) is type(own) or (saved is None and own is True):
        return  # None: an older version left to torch what we ask for
    raise ValueError(f"{what}: received {saved!r}, expected such as {own!r}"[:200])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
