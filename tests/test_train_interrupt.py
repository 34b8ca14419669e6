"""Ctrl+C while a model trains: the step is finished, kept, and no signal is lost."""

import os
import signal
import threading

import pytest

from cellwright.train.checkpoint import Store
from cellwright.train.interrupt import Interrupt
from cellwright.train.plan import Plan
from test_train_loop import Listener, assert_same, objective, run


@pytest.fixture(autouse=True)
def pythons_own_handler():
    """A shell's background job ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    """One Ctrl+C."""
    os.kill(os.getpid(), signal.SIGINT)


class Finalised:
    """Python drops a KeyboardInterrupt that is raised here."""

    def __del__(self):
        press()


def interrupted_at(step, press):
    def pressed(model, batch, state, now):
        if now == step:
            press()
        return objective(model, batch, state, now)

    return pressed


@pytest.mark.parametrize("press", [press, Finalised], ids=["step", "finaliser"])
def test_the_step_is_finished_and_kept(tmp_path, press):
    whole, _ = run(Plan(12, checkpoint_every=100), store=Store(tmp_path / "whole"))
    store, listener = Store(tmp_path / "parts"), Listener()
    with pytest.raises(KeyboardInterrupt):
        run(
            Plan(12, checkpoint_every=100),
            objective=interrupted_at(6, press),
            store=store,
            reporter=listener,
        )
    assert store.load().step == 7
    assert listener.finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed, _ = run(Plan(12, checkpoint_every=100), store=store, resume=True)
    assert_same(resumed, whole)


def test_a_second_one_does_not_wait(tmp_path):
    store = Store(tmp_path / "run")

    def twice():
        press()
        press()

    with pytest.raises(KeyboardInterrupt):
        run(Plan(12), objective=interrupted_at(6, twice), store=store)
    assert not store.has()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_after_the_last_look_is_heard_on_leaving():
    def leave():
        with Interrupt():
            press()

    with pytest.raises(KeyboardInterrupt):
        leave()


def test_another_error_goes_before_it():
    def fail():
        with Interrupt():
            press()
            raise ValueError("another")

    with pytest.raises(ValueError, match="another"):
        fail()


def test_a_program_that_handles_the_signal_goes_on_doing_so():
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    _, progress = run(Plan(12), objective=interrupted_at(6, press))
    assert heard == [signal.SIGINT]
    assert progress.step == 12


def test_other_threads_train_too():
    steps = []
    thread = threading.Thread(target=lambda: steps.append(run(Plan(3))[1].step))
    thread.start()
    thread.join()
    assert steps == [3]
