"""The training loop, on a model that knows nothing of text."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cellwright as cw
from cellwright.train.calibrate import steps_for
from cellwright.train.checkpoint import CheckpointError, Store
from cellwright.train.divergence import Diverged
from cellwright.train.gradients import clip_by_norm, gradient_norms, total_norm
from cellwright.train.loop import train
from cellwright.train.optimisers import make_optimiser
from cellwright.train.plan import Plan
from cellwright.train.report import MetricsFile, Reporter, read_metrics
from cellwright.train.schedules import Constant, Cosine, Plateau


class Series:
    """Windows of a noisy wave: (T, B, 1) to the next value; a `Stream`."""

    size = 5 * 4

    def __init__(self):
        self.position = 0

    def next(self):
        generator = torch.Generator().manual_seed(self.position)
        time = torch.arange(6.0)[:, None, None] + 5 * self.position
        wave = torch.sin(time * 0.7 + torch.arange(4.0)[:, None])  # (T + 1, B, 1)
        wave = wave + 0.1 * torch.randn(wave.shape, generator=generator)
        self.position += 1
        return {"x": wave[:-1], "y": wave[1:]}

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Forecaster(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 1)

    def forward(self, x, state):
        y, state = self.layer(x, state)
        return self.head(self.drop(y)), state


def objective(model, batch, state, step):
    forecast, state = model(batch["x"], state)
    return F.mse_loss(forecast, batch["y"]), state


class Listener(Reporter):
    def __init__(self):
        self.rows = []
        self.finished = False

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished = True


def new_model(cell="lstm"):
    torch.manual_seed(0)
    return Forecaster(cw.Recurrent(cell, 1, 8))


def run(plan, model=None, schedule=None, objective=objective, **options):
    model = model or new_model()
    optimiser = make_optimiser("adamw", model, 0.01, weight_decay=0.1)
    schedule = schedule or Cosine(warm_up=3, steps=plan.steps)
    torch.manual_seed(1)
    progress = train(model, Series(), objective, optimiser, schedule, plan, **options)
    return model, progress


def assert_same(a, b):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_ten_steps_match_a_loop_by_hand():
    """Loss by loss: plain PyTorch against the loop and the drop-in."""
    torch.manual_seed(0)
    theirs = Forecaster(nn.LSTM(1, 8))
    torch.manual_seed(0)
    ours = Forecaster(cw.LSTM(1, 8))
    ours.load_state_dict(theirs.state_dict())
    theirs.drop.p = ours.drop.p = 0.0

    listener = Listener()
    run(Plan(10, clip_norm=0.5, log_every=1), ours, Constant(), reporter=listener)

    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimiser, stream, state = torch.optim.AdamW(groups, lr=0.01), Series(), None
    for step in range(10):
        batch = stream.next()
        loss, state = objective(theirs, batch, state, step)
        state = tuple(s.detach() for s in state)
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimiser.step()
        row = listener.rows[step]
        assert row["loss"] == pytest.approx(loss.item(), abs=1e-6)
        assert row["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert len(listener.rows) == 10
    assert listener.finished
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_it_learns():
    listener = Listener()
    run(Plan(150, log_every=1), reporter=listener)
    losses = [row["loss"] for row in listener.rows]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_accumulation_averages_the_parts():
    """Two parts, one step: the step of the mean of the two losses."""
    model, _ = run(Plan(1, accumulate=2, clip_norm=None), schedule=Constant())

    twin = new_model()
    optimiser, stream = make_optimiser("adamw", twin, 0.01, weight_decay=0.1), Series()
    torch.manual_seed(1)
    first, state = objective(twin, stream.next(), None, 0)
    state = tuple(s.detach() for s in state)
    second, _ = objective(twin, stream.next(), state, 0)
    ((first + second) / 2).backward()
    optimiser.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-7)


class Stop(Exception):
    pass


class StopAt(Reporter):
    """Ends a run from outside, after some step."""

    def __init__(self, step):
        self.step = step

    def log(self, row):
        if row["step"] == self.step:
            raise Stop


@pytest.mark.parametrize("cell", ["lstm", "gru", "peephole"])
@pytest.mark.parametrize("schedule", [Cosine(2, 20), Plateau(2, patience=1)])
def test_a_resumed_run_is_the_same_run(tmp_path, cell, schedule):
    """Dropout, carried state, optimiser, schedule, validations: bit by bit."""
    plan = Plan(20, accumulate=2, checkpoint_every=4, validate_every=5, log_every=1)
    initial = schedule.state_dict()

    def validate(model):
        return float(sum(p.abs().sum() for p in model.parameters()))  # it grows

    def start(store, resume, reporter=None):
        schedule.load_state_dict(initial)
        model = new_model(cell)
        return run(
            plan,
            model,
            schedule,
            store=store,
            resume=resume,
            validate=validate,
            reporter=reporter,
        )

    whole, expected = start(Store(tmp_path / "whole"), False)
    store = Store(tmp_path / "parts")
    for step in (3, 10, 17):
        with pytest.raises(Stop):
            start(store, True, StopAt(step))
    torch.manual_seed(99)
    resumed, progress = start(store, True)
    assert_same(whole, resumed)
    assert (progress.step, progress.loss) == (20, expected.loss)
    assert (progress.best, progress.waited) == (expected.best, expected.waited)


def test_a_directory_with_a_run_is_refused(tmp_path):
    store = Store(tmp_path)
    run(Plan(2), store=store)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(
        CheckpointError, match=r"holds a run already.*nothing was chang"
    ):
        run(Plan(2), store=store)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    run(Plan(2), store=Store(tmp_path))
    with pytest.raises(CheckpointError, match="another model"):
        run(
            Plan(2),
            new_model("gru"),
            store=Store(tmp_path),
            resume=True,
        )


def spoiled(kind, at):
    """An objective whose loss, or only its gradient, goes wrong at a step."""

    def wrong(model, batch, state, step):
        loss, state = objective(model, batch, state, step)
        if step == at and kind == "loss":
            loss = loss * math.nan
        if step == at and kind == "gradient":  # d√u/du at 0 is infinite, √0 is not
            loss = (
                loss + (model.head.bias - model.head.bias.detach()).abs().sqrt().sum()
            )
        return loss, state

    return wrong


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, kind):
    store, listener = Store(tmp_path), Listener()
    plan = Plan(20, checkpoint_every=4)
    with pytest.raises(Diverged) as caught:
        run(plan, objective=spoiled(kind, 9), store=store, reporter=listener)
    message = str(caught.value)
    assert message.startswith("[step 10] training diverged")
    for name, _ in new_model().named_parameters():
        assert name in message
    assert "Try a lower learning rate" in message
    assert str(tmp_path) in message
    assert listener.finished
    good = store.load()
    assert good.step == 8
    assert all(weight.isfinite().all() for weight in good.model.values())


def test_weights_that_went_wrong_replace_no_checkpoint(tmp_path):
    """An optimiser that overflows between two losses: the save looks at the weights."""
    store = Store(tmp_path)
    model = new_model()
    run(Plan(4), model, store=store)
    optimiser = make_optimiser("sgd", model, 1.0)

    class Exploding(Constant):
        def factor(self, step):
            return 1e38 if step == 5 else 0.0

    def steep(model, batch, state, step):
        return 1e6 * model.head.weight.sum() + 0 * model.head.bias.sum(), None

    with pytest.raises(Diverged):
        train(
            model,
            Series(),
            steep,
            optimiser,
            Exploding(),
            Plan(6, clip_norm=None),
            store=_resumable(store, optimiser),
            resume=True,
        )
    assert store.load().step == 4


def _resumable(store, optimiser):
    """The same weights and step, with this optimiser's own state."""
    found = store.load()
    training = {**found.training, "optimiser": optimiser.state_dict()}
    store.save(4, found.model, training)
    return store


