"""Language models by word on a split of three files, and what AWD-LSTM needs."""

import json
import math
import random
from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cellwright import ArgumentError, cells
from cellwright.text.corpus import TextStream
from cellwright.text.model import LanguageModel, ModelSizes, NextToken
from cellwright.text.run import Run
from cellwright.text.tokenizer import TextTokenizer
from cellwright.train.forcing import ConstantForcing
from cellwright.train.recipes import with_recipe
from cellwright.train.report import read_metrics
from cellwright.train.settings import Settings, parse_cutoffs
from test_cli import call, words

WORDS = words("the king queen of a rose said to him her what is love and war night")


def sentences(seed, count):
    """Lines as the Penn Treebank has them: blanks at both ends, <unk> and N."""
    draw = random.Random(seed)
    more = [*WORDS, "<unk>", "N"]
    return "".join(f" {' '.join(draw.choices(more, k=6))} \n" for _ in range(count))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    for seed, (name, count) in enumerate(
        {"train": 150, "valid": 20, "test": 30}.items()
    ):
        (folder / name).write_text(sentences(seed, count))
    return folder


def options_of(split):
    return [split / "train", "--valid", split / "valid", "--test", split / "test"]


SMALL = words("--hidden 12 --embedding 8 --batch 4 --window 10 --log-every 1")


# -- tokens ------------------------------------------------------------------------


def test_a_line_ends_a_sentence_and_unk_is_the_unknown_token():
    text = " the cat sat \n the <unk> of N \n"
    tokenizer = TextTokenizer.learn("ptb", [text, " the cat \n"])
    numbers = tokenizer.encode("the cat \n <unk> dog\n").tolist()
    end, unknown = tokenizer.encode("\n").item(), tokenizer.unknown
    assert numbers[2::3] == [end, end]
    assert numbers[3:5] == [unknown, unknown]
    # <unk>, <eos>, the, cat, N, of, sat: by frequency, then in order
    assert tokenizer.vocabulary == 7
    assert tokenizer.encode("the\ncat N of sat").tolist() == [2, 1, 3, 4, 5, 6]
    assert (
        tokenizer.decode(tokenizer.encode(text)) == "the cat sat \nthe \ufffd of N \n"
    )
    assert tokenizer.pieces()[1:4] == [b"\n", b"the ", b"cat "]
    small = TextTokenizer.learn("ptb", [text], 3)
    assert small.vocabulary == 3


# -- the split ---------------------------------------------------------------------


def test_a_split_of_three_files(split, tmp_path):
    out = tmp_path / "run"
    options = ["--tokenizer", "ptb", "--out", out, *SMALL, "--steps", 40]
    said = call("train", *options_of(split), *options)
    run = Run(out)
    for name, tokens, lines in [
        ("train", run.train_tokens, 150),
        ("valid", run.held_out, 20),
        ("test", run.test, 30),
    ]:
        assert tokens.count == 7 * lines, name  # six words and the end
    assert run.sizes.vocabulary == 19  # 16 words, N, <unk>, <eos>
    assert "140 held out, 210 to test on" in said
    for name in ("valid", "test"):
        found = json.loads(call("evaluate", out, split / name, "--json"))
        file = {"valid": "result.json", "test": "test.json"}[name]
        assert found == json.loads((out / file).read_text())
    assert found == json.loads(call("evaluate", out, "--json"))  # the test text
    assert f"test text, {(split / 'test').stat().st_size:,} characters" in said

    numbers = torch.from_numpy(run.test.open().astype(np.int64))
    with torch.no_grad():
        logits, _ = run.trained_model()(numbers[:-1, None])
    nats = F.cross_entropy(logits[:, 0].double(), numbers[1:]).item()
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert found["tokens"] == 210
    assert f"test text: {found['nats_per_char']:.4f} nats" in call("info", out)
    # What is left to tune is tuned on --valid.
    call("evaluate", out, "--cache", 30)


def test_trials_that_were_killed_before_the_test_text_evaluate_it(split, tmp_path):
    out = tmp_path / "trials"
    seeds = ["--seeds", 2, "--out", out, *SMALL, "--steps", 2]
    call("train", *options_of(split), *seeds)
    first = next(
        path for path in sorted(out.iterdir()) if (path / "test.json").exists()
    )
    before = (first / "test.json").read_bytes()
    (first / "test.json").unlink()
    said = call("train", "--resume", "--out", out)
    assert said.count("has ended already") == 1
    assert (first / "test.json").read_bytes() == before


