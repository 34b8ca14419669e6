"""The training loop: any model, any data, one page.

It knows nothing of text. What it trains on is a `Stream` of batches, what it minimises
an `Objective`; a recurrent state, where there is one, is carried from one batch to the
next and cut there (truncated BPTT).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..language.errors import CellwrightError
from .bptt import State, detach, map_state
from .checkpoint import CheckpointError, Store, random_state, set_random_state
from .devices import make_accelerator
from .gradients import clip_by_norm, clip_by_value, gradient_norms, total_norm
from .optimisers import set_rate
from .report import Reporter
from .schedules import Schedule

if TYPE_CHECKING:
    from accelerate import Accelerator


class Stream(Protocol):
    """An endless source of batches that knows where it is."""

    #: Elements (tokens, frames) in one batch over all processes: for the speed only.
    size: int

    def next(self) -> Any:
        """The next batch of this process, on the CPU: nested tensors."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Objective(Protocol):
    """One forward pass: the mean loss of this process's batch, and the new state."""

    def __call__(
        self, model: nn.Module, batch: Any, state: State, step: int
    ) -> tuple[Tensor, State]: ...


@dataclass(frozen=True)
class Plan:
    """What a run will do, fixed before its first step and kept by every resume.

    Attributes:
        steps: optimiser steps.
        accumulate: batches whose gradients are averaged for one step.
        clip_norm: limit of the gradient's total norm; None for no limit.
        clip_value: limit of every gradient element; None for no limit.
        log_every: steps between two rows of metrics.
        checkpoint_every: steps between two checkpoints; there is always one at the end.
        validate_every: steps between two validations; None for none.
        patience: validations without gain after which to stop early; None for never.
    """

    steps: int
    accumulate: int = 1
    clip_norm: float | None = 1.0
    clip_value: float | None = None
    log_every: int = 10
    checkpoint_every: int = 500
    validate_every: int | None = None
    patience: int | None = None


@dataclass
class Progress:
    """How far a run has come. `train` returns it; a checkpoint holds it.

    Attributes:
        step: optimiser steps done.
        loss: the last step's training loss.
        seconds: wall clock in the loop, over all resumes.
        validation: the last validation loss.
        best: the lowest validation loss.
        waited: validations since the best one.
        stopped: whether early stopping ended the run.
    """

    step: int = 0
    loss: float | None = None
    seconds: float = 0.0
    validation: float | None = None
    best: float | None = None
    waited: int = 0
    stopped: bool = False


class Diverged(CellwrightError):
    """The loss or a gradient is no longer a finite number."""


def train(
    model: nn.Module,
    stream: Stream,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    plan: Plan,
    *,
    accelerator: Accelerator | None = None,
    store: Store | None = None,
    resume: bool = False,
    validate: Callable[[nn.Module], float] | None = None,
    reporter: Reporter | None = None,
) -> Progress:
    """Train a model; the same numbers, to the bit, however often it is resumed.

    Args:
        model: trained in place.
        stream: where batches come from.
        objective: `objective(model, batch, state, step) -> (mean loss, state)`.
        optimiser: over the model's parameters; its rates are the peak rates.
        schedule: scales the rates, step by step.
        plan: how many steps, how often what.
        accelerator: device, precision and processes; None makes one.
        store: where checkpoints go; None for none.
        resume: go on from the store's last checkpoint, where there is one.
        validate: `validate(model) -> loss`, called as often as the plan says.
        reporter: hears of every logged step and validation.

    Raises:
        CheckpointError: the store holds a run and `resume` is false, its checkpoint
            does not fit, or a new one cannot be written.
        Diverged: a loss or a gradient is not finite. The last good checkpoint stays.
    """
    accelerator = accelerator or make_accelerator()
    reporter = reporter or Reporter()
    bare = model  # accelerate may wrap it; names and checkpoints are the bare model's
    model = accelerator.prepare_model(model)
    optimiser = accelerator.prepare_optimizer(optimiser)
    peaks = (optimiser, schedule)

    progress, carried = Progress(), None
    if store is not None and store.has():
        if not resume:
            raise CheckpointError(
                f"[{store.directory}] holds a run already; nothing was changed. "
                "Resume it, or choose another directory"
            )
        progress, carried = _restore(store, bare, peaks, stream, accelerator)

    model.train()
    norms: dict[str, Tensor] = {}
    began = time.perf_counter() - progress.seconds
    logged = progress.step, progress.seconds  # where the last logged interval ended
    reporter.start(progress.step, plan.steps)
    try:
        while progress.step < plan.steps and not progress.stopped:
            rate = set_rate(optimiser, schedule.factor(progress.step))

            # Forward and backward, once for each part of the step's batch.
            losses = torch.zeros((), device=accelerator.device)
            for part in range(plan.accumulate):
                batch = map_state(_to(accelerator.device), stream.next())
                last = part == plan.accumulate - 1
                # Processes exchange their gradients once per step, at the last part.
                with nullcontext() if last else accelerator.no_sync(model):
                    loss, carried = objective(model, batch, carried, progress.step)
                    accelerator.backward(loss / plan.accumulate)
                carried = detach(carried)
                losses += loss.detach() / plan.accumulate

            # Look before the step: weights that went wrong cannot be put right again.
            progress.loss = _mean(losses, accelerator)
            accelerator.unscale_gradients(optimiser)
            previous, norms = norms, gradient_norms(bare)
            norm = total_norm(norms)
            # In fp16 the scaler skips a step whose gradients overflow: no divergence.
            finite = accelerator.scaler is not None or bool(torch.isfinite(norm))
            if not (math.isfinite(progress.loss) and finite):
                raise _diverged(progress, norms, previous, rate, store)
            if plan.clip_norm is not None:
                clip_by_norm(bare, plan.clip_norm, norm)
            if plan.clip_value is not None:
                clip_by_value(bare, plan.clip_value)

            optimiser.step()
            optimiser.zero_grad()
            progress.step += 1
            progress.seconds = time.perf_counter() - began

            if progress.step % plan.log_every == 0 or progress.step == plan.steps:
                took = (progress.seconds - logged[1]) / (progress.step - logged[0])
                logged = progress.step, progress.seconds
                reporter.log(
                    {
                        "step": progress.step,
                        "loss": progress.loss,
                        "learning_rate": rate,
                        "gradient_norm": norm.item(),
                        "tokens_per_second": stream.size * plan.accumulate / took,
                        "seconds_per_step": took,
                        "seconds": progress.seconds,
                    }
                )

            pointers = set()
            if validate is not None and _due(progress.step, plan.validate_every, plan):
                if _validated_best(validate, model, bare, progress, plan, accelerator):
                    pointers = {"last", "best"}
                schedule.observe(progress.validation or math.inf)
                reporter.log(
                    {"step": progress.step, "validation_loss": progress.validation}
                )
            if _due(progress.step, plan.checkpoint_every, plan) or progress.stopped:
                pointers.add("last")
            if store is not None and pointers:
                _check_weights(bare, progress, norms, previous, rate, store)
                _save(
                    store, bare, peaks, stream, carried, progress, pointers, accelerator
                )
    finally:
        reporter.finish()
    return progress