def test_early_stopping_keeps_the_best(tmp_path):
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0])
    store = Store(tmp_path)
    plan = Plan(50, validate_every=2, patience=2)
    _, progress = run(plan, store=store, validate=lambda m: next(losses))
    assert progress.stopped
    assert (progress.step, progress.best, progress.validation) == (8, 2.0, 2.4)
    assert store.load("best").step == 4
    assert store.load("last").step == 8
    _, more = run(plan, store=store, resume=True, validate=lambda m: next(losses))
    assert more.step == 8  # a run that stopped has ended


def test_clipping_by_norm_and_by_value():
    model = nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[3.0, 0.0]])
    model.bias.grad = torch.tensor([-4.0])
    norm = total_norm(gradient_norms(model))
    assert norm.item() == 5.0
    clip_by_norm(model, 10.0, norm)
    assert model.bias.grad.item() == -4.0
    clip_by_norm(model, 1.0, norm)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, 0.0]]))
    torch.testing.assert_close(model.bias.grad, torch.tensor([-0.8]))

    # SGD at rate 1 moves by the gradient: no element by more than the limit.
    model = new_model()
    before = [p.detach().clone() for p in model.parameters()]
    optimiser = make_optimiser("sgd", model, 1.0, momentum=0.0)
    plan = Plan(1, clip_norm=None, clip_value=1e-3)
    train(model, Series(), objective, optimiser, Constant(), plan)
    moved = [
        (p - q).abs().max() for p, q in zip(model.parameters(), before, strict=True)
    ]
    assert max(moved).item() == pytest.approx(1e-3, rel=1e-3)


def test_planning_changes_nothing_of_the_run():
    model, stream = new_model(), Series()
    stream.next()
    before, generator = new_model(), torch.get_rng_state()

    def trial(copy, short):
        taken.append(short.steps)
        optimiser = make_optimiser("adamw", copy, 0.1)
        train(copy, stream, objective, optimiser, Constant(), short)

    taken = []

    def count(seconds):
        taken.clear()
        return steps_for(seconds, model, stream, Plan(0), trial)

    torch.set_rng_state(generator)
    assert count(0.0) == 1
    assert taken == [1]  # no more than one step is measured where time is short
    assert count(100.0) > 10
    assert len(taken) == 3
    assert max(taken) <= 50
    assert_same(model, before)
    assert stream.position == 1
    assert torch.equal(torch.get_rng_state(), generator)


def test_metrics_are_whole_after_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3, 4)]
    path.write_text("\n".join(rows) + '\n{"step": 5, "lo')
    metrics = MetricsFile(path)
    metrics.start(2, 10)
    metrics.log({"step": 3, "loss": 2.0})
    metrics.finish()
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
    ]
