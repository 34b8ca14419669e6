"""Plans by time, on a clock that the tests turn."""

import math
from itertools import chain, cycle, repeat

import numpy as np
import pytest
import torch

from cellwright.train import clock as clocks
from cellwright.train.checkpoint import CheckpointError, Store
from cellwright.train.clock import RecordedClock
from cellwright.train.plan import Plan, Progress
from cellwright.train.schedules import Cosine
from test_train_loop import Listener, Stop, StopAt, assert_same, objective
from test_train_loop import run as train

SECONDS = 100.0


class Turned:
    """A clock that stands still but where something is said to take time."""

    def __init__(self, monkeypatch, steps, validation=0.0, start=1e4):
        self.time, self.steps, self.validation = start, iter(steps), validation
        monkeypatch.setattr(clocks, "now", lambda: self.time)

    def objective(self, model, batch, state, step):
        self.time += next(self.steps)
        return objective(model, batch, state, step)

    def validate(self, model):
        self.time += self.validation
        return 1.0

    def run(self, plan, **options):
        schedule = Cosine(warm_up=3, steps=plan.steps)
        options = {"validate": self.validate, **options}
        return train(plan, schedule=schedule, objective=self.objective, **options)


LOADS = {
    "as expected": repeat(1.0),
    "a stall": chain(repeat(1.0, 30), [40.0], repeat(1.0)),
    "three times as fast": repeat(1 / 3),
    "three times as slow": repeat(3.0),
    "busy now and then": cycle([0.5, 0.5, 4.0, 1.0]),
    "a step that is longer than the time": repeat(170.0),
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("validate_every", [None, 7])
def test_the_end_comes_when_the_time_is_used(monkeypatch, load, validate_every):
    steps = list(dict(zip(range(1000), LOADS[load], strict=False)).values())
    clock, listener = Turned(monkeypatch, steps, validation=2.5), Listener()
    plan = Plan(100, seconds=SECONDS, log_every=1, validate_every=validate_every)
    began = clock.time
    _, progress = clock.run(plan, reporter=listener)

    last = clock.validation if validate_every else 0.0
    used = clock.time - began
    assert SECONDS <= used <= 1.03 * SECONDS + max(steps[: progress.step]) + last
    assert progress.seconds == pytest.approx(used - last, abs=last + 1e-6)
    rows = [row for row in listener.rows if "loss" in row]
    assert rows[-1]["step"] == progress.step
    assert rows[-1]["progress"] > 0.97
    if validate_every:
        validated = [r["step"] for r in listener.rows if "validation_loss" in r]
        assert validated[-1] == progress.step
        assert len(validated) == len(set(validated))
    # The rate of a step follows the share of the time that was used before it.
    schedule, before = Cosine(warm_up=3, steps=100), [0.0]
    before += [row["seconds"] for row in rows[:-1]]
    for row, seconds in zip(rows, before, strict=True):
        if not validate_every:  # else what a validation took counts too
            expected = 0.01 * schedule.factor(100 * seconds / SECONDS)
            assert row["learning_rate"] == pytest.approx(expected, abs=1e-12)
    assert rows[-1]["learning_rate"] < rows[len(rows) // 2]["learning_rate"] or (
        len(rows) == 1
    )


def test_a_validation_that_uses_up_the_time_is_the_last(monkeypatch, tmp_path):
    clock, store = Turned(monkeypatch, repeat(1.0), validation=60.0), Store(tmp_path)
    plan = Plan(100, seconds=SECONDS, validate_every=20, checkpoint_every=1000)
    _, progress = clock.run(plan, store=store)
    assert progress.step == 40  # 20 + 60 + 20 s, and the last validation
    assert store.load().step == 40
    assert progress.seconds == 160


@pytest.mark.parametrize("killed_at", [3, 33, 57])
def test_steps_that_a_kill_undid_are_done_again_to_the_bit(
    monkeypatch, tmp_path, killed_at
):
    """Whatever the machine does the second time; then by the time that is left."""
    plan = Plan(
        100, seconds=SECONDS, log_every=1, checkpoint_every=10, validate_every=15
    )
    store, first, second = Store(tmp_path), Listener(), Listener()
    slow = Turned(monkeypatch, cycle([1.0, 1.5, 0.25]), validation=2.0)

    class Both(StopAt):
        def log(self, row):
            first.log(row)
            super().log(row)

    with pytest.raises(Stop):
        slow.run(plan, store=store, reporter=Both(killed_at))
    fast = Turned(monkeypatch, repeat(0.5), validation=1.0, start=5.0)
    began, done = fast.time, store.load().step if store.has() else 0
    torch.manual_seed(99)
    _, progress = fast.run(plan, store=store, resume=True, reporter=second)

    told = {row["step"]: row for row in first.rows if "loss" in row}
    again = {row["step"]: row for row in second.rows if "loss" in row}
    shared = told.keys() & again.keys()
    assert len(shared) == killed_at - done
    for step in shared:
        for name in ("loss", "learning_rate", "gradient_norm", "seconds"):
            assert again[step][name] == told[step][name], (step, name)
    # What is left is used, the lost steps apart.
    repeated = 0.5 * len(shared) + 1.0 * (killed_at // 15 - done // 15)
    left = SECONDS - told[killed_at]["seconds"]
    assert fast.time - began == pytest.approx(repeated + left, abs=2.6)
    assert progress.seconds >= SECONDS
    last = again[progress.step]
    assert last["learning_rate"] < 1e-4


def test_by_time_an_ended_run_has_ended(monkeypatch, tmp_path):
    plan, store = Plan(10, seconds=10.0), Store(tmp_path)
    model, progress = Turned(monkeypatch, repeat(1.0)).run(plan, store=store)
    clock = Turned(monkeypatch, repeat(1.0))
    again, more = clock.run(plan, store=store, resume=True)
    assert more == progress == Progress(10, progress.loss, 10.0)
    assert_same(model, again)


def test_a_new_run_does_not_go_by_an_old_record(monkeypatch, tmp_path):
    (tmp_path / "seconds.f64").write_bytes(np.linspace(1, 99, 80).tobytes())
    clock = Turned(monkeypatch, repeat(20.0))
    _, progress = clock.run(Plan(10, seconds=SECONDS), store=Store(tmp_path))
    assert progress.step == 5
    record = np.frombuffer((tmp_path / "seconds.f64").read_bytes())
    assert record.tolist() == [20, 40, 60, 80, 100]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([1.0, 3.0, 2.0]).tobytes(), "expected times that rise"),
        (np.array([1.0, math.nan]).tobytes(), "expected times that rise"),
        (np.array([-1.0]).tobytes(), "expected times that rise"),
        (None, "cannot be read: is a folder"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, content, message):
    path = tmp_path / "seconds.f64"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        RecordedClock(0.0, path, repeat=True, writes=True)


def test_a_record_that_was_cut_short_is_read_as_far_as_it_goes(monkeypatch, tmp_path):
    path = tmp_path / "seconds.f64"
    path.write_bytes(np.array([1.0, 2.5]).tobytes() + b"abc")
    time = [7.0]
    monkeypatch.setattr(clocks, "now", lambda: time[0])
    clock = RecordedClock(0.0, path, repeat=True, writes=True)
    assert [clock.read(1), clock.read(2)] == [1.0, 2.5]
    time[0] += 0.5
    assert clock.read(3) == 3.0
    clock.close()
    assert np.frombuffer(path.read_bytes()).tolist() == [1.0, 2.5, 3.0]
