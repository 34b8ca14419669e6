"""`load_run`: a trained run in code of one's own, and on the hub."""

import json
import os
import random
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F
from typer.testing import CliRunner

import cellwright as cw
from cellwright import CellwrightError
from cellwright.cli import app
from cellwright.extras import MissingExtraError
from cellwright.text.job import train_run
from cellwright.text.pairs.run import create_pair_run
from cellwright.text.run import Run, create_run
from cellwright.train.settings import PairSettings, Settings

ROOT = Path(__file__).parents[1]
READ = "the king said to him"


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def train_text(folder, **settings):
    words = ["the", "king", "queen", "of", "a", "rose", "said", "to", "him", "love"]
    text = folder / "secret-place" / "text.txt"
    text.parent.mkdir()
    text.write_text(" ".join(random.Random(0).choices(words, k=600)))
    small = {"hidden": 8, "embedding": 6, "batch": 4, "window": 16, "steps": 8}
    settings = Settings(**{"cell": "lstm", **small, **settings})
    cell = cw.cells.get(settings.cell)
    run = create_run(folder / "run", [str(text)], cell, settings, say=lambda line: None)
    train_run(run, Accelerator(cpu=True))
    return run.directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return train_text(tmp_path_factory.mktemp("text"), layers=2)


@pytest.fixture(scope="module")
def run(directory):
    return cw.load_run(directory)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    file = folder / "pairs.tsv"
    inputs = [f"{a}{b}{a}" for a in "abcd" for b in "efgh"]
    file.write_text("".join(f"{text}\t{text[::-1].upper()}\n" for text in inputs))
    settings = PairSettings(hidden=8, embedding=6, batch=4, steps=6)
    cells = cw.cells.gru, cw.cells.bahdanau_gru
    made = create_pair_run(
        folder / "run", [str(file)], cells, settings, say=lambda line: None
    )
    train_run(made, Accelerator(cpu=True))
    return cw.load_run(made.directory)


def test_texts_become_tokens_and_texts_again(run):
    tokens = run.encode(READ)
    assert tokens.shape == (len(READ),)
    assert tokens.dtype == torch.int64
    assert run.decode(tokens) == run.decode(tokens.tolist()) == READ
    assert repr(run) == f"<run {run.run.directory}: lstm, 2 × 8 units, 20 char tokens>"


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_states_are_those_of_stepping_token_by_token(run, layer):
    model, state, rows = run.model, None, {"h": [], "c": []}
    assert not model.training
    with torch.no_grad():
        for token in run.encode(READ):
            _, state = model(token.view(1, 1), state)
            for name, value in zip("hc", state, strict=True):
                rows[name].append(value[layer, 0])
    states = run.states(READ, layer)
    assert list(states) == ["h", "c"]
    for name, value in states.items():
        assert value.shape == (len(READ), 8)
        torch.testing.assert_close(value, torch.stack(rows[name]))
        assert not value.requires_grad


def test_a_record_has_every_gate_by_name(run):
    values = run.record(READ)
    with torch.no_grad(), cw.record(run.model) as expected:
        run.model(run.encode(READ)[:, None])
    assert set(values) == set(expected) > {"rnn.0.f", "rnn.1.o"}
    for key, value in values.items():
        torch.testing.assert_close(value, expected[key][:, 0])
    some = run.record(READ, ["rnn.1.f"])
    torch.testing.assert_close(some["f"], values["rnn.1.f"])


def test_the_loss_is_the_mean_over_all_targets(run, directory):
    numbers = run.encode(READ)
    with torch.no_grad():
        logits, _ = run.model(numbers[:-1, None])
    expected = F.cross_entropy(logits[:, 0], numbers[1:]).item()
    assert run.loss(READ) == pytest.approx(expected, abs=1e-6)
    found = json.loads(call("evaluate", directory, "--json"))
    assert run.loss() == pytest.approx(found["nats_per_token"], abs=1e-7)


