"""Several cells and seeds on one text, and their comparison."""

import json
import random
from dataclasses import replace
from statistics import mean, stdev

import pytest
import torch
from typer.testing import CliRunner

import cellwright as cw
from cellwright import CellwrightError
from cellwright.cli import app
from cellwright.look.curves import in_letters, save_curves
from cellwright.text.comparison import Curve, compare
from cellwright.text.model import count_parameters
from cellwright.text.run import Run, Settings, create_run, model_sizes
from cellwright.text.trials import Trials, create_trials, matching_units, runs_in

SMALL = ["--hidden", 12, "--embedding", 8, "--batch", 4, "--window", 16]
SMALL += ["--log-every", 2]
CELLS = ("--cells", "lstm,gru", "--seeds", 2, "--seed", 3, "--steps", 12)


def call(*arguments, ok=True):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert (result.exit_code == 0) == ok, result.output
    return result.stdout if ok else result.stderr


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_text(path, seed=0):
    words = ["the", "king", "queen", "of", "a", "rose", "said", "to", "him", "love"]
    path.write_text(" ".join(random.Random(seed).choices(words, k=600)))
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "small.txt")


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """The folder of trials, and what the command printed."""
    out = tmp_path_factory.mktemp("trials") / "out"
    return out, call("train", text, "--out", out, *SMALL, *CELLS, "--same-parameters")


def test_every_cell_is_trained_with_every_seed(trained):
    out, shown = trained
    runs = [Run(path) for path in runs_in(out)]
    names = ["gru-3", "gru-4", "lstm-3", "lstm-4"]
    assert [run.directory.name for run in runs] == names
    assert [run.settings.seed for run in runs] == [3, 4, 3, 4]
    assert [run.settings.cell for run in runs] == ["gru", "gru", "lstm", "lstm"]
    assert {(run.directory / "held-out.tokens").read_bytes() for run in runs} == {
        (out / "gru-3/held-out.tokens").read_bytes()
    }
    assert runs[2].sizes.hidden == 12 < runs[0].sizes.hidden
    for line in ("run 4 of 4", "A  ", "B  ", "training loss, nats a token"):
        assert line in shown
    assert f"next: cellwright compare {out} --plot curves.png" in shown


def test_a_trial_is_the_run_that_it_would_be_alone(trained, text, tmp_path):
    out, _ = trained
    alone = [*SMALL, "--steps", 12, "--cell", "lstm", "--seed", 4]
    call("train", text, "--out", tmp_path / "alone", *alone)
    own, other = (
        Run(p).trained_model().state_dict()
        for p in (out / "lstm-4", tmp_path / "alone")
    )
    assert all(torch.equal(own[name], other[name]) for name in other)


def test_stopped_trials_are_resumed_and_the_ended_ones_stay(
    text, trained, tmp_path, monkeypatch
):
    from cellwright.text.model import NextToken

    objective, calls = NextToken.__call__, []

    def killed(self, *arguments):
        calls.append(None)
        if len(calls) > 12 + 5:
            raise KeyboardInterrupt
        return objective(self, *arguments)

    out = tmp_path / "out"
    options = [*SMALL, *CELLS, "--same-parameters", "--checkpoint-every", 4]
    with monkeypatch.context() as patch:
        patch.setattr(NextToken, "__call__", killed)
        call("train", text, "--out", out, *options, ok=False)
    assert (out / "gru-3/result.json").exists()
    (row,) = [r for r in compare([out])[0].rows if r.cell == "gru"]
    assert row.steps == [12, 4]
    assert len(row.nats_per_char.values) == 1
    shown = call("train", "--resume", "--out", out)
    assert f"{out / 'gru-3'} has ended already" in shown
    for name in ("gru-3", "gru-4", "lstm-4"):
        result = (out / name / "result.json").read_text()
        assert result == (trained[0] / name / "result.json").read_text()
    message = call("train", "--resume", "--out", out, "--lr", 1, ok=False)
    assert "keep their text and settings; received lr" in message


def test_a_loss_that_diverges_does_not_keep_the_others_from_training(
    text, tmp_path, monkeypatch
):
    from cellwright.text.model import NextToken

    objective = NextToken.__call__

    def overflows(self, model, *arguments):
        loss, state = objective(self, model, *arguments)
        return loss * (torch.inf if model.rnn.cell.name == "gru" else 1), state

    monkeypatch.setattr(NextToken, "__call__", overflows)
    options = [*SMALL, "--cells", "gru,lstm", "--steps", 2]
    message = call("train", text, "--out", tmp_path / "out", *options, ok=False)
    assert "error: " in message
    assert not (tmp_path / "out/gru-0/result.json").exists()
    assert (tmp_path / "out/lstm-0/result.json").exists()


def test_rows_are_means_over_seeds_and_the_best_comes_first(trained):
    out, _ = trained
    (found,) = json.loads(call("compare", out, "--json"))["comparisons"]
    assert [row["seeds"] for row in found["rows"]] == [[3, 4], [3, 4]]
    assert found["curves_of"] == "training loss"
    means = []
    for row in found["rows"]:
        runs = [Run(path) for path in row["runs"]]
        losses = [run.result().nats_per_char for run in runs]
        assert row["nats_per_char"] == {
            "mean": pytest.approx(mean(losses)),
            "sd": pytest.approx(stdev(losses)),
            "values": losses,
        }
        assert row["steps"] == row["planned"] == [12, 12]
        model = runs[0].trained_model()
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
        logs = [(run.directory / "metrics.jsonl").read_text() for run in runs]
        rows = [[json.loads(line) for line in log.splitlines()] for log in logs]
        assert row["curve"]["steps"] == [line["step"] for line in rows[0]]
        expected = [mean(y["loss"] for y in pair) for pair in zip(*rows, strict=True)]
        assert row["curve"]["mean"] == pytest.approx(expected, abs=1e-6)
        means.append(row["nats_per_char"]["mean"])
    assert means == sorted(means)
    assert found["notes"] == []


