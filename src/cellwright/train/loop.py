"""The training loop: any model, any data, one page.

It knows nothing of text. What it trains on is a `Stream` of batches, what it minimises
an `Objective`; a recurrent state, where there is one, is carried from one batch to the
next and cut there (truncated BPTT).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .averaging import Average
from .bptt import State, detach, map_state
from .checkpoint import Store
from .clock import Clock, RecordedClock
from .devices import from_main, make_accelerator
from .divergence import Watch
from .gradients import clip_by_norm, clip_by_value
from .interrupt import Interrupt
from .optimisers import set_rate
from .plan import Objective, Plan, Progress, Stream
from .report import Reporter
from .schedules import Schedule
from .session import Session

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    average: Average | None = None,
) -> Progress:
    """Train a model; the same numbers, to the bit, however often it is resumed.

    A plan by time (`Plan.seconds`) ends when its time is used, and the schedule follows
    the share of it. Steps that a kill undid are done again as they were, to the bit, by
    the record in the store; what follows goes by the time that is left.

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
        reporter: receives every logged step and validation.
        average: of the model's weights: what is validated and what checkpoints hold,
            and what the model has at the end.

    Raises:
        CheckpointError: the store holds a run and `resume` is false, its checkpoint
            does not fit, or a new one cannot be written.
        Diverged: a loss or a gradient is not finite. The last good checkpoint stays.
        KeyboardInterrupt: Ctrl+C, after the step is done and in the store; a second one
            does not wait.
    """
    accelerator = accelerator or make_accelerator()
    wrapped = accelerator.prepare_model(model)
    optimiser = accelerator.prepare_optimizer(optimiser)
    parts = model, wrapped, optimiser, schedule, stream, accelerator, store, average
    reporter = reporter or Reporter()
    progress = _loop(Session(*parts), objective, plan, validate, reporter, resume)
    if average is not None:
        average.apply()
    return progress


def _loop(
    session: Session,
    objective: Objective,
    plan: Plan,
    validate: Callable[[nn.Module], float] | None,
    reporter: Reporter,
    resume: bool,
) -> Progress:
    model, optimiser = session.model, session.optimiser
    progress, carried = session.begin(resume)
    watch = Watch(model, session.accelerator, session.store)
    clock, logged = _clock(session, plan, progress, resume), replace(progress)
    session.wrapped.train()
    reporter.start(progress.step, plan.steps)
    with Interrupt() as interrupt, ExitStack() as ending:
        ending.callback(clock.close)
        ending.callback(reporter.finish)
        while not plan.over(progress):
            position = plan.position(progress)
            losses, carried = _backward(session, objective, plan, carried, position)
            # A stream of windows of random length asks for a rate that goes with it.
            share = getattr(session.stream, "rate_share", 1.0)
            rate = set_rate(optimiser, session.schedule.factor(position) * share)

            # Look before the step: weights that went wrong cannot be put right again.
            progress.loss, stop = _agree(losses, interrupt.asked, session.accelerator)
            session.accelerator.unscale_gradients(optimiser)
            norm = watch.gradients(progress.step, progress.loss, rate)
            _clip(model, plan, norm)

            session.update()
            progress.step += 1
            progress.seconds = clock.read(progress.step)
            if _due(progress, plan.log_every, plan):
                reporter.log(_row(session, plan, progress, logged, rate, norm))
                logged = replace(progress)

            best = False
            if validate is not None and _due(progress, plan.validate_every, plan):
                loss = _validate(validate, session)
                reporter.log({"step": progress.step, "validation_loss": loss})
                best = progress.observe(loss, plan.patience)
                progress.seconds = clock.read(progress.step)  # its time may be the last
            due = _due(progress, plan.checkpoint_every, plan)
            if session.store is not None and (due or best or stop):
                watch.weights()
                session.save(progress, carried, best)
            if stop:
                raise KeyboardInterrupt
    return progress


def _clock(session: Session, plan: Plan, progress: Progress, resume: bool) -> Clock:
    if plan.seconds is None:
        return Clock(progress.seconds)
    main, store = session.accelerator.is_main_process, session.store
    path = store and store.directory / "seconds.f64"
    return RecordedClock(progress.seconds, path, repeat=resume, writes=main)


def _backward(
    session: Session,
    objective: Objective,
    plan: Plan,
    carried: State,
    position: float,
) -> tuple[Tensor, State]:
    """Forward and backward, once for each part of the step's batch."""
    accelerator, model = session.accelerator, session.wrapped
    losses = torch.zeros((), device=accelerator.device)
    for part in range(plan.accumulate):
        batch = map_state(
            lambda t: t.to(accelerator.device, non_blocking=True), session.stream.next()
        )
        last = part == plan.accumulate - 1
        # Processes exchange their gradients once per step, at the last part.
        with nullcontext() if last else accelerator.no_sync(model):
            loss, carried = objective(model, batch, carried, position)
            accelerator.backward(loss / plan.accumulate)
        carried = detach(carried)
        losses += loss.detach() / plan.accumulate
    return losses, carried


def _clip(model: nn.Module, plan: Plan, norm: Tensor) -> None:
    if plan.clip_norm is not None:
        clip_by_norm(model, plan.clip_norm, norm)
    if plan.clip_value is not None:
        clip_by_value(model, plan.clip_value)


def _validate(validate: Callable[[nn.Module], float], session: Session) -> float:
    session.model.eval()
    with torch.no_grad(), session.averaged():
        loss = float(from_main(validate(session.model)))
    session.wrapped.train()
    session.schedule.observe(loss)
    if session.average is not None:
        session.average.observe(loss)
    return loss


def _row(
    session: Session,
    plan: Plan,
    progress: Progress,
    logged: Progress,
    rate: float,
    norm: Tensor,
) -> dict[str, Any]:
    """What is logged of a step; the speed is since the last row."""
    took = (progress.seconds - logged.seconds) / (progress.step - logged.step)
    return {
        "step": progress.step,
        "loss": progress.loss,
        "learning_rate": rate,
        "gradient_norm": norm.item(),
        "tokens_per_second": session.stream.size * plan.accumulate / took,
        "seconds_per_step": took,
        "seconds": progress.seconds,
        "progress": plan.share(progress),
    }


def _due(progress: Progress, every: int | None, plan: Plan) -> bool:
    """Whether something is due every so many steps, and at the end."""
    return every is not None and (progress.step % every == 0 or plan.over(progress))


def _agree(loss: Tensor, stop: bool, accelerator: Accelerator) -> tuple[float, bool]:
    """The processes' mean loss, and whether to stop: all of them, if one was asked."""
    if accelerator.num_processes == 1:
        return loss.item(), stop
    both = torch.stack([loss, loss.new_tensor(stop)])
    mean = accelerator.reduce(both, reduction="mean")
    assert isinstance(mean, Tensor)
    return mean[0].item(), mean[1].item() > 0
