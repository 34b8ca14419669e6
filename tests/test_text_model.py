"""The language model, its figures and its samples."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from cellwright import ArgumentError, cells
from cellwright.cli.show import sentence
from cellwright.text import score as scoring
from cellwright.text.corpus import CorpusError, write_tokens
from cellwright.text.generate import generate, keep_likely
from cellwright.text.model import LanguageModel, ModelSizes, NextToken
from cellwright.text.score import score
from cellwright.text.tokenizer import TextTokenizer
from cellwright.train.forcing import ConstantForcing

TEXT = "to be or not to be, that is the question. " * 4


@pytest.fixture
def tokenizer():
    return TextTokenizer.learn("char", [TEXT])


def new_model(tokenizer, cell=cells.lstm, **sizes):
    torch.manual_seed(0)
    sizes = ModelSizes(tokenizer.vocabulary, **{"embedding": 6, "hidden": 8, **sizes})
    return LanguageModel(cell, sizes, unknown=tokenizer.unknown)


@pytest.mark.parametrize("cell", [cells.lstm, cells.gru, cells.peephole, cells.rnn])
def test_any_cell_carries_its_state_from_window_to_window(tokenizer, cell):
    model = new_model(tokenizer, cell, layers=2)
    tokens = torch.randint(tokenizer.vocabulary, (9, 3))
    whole, _ = model(tokens)
    first, state = model(tokens[:4])
    second, _ = model(tokens[4:], state)
    assert whole.shape == (9, 3, tokenizer.vocabulary)
    torch.testing.assert_close(torch.cat([first, second]), whole)


def test_penalties_look_at_the_last_layers_outputs_around_their_dropout(tokenizer):
    model = new_model(tokenizer, dropout=0.5, locked=True)
    x, y = torch.randint(tokenizer.vocabulary, (2, 5, 3))
    batch = {"x": x, "y": y, "first": torch.tensor(True)}
    torch.manual_seed(1)
    logits, _, before, after = model(x, outputs=True)
    dropped = (after == 0).all(0)  # locked: the same units at every step
    assert 0.2 < dropped.float().mean() < 0.8
    torch.testing.assert_close(after, torch.where(dropped, 0, before * 2))
    torch.testing.assert_close(model.head(after), logits)
    expected = F.cross_entropy(logits.flatten(0, 1), y.flatten())
    expected += 2 * after.square().mean() + 3 * before.diff(dim=0).square().mean()
    torch.manual_seed(1)
    loss, _ = NextToken(ConstantForcing(1.0), 2, 3)(model, batch, None, 0)
    torch.testing.assert_close(loss, expected)


def test_tied_weights_are_one_parameter(tokenizer):
    model = new_model(tokenizer, tie=True, embedding=8)
    assert model.head.weight is model.embed.weight
    with pytest.raises(ArgumentError, match=r"embedding of 6 .*Give --embedding 8"):
        new_model(tokenizer, tie=True)


def test_the_objective_is_the_mean_and_starts_anew_where_the_batch_says_so(tokenizer):
    model = new_model(tokenizer)
    objective = NextToken(ConstantForcing(1.0))
    x, y = torch.randint(tokenizer.vocabulary, (2, 5, 3))
    state = model.rnn(torch.randn(2, 3, 6))[1]
    for first, start in [(True, None), (False, state)]:
        batch = {"x": x, "y": y, "first": torch.tensor(first)}
        loss, _ = objective(model, batch, state, 0)
        chances = model(x, start)[0].log_softmax(-1)
        expected = -chances.gather(-1, y[..., None]).mean()
        torch.testing.assert_close(loss, expected)


def test_every_forcing_gives_every_parameter_a_gradient(tokenizer):
    model = new_model(tokenizer)
    tokens = torch.randint(tokenizer.vocabulary, (5, 3))
    for ratio in (1.0, 0.5, 0.0):
        model.zero_grad()
        model(tokens, None, ratio)[0].square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("window", [7, 1024])
def test_a_score_is_over_all_targets_of_the_whole_text(
    tokenizer, tmp_path, monkeypatch, window
):
    monkeypatch.setattr(scoring, "WINDOW", window)
    model = new_model(tokenizer, dropout=0.5, layers=2).train()
    tokens = write_tokens(iter([TEXT]), tokenizer, tmp_path / "t")
    done = []
    figures = score(model, tokens, tokenizer, advance=done.append)
    assert model.training  # put back, and not used: dropout would change the figure

    numbers = torch.from_numpy(tokenizer.encode(TEXT))
    with torch.no_grad():
        logits, _ = model.eval()(numbers[:-1, None])
    expected = F.cross_entropy(logits[:, 0].double(), numbers[1:]).item()
    assert figures.nats_per_char == pytest.approx(expected, abs=1e-6)
    assert figures.nats_per_token == figures.nats_per_char
    assert figures.perplexity == pytest.approx(math.exp(expected))
    found = figures.to_json()
    assert found["bits_per_char"] == pytest.approx(expected / math.log(2))
    assert (found["characters"], found["tokens"]) == (len(TEXT), len(TEXT))
    assert sum(done) == len(TEXT) - 1


@pytest.mark.parametrize(("large", "known"), [(700.0, True), (2000.0, False)])
def test_a_perplexity_beyond_all_floats_is_none(tokenizer, tmp_path, large, known):
    model = new_model(tokenizer)
    tokens = write_tokens(iter([TEXT]), tokenizer, tmp_path / "t")
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[tokenizer.unknown] = large  # which is never what comes
    figures = score(model, tokens, tokenizer)
    assert figures.nats_per_token == pytest.approx(large)
    expected = pytest.approx(math.exp(large), rel=1e-3) if known else None
    assert figures.perplexity == expected
    shown = sentence(figures)
    assert ("perplexity beyond 1e308" in shown) != known


def test_nats_per_character_do_not_depend_on_what_a_token_is(tmp_path):
    """Uniform predictions over V tokens: ln V a token, shared by its characters."""
    tokenizer = TextTokenizer.learn("word", [TEXT])
    model = new_model(tokenizer)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    tokens = write_tokens(iter(["to be"]), tokenizer, tmp_path / "t")
    figures = score(model, tokens, tokenizer)  # "to", " be": one target, 3 characters
    assert figures.nats_per_token == pytest.approx(math.log(tokenizer.vocabulary))
    assert figures.nats_per_char == pytest.approx(math.log(tokenizer.vocabulary) / 3)


def test_unknown_characters_are_counted_and_do_not_fail(tokenizer, tmp_path):
    tokens = write_tokens(iter(["to be €"]), tokenizer, tmp_path / "t")
    figures = score(new_model(tokenizer), tokens, tokenizer)
    assert figures.unknown == 1
    assert figures.finite


@pytest.mark.parametrize("text", ["", "t"])
def test_a_text_without_targets_is_refused(tokenizer, tmp_path, text):
    tokens = write_tokens(iter([text]), tokenizer, tmp_path / "t")
    with pytest.raises(CorpusError, match="expected at least 2"):
        score(new_model(tokenizer), tokens, tokenizer)


def test_free_running_reads_samples_instead_of_the_text(tokenizer, tmp_path):
    """With a model that always says `t`, the text it reads is known."""
    model = new_model(tokenizer)
    torch.nn.init.zeros_(model.head.weight)
    t = int(tokenizer.encode("t")[0])
    with torch.no_grad():
        model.head.bias.fill_(-50.0)[t] = 50.0
    read = []
    model.embed.register_forward_pre_hook(lambda m, args: read.append(args[0].clone()))
    tokens = write_tokens(iter(["be or not"]), tokenizer, tmp_path / "t")
    score(model, tokens, tokenizer, free_running=True)
    seen = torch.cat(read)[:, 0].tolist()
    assert tokenizer.decode(seen) == "b" + "t" * 7


def text_from(model, tokenizer, **options):
    return "".join(generate(model, tokenizer, **options))


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_stepper_predicts_what_the_model_does(tokenizer, engine):
    torch.manual_seed(0)
    sizes = ModelSizes(tokenizer.vocabulary, embedding=6, hidden=8, layers=2)
    sizes = replace(sizes, dropout=0.5, zoneout=0.3)
    model = LanguageModel(cells.lstm, sizes, engine=engine, unknown=tokenizer.unknown)
    model.eval()
    tokens = torch.randint(tokenizer.vocabulary, (12, 1))
    whole, _ = model(tokens)
    _, state = model(tokens[:4])
    step = model.stepper(state)
    steps = torch.stack([step(token) for token in tokens[4:]])
    assert not steps.requires_grad
    torch.testing.assert_close(steps, whole[4:].detach())


def test_a_seed_repeats_a_sample_and_another_does_not(tokenizer):
    model = new_model(tokenizer)
    one = text_from(model, tokenizer, prompt="to", length=50, seed=1)
    assert len(one) == 50
    assert one == text_from(model, tokenizer, prompt="to", length=50, seed=1)
    assert one != text_from(model, tokenizer, prompt="to", length=50, seed=2)


def test_greedy_is_temperature_zero_and_top_one(tokenizer):
    model = new_model(tokenizer)
    greedy = text_from(model, tokenizer, prompt="to be", length=30, temperature=0)
    assert greedy == text_from(model, tokenizer, prompt="to be", length=30, top_k=1)
    assert greedy == text_from(model, tokenizer, prompt="to be", length=30, top_p=1e-9)

    numbers = tokenizer.encode("to be").tolist()  # without a carried state
    for _ in range(30):
        logits = model(torch.tensor(numbers)[:, None])[0][-1, 0]
        logits[tokenizer.unknown] = -math.inf
        numbers.append(int(logits.argmax()))
    assert tokenizer.decode(numbers[5:]) == greedy


def test_the_unknown_token_is_never_said(tokenizer):
    model = new_model(tokenizer)
    with torch.no_grad():
        model.head.bias[tokenizer.unknown] = 100.0
    said = text_from(model, tokenizer, prompt="€", length=200, seed=0)
    assert "\ufffd" not in said
    own = model.sample(model(torch.zeros(1, 500, dtype=torch.long))[0])
    assert not (own == tokenizer.unknown).any()


def test_top_k_and_top_p_keep_the_likeliest():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    kept = lambda *a: keep_likely(logits, *a).isfinite().nonzero()[:, 0].tolist()  # noqa: E731
    assert kept(2, None) == [1, 3]
    assert kept(9, None) == [0, 1, 2, 3]
    assert kept(None, 0.65) == [1, 3]
    assert kept(None, 0.75) == [1, 2, 3]
    assert kept(None, 1.0) == [0, 1, 2, 3]
    assert kept(3, 0.5) == [1, 3]  # of 4/9, 3/9, 2/9: two reach one half


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"length": -1}]
)
def test_settings_out_of_range_are_refused_at_once(tokenizer, wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong)).replace("_", "-")):
        generate(new_model(tokenizer), tokenizer, **wrong)