def _due(step: int, every: int | None, plan: Plan) -> bool:
    return every is not None and (step % every == 0 or step == plan.steps)


def _to(device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(device, non_blocking=True)


def _mean(loss: Tensor, accelerator: Accelerator) -> float:
    if accelerator.num_processes == 1:
        return loss.item()
    mean = accelerator.reduce(loss, reduction="mean")
    assert isinstance(mean, Tensor)
    return mean.item()


def _validated_best(
    validate: Callable[[nn.Module], float],
    model: nn.Module,
    bare: nn.Module,
    progress: Progress,
    plan: Plan,
    accelerator: Accelerator,
) -> bool:
    """Validate, and note whether it was the best so far and whether to stop."""
    from accelerate.utils import broadcast_object_list

    with torch.no_grad():
        bare.eval()
        # All processes must decide alike, so all of them believe the first one.
        results = [validate(bare)]
        broadcast_object_list(results)
        model.train()
    loss = progress.validation = float(results[0])
    if progress.best is None or loss < progress.best:
        progress.best, progress.waited = loss, 0
        return True
    progress.waited += 1
    progress.stopped = plan.patience is not None and progress.waited >= plan.patience
    return False


def _save(
    store: Store,
    bare: nn.Module,
    peaks: tuple[Any, Schedule],
    stream: Stream,
    carried: State,
    progress: Progress,
    pointers: set[str],
    accelerator: Accelerator,
) -> None:
    """Collect every process's part of the run; the main process writes all of it."""
    from accelerate.utils import gather_object

    optimiser, schedule = peaks
    own = {
        "carried": map_state(Tensor.cpu, carried),
        "stream": stream.state_dict(),
        "random": random_state(),
    }
    processes = gather_object([own])
    if accelerator.is_main_process:
        scaler = accelerator.scaler
        training = {
            "progress": vars(progress),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "processes": processes,
        }
        store.save(progress.step, bare.state_dict(), training, sorted(pointers))
    accelerator.wait_for_everyone()


def _restore(
    store: Store,
    bare: nn.Module,
    peaks: tuple[Any, Schedule],
    stream: Stream,
    accelerator: Accelerator,
) -> tuple[Progress, State]:
    """Put everything back where the last checkpoint found it."""
    checkpoint = store.load()
    training = checkpoint.training
    processes = training["processes"]
    if len(processes) != accelerator.num_processes:
        raise CheckpointError(
            f"[{store.directory}] was written by {len(processes)} processes; received "
            f"{accelerator.num_processes}. Resume with as many as before"
        )
    own = processes[accelerator.process_index]
    optimiser, schedule = peaks
    load_weights(bare, checkpoint.model, store)
    optimiser.load_state_dict(training["optimiser"])
    schedule.load_state_dict(training["schedule"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(training["scaler"])
    stream.load_state_dict(own["stream"])
    set_random_state(own["random"])
    carried = map_state(_to(accelerator.device), own["carried"])
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


def _check_weights(
    bare: nn.Module,
    progress: Progress,
    norms: dict[str, Tensor],
    previous: dict[str, Tensor],
    rate: float,
    store: Store,
) -> None:
    """A checkpoint that replaces a good one must be good itself."""
    if not all(bool(p.isfinite().all()) for p in bare.parameters()):
        raise _diverged(progress, norms, previous, rate, store)


def _diverged(
    progress: Progress,
    norms: dict[str, Tensor],
    previous: dict[str, Tensor],
    rate: float,
    store: Store | None,
) -> Diverged:
    """The step, the gradient norms by parameter, and what to try."""
    lines = [
        f"[step {progress.step + 1}] training diverged; received a loss of "
        f"{progress.loss}, expected finite numbers.",
        "Gradient norms by parameter, at this step and at the step before:",
    ]
    width = max(map(len, norms), default=0)
    for name, norm in norms.items():
        before = f"{previous[name].item():10.3g}" if name in previous else "         –"
        lines.append(f"  {name:<{width}}  {norm.item():10.3g}  {before}")
    lines.append(
        f"Try a lower learning rate (it was {rate:.3g}), a longer warm-up, stronger "
        "clipping by norm, or look for a logarithm, division or exponential in the "
        "cell that can overflow."
    )
    if store is not None and store.has():
        lines.append(f"The last good checkpoint is kept in {store.directory}.")
    return Diverged("\n".join(lines))
