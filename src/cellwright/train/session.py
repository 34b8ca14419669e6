"""What a checkpoint of a run holds, and how it is put back, over all processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

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
        model: bare, not wrapped by accelerate: its names are the checkpoint's.
        optimiser: prepared by accelerate.
        schedule, stream, accelerator, store: as for `train`.
    """

    model: nn.Module
    optimiser: Any
    schedule: Schedule
    stream: Stream
    accelerator: Accelerator
    store: Store

    def save(self, progress: Progress, carried: State, pointers: set[str]) -> None:
        """Collect every process's part; the main process writes all of it.

        Raises:
            CheckpointError: it cannot be written.
        """
        from accelerate.utils import gather_object

        own = {
            "carried": map_state(Tensor.cpu, carried),
            "stream": self.stream.state_dict(),
            "random": random_state(),
        }
        processes = gather_object([own])
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            training = {
                "progress": vars(progress),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "processes": processes,
            }
            weights = self.model.state_dict()
            self.store.save(progress.step, weights, training, sorted(pointers))
        self.accelerator.wait_for_everyone()

    def restore(self) -> tuple[Progress, State]:
        """Put everything back where the last checkpoint found it.

        Raises:
            CheckpointError: it is damaged, or of another model or number of processes.
        """
        checkpoint = self.store.load()
        training = checkpoint.training
        written, received = len(training["processes"]), self.accelerator.num_processes
        if written != received:
            raise CheckpointError(
                f"[{self.store.directory}] was written by {written} processes; "
                f"received {received}. Resume with as many as before"
            )
        own = training["processes"][self.accelerator.process_index]
        load_weights(self.model, checkpoint.model, self.store)
        self.optimiser.load_state_dict(training["optimiser"])
        self.schedule.load_state_dict(training["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(training["scaler"])
        self.stream.load_state_dict(own["stream"])
        set_random_state(own["random"])
        device = self.accelerator.device
        carried = map_state(lambda tensor: tensor.to(device), own["carried"])
        return Progress(**training["progress"]), carried


def load_weights(model: nn.Module, weights: dict[str, Tensor], store: Store) -> None:
    """Load a checkpoint's weights into a model.

    Raises:
        CheckpointError: names or shapes differ from the model's.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"[{store.directory}] the checkpoint is of another model: {error}"
        ) from error