def test_texts_go_on_as_the_command_lets_them(run, directory):
    options = "--prompt", "the k", "--length", 30, "--seed", 3, "--temperature", 0.7
    expected = call("generate", directory, *options)
    found = run.generate("the k", length=30, seed=3, temperature=0.7)
    assert expected == f"the k{found}\n"
    assert found == "".join(run.stream("the k", 30, seed=3, temperature=0.7))


@pytest.mark.parametrize(
    "settings",
    [
        {"cell": "gru", "tokenizer": "word", "tie": True, "embedding": None},
        {"cell": "slstm", "tokenizer": "ptb", "adaptive": "4", "engine": "reference"},
    ],
)
def test_other_models_and_tokens(tmp_path, settings):
    run = cw.load_run(train_text(tmp_path, **settings))
    text = "the queen said to him\n"
    count = len(run.encode(text))
    for name, value in run.states(text).items():
        assert value.shape == (count, 8), name
    assert run.loss(text) > 0
    assert run.generate("the", length=3, seed=0)


def test_arguments_that_make_no_sense_are_refused(run, pairs):
    for action, message in (
        (lambda: run.states(""), r"^\[record\] an empty text"),
        (lambda: run.states(READ, 2), r"received layer 2, expected -2 to 1"),
        (lambda: run.record(READ, "q"), r"no value of this model fits 'q'"),
        (lambda: run.loss("t"), r"^\[loss\] a text too short: 1 tokens"),
        (lambda: run.generate(temperature=-1), r"^\[temperature\]"),
        (lambda: pairs.apply("abc"), r"received one text, expected \['abc'\]"),
        (lambda: pairs.apply(["aea", " "]), r"^\[input 2\] is empty"),
        (lambda: pairs.loss([]), r"^\[pairs\] received no pair"),
    ):
        with pytest.raises(CellwrightError, match=message):
            action()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "is no run: it has no config.json"),
        ("config.json", b'{"format": "cellwr', "cannot be read: no JSON, or cut short"),
        ("config.json", b'{"model_type": "bert"}', "was not written by cellwright"),
        ("cell.txt", b"", "is no printed cell"),
        ("checkpoints/step-00000008/model.safetensors", b"0", "cut short"),
    ],
)
def test_what_is_no_whole_run_is_refused(directory, tmp_path, name, content, message):
    shutil.copytree(directory, tmp_path / "copy")
    if content is None:
        (tmp_path / "copy" / name).unlink()
    else:
        (tmp_path / "copy" / name).write_bytes(content)
    with pytest.raises(CellwrightError, match=message):
        cw.load_run(tmp_path / "copy")


def test_a_folder_that_is_no_run_says_what_it_is(directory, tmp_path):
    with pytest.raises(CellwrightError, match="there is no such directory"):
        cw.load_run(tmp_path / "nothing")
    shutil.copytree(directory, tmp_path / "lstm-0")
    with pytest.raises(CellwrightError, match=r"holds several runs; .*lstm-0"):
        cw.load_run(tmp_path)
    shutil.rmtree(tmp_path / "lstm-0/checkpoints")
    with pytest.raises(CellwrightError, match="checkpoint"):
        cw.load_run(tmp_path / "lstm-0")


def test_pairs_are_applied_as_the_command_applies_them(pairs):
    directory = pairs.run.directory
    texts = ["aea", "bgb", "dhd"]
    shown = call("pairs", "apply", directory, *texts, "--beam", 2)
    assert shown.splitlines() == pairs.apply(texts, beam=2)
    found = json.loads(call("pairs", "evaluate", directory, "--json"))
    assert pairs.evaluate().to_json() == found
    assert len(pairs.search(["aea"], n_best=3)[0]) == 3
    assert pairs.decode(pairs.search(["aea"])[0][0].tokens) == pairs.apply(["aea"])[0]


def test_the_loss_of_pairs_is_over_all_output_tokens(pairs):
    model, total, count = pairs.model, 0.0, 0
    given = [("aea", "AEA"), ("bf", "F")]
    for text, output in given:
        target = pairs._tokenizer.encode_outputs([output])[0]
        target = torch.from_numpy(target)[:, None]
        with torch.no_grad():
            logits, _ = model(pairs.encode(text)[:, None], None, target)
        total += F.cross_entropy(logits[:, 0], target[:, 0], reduction="sum").item()
        count += len(target)
    assert pairs.loss(given) == pytest.approx(total / count, abs=1e-6)


