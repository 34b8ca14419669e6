"""The command line, end to end on a small text, and what it refuses."""

import itertools
import json
import math
import random
import re
from dataclasses import dataclass, field

import pytest
import torch
import typer
from torch.nn import functional as F
from typer.testing import CliRunner

from cellwright import ArgumentError
from cellwright.cli import app
from cellwright.schema import check
from cellwright.text.job import USED
from cellwright.text.run import Run
from cellwright.train import clock as clocks
from cellwright.train.report import read_metrics
from cellwright.train.settings import Settings, Width


def words(line):
    return line.split()


WORDS = words("the king queen of a rose said to him her what is love and war night")
SMALL = words("--hidden 12 --embedding 8 --batch 4 --window 16 --log-every 5")


REGULARISED = (
    "--layers 2 --dropout 0.1 --locked --recurrent-dropout 0.1 --update-dropout g=0.1 "
    "--zoneout h=0.05,c=0.1 --weight-drop 0.2 --ar 2 --tar 1"
)


def small_text():
    generator = random.Random(0)
    lines = (" ".join(generator.choices(WORDS, k=8)) for _ in range(200))
    return "\n".join(lines) + "\n"


def call(*arguments, ok=True):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a traceback that a user would see
    assert (result.exit_code == 0) == ok, result.output
    return result.stdout if ok else result.stderr


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Threads only wait for each other in a model as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text())
    return path


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "small"
    call("train", text, "--out", directory, *SMALL, "--steps", 150)
    return directory


def test_training_learns_and_says_so(run):
    losses = [row["loss"] for row in read_metrics(run / "metrics.jsonl")]
    assert len(losses) == 30
    assert losses[-1] < 0.8 * losses[0]
    row = read_metrics(run / "metrics.jsonl")[-1]
    assert set(row) >= {"step", "loss", "learning_rate", "tokens_per_second", "seconds"}


def test_evaluate_prints_one_json_object_of_the_right_figures(run, text):
    found = json.loads(call("evaluate", run, text, "--json"))
    loaded = Run(run)
    model, tokenizer = loaded.trained_model(), loaded.tokenizer
    numbers = torch.from_numpy(tokenizer.encode(text.read_text()))
    with torch.no_grad():
        logits, _ = model(numbers[:-1, None])
    expected = F.cross_entropy(logits[:, 0].double(), numbers[1:]).item()
    assert found["nats_per_char"] == pytest.approx(expected, abs=1e-5)
    assert found["bits_per_char"] == pytest.approx(expected / math.log(2), abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert found["characters"] == found["tokens"] == len(text.read_text())


def test_the_last_tenth_is_held_out_and_evaluated(run, text, tmp_path):
    whole = text.read_text()
    cut = int(0.9 * len(whole))
    (tmp_path / "end.txt").write_text(whole[cut:])
    held_out = json.loads(call("evaluate", run, "--json"))
    assert held_out == json.loads(call("evaluate", run, tmp_path / "end.txt", "--json"))
    assert held_out == json.loads((run / "result.json").read_text())
    loaded = Run(run)
    assert loaded.tokenizer.decode(loaded.train_tokens.open().tolist()) == whole[:cut]
    shown = call("evaluate", run)
    assert f"{held_out['nats_per_char']:.4f} nats" in shown


def test_evaluate_reads_standard_input_and_unknown_characters(run, monkeypatch):
    result = CliRunner().invoke(app, ["evaluate", str(run), "-"], input="the €uro\n")
    assert result.exit_code == 0
    assert "1 tokens (11.11%) are not in the vocabulary" in result.stdout


def test_free_running_is_worse_than_reading_the_text(run):
    forced = json.loads(call("evaluate", run, "--json"))
    free = json.loads(call("evaluate", run, "--json", "--free-running"))
    assert free["nats_per_char"] > forced["nats_per_char"]


def test_generate_continues_the_prompt(run):
    options = ("--prompt", "the king", "--length", 40)
    first = call("generate", run, *options, "--seed", 3)
    assert first.startswith("the king")
    assert len(first) == len("the king") + 40 + 1
    assert first == call("generate", run, *options, "--seed", 3)
    assert first != call("generate", run, *options, "--seed", 4)
    settings = ("--temperature", 0.5, "--top-k", 5, "--top-p", 0.9)
    assert len(call("generate", run, *options, *settings)) == len(first)


def test_info_shows_the_cell_and_how_far_it_came(run):
    shown = call("info", run)
    assert "f = sigmoid(W.f(h, x))" in shown
    assert "steps: 150 of 150" in shown
    assert "engine: " in shown
    assert "threads" in call("info")


CELL = """
from cellwright import cell, sigmoid, tanh

@cell
def mine(W, x, h):
    k = sigmoid(W.k(h, x))
    return k * h + (1 - k) * tanh(W.n(x))
"""


def test_a_run_needs_no_user_code_once_it_is_made(text, tmp_path):
    source = tmp_path / "mycell.py"
    source.write_text(CELL)
    out = tmp_path / "out"
    call("train", text, "--out", out, "--cell", f"{source}:mine", *SMALL, "--steps", 6)
    source.unlink()
    before = call("evaluate", out, "--json")
    assert json.loads(before)["nats_per_char"] > 0
    assert "k = sigmoid(W.k(h, x))" in call("info", out)
    call("generate", out, "--length", 5)
    call("train", "--resume", "--out", out)  # already at its end: the same once more
    assert call("evaluate", out, "--json") == before


@pytest.mark.parametrize(
    "options",
    [
        "--tokenizer word --tie --layers 2 --dropout 0.2",
        "--tokenizer bpe --vocab 300 --forcing linear:0.5 --optimiser sgd --lr 0.5",
        "--cell gru --accumulate 2 --clip 0 --clip-value 0.1 --schedule linear",
        "--validate-every 3 --patience 1 --schedule plateau --precision bf16",
        REGULARISED,
    ],
)
def test_options_together(text, tmp_path, options):
    # --embedding would contradict --tie
    small = [o for o in SMALL if o not in ("--embedding", "8")]
    out = tmp_path / "out"
    if "bf16" in options:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=False)
    call("train", text, "--out", out, *small, "--steps", 8, *options.split())
    assert json.loads(call("evaluate", out, "--json"))["nats_per_char"] > 0
    call("generate", out, "--length", 20)
    if "bf16" in options:
        AcceleratorState._reset_state(reset_partial_state=False)


