"""Long experiments: a case that is stopped goes on, to the bit; the command."""

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cellwright import lab
from cellwright.cli import app
from cellwright.lab import long, runner
from cellwright.lab.experiment import Claim, Experiment, Table
from cellwright.lab.long import select
from cellwright.lab.result import name_of
from cellwright.lab.training import Drawn, Judge, Training, fit_stream
from cellwright.train.lock import LockedError, locked
from cellwright.train.schedules import Plateau

EPOCHS, STEPS = 4, 5  # and a checkpoint every second step


def line(generator):
    x = torch.randn(8, 3, generator=generator)
    return x, x.sum(1, keepdim=True)


def objective(model, batch, state, step):
    noise = torch.randn(())  # of the global generator, which checkpoints hold too
    return (model(batch[0]) + 0.1 * noise - batch[1]).square().mean(), None


def score(seed):
    x, y = line(torch.Generator().manual_seed(seed))
    return lambda model: (model(x) - y).square().mean().item()


class Stops(Drawn):
    """A stream that stops the run once, as a kill or Ctrl+C does."""

    def __init__(self, seed, left, how):
        super().__init__(line, seed)
        self.left, self.how = left, how

    def next(self):
        self.left[0] -= 1
        if self.left[0] == 0:
            self.how()
        return super().next()


class Kill(BaseException):
    """Nobody catches it, so nothing is written after it."""


def kill():
    raise Kill


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def toy(left=None, how=kill):
    """Cases of two nets and two seeds; a run stops after as many steps as are left."""
    left = left or [-1]

    def run(case, keep=None):
        torch.manual_seed(case["seed"])
        model = nn.Sequential(nn.Linear(3, case["units"]), nn.Linear(case["units"], 1))

        def measured(fit):
            return {"test": fit.test, "epoch": fit.steps // STEPS, "all": vars(fit) | T}

        def report(fit):
            if keep:
                keep.report(measured(fit), fit.steps / (EPOCHS * STEPS))

        fit = fit_stream(
            model,
            Stops(case["seed"], left, how),
            objective,
            Training(
                steps=EPOCHS * STEPS,
                lr=0.05,
                seed=case["seed"],
                schedule=Plateau(patience=1),
                every=STEPS,
                checkpoint_every=2,
            ),
            Judge(score(100), score(200), report=report),
            keep and keep.directory,
        )
        return measured(fit) | {"weights": [p.tolist() for p in model.parameters()]}

    T = {"seconds": 0}
    return Experiment(
        name="toy",
        question="Is it?",
        minutes=600,
        cases=lambda quick, seed: [
            {"net": net, "units": units, "seed": s}
            for net, units in (("a", 2), ("b", 3))
            for s in (seed, seed + 1)
        ],
        run=run,
        tables=lambda rows: [Table("T", ("n",), tuple((r["net"],) for r in rows))],
        draw=lambda rows, figure: figure.subplots().plot(rows.column("epoch")),
        claims=lambda rows: [Claim("all", len(rows.where(done=1.0)), low=0)],
        conclude=lambda rows: f"{sum(r['done'] < 1 for r in rows)} are not finished.",
        work=lambda case: 1000.0 * case["units"],
    )


@pytest.fixture(autouse=True)
def unplotted(request, monkeypatch):
    """Drawing takes half a second: one test does."""
    if "shows" not in request.node.name:
        monkeypatch.setattr(runner, "save_plot", lambda experiment, rows, path: None)


@pytest.mark.parametrize(
    ("how", "steps"), [(kill, 1), (kill, 9), (kill, 20), (ctrl_c, 3), (ctrl_c, 11)]
)
def test_a_case_that_is_stopped_ends_as_if_it_were_not(tmp_path, how, steps):
    whole = lab.run_long(toy(), tmp_path / "whole", only="net=a,seed=0")
    with pytest.raises((Kill, KeyboardInterrupt)):
        lab.run_long(toy([steps], how), tmp_path / "cut", only="net=a,seed=0")
    resumed = lab.run_long(toy(), tmp_path / "cut", only="net=a,seed=0")
    assert resumed.rows == whole.rows, "values, curves and weights, to the bit"
    assert len(whole.rows.rows[0]["all"]["scores"]) == EPOCHS
    assert not list((tmp_path / "cut" / "checkpoints").iterdir())


SLOW_PLOT = """
import signal, sys, time
sys.path.insert(0, sys.argv[1])
from cellwright import lab
from cellwright.lab import runner
from cellwright.train import interrupt
from pathlib import Path
from test_lab_long import ctrl_c, toy

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt.end_on_interrupt()
runner.save_plot = lambda *arguments: time.sleep(2 * interrupt.GRACE)
try:
    lab.run_long(toy([9], ctrl_c), Path(sys.argv[2]))
except KeyboardInterrupt:
    print("says how to go on")
"""


def test_ctrl_c_waits_for_the_result_of_what_is_there(tmp_path):
    command = [sys.executable, "-c", SLOW_PLOT, Path(__file__).parent, tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout == "says how to go on\n", ended.stderr
    assert lab.Result.load(tmp_path / "toy.json").rows.rows[0]["done"] < 1


def test_a_run_goes_on_case_by_case_and_shows_what_is_there(tmp_path):
    left = [EPOCHS * STEPS + 2 * STEPS + 2]
    with pytest.raises(KeyboardInterrupt):
        lab.run_long(toy(left, ctrl_c), tmp_path)
    partial = lab.Result.load(tmp_path / "toy.json")
    assert [case.finished for case in partial.cases] == [True, False]
    assert partial.rows.rows[1]["epoch"] == 2
    assert partial.rows.rows[1]["done"] == 0.5
    assert partial.conclusion == "1 are not finished."
    assert (tmp_path / "toy.png").exists()
    ran = []
    lab.run_long(toy(), tmp_path, watch=lambda number, *_: ran.append(number))
    assert sorted(set(ran)) == [2, 3, 4], "the finished case is not run again"
    ended = lab.Result.load(tmp_path / "toy.json")
    assert [case.done for case in ended.cases] == [1, 1, 1, 1]


def test_only_runs_some_cases_and_keeps_the_results_of_others(tmp_path):
    lab.run_long(toy(), tmp_path, only="net=a,seed=1")
    result = lab.run_long(toy(), tmp_path, only="units=3,seed=0")
    assert [(r["net"], r["seed"]) for r in result.rows] == [("a", 1), ("b", 0)]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("cell=a", "no case has a setting 'cell'; expected some of net, units, seed"),
        ("net=c", "no case has net=c; .*expected net to be one of a, b"),
        ("net=a,units=3", "no case has units=3; .*expected units to be one of 2"),
        ("a", "received 'a', expected settings such as task=jsb,net=LSTM"),
    ],
)
def test_unknown_cases_are_refused_with_what_there_is(only, message):
    with pytest.raises(lab.LabError, match=message):
        select(toy().cases(False, 0), only)