def test_a_record_of_a_pair_has_the_attention(pairs):
    values = pairs.record("aeb", "BEA")
    assert values["attention"].shape == (4, 1, 3)
    torch.testing.assert_close(values["attention"].sum(-1), torch.ones(4, 1))
    assert values["encoder.0.h"].shape == (3, 1, 8)
    assert "decoder.0.h" in pairs.record("aeb")


# -- the hub


def assert_same(one, other):
    own, theirs = one.model.state_dict(), other.model.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_what_is_published_is_the_model_without_texts_and_places(run, pairs, tmp_path):
    run.save_pretrained(tmp_path / "text")
    again = cw.from_pretrained(tmp_path / "text")
    assert_same(run, again)
    assert run.generate("the", 9, seed=1) == again.generate("the", 9, seed=1)
    names = {
        str(p.relative_to(tmp_path / "text")) for p in (tmp_path / "text").rglob("*")
    }
    assert {n for n in names if not n.startswith("checkpoints")} == {
        *("README.md", "config.json", "cell.txt", "tokenizer.json")
    }
    assert "secret-place" not in (tmp_path / "text/config.json").read_text()
    assert Run(tmp_path / "text").sources == ["text.txt"]
    with pytest.raises(CellwrightError, match=r"held-out\.tokens\] cannot be read"):
        again.loss()
    pairs.save_pretrained(tmp_path / "pairs")
    same = cw.from_pretrained(tmp_path / "pairs")
    assert_same(pairs, same)
    assert same.apply(["aea"]) == pairs.apply(["aea"])


def test_pushing_uploads_it(run, tmp_path, monkeypatch):
    from huggingface_hub import hub_mixin

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **_):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"hub/{repo_id}"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    assert run.push_to_hub("me/mine") == "hub/me/mine"
    assert_same(run, cw.from_pretrained(tmp_path / "me/mine"))
    card = (tmp_path / "me/mine/README.md").read_text()
    assert "library_name: cellwright" in card
    assert 'cw.from_pretrained("me/mine")' in card


def test_a_download_of_links_is_loaded(run, tmp_path):
    """The hub's cache keeps blobs, and links to them."""
    run.save_pretrained(tmp_path / "text")
    repository, commit = tmp_path / "cache/models--me--mine", "0" * 40
    for path in [p for p in (tmp_path / "text").rglob("*") if p.is_file()]:
        name = path.relative_to(tmp_path / "text")
        blob = repository / "blobs" / str(name).replace("/", "-")
        link = repository / "snapshots" / commit / name
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    options = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    found = cw.from_pretrained("me/mine", **options)
    shutil.rmtree(tmp_path / "cache")
    assert_same(run, found)
    assert found.run.settings == run.run.settings


def test_the_hub_is_asked_for_where_it_is_missing(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for action in (
        lambda: run.push_to_hub("me/mine"),
        lambda: run.save_pretrained(tmp_path),
        lambda: cw.from_pretrained("me/mine"),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'cellwright\[hub\]'"):
            action()


# -- the page


def test_the_page_of_trained_models(run, pairs, tmp_path, monkeypatch, capsys):
    import re

    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.run.directory, "runs/mine")
    shutil.copytree(pairs.run.directory, "runs/dates")
    whole = (ROOT / "docs/use-a-model.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", whole, re.DOTALL | re.MULTILINE)
    known = {}
    for block in blocks:
        # The runs here know other inputs, and two layers.
        block = block.replace('values["f"]', 'values["rnn.1.f"]')
        block = re.sub(r"5\. März 2021|March 5, 2021", "aea", block)
        exec(block.replace("2021-03-05", "AEA"), known)
    assert len(blocks) >= 7
    assert known["states"]["h"].shape == (20, 8)
    assert_same(known["again"], run)
    assert "<run runs/mine: lstm" in capsys.readouterr().out
    assert [*pairwise(known["last"].shape)] == []