def test_tensorboard_writes_events(text, tmp_path):
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    call("train", text, "--out", out, *SMALL, "--steps", 5, "--tensorboard")
    assert list((out / "tensorboard").rglob("events.out.tfevents.*"))


def test_a_folder_standard_input_and_a_tiny_text(text, tmp_path, monkeypatch):
    call("train", text.parent, "--out", tmp_path / "a", *SMALL, "--steps", 2)
    tiny = "Short, but enough.\n"
    arguments = ["train", "-", "--out", str(tmp_path / "b"), "--steps", "2"]
    result = CliRunner().invoke(app, arguments, input=tiny)
    assert result.exit_code == 0, result.output
    assert "the text is short: 1 rows, windows of 16 tokens" in result.stdout
    assert not list((tmp_path / "b").glob("stdin*"))


def test_without_out_a_new_directory_is_chosen(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "run: runs/small\n" in call("train", text, *SMALL, "--steps", 1)
    assert "run: runs/small-2\n" in call("train", text, *SMALL, "--steps", 1)


def test_minutes_make_a_plan_that_is_stored(text, tmp_path):
    out = tmp_path / "out"
    call("train", text, "--out", out, *SMALL, "--minutes", 0.02)
    plan = json.loads((out / "plan.json").read_text())
    assert plan["steps"] >= 1
    assert plan["planning_seconds"] > 0
    left = 1.2 * USED - plan["planning_seconds"]  # none on a busy machine
    assert plan["seconds"] == pytest.approx(max(left, 1e-3))
    step = read_metrics(out / "metrics.jsonl")[-1]["step"]
    shown = call("info", out)
    assert re.search(rf"steps: {step}, in \d+\.\d of {plan['seconds']:.1f} s", shown)


def test_by_time_too_steps_that_were_lost_are_done_again(text, tmp_path, monkeypatch):
    from cellwright.text.model import NextToken

    objective, out = NextToken.__call__, tmp_path / "out"
    taken = []
    # Half a second between two looks at the clock, however busy the machine is.
    looks = itertools.count()
    monkeypatch.setattr(clocks, "now", lambda: 0.5 * next(looks))

    def killed(self, model, batch, state, step):
        taken.append((out / "plan.json").exists())  # else a step of its planning
        if sum(taken) > 20:
            raise KeyboardInterrupt
        return objective(self, model, batch, state, step)

    options = [*SMALL[:-1], 1, "--minutes", 1, "--checkpoint-every", 7]
    with monkeypatch.context() as patch:
        patch.setattr(NextToken, "__call__", killed)
        call("train", text, "--out", out, *options, ok=False)
    before = read_metrics(out / "metrics.jsonl")
    call("train", "--resume", "--out", out)
    after = read_metrics(out / "metrics.jsonl")
    names = "step", "loss", "learning_rate", "seconds"
    same = [[[row[name] for name in names] for row in rows] for rows in (before, after)]
    assert len(before) > Run(out).settings.checkpoint_every
    assert same[1][: len(before)] == same[0]
    assert after[-1]["step"] > before[-1]["step"]


def files_of(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_directory_that_holds_a_run_is_refused(run, text):
    before = files_of(run)
    message = call("train", text, "--out", run, *SMALL, ok=False)
    assert re.search(r"holds a run already; nothing was changed.*--resume", message)
    assert files_of(run) == before


def test_a_directory_of_something_else_is_refused(text, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for extra in ([], ["--resume"]):
        message = call("train", text, "--out", tmp_path, *SMALL, *extra, ok=False)
        assert "is not empty, and no run; nothing was changed" in message
    assert files_of(tmp_path) == {tmp_path / "thesis.tex": b"precious"}


def test_a_regularised_run_that_was_killed_ends_as_one_that_was_not(
    text, tmp_path, monkeypatch
):
    from cellwright.text.model import NextToken

    objective = NextToken.__call__

    def killed(self, model, batch, state, step):
        if step == 7:
            raise KeyboardInterrupt
        return objective(self, model, batch, state, step)

    options = [*SMALL, *REGULARISED.split(), "--steps", 10, "--checkpoint-every", 5]
    for out in ("whole", "killed"):
        if out == "killed":
            monkeypatch.setattr(NextToken, "__call__", killed)
        call("train", text, "--out", tmp_path / out, *options, ok=out == "whole")
    monkeypatch.undo()
    call("train", "--resume", "--out", tmp_path / "killed")
    models = [Run(tmp_path / out).trained_model() for out in ("whole", "killed")]
    whole, resumed = (model.state_dict() for model in models)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not models[0].rnn.training
    assert "c_before_zoneout" in models[0].rnn.cell.to_text()


def test_a_resumed_run_keeps_its_settings(run, tmp_path):
    message = call("train", "--resume", "--out", run, "--hidden", 13, ok=False)
    assert "started with hidden = 12; received 13" in message
    message = call("train", "other.txt", "--resume", "--out", run, ok=False)
    assert "received other.txt" in message
    assert "--out DIR" in call("train", "--resume", ok=False)


@pytest.fixture
def copy(run, tmp_path):
    import shutil

    return shutil.copytree(run, tmp_path / "copy")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"format": "other"}', "was not written by cellwright"),
        ("config.json", b'{"form', "cannot be read"),
        ("config.json", None, "is no run"),
        (
            "config.json",
            b'{"format": "cellwright-run", "version": 1}',
            "config.json, cellwright] is missing",
        ),
        ("cell.txt", b"def nothing", ""),
        ("tokenizer.json", b"[]", "is not a tokenizer"),
        ("checkpoints/last.json", b"{}", "not a checkpoint of cellwright"),
        ("checkpoints/step-00000150/model.safetensors", b"", "cut short"),
        ("checkpoints/step-00000150/model.safetensors", None, "not whole"),
    ],
)
def test_a_damaged_run_is_refused_and_nothing_is_overwritten(
    copy, name, content, message
):
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    before = files_of(copy)
    commands = [("evaluate", copy, "--json"), ("generate", copy)]
    if content is not None and name != "cell.txt":
        commands.append(("train", "--resume", "--out", copy))
    for command in commands:
        error = call(*command, ok=False)
        assert error.startswith("error: [")
        assert message in error
        assert "Traceback" not in error
    assert files_of(copy) == before