def test_every_line_counts_its_end_also_the_last_of_a_file(tmp_path):
    """As the usual reader: for every line of every file its words, then <eos>."""
    parts = {"a": "the cat sat\non it", "b": "now it sat\n\nthe end", "v": "a cat\nsat"}
    counts = {}
    for name, text in parts.items():
        (tmp_path / name).write_text(text)
        counts[name] = sum(len(line.split()) + 1 for line in text.splitlines())
    sources = [tmp_path / "a", tmp_path / "b"]
    held_out = ["--valid", tmp_path / "v", "--test", tmp_path / "a"]
    small = words("--hidden 4 --batch 1 --window 4 --steps 1 --tokenizer ptb")
    said = call("train", *sources, *held_out, "--out", tmp_path / "run", *small)
    run = Run(tmp_path / "run")
    assert run.train_tokens.count == counts["a"] + counts["b"]
    assert run.held_out.count == counts["v"]
    assert run.test.count == counts["a"]
    text = run.tokenizer.decode(run.train_tokens.open().tolist())
    assert text == "the cat sat \non it \nnow it sat \n\nthe end \n"
    assert "1 tokens (20.00%) are not in the vocabulary" in said  # of --valid: "a"
    told = json.loads(call("evaluate", run.directory, tmp_path / "v", "--json"))
    assert told["tokens"] == counts["v"]


@pytest.mark.parametrize("tokenizer", ["ptb", "word"])
def test_no_word_is_cut_where_the_held_out_part_begins(tmp_path, tokenizer):
    lines = [f"unmistakable{number} words\n" for number in range(10, 50)]
    (tmp_path / "text").write_text("".join(lines))
    more = ["--tokenizer", tokenizer, "--val-fraction", 0.31, "--steps", 1]
    call("train", tmp_path / "text", "--out", tmp_path / "run", *SMALL, *more)
    run = Run(tmp_path / "run")
    each = 3 if tokenizer == "ptb" else len(run.tokenizer.encode(lines[0]))
    assert (run.train_tokens.count, run.held_out.count) == (27 * each, 13 * each)
    assert run.train_tokens.unknown == 0


def test_a_resumed_run_keeps_its_split(split, tmp_path):
    out = tmp_path / "run"
    call("train", *options_of(split), "--out", out, *SMALL, "--steps", 2)
    call("train", "--resume", "--out", out)
    message = call("train", "--resume", "--out", out, "--test", "other", ok=False)
    assert "started with test = " in message
    message = call("train", split / "train", "--valid", "none", "--out", "x", ok=False)
    assert "no such file or folder; received 'none'" in message


# -- windows of random length --------------------------------------------------------


def test_random_windows_cover_every_step_once_and_say_their_share():
    tokens, window = np.arange(4 * 500 + 1), 20
    stream = TextStream(tokens, 4, window, seed=3, random=True)
    lengths, seen = [], []
    while stream.epoch == 0:
        batch = stream.next()
        lengths.append(len(batch["x"]))
        seen.append(batch["x"][:, 1])
        assert torch.equal(batch["y"], batch["x"] + 1)
        assert stream.rate_share == lengths[-1] / window
    assert torch.cat(seen).tolist() == list(range(500, 1000))
    assert min(lengths) >= 5
    assert 15 < np.mean(lengths) < 23
    assert np.std(lengths) > 2
    again = [len(stream.next()["x"]) for _ in range(8)]
    assert again != lengths[:8]  # another epoch, other windows


def test_random_windows_are_mostly_about_the_window_and_at_times_half_of_it():
    lengths = []
    for seed in range(40):
        edges = models_edges(seed, 4000, 70)
        lengths += np.diff(edges)[:-1].tolist()
    near, half = (np.abs(np.array(lengths) - mean) < 16 for mean in (70, 35))
    assert np.mean(near | half) > 0.99
    assert np.mean(half) == pytest.approx(0.05, abs=0.015)
    assert np.std(np.array(lengths)[near]) == pytest.approx(5, abs=0.5)


def models_edges(seed, length, window):
    from cellwright.text.corpus import _random_edges

    return _random_edges(Random(seed), length, window)


@pytest.mark.parametrize("length", range(1, 40))
def test_short_rows_have_edges_too(length):
    edges = models_edges(length, length, 10)
    assert (edges[0], edges[-1]) == (0, length)
    assert all(b - a >= min(5, length) for a, b in pairwise(edges))


def test_a_stream_of_random_windows_goes_on_from_its_state():
    tokens = np.arange(2001)
    first, second = (TextStream(tokens, 2, 30, 1, random=True) for _ in range(2))
    for _ in range(40):
        first.next()
    second.load_state_dict(first.state_dict())
    for _ in range(40):
        a, b = first.next(), second.next()
        assert torch.equal(a["x"], b["x"])
        assert torch.equal(a["first"], b["first"])
    with pytest.raises(ArgumentError, match="no window 900 of epoch 0; expected 0 to"):
        second.load_state_dict({"epoch": 0, "position": 900})