def test_the_time_left_is_of_this_case_and_of_the_rest_by_their_work(
    tmp_path, monkeypatch
):
    ticks = itertools.count(0, 10)  # ten seconds from look to look
    monkeypatch.setattr(long.time, "monotonic", lambda: float(next(ticks)))
    told = []
    only = "seed=0"  # a of 2000 multiply-adds, b of 3000
    lab.run_long(toy(), tmp_path, only=only, watch=lambda *seen: told.append(seen))
    left = [seen[3] for seen in told if seen[0] == 1]
    # A quarter, 500, in 10 s; a half, 1000, in 20 s; …: 50 each second.
    assert left == pytest.approx([None, 90, 80, 70, 60])
    assert told[0][:3] == (1, 2, {"net": "a", "units": 2, "seed": 0})


def test_one_process_at_a_time_runs_a_case(tmp_path):
    experiment = toy()
    place = tmp_path / "checkpoints" / name_of(experiment.cases(False, 0)[0])
    place.mkdir(parents=True)
    with locked(place), pytest.raises(LockedError, match="is training this run"):
        lab.run_long(experiment, tmp_path)


@pytest.fixture
def of_toy(monkeypatch):
    """`lab.get` knows the toy, too."""
    get = lab.get
    monkeypatch.setattr(lab, "get", lambda n: toy() if n == "toy" else get(n))


def call(*words):
    result = CliRunner().invoke(app, ["lab", *map(str, words)])
    return result.exit_code, result.output


def test_the_command_runs_long_experiments_by_full(of_toy, tmp_path):
    code, output = call("toy", "--full", "--only", "net=b", "--out", tmp_path)
    assert code == 0, output
    assert "toy 1/2: net b, units 3, seed 0" in output
    assert "s left" in output
    result = lab.Result.load(tmp_path / "toy" / "toy.json")
    assert result.command == "cellwright lab toy --full --only net=b"
    code, output = call("toy", "--quick", "--out", tmp_path / "quick")
    assert code == 0, output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toy"], "takes about 10 hours; expected --quick, or --full"),
        (["toy", "--quick", "--full"], "received both --quick and --full"),
        (["toy", "--quick", "--only", "net=a"], "for the full form of a long"),
        (["bptt", "--only", "part=x"], "for the full form of a long experiment"),
        (["--all", "--only", "net=a"], "received --all too, expected one experiment"),
        (["toy", "--full", "--only", "net=z"], "expected net to be one of a, b"),
    ],
)
def test_what_makes_no_sense_is_refused(of_toy, words, message):
    code, output = call(*words)
    assert code == 1
    assert message in " ".join(output.split())