def test_a_newer_run_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "version": 2}))
    assert "received 2, expected 1" in call("evaluate", copy, ok=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--cell lstn", "Did you mean 'lstm'"),
        ("--cell nowhere.py:cell", "no such file"),
        ("--minutes 1 --epochs 2", "received both minutes and epochs"),
        ("--hidden 0", "[hidden] received 0, expected at least 1"),
        ("--dropout 1", "[dropout] received 1.0"),
        ("--weight-drop 1", "[weight_drop] received 1.0"),
        ("--zoneout h:0.1", "[zoneout] received 'h:0.1', expected a probability"),
        ("--zoneout m=0.1", "has no state 'm'"),
        ("--cell rnn --update-dropout 0.1", "has no candidate"),
        ("--tar -1", "[tar] received -1.0, expected at least 0"),
        ("--val-fraction 1", "[val_fraction] received 1.0"),
        ("--patience 2", "give validate_every"),
        ("--forcing sometimes", "expected a ratio between 0 and 1"),
        ("--batch 4000", "too short"),
        ("--tie --embedding 5", "Give --embedding 288"),
        ("--tokenizer bpe --vocab 9", "at least 256 tokens"),
        ("--validate-every 2 --val-fraction 1e-9", "held out is too short to validate"),
    ],
)
def test_bad_options_are_one_message(text, tmp_path, options, message):
    error = call("train", text, "--out", tmp_path / "new", *options.split(), ok=False)
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "there is no text"), (b"\xff\xfe", "is not UTF-8"), (None, "no such file")],
)
def test_bad_texts_are_one_message(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    error = call("train", path, "--out", tmp_path / "new", ok=False)
    assert message in error
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".new*"))
    assert "expected TEXT" in call("train", "--out", tmp_path / "new", ok=False)


