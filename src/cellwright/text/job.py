"""The job of training: from a run directory, of any kind, to a trained model.

Everything is read from the directory, the first time as after any kill: that is why a
resumed run is the same run.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..train.calibrate import steps_for
from ..train.forcing import ConstantForcing, parse_forcing
from ..train.loop import train
from ..train.optimisers import make_optimiser
from ..train.plan import Plan, Progress
from ..train.report import MetricsFile, ProgressBar, Reporter, Together, Trackers
from ..train.schedules import Constant, make_schedule
from ..train.settings import LoopSettings
from .directory import Epochs, RunDirectory, RunError, StoredPlan
from .run import Run
from .score import Score, score

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_run(
    run: RunDirectory[Any],
    accelerator: Accelerator,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Any, Progress]:
    """Train a run to the end of its plan, which is made here if there is none yet.

    Raises:
        CheckpointError, Diverged: as `train`.
        CorpusError, ArgumentError: the text is too short for batch and window, or the
            rows cannot be shared by the processes.
    """
    settings = run.settings
    run.check_held_out()  # needed at the end: refuse damage now
    torch.manual_seed(settings.seed)  # every process draws the same weights …
    model = run.new_model().to(accelerator.device)
    own_seed = (settings.seed + accelerator.process_index) % 2**64
    torch.manual_seed(own_seed)  # … and other masks
    stream = run.stream((accelerator.process_index, accelerator.num_processes))
    optimiser = _optimiser(settings, model)  # torch loads its compiler here: start-up
    plan = _plan(run, model, stream, accelerator)
    forcing = parse_forcing(settings.forcing, plan.steps)
    warm_up = min(settings.warm_up, plan.steps // 10)  # a short run warms up less
    progress = train(
        model,
        stream,
        run.objective(forcing),
        optimiser,
        make_schedule(settings.schedule, plan.steps, warm_up),
        plan,
        accelerator=accelerator,
        store=run.store,
        resume=resume,
        validate=lambda m: _validate(m, run),
        reporter=reporter,
    )
    return model, progress


def make_reporter(
    run: RunDirectory[Any], accelerator: Accelerator, tensorboard: bool
) -> Reporter:
    """A progress bar, metrics.jsonl and TensorBoard; silence on other processes."""
    if tensorboard:
        accelerator.init_trackers("tensorboard")  # accelerate wants it on every process
    if not accelerator.is_main_process:
        return Reporter()
    file = MetricsFile(run.directory / "metrics.jsonl")
    trackers = [Trackers(accelerator)] if tensorboard else []
    return Together(file, ProgressBar(), *trackers)


def evaluate_held_out(run: Run, advance: Any = lambda count: None) -> Score | None:
    """The figures of the held-out text by the run's trained model, kept in the run.

    None where nothing, or too little, was held out.
    """
    if run.held_out.count < 2:
        return None
    figures = score(run.trained_model(), run.held_out, run.tokenizer, advance=advance)
    run.keep("result.json", figures.to_json())
    return figures


def _validate(model: nn.Module, run: RunDirectory[Any]) -> float:
    return run.validation_loss(model)


def _optimiser(settings: LoopSettings, model: nn.Module) -> torch.optim.Optimizer:
    return make_optimiser(
        settings.optimiser,
        model,
        settings.lr,
        weight_decay=settings.weight_decay,
        betas=(0.9, settings.beta2),
        momentum=settings.momentum,
    )


def _plan(
    run: RunDirectory[Any], model: nn.Module, stream: Epochs, accelerator: Accelerator
) -> Plan:
    """The run's plan: the stored one, or a new one, which is then stored."""
    settings = run.settings
    plan = Plan(
        steps=0,
        accumulate=settings.accumulate,
        clip_norm=settings.clip,
        clip_value=settings.clip_value,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        validate_every=settings.validate_every,
        patience=settings.patience,
    )
    stored = run.plan()
    accelerator.wait_for_everyone()  # all have looked before one writes the plan
    if stored is None:
        began = time.perf_counter()
        steps = _steps(run, plan, model, stream, accelerator)
        stored = StoredPlan(1, steps, time.perf_counter() - began)
        if accelerator.is_main_process:
            run.keep("plan.json", asdict(stored))
    elif settings.steps not in (None, stored.steps):
        raise RunError(
            f"[{run.directory}/plan.json, steps] received {stored.steps}, expected "
            f"the settings' {settings.steps}"
        )
    return replace(plan, steps=stored.steps)


def _steps(
    run: RunDirectory[Any],
    plan: Plan,
    model: nn.Module,
    stream: Epochs,
    accelerator: Accelerator,
) -> int:
    settings = run.settings
    if settings.steps is not None:
        return settings.steps
    if settings.minutes is None:
        epochs = settings.epochs or settings.DEFAULT_EPOCHS
        return max(1, round(epochs * stream.batches / settings.accumulate))
    # A scheduled forcing is measured where some steps read the model's own samples.
    schedule = parse_forcing(settings.forcing, 2)
    ratio = 1.0 if schedule == ConstantForcing(1.0) else 0.5
    objective = run.objective(ConstantForcing(ratio))

    def trial(copied: nn.Module, short: Plan) -> None:
        optimiser = _optimiser(replace(settings, lr=0.0), copied)
        parts = copied, stream, objective, optimiser, Constant(), short
        train(*parts, accelerator=accelerator)

    seconds = settings.minutes * 60
    count = steps_for(seconds, model, stream, plan, trial, lambda m: _validate(m, run))
    accelerator.free_memory()
    return count