def test_unlike_texts_and_tokens_are_put_apart(trained, text, tmp_path):
    out, _ = trained
    settings = Settings(cell="lstm", hidden=4, steps=1)
    other = write_text(tmp_path / "small.txt", seed=1)
    for name, source, kind in (("words", text, "word"), ("other", other, "char")):
        own = replace(settings, tokenizer=kind)
        create_run(tmp_path / name, [str(source)], cw.cells.lstm, own)
    paths = [out / "lstm-3", tmp_path / "words", tmp_path / "other", out / "gru-3"]
    found = compare([*paths, out / "gru-3"])  # twice is once
    cells = [[row.cell for row in c.rows] for c in found]
    assert sorted(cells[0]) == ["gru", "lstm"]
    assert cells[1:] == [["lstm"], ["lstm"]]
    assert any("has no figures of its held-out text yet" in n for n in found[1].notes)
    shown = call("compare", *paths)
    assert "tables are apart because the held-out texts, or the tokens" in shown


def test_rows_of_one_cell_show_the_settings_that_differ(text, tmp_path):
    settings = Settings(cell="lstm", hidden=4, steps=5)
    for n, own in enumerate((settings, replace(settings, lr=1e-3, log_every=1))):
        create_run(tmp_path / f"{n}", [str(text)], cw.cells.lstm, own)
    (found,) = compare([tmp_path])
    assert {row.label for row in found.rows} == {"lstm lr=0.008", "lstm lr=0.001"}


def test_equal_minutes_are_said_to_mislead(text, tmp_path):
    settings = Settings(cell="lstm", hidden=4, minutes=1.0)
    create_run(tmp_path / "run", [str(text)], cw.cells.lstm, settings)
    (found,) = compare([tmp_path / "run"])
    assert any("equal minutes are not equal training" in n for n in found.notes)


def test_what_cannot_be_compared_is_refused(text, tmp_path):
    settings = Settings(cell="lstm", hidden=4, steps=1, val_fraction=0.0)
    create_run(tmp_path / "run", [str(text)], cw.cells.lstm, settings)
    with pytest.raises(CellwrightError, match="holds no text out to be compared on"):
        compare([tmp_path / "run"])
    with pytest.raises(CellwrightError, match=r"nothing\] .*no such directory"):
        compare([tmp_path / "nothing"])


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_curves_are_drawn_the_same_every_time(trained, tmp_path, ending):
    pictures = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{ending}"
        save_curves(compare([trained[0]]), path)
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) > 1000
    with pytest.raises(CellwrightError, match=r"received 'a\.gif', expected"):
        save_curves(compare([trained[0]]), tmp_path / "a.gif")


def test_curves_in_letters(trained):
    row = compare([trained[0]])[0].rows[0]
    steps = [1.0, 51.0, 101.0]
    rows = [
        replace(row, curve=Curve(steps, [4.0, 2.0, 0.0], [0.0] * 3)),
        replace(row, curve=None),
        replace(row, curve=Curve(steps, [4.0, 4.0, 4.0], [0.0] * 3)),
    ]
    lines = in_letters(rows, width=40, height=5)
    assert max(map(len, lines)) <= 40
    assert lines[-1].split() == ["step", "101"]
    assert set("".join(lines[:5])) >= {"A", "C"}
    assert lines[0].startswith("4.00 ┤")
    assert "C" in lines[0]
    assert lines[4].startswith("0.00 ┤")
    assert lines[4].rstrip().endswith("A")
    assert in_letters([replace(row, curve=None)]) == []


@pytest.mark.parametrize("name", ["gru", "slstm", "rhn", "rnn"])
def test_units_are_those_of_the_most_nearly_equal_size(text, tmp_path, name):
    settings = Settings(cell="lstm", hidden=9, steps=1)
    run = create_run(tmp_path / "run", [str(text)], cw.cells.lstm, settings)
    cell = cw.cells.get(name)

    def size(units):
        sizes = model_sizes(replace(settings, hidden=units), run.sizes.vocabulary)
        try:
            return count_parameters(cell, sizes)
        except CellwrightError:
            return -(10**9)  # heads do not divide it

    wanted = count_parameters(run.cell, run.sizes)
    found = matching_units(run, cell)
    nearest = min(range(1, 60), key=lambda units: abs(size(units) - wanted))
    assert abs(size(found) - wanted) == abs(size(nearest) - wanted)


CELL = """
from cellwright import cell, tanh

@cell
def lstm(W, x, h):
    return tanh(W.a(h, x))
"""


def test_trials_that_cannot_be_trained_are_refused_at_the_start(text, tmp_path):
    (tmp_path / "mine.py").write_text(CELL)
    out = tmp_path / "out"
    train = "train", text, "--out", out, *SMALL
    message = call(*train, "--cells", f"lstm,{tmp_path}/mine.py:lstm", ok=False)
    assert "two cells have one name; received 'lstm' and" in message
    message = call(*train, "--cells", "lstm,gur", ok=False)
    assert "Did you mean" in message
    message = call(*train, "--cells", "lstm,gru", "--cell", "rnn", ok=False)
    assert "received both --cell rnn and --cells lstm,gru" in message
    message = call(*train, "--cells", "lstm", "--val-fraction", 0, ok=False)
    assert "compared on text that was held out" in message
    assert not out.exists()
    trials = Trials({"lstm": cw.cells.lstm}, Settings(hidden=4, steps=1))
    create_trials(out, [str(text)], trials)
    with pytest.raises(CellwrightError, match="is not empty"):
        create_trials(out, [str(text)], trials)
