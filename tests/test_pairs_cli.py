"""The commands on pairs, end to end on a small task, and what they refuse."""

import json
import re
import shutil

import pytest
import torch
from typer.testing import CliRunner

import cellwright as cw
from cellwright.cli import app
from cellwright.text.pairs.files import examples, read_pairs
from cellwright.text.pairs.model import NextOutputToken
from cellwright.text.pairs.run import PairRun
from cellwright.text.pairs.score import score, search
from cellwright.train.report import read_metrics
from test_cli import _one_thread, call, files_of, words

__all__ = ["_one_thread"]  # a fixture

SMALL = words("--hidden 8 --embedding 6 --batch 8 --log-every 5")


def small_pairs():
    """Words of a, b and c to their letters in capitals; some have two outputs."""
    lines = []
    for number in range(120):
        word = "".join("abc"[number // 3**k % 3] for k in range(5))[: 2 + number % 4]
        lines.append(f"{word}\t{' '.join(word.upper())}")
        if number % 10 == 0:
            lines.append(f"{word}\t{' '.join(reversed(word.upper()))}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "small.tsv"
    path.write_text(small_pairs())
    return path


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "small"
    options = ("--output-tokens", "space", "--steps", 60, "--lr", 0.02)
    call("pairs", "train", file, "--out", directory, *SMALL, *options)
    return directory


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_training_learns_and_says_so(run):
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(5, 61, 5))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert set(rows[-1]) >= {"learning_rate", "gradient_norm", "tokens_per_second"}
    for name in ("encoder.txt", "decoder.txt"):
        assert "W." in (run / name).read_text()


def test_the_parts_have_no_input_in_common(run, file):
    loaded = PairRun(run)
    train, held_out = (
        {p.input for p in loaded.pairs(n)} for n in ("train", "held_out")
    )
    assert train | held_out == {p.input for p in read_pairs(file, 100)}
    assert not train & held_out
    assert len(held_out) == len(train | held_out) // 10


def test_evaluate_prints_one_json_object_of_the_right_figures(run, file):
    found = json.loads(call("pairs", "evaluate", run, file, "--json"))
    loaded = PairRun(run)
    model, tokenizer = loaded.trained_model(), loaded.tokenizer
    given = examples(read_pairs(file, 100))
    right = errors = tokens = 0
    for example in given:  # one at a time, by hand
        source = torch.from_numpy(tokenizer.input.encode(example.input))[:, None]
        longest = 10 + 2 * len(source)
        ((best,),) = model.beam_search(source, beam=5, max_length=longest)
        own = tokenizer.decode_output(best.tokens).split()
        distances = [distance(own, r.split()) for r in example.references]
        right += min(distances) == 0
        errors += min(distances)
        tokens += len(example.references[distances.index(min(distances))].split())
    assert found["pairs"] == len(given)
    assert found["exact_match"] == pytest.approx(right / len(given))
    assert found["error_rate"] == pytest.approx(errors / tokens)
    shown = call("pairs", "evaluate", run, file)
    assert f"{found['exact_match']:.2%} exact" in shown


def distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return distance(a[1:], b[1:])
    rest = (a[1:], b[1:]), (a[1:], b), (a, b[1:])
    return 1 + min(distance(*pair) for pair in rest)


def test_the_held_out_pairs_are_evaluated_at_the_end(run):
    kept = json.loads((run / "result.json").read_text())
    assert kept == json.loads(call("pairs", "evaluate", run, "--json"))
    assert kept["pairs"] == len(PairRun(run).held_out)


def test_any_alternative_is_right(copy, tmp_path):
    (output,) = call("pairs", "apply", copy, "abc").splitlines()
    path = tmp_path / "alternatives.tsv"
    path.write_text(f"abc\tC C C C C C\nabc\t{output}\n")
    found = json.loads(call("pairs", "evaluate", copy, path, "--json"))
    assert (found["exact_match"], found["error_rate"], found["pairs"]) == (1.0, 0.0, 1)


def test_apply_writes_a_line_an_input_in_their_order(run):
    inputs = ["abca", "b", "ccc"]
    lines = call("pairs", "apply", run, *inputs).splitlines()
    assert lines == [call("pairs", "apply", run, text).strip() for text in inputs]
    typed = CliRunner().invoke(
        app, ["pairs", "apply", str(run), "-", "--beam", "5"], input="abca\nb\nccc\n"
    )
    assert typed.stdout.splitlines() == lines
    best = call("pairs", "apply", run, "abca", "b", "--best", 3).splitlines()
    table = [line.split("\t") for line in best]
    assert [row[0] for row in table] == ["abca"] * 3 + ["b"] * 3
    assert [table[0][1], table[3][1]] == lines[:2]
    scores = [float(row[2]) for row in table]
    assert scores[:3] == sorted(scores[:3], reverse=True)


def test_what_it_has_never_seen_is_no_failure(run, tmp_path):
    assert call("pairs", "apply", run, "xyz€")
    path = tmp_path / "unknown.tsv"
    path.write_text("ab€\tA B\n")
    found = json.loads(call("pairs", "evaluate", run, path, "--json"))
    assert found["unknown"] == 1
    assert "1 input tokens are not in the voc" in call("pairs", "evaluate", run, path)


def test_searching_many_gives_each_its_own(run):
    loaded = PairRun(run)
    model, tokenizer = loaded.trained_model(), loaded.tokenizer
    inputs = [p.input for p in loaded.pairs("train")]
    found = dict(search(model, tokenizer, inputs, beam=2))
    assert sorted(found) == list(range(len(inputs)))
    figures = score(model, tokenizer, examples(loaded.pairs("train")), 2)
    assert figures.pairs == len(set(inputs))


# -- options, other cells, plans ----------------------


@pytest.mark.parametrize(
    "options",
    [
        "--decoder lstm --encoder lstm --layers 2 --dropout 0.2 --tie --hidden 6",
        "--input-tokens bpe --output-tokens bpe --vocab 260 --forcing linear:0.5",
        "--validate-every 3 --patience 1 --schedule plateau --label-smoothing 0.1",
        "--accumulate 2 --optimiser sgd --lr 0.1 --epochs 1 --beam 1",
    ],
)
def test_options_together(file, tmp_path, options):
    given = words(options)
    steps = [] if "--epochs" in given else ["--steps", 6]
    out = tmp_path / "out"
    call("pairs", "train", file, "--out", out, *SMALL, *given, *steps)
    assert 0 <= json.loads(call("pairs", "evaluate", out, "--json"))["exact_match"] <= 1
    call("pairs", "apply", out, "abc")


def test_minutes_make_a_plan(file, tmp_path):
    out = tmp_path / "out"
    call("pairs", "train", file, "--out", out, *SMALL, "--minutes", 0.02)
    assert json.loads((out / "plan.json").read_text())["steps"] >= 1


def test_dates_are_the_default_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = call("pairs", "train", "dates", *SMALL, "--steps", 1, "--val-fraction", 0)
    assert "run: runs/dates\n" in shown
    assert "60,000 to train on" in shown
    assert "2,000 held out" in shown
    found = call("pairs", "apply", "runs/dates", "March 5, 2021", "--beam", 1)
    assert found.count("\n") == 1


CELL = """
from cellwright import Items, attend, cell, sigmoid, tanh

@cell
def mine(W, x, h, *, source: Items):
    a = attend(W.score(source, size=1), source)
    k = sigmoid(W.k(h, x, a))
    return k * h + (1 - k) * tanh(W.n(x, a))
"""


def test_a_run_needs_no_user_code_once_it_is_made(file, tmp_path):
    source, out = tmp_path / "mine.py", tmp_path / "out"
    source.write_text(CELL)
    options = [*SMALL, "--decoder", f"{source}:mine", "--steps", 4]
    call("pairs", "train", file, "--out", out, *options)
    source.unlink()
    before = call("pairs", "evaluate", out, "--json")
    call("pairs", "train", "--resume", "--out", out)  # at its end: the same once more
    assert call("pairs", "evaluate", out, "--json") == before


# -- stopping and going on ----------------------


@pytest.mark.parametrize("forcing", ["1", "0.5"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    file, tmp_path, monkeypatch, forcing
):
    objective = NextOutputToken.__call__

    def killed(self, model, batch, state, step):
        if step == 17:
            raise KeyboardInterrupt
        return objective(self, model, batch, state, step)

    options = words("--steps 20 --checkpoint-every 5 --dropout 0.1 --validate-every 4")
    options += ["--forcing", forcing, *SMALL]
    for out in ("whole", "killed"):
        if out == "killed":
            monkeypatch.setattr(NextOutputToken, "__call__", killed)
        call(
            "pairs", "train", file, "--out", tmp_path / out, *options, ok=out == "whole"
        )
    monkeypatch.undo()
    call("pairs", "train", "--resume", "--out", tmp_path / "killed")
    for pointer in ("last", "best"):
        whole, resumed = (
            PairRun(tmp_path / out).store.load(pointer).model
            for out in ("whole", "killed")
        )
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    rows = [
        read_metrics(tmp_path / out / "metrics.jsonl") for out in ("whole", "killed")
    ]
    losses = [[row.get("loss") for row in own] for own in rows]
    assert losses[0] == losses[1]


def test_ctrl_c_says_how_to_go_on(file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    call("pairs", "train", file, "--out", out, *SMALL, "--steps", 5)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(NextOutputToken, "__call__", interrupted)
    out = tmp_path / "new"
    command = ["pairs", "train", str(file), "--out", str(out), *SMALL, "--steps", "5"]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 130
    assert "Nothing was kept yet" in ended.stdout


def test_divergence_is_told(file, tmp_path):
    wild = words("--optimiser sgd --lr 1e30 --clip 0 --steps 20 --warm-up 0")
    out = tmp_path / "out"
    error = call("pairs", "train", file, "--out", out, *SMALL, *wild, ok=False)
    assert re.search(r"error: \[step \d+\] training diverged", error)
    assert "decoder.cells.0.z.weight" in error


# -- what is refused ----------------------


@pytest.mark.parametrize("target", ["--to c", "--to onnx --step"])
def test_a_run_of_pairs_is_exported_as_onnx_alone(run, tmp_path, target):
    out = tmp_path / "out"
    error = call("export", run, "-o", out, *words(target), ok=False)
    assert f"received {target}, expected --to onnx alone" in " ".join(error.split())
    assert not out.exists()
    with pytest.raises(cw.ArgumentError, match=r"expected a run of a language model"):
        cw.export_onnx(PairRun(run), out)
    with pytest.raises(cw.ArgumentError, match="language model"):
        cw.export_c(PairRun(run), out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--decoder bahdanau", "no cell is called 'bahdanau'"),
        ("--encoder bahdanau_gru", "nothing to attend to yet; received the cell"),
        ("--encoder binary_lstm", "a cell of trees"),
        ("--batch 4000", "do not fill 4000 rows"),
        ("--hidden 0", "[hidden] received 0, expected at least 1"),
        ("--input-tokens word", "--input-tokens"),
        ("--tie --embedding 5", "an embedding of 5 and outputs of 8"),
        ("--input-tokens bpe --vocab 9", "at least 256 tokens"),
        ("--longest 2", ", output] is too long"),
        ("--validate-every 2 --val-fraction 0", "there is nothing to validate on"),
        ("--forcing sometimes", "expected a ratio between 0 and 1"),
        ("--minutes 1 --epochs 2", "received both minutes and epochs"),
    ],
)
def test_bad_options_are_one_message(file, tmp_path, options, message):
    small = ("--hidden", "8") if "--hidden" not in options else ()
    new = tmp_path / "new"
    error = call(
        "pairs", "train", file, "--out", new, *small, *words(options), ok=False
    )
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not new.exists()
    assert not list(tmp_path.glob(".new*"))


def test_bad_files_are_one_message(tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_text("a\tb\n\n")
    error = call("pairs", "train", path, "--out", tmp_path / "new", ok=False)
    assert f"error: [{path}:2] is an empty line" in error
    assert not (tmp_path / "new").exists()
    assert "expected a file of pairs" in call("pairs", "train", ok=False)
    assert "no such file" in call("pairs", "train", tmp_path / "none.tsv", ok=False)
    assert "--out DIR" in call("pairs", "train", "--resume", ok=False)


def test_bad_inputs_are_one_message(run, tmp_path):
    for text, message in (
        ("", "[input 2] is empty"),
        ("a" * 501, "[input 2] is too long; received 501 characters"),
        ("a\udcff", "which is no character"),
    ):
        error = call("pairs", "apply", run, "abc", text, ok=False)
        assert message in error
        assert error.count("\n") == 1
    missing = call("pairs", "evaluate", run, tmp_path / "none.tsv", ok=False)
    assert "cannot be read" in missing


def test_a_run_of_another_kind_is_told(run, file, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(file.read_text())
    small = words("--hidden 4 --embedding 4 --steps 1")
    call("train", text, "--out", tmp_path / "lm", *small)
    for command in (("evaluate",), ("generate",), ("info",)):
        error = call(*command, run, ok=False)
        assert "is a run of another kind; received a run of pairs" in error
    error = call("pairs", "evaluate", tmp_path / "lm", ok=False)
    assert "received a run of a language model" in error
    error = call("pairs", "train", file, "--out", tmp_path / "lm", *SMALL, ok=False)
    assert "holds a run already" in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"form', "cannot be read"),
        ("config.json", b'{"format": "cellwright-pairs", "version": 2}', "received 2"),
        ("decoder.txt", b"def nothing", "is no printed cell"),
        ("input-tokenizer.json", b"[]", "is not a tokenizer"),
        ("held-out.tsv", b"abc\tA B C\n", "was altered; received 1 pairs"),
        ("held-out.tsv", b"\n", "is an empty line"),
        ("held-out.tsv", None, "cannot be read"),
        ("checkpoints/last.json", b"{}", "not a checkpoint of cellwright"),
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
    for command in (("evaluate", copy, "--json"), ("train", "--resume", "--out", copy)):
        error = call("pairs", *command, ok=False)
        assert error.startswith("error: [")
        assert message in error
    assert files_of(copy) == before


def test_a_resumed_run_keeps_its_settings(run):
    error = call("pairs", "train", "--resume", "--out", run, "--hidden", 9, ok=False)
    assert "started with hidden = 8; received 9" in error
    error = call("pairs", "train", "other.tsv", "--resume", "--out", run, ok=False)
    assert "received other.tsv" in error


# -- looking inside ----------------------


def test_inspect_writes_a_report(run, tmp_path):
    pytest.importorskip("starlette")
    (tmp_path / "inputs.txt").write_text("abc\nca\n")
    out = tmp_path / "report.html"
    call("inspect", run, "--report", out, "--text", tmp_path / "inputs.txt")
    (found,) = re.findall(r'id="report">(.*?)</script>', out.read_text(), re.DOTALL)
    data = json.loads(found)
    assert data["pairs"]["inputs"] == ["abc", "ca"]
    first = data["looks"][0]
    lines = call("pairs", "apply", run, "abc", "--best", 5).splitlines()
    assert [o["text"] for o in first["outputs"]] == [li.split("\t")[1] for li in lines]
    assert first["input"] == list("abc")
    for output in first["outputs"]:
        attention = torch.tensor(output["attention"])
        assert attention.shape == (len(output["tokens"]), 3)
        assert torch.allclose(attention.sum(1), torch.ones(len(attention)))
        assert output["decoder"]["0.h"]["columns"] == len(output["tokens"])
    assert {"0.h", "1.h", "0.z", "1.z"} <= first["encoder"].keys()
    assert first["encoder"]["1.z"]["rows"] == 8


def test_inspect_without_attention_and_what_it_refuses(file, run, tmp_path):
    pytest.importorskip("starlette")
    out, report = tmp_path / "out", tmp_path / "report.html"
    call("pairs", "train", file, "--out", out, *SMALL, "--decoder", "gru", "--steps", 2)
    call("inspect", out, "--report", report)
    assert '"attention": null' in report.read_text()
    beside = call("inspect", run, "--beside", run, "--report", report, ok=False)
    assert "[--beside] compares language models" in beside
    (tmp_path / "long.txt").write_text("a" * 501)
    long = "inspect", run, "--report", report, "--text", tmp_path / "long.txt"
    assert "[input] is too long" in call(*long, ok=False)


def test_every_option_has_help():
    from typer.main import get_command

    for command in get_command(app).commands["pairs"].commands.values():
        assert command.help
        for parameter in command.params:
            assert parameter.help or parameter.name == "help", parameter.name