@pytest.mark.parametrize("content", ["ab", " ", "\n", "a"])
def test_the_smallest_texts_are_refused_or_trained_on(tmp_path, content):
    path, out = tmp_path / "small.txt", tmp_path / "new"
    path.write_text(content)
    options = "train", path, "--out", out, "--hidden", 4, "--steps", 1
    message = call(*options, ok=False)
    assert ("--val-fraction 0" in message) == (len(content) == 2)
    assert "smaller" not in message
    assert not out.exists()
    if len(content) == 2:  # the remedy can be followed
        call(*options, "--val-fraction", 0)


def test_white_space_alone_is_a_text(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n\t " * 40)
    options = "--out", tmp_path / "new", "--hidden", 4, "--steps", 1
    call("train", tmp_path / "blank.txt", *options)


def test_divergence_is_told_and_the_last_good_checkpoint_stays(text, tmp_path):
    out = tmp_path / "out"
    wild = words("--optimiser sgd --lr 1e30 --clip 0 --steps 20 --warm-up 0")
    error = call("train", text, "--out", out, *SMALL, *wild, ok=False)
    assert re.search(r"error: \[step \d+\] training diverged", error)
    assert "rnn.cells.0.f.weight" in error
    assert "Try a lower learning rate" in error


def test_every_option_has_help():
    from typer.main import get_command

    for command in get_command(app).commands.values():
        assert command.help
        for parameter in command.params:
            assert parameter.help or parameter.name == "help", parameter.name


def test_every_setting_is_an_option_with_its_default():
    from typer.main import get_command

    options = {p.name: p for p in get_command(app).commands["train"].params}
    own = {"text", "out", "resume", "tensorboard"}
    own |= {"cells", "seeds", "same_parameters"}
    assert options.keys() - own == vars(Settings()).keys()
    for name, default in vars(Settings()).items():
        assert options[name].default == default, name


def test_a_new_setting_is_one_line(monkeypatch):
    from cellwright.cli import options

    @dataclass(frozen=True)
    class More(Settings):
        depth: Width | None = field(
            default=3, metadata={"help": "How deep.", "panel": "The model"}
        )

    monkeypatch.setattr(options, "Settings", More)
    seen, command = {}, typer.Typer()

    @command.command()
    @options.with_settings
    def train(*, last: bool = False, **settings):
        seen.update(settings, last=last)

    found = CliRunner().invoke(command, ["--depth", "4", "--last"])
    assert found.exit_code == 0, found.output
    assert seen == {**vars(Settings()), "depth": 4, "last": True}
    assert "How deep." in CliRunner().invoke(command, ["--help"]).output
    with pytest.raises(
        ArgumentError, match=r"\[depth\] received 0, expected at least 1"
    ):
        check(More, vars(More(depth=0)))


def test_inspect_and_exam_explain_bad_input(run, tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"abc\xe8\xff")
    inspect = "inspect", run, "--report", tmp_path / "out.html"
    assert "is not UTF-8 text" in call(*inspect, "--text", binary, ok=False)
    both = "--text", binary, "--prompt", "a b"
    assert "received --text and --prompt" in call(*inspect, *both, ok=False)
    assert "a text of 1 token(s)" in call(*inspect, "--prompt", "a", ok=False)
    assert "--steps" in call(*inspect, "--steps", -5, ok=False)
    assert "--port" in call("exam", "--port", 99999, ok=False)
    assert not (tmp_path / "out.html").exists()


def test_a_checkpoint_of_an_optimiser_that_torch_chose_goes_on_as_it_was(
    copy, text, monkeypatch
):
    """Older runs: their optimiser was not told to take one pass."""
    store = Run(copy).store
    kept = store.load()
    for group in kept.training["optimiser"]["param_groups"]:
        group["fused"] = None
    store.save(kept.step, kept.model, kept.training)
    assert "steps: 150 of 150" in call("info", copy)
    call("train", "--resume", "--out", copy)


def test_a_run_that_names_no_cell_has_one_that_is_fast_where_it_runs(text, tmp_path):
    for engine, cell in (("auto", "coupled"), ("torch", "lstm")):
        if torch.accelerator.is_available() and cell == "coupled":
            continue
        out = tmp_path / engine
        call("train", text, "--out", out, *SMALL, "--steps", 1, "--engine", engine)
        assert Run(out).settings.cell == Run(out).cell.name == cell
        call("train", "--resume", "--out", out, "--cell", cell)