def test_the_rate_goes_with_the_length_of_the_window(split, tmp_path):
    out = tmp_path / "run"
    more = words("--random-window --schedule constant --warm-up 0 --lr 0.01 --steps 12")
    call("train", split / "train", "--out", out, *SMALL, *more)
    run = Run(out)
    stream = TextStream(run.train_tokens.open(), 4, 10, 0, random=True)
    for row in read_metrics(out / "metrics.jsonl"):
        length = len(stream.next()["x"])
        assert row["learning_rate"] == pytest.approx(0.01 * length / 10)


# -- dropout of tokens, adaptive softmax -----------------------------------------------


def new_model(**sizes):
    torch.manual_seed(0)
    return LanguageModel(
        cells.lstm,
        ModelSizes(**{"vocabulary": 30, "embedding": 6, "hidden": 8, **sizes}),
    )


def test_embedding_dropout_drops_whole_tokens_wherever_they_stand():
    model = new_model(embedding_dropout=0.4)
    tokens = torch.randint(30, (50, 4))
    x = model._embedded(tokens)
    factor = x / model.embed(tokens)  # (T, B, E)
    of_token = torch.full((30,), torch.nan)
    of_token[tokens.flatten()] = factor[..., 0].flatten()
    kept = of_token[of_token != 0]
    assert 0.2 < 1 - len(kept) / 30 < 0.6
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.6), rtol=1e-3, atol=0)
    expected = model.embed(tokens) * of_token[tokens][..., None]
    torch.testing.assert_close(x, expected)
    assert torch.equal(model.eval()._embedded(tokens), model.embed(tokens))


def test_dropouts_of_embedding_and_output_are_their_own():
    model = new_model(dropout=0.5, input_dropout=0.0, output_dropout=0.25, layers=2)
    assert "dropout=0.5" in repr(model.rnn)
    assert (model._around.input_dropout, model._around.output_dropout) == (0.0, 0.25)
    both = new_model(dropout=0.5)
    assert (both._around.input_dropout, both._around.output_dropout) == (0.5, 0.5)


def adaptive_oracle(head, x):
    """Log-probabilities by the paper: a cluster's, plus the token's within it."""
    first = head.head(x).log_softmax(-1)
    cut = head.cutoffs[0]
    parts = [first[..., :cut]]
    for k, tail in enumerate(head.tail):
        parts.append(first[..., cut + k : cut + k + 1] + tail(x).log_softmax(-1))
    return torch.cat(parts, -1)


@pytest.mark.parametrize("forcing", [1.0, 0.5])
def test_an_adaptive_softmax_trains_and_predicts_alike(forcing):
    model = new_model(adaptive=[5, 12], hidden=16).double()
    x, y = torch.randint(30, (2, 7, 3))
    batch = {"x": x, "y": y, "first": torch.tensor(True)}
    torch.manual_seed(1)
    loss, _ = NextToken(ConstantForcing(forcing), ar=0.5)(model, batch, None, 0)
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(1)
    logits, _, outputs, _ = model(x, None, forcing, outputs=True)
    expected = adaptive_oracle(model.head, outputs)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    assert torch.allclose(logits.exp().sum(-1), torch.ones(()).double())
    oracle = -expected.gather(-1, y[..., None]).mean() + 0.5 * outputs.square().mean()
    torch.testing.assert_close(loss, oracle, rtol=0, atol=1e-10)
    oracle.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=0, atol=1e-10)


def test_an_adaptive_softmax_keeps_its_nats_in_float32_under_autocast():
    model = new_model(adaptive=[5, 12], hidden=16)
    x, y = torch.randint(30, (2, 70, 3))
    expected, _ = model(x, targets=y)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model(x, targets=y)
        logits, _ = model(x)
    assert loss.dtype == logits.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=3e-4)  # half of bf16's
    ones = logits.exp().sum(-1)  # each a bf16 number, they would sum to about 1 ± 0.01
    torch.testing.assert_close(ones, torch.ones_like(ones), rtol=0, atol=1e-5)


def test_targets_give_the_mean_cross_entropy():
    model = new_model()
    x, y = torch.randint(30, (2, 7, 3))
    loss, state = model(x, targets=y)
    logits, _ = model(x)
    expected = F.cross_entropy(logits.flatten(0, 1), y.flatten())
    assert torch.equal(loss, expected)
    assert len(state) == 2


@pytest.mark.parametrize("text", ["", "0", "5,5", "7,3", "a"])
def test_cutoffs_that_do_not_rise_are_refused(text):
    with pytest.raises(ArgumentError, match=r"\[adaptive\] received .*rising numbers"):
        parse_cutoffs(text)


