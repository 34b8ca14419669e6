"""The laboratory's frame: cases that are kept, results that load, claims, tables."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cellwright import lab
from cellwright.cli import app
from cellwright.lab.experiment import Claim, Experiment, Rows, Table
from cellwright.lab.show import markdown
from cellwright.lab.training import Training, fit


def toy(runs, value=1.0):
    """An experiment of four cases that notes which it runs."""

    def run(case):
        runs.append(case)
        return {"value": value * case["size"], "draw": torch.rand(()).item()}

    def draw(rows, figure):
        figure.subplots().plot(rows.column("size"), rows.column("value"))

    return Experiment(
        name="toy",
        question="Is it?",
        minutes=1,
        cases=lambda quick, seed: [
            {"size": size, "seed": s} for size in (1, 2) for s in (seed, seed + 1)
        ],
        run=run,
        tables=lambda rows: [Table("T", ("size",), tuple((r["size"],) for r in rows))],
        draw=draw,
        claims=lambda rows: [Claim("it is", rows.where(size=2).median("value"), 1, 3)],
        conclude=lambda rows: "It is.",
    )


@pytest.fixture
def of_toy(monkeypatch):
    """`lab.get` knows the toy, too."""
    runs = []
    get = lab.get
    monkeypatch.setattr(lab, "get", lambda n: toy(runs) if n == "toy" else get(n))
    return runs


def test_a_run_is_saved_and_loads_again(of_toy, tmp_path):
    ran = lab.run_experiment(lab.get("toy"), tmp_path, seed=3, command="cellwright lab")
    loaded = lab.load_result("toy", tmp_path)
    assert loaded == ran
    assert loaded.holds
    assert loaded.rows.where(size=2).column("seed") == [3, 4]
    assert lab.plot_path("toy", tmp_path).read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "toy.json").read_text())
    assert content["claims"][0]["holds"] is True
    assert {"torch", "cellwright", "python"} <= content["versions"].keys()
    assert content["machine"]["threads"] == torch.get_num_threads()


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    runs = []
    whole = toy(runs)

    def stops(case):
        if len(runs) == 2:
            raise KeyboardInterrupt
        return whole.run(case)

    stopping = Experiment(**{**vars(whole), "run": stops})
    with pytest.raises(KeyboardInterrupt):
        lab.run_experiment(stopping, tmp_path)
    resumed = lab.run_experiment(whole, tmp_path, resume=True)
    assert len(runs) == 4, "the two finished cases are not run again"
    again = lab.run_experiment(toy([]), tmp_path / "again")
    assert resumed.rows == again.rows, "each case has random numbers of its own"


def test_changed_settings_are_run_again(tmp_path):
    runs = []
    lab.run_experiment(toy(runs), tmp_path)
    lab.run_experiment(toy(runs), tmp_path, seed=1, resume=True)
    assert [case["seed"] for case in runs[4:]] == [2, 2]
    lab.run_experiment(toy(runs), tmp_path)
    assert len(runs) == 10, "without resume everything runs"


def test_the_random_numbers_of_the_caller_are_left_alone(tmp_path):
    state = torch.random.get_rng_state()
    lab.run_experiment(toy([]), tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_not_finite_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        lab.run_experiment(toy([], float("nan")), tmp_path)


def test_a_measurement_may_not_bear_the_name_of_a_setting(tmp_path):
    clash = Experiment(**{**vars(toy([])), "run": lambda case: {"size": 1}})
    with pytest.raises(lab.LabError, match=r"both a setting and a measurement .* size"):
        lab.run_experiment(clash, tmp_path)


@pytest.mark.parametrize(
    ("claim", "holds", "interval"),
    [
        (Claim("c", 2.0, 1, 2), True, "1 to 2"),
        (Claim("c", 2.1, 1, 2), False, "1 to 2"),
        (Claim("c", 0.9, low=1), False, "at least 1"),
        (Claim("c", 0.9, high=1), True, "at most 1"),
        (Claim("c", None, high=1), False, "at most 1"),
        (Claim("c", float("nan"), high=1), False, "at most 1"),
    ],
)
def test_claims(claim, holds, interval):
    assert claim.holds is holds
    assert claim.interval == interval


def test_rows():
    rows = Rows(({"cell": "a", "y": 1.0}, {"cell": "a", "y": 3.0}, {"cell": "b"}))
    assert rows.where(cell="a").median("y") == 2.0
    assert rows.where(cell="a").spread("y") == "2 (1–3)"
    assert rows.values("cell") == ["a", "b"]
    assert rows.one(cell="b") == {"cell": "b"}
    with pytest.raises(LookupError, match=r"received 2 with \{'cell': 'a'\}"):
        rows.one(cell="a")


def test_a_table_in_markdown():
    table = Table("Loss", ("cell", "nats"), (("rnn", 1.23456), ("lstm", None)), "Note.")
    assert markdown(table) == (
        "**Loss**\n\n| cell | nats |\n|---|---|\n| rnn | 1.235 |\n| lstm | – |\n\nNote."
    )


def test_every_experiment_is_described():
    for name in lab.NAMES:
        experiment = lab.get(name)
        assert experiment.name == name
        assert experiment.question.endswith("?")
        for quick in (True, False):
            cases = experiment.cases(quick, 0)
            assert len({json.dumps(c, sort_keys=True) for c in cases}) == len(cases)
            assert json.loads(json.dumps(cases)) == cases


def test_an_unknown_experiment_is_refused():
    with pytest.raises(lab.LabError, match=r"'bptd'\. Did you mean 'bptt'\?"):
        lab.get("bptd")


def test_a_missing_result_says_how_to_make_it(tmp_path):
    with pytest.raises(lab.LabError, match="there is no result of 'bptt'"):
        lab.load_result("bptt", tmp_path)


def test_an_experiment_that_cannot_run_here_says_why(tmp_path):
    needy = Experiment(**{**vars(toy([])), "needs": lambda: "the data is not here"})
    with pytest.raises(lab.LabError, match="the data is not here"):
        lab.run_experiment(needy, tmp_path)


def test_without_matplotlib_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = CliRunner().invoke(app, ["lab", "bptt", "--quick"])
    assert result.exit_code == 1
    assert "pip install 'cellwright[lab]'" in result.stderr


def test_the_command_lists_and_runs(of_toy, monkeypatch, tmp_path):
    listing = CliRunner().invoke(app, ["lab"])
    assert "bptt" in listing.stdout
    assert "truncation" in listing.stdout
    result = CliRunner().invoke(app, ["lab", "toy", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "It is." in result.stdout
    assert "holds" in result.stdout
    assert (tmp_path / "toy" / "toy.json").exists()


def test_a_claim_that_fails_is_status_1(monkeypatch, tmp_path):
    monkeypatch.setattr(lab, "get", lambda name: toy([], 9.0))
    result = CliRunner().invoke(app, ["lab", "toy", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "does not hold" in result.stdout


def test_the_page_of_results_is_up_to_date():
    folder = Path(__file__).parent.parent / "docs"
    page = runpy.run_path(str(folder / "lab_results.py"))["page"]()
    written = (folder / "lab-results.md").read_text(encoding="utf-8")
    assert written == page, "run: python docs/lab_results.py"


def test_results_that_come_along_are_of_the_full_form():
    for path in lab.SHIPPED.glob("*.json"):
        result = lab.load_result(path.stem)
        assert not result.quick
        full = " --full" if lab.get(path.stem).long else ""
        assert result.command == f"cellwright lab {path.stem}{full}"
        assert lab.plot_path(path.stem).stat().st_size > 10_000


def line(generator):
    x = torch.randn(16, 1, generator=generator)
    return x, 3 * x


def squared(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def test_fit_ends_when_solved():
    model = nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 9)[:, None]
    fitted = fit(
        model,
        line,
        squared,
        Training(steps=2000, lr=0.05, seed=0, every=20),
        evaluate=lambda model: squared(model, (x, 3 * x)).item(),
        solved=lambda score: score < 1e-3,
    )
    assert fitted.solved_at == fitted.scores[-1][0] == fitted.steps < 2000
    assert fitted.score < 1e-3
    assert not fitted.diverged
    assert fitted.curve[-1][1] < fitted.curve[0][1]


def test_fit_reports_divergence():
    sgd = Training(steps=500, lr=1e4, seed=0, optimiser="sgd", clip_norm=None)
    fitted = fit(nn.Linear(1, 1), line, squared, sgd)
    assert fitted.diverged
    assert fitted.solved_at is None