# -- the recipe ------------------------------------------------------------------------


def test_a_recipe_gives_what_is_not_written():
    settings = Settings(recipe="awd", hidden=1150, lr=10.0, layers=2)
    found = with_recipe(settings, {"hidden", "lr", "layers", "recipe"})
    assert (found.lr, found.layers, found.hidden) == (10.0, 2, 1150)
    assert (found.dropout, found.weight_drop, found.batch) == (0.25, 0.5, 40)
    assert (found.window, found.average, found.clip) == (70, "nt-asgd:5", 0.25)
    half = with_recipe(Settings(recipe="awd", hidden=575), {"hidden"})
    assert (half.dropout, half.output_dropout, half.layers) == (0.125, 0.2, 3)
    half.check()
    long = with_recipe(Settings(recipe="long", dropout=0.2), {"recipe", "dropout"})
    assert (long.hidden, long.dropout, long.output_dropout) == (448, 0.2, 0.3)
    long.check()
    assert with_recipe(Settings(), set()) == Settings()


def test_the_awd_recipe_trains_averages_and_goes_on(split, tmp_path, monkeypatch):
    """To the end, and killed on the way: the same weights."""
    options = words("--recipe awd --hidden 12 --batch 4 --window 20 --steps 60")
    options += words("--average nt-asgd:1 --lr 2 --log-every 1 --checkpoint-every 7")
    objective = NextToken.__call__

    def killed(self, model, batch, state, step):
        if step == 45:
            raise KeyboardInterrupt
        return objective(self, model, batch, state, step)

    for out in ("whole", "killed"):
        if out == "killed":
            monkeypatch.setattr(NextToken, "__call__", killed)
        out = tmp_path / out
        call(
            "train", *options_of(split), "--out", out, *options, ok=out.name == "whole"
        )
    monkeypatch.undo()
    call("train", "--resume", "--out", tmp_path / "killed")
    whole, resumed = (Run(tmp_path / out) for out in ("whole", "killed"))
    assert whole.settings.validate_every == (whole.train_tokens.count - 1) // 80
    training = whole.store.load().training
    assert training["average"]["triggered"]
    for pointer in ("last", "best"):
        a, b = (run.store.load(pointer).model for run in (whole, resumed))
        assert all(torch.equal(a[name], b[name]) for name in a)
    model = whole.new_model()
    assert model.head.weight is model.embed.weight
    assert model.rnn.num_layers == 3


def test_adaptive_softmax_end_to_end(split, tmp_path):
    out = tmp_path / "run"
    more = words("--hidden 16 --tokenizer ptb --adaptive 6,12 --steps 5 --forcing 0.8")
    call("train", split / "train", "--out", out, *SMALL, *more)
    assert json.loads(call("evaluate", out, "--json"))["perplexity"] > 1
    assert json.loads(call("evaluate", out, "--json", "--free-running"))
    call("evaluate", out, "--dynamic")
    call("generate", out, "--length", 5)
    call("inspect", out, "--report", tmp_path / "r.html", "--steps", 4)
    message = call("export", out, "-o", tmp_path / "c", "--to", "c", ok=False)
    assert "AdaptiveSoftmax" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--adaptive 3,9",
            "received tokenizer char, whose numbers are not in that ord",
        ),
        (
            "--tokenizer ptb --adaptive 3,900",
            "expected each below the vocabulary's siz",
        ),
        ("--tokenizer ptb --adaptive 3,9 --hidden 8", "received outputs of 8 and 2"),
        ("--tokenizer ptb --adaptive 3,9 --tie", "no matrix that could be tied"),
        ("--random-window --accumulate 2", "received accumulate = 2, expected 1"),
        ("--average nt-asgd --val-fraction 0", "there is nothing to validate on"),
        ("--average sma", "'nt-asgd[:N]' with N validations"),
        ("--recipe lstm", "awd"),
        ("--valid .", "no such file or folder; received ''"),
        ("--test .", "no such file or folder; received ''"),
        ("--valid word", "[valid] word is too short to evaluate; received 1 tokens"),
        ("--test word", "[test] word is too short to evaluate; received 1 tokens"),
        ("--valid word --val-fraction 0.1", "received a val_fraction of 0.1 too"),
        ("--cell cfc", "'cfc', which reads dt too, expected a cell whose one input"),
    ],
)
def test_bad_options_are_one_message(split, tmp_path, options, message, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "word").write_text("w")
    given = ["" if option == "." else option for option in options.split()]
    said = call("train", split / "train", "--out", out, *given, ok=False)
    assert message in said
    assert not out.exists()
