"""Caches and dynamic evaluation, held to a direct computation."""

import json
import math
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from cellwright import ArgumentError, cells
from cellwright.cli import app
from cellwright.text import cache as caches
from cellwright.text import dynamic as dynamics
from cellwright.text.adaptation import Adaptation
from cellwright.text.cache import Cache
from cellwright.text.dynamic import Dynamic, statistics_of
from cellwright.text.model import LanguageModel, ModelSizes
from cellwright.text.run import Run
from test_cli import SMALL, call, small_text

VOCABULARY = 11


def ignore(count):
    pass


@pytest.fixture
def model():
    sizes = ModelSizes(VOCABULARY, embedding=5, hidden=6, layers=2, dropout=0.3)
    model = LanguageModel(cells.lstm, sizes).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


@pytest.fixture
def numbers():
    """Token numbers that come again."""
    return np.concatenate([np.random.default_rng(1).integers(0, 5, 40)] * 2)


def predictions(model, numbers):
    """The outputs h_t and the log-probabilities of what comes next."""
    x = torch.from_numpy(numbers)
    with torch.no_grad():
        h, _ = model.rnn(model.embed(x[:-1, None]))
    return h[:, 0], model.head(h[:, 0]).log_softmax(-1)


# -- cache --------------------------------------------------------------------


def cached_nats(model, numbers, size, theta, weight):
    """Grave et al. 2017, eq. 2 and 3, word by word."""
    h, own = predictions(model, numbers)
    nats = 0.0
    for t in range(len(h)):
        target = numbers[t + 1]
        kept = range(max(0, t - size), t)
        p = own[t, target].exp().item()
        if kept:
            mass = torch.stack([torch.exp(theta * (h[t] @ h[i])) for i in kept])
            hits = torch.tensor([numbers[i + 1] == target for i in kept])
            cache = (mass[hits].sum() / mass.sum()).item()
            p = (1 - weight) * p + weight * cache
        nats -= math.log(p)
    return nats


@pytest.mark.parametrize("window", [3, 16, 1000])
@pytest.mark.parametrize("size", [1, 7, 50, 500])
def test_a_cache_is_the_papers(model, numbers, monkeypatch, size, window):
    monkeypatch.setattr(caches, "WINDOW", window)
    done = []
    for theta, weight in [(0.7, 0.2), (0.0, 0.5), (2.0, 0.0)]:
        found = Cache(size, theta, weight)(model, numbers, done.append)
        expected = cached_nats(model, numbers, size, theta, weight)
        assert found == pytest.approx(expected, abs=1e-10)
    assert sum(done) == 3 * (len(numbers) - 1)


def test_a_cache_alone_may_be_certain_that_something_does_not_come(model, numbers):
    assert Cache(3, 1.0, 1.0)(model, numbers, ignore) == math.inf


def test_a_cache_is_tuned_over_all_pairs(model, numbers):
    thetas, weights = (0.0, 0.5, 1.5), (0.0, 0.1, 0.6)
    expected = min(
        (cached_nats(model, numbers, 20, theta, weight), theta, weight)
        for theta in thetas
        for weight in weights
    )
    found = caches.tune(model, numbers, 20, thetas, weights)
    assert (found.theta, found.weight) == expected[1:]


@pytest.mark.parametrize("wrong", [(0, 1.0, 0.1), (5, -1.0, 0.1), (5, 1.0, 1.1)])
def test_a_cache_of_wrong_numbers_is_refused(wrong):
    with pytest.raises(
        ArgumentError, match=r"\[cache\] received .*expected N of at le"
    ):
        Cache(*wrong)


# -- dynamic evaluation ---------------------------------------------------------


def oracle_statistics(model, numbers, rows, segment):
    length = (len(numbers) - 1) // rows
    total, state = [torch.zeros_like(p) for p in model.parameters()], None
    count = length // segment
    for k in range(count):
        parts = [
            numbers[r * length + k * segment :][: segment + 1] for r in range(rows)
        ]
        both = torch.from_numpy(np.stack(parts, 1))
        model.zero_grad()
        logits, state = model(both[:-1], state)
        state = tuple(s.detach() for s in state)
        F.cross_entropy(logits.flatten(0, 1), both[1:].flatten()).backward()
        total = [t + p.grad**2 for t, p in zip(total, model.parameters(), strict=True)]
    model.zero_grad()
    return [(t / count) ** 0.5 for t in total]


def test_the_statistics_are_root_mean_squares_of_segments(model, monkeypatch):
    monkeypatch.setattr(dynamics, "ROWS", 4)
    numbers = np.random.default_rng(0).integers(0, VOCABULARY, 4 * 15 + 1)
    found = statistics_of(model, numbers, 3)
    expected = oracle_statistics(model, numbers, 4, 3)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("segment", [1, 4, 200])
def test_dynamic_evaluation_is_the_authors(model, numbers, segment):
    """Their update, written with plain tensors; the last segment is a short one."""
    before = [p.detach().clone() for p in model.parameters()]
    statistics = [torch.rand_like(p) ** 4 for p in before]
    eta, decay, epsilon = 0.02, 0.3, 0.01
    done = []
    found = Dynamic(statistics, eta, decay, epsilon, segment)(
        model, numbers, done.append
    )
    assert sum(done) == len(numbers) - 1
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)  # the model itself stays as it was

    mean = sum(s.mean() for s in statistics) / len(statistics)
    text, nats, state = torch.from_numpy(numbers), 0.0, None
    for start in range(0, len(text) - 1, segment):
        x, y = text[start : start + segment], text[start + 1 : start + 1 + segment]
        x = x[: len(y), None]
        model.zero_grad()
        logits, state = model(x, state)
        state = tuple(s.detach() for s in state)
        loss = F.cross_entropy(logits[:, 0], y)
        nats += loss.item() * len(y)
        loss.backward()
        with torch.no_grad():
            for p, q, s in zip(model.parameters(), before, statistics, strict=True):
                rate = (s / mean).clamp(max=1 / decay)
                p += decay * rate * (q - p) - eta * p.grad / (s + epsilon)
    assert found == pytest.approx(nats, abs=1e-10)
    assert max((statistics[0] / mean).max(), 1 / decay) > 1 / decay  # some are cut


def numpy_nats(weights, x, y, state):
    """An LSTM with tied weights: the mean nats of a segment, x and y (T, B)."""
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    gate = lambda name, hx: (  # noqa: E731
        hx @ weights[f"rnn.cells.0.{name}.weight"].T
        + weights[f"rnn.cells.0.{name}.bias"]
    )
    embedding, (h, c), nats = weights["embed.weight"], state, 0.0
    for now, then in zip(x, y, strict=True):
        hx = np.concatenate([h, embedding[now]], -1)
        f, i, o = (sigmoid(gate(name, hx)) for name in "fio")
        c = f * c + i * np.tanh(gate("g", hx))
        h = o * np.tanh(c)
        logits = h @ embedding.T + weights["head.bias"]
        nats += np.log(np.exp(logits).sum(-1)).sum()
        nats -= logits[np.arange(len(then)), then].sum()
    return nats / y.size, (h, c)


def numpy_gradients(weights, *segment):
    """Central differences, weight by weight."""
    found = {}
    for name, weight in weights.items():
        gradient = np.zeros_like(weight)
        for place in np.ndindex(*weight.shape):
            kept, sides = weight[place], []
            for weight[place] in (kept + 1e-5, kept - 1e-5):
                sides.append(numpy_nats(weights, *segment)[0])
            weight[place] = kept
            gradient[place] = (sides[0] - sides[1]) / 2e-5
        found[name] = gradient
    return found


def numpy_statistics(weights, numbers, rows, segment):
    length = (len(numbers) - 1) // rows
    starts = np.arange(rows) * length
    state = (np.zeros((rows, 3)),) * 2
    total, count = dict.fromkeys(weights, 0.0), length // segment
    for k in range(count):
        at = starts + k * segment + np.arange(segment)[:, None]  # (T, B)
        piece = numbers[at], numbers[at + 1], state
        gradients = numpy_gradients(weights, *piece)
        total = {n: t + gradients[n] ** 2 for n, t in total.items()}
        _, state = numpy_nats(weights, *piece)
    return {n: np.sqrt(t / count) for n, t in total.items()}


def numpy_dynamic(weights, statistics, numbers, eta, decay, epsilon, segment):
    """Krause et al. 2018, section 5: the nats."""
    trained, weights = weights, {n: w.copy() for n, w in weights.items()}
    mean = np.mean([s.mean() for s in statistics.values()])
    state, nats = (np.zeros((1, 3)),) * 2, 0.0
    for start in range(0, len(numbers) - 1, segment):
        x, y = (numbers[start + k :][:segment, None] for k in (0, 1))
        piece = x[: len(y)], y, state
        gradients = numpy_gradients(weights, *piece)
        loss, state = numpy_nats(weights, *piece)
        nats += loss * len(y)
        for n, w in weights.items():
            back = decay * np.minimum(statistics[n] / mean, 1 / decay)
            step = eta * gradients[n] / (statistics[n] + epsilon)
            w += back * (trained[n] - w) - step
    return nats


@pytest.mark.parametrize("decay", [0.02, 0.6])
def test_a_numpy_oracle_from_text_to_nats(monkeypatch, decay):
    """Tied weights, and a word of the text that the statistics never saw."""
    monkeypatch.setattr(dynamics, "ROWS", 2)
    sizes = ModelSizes(5, embedding=3, hidden=3, tie=True, dropout=0.4)
    model = LanguageModel(cells.lstm, sizes).double().eval()
    weights = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    assert sum(w.shape == (5, 3) for w in weights.values()) == 1
    for n, p in model.named_parameters():
        p.data.mul_(2)
        weights[n] *= 2
    generator = np.random.default_rng(3)
    training = generator.integers(0, 4, 2 * 9 + 1)  # no 4
    text = generator.integers(2, 5, 23)
    assert (text == 4).sum() > 3

    found = statistics_of(model, training, 3)
    expected = numpy_statistics(weights, training, 2, 3)
    for a, b in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-8)

    settings = 2e-2, decay, 1e-3, 4
    nats = Dynamic(found, *settings)(model, text, ignore)
    expected_nats = numpy_dynamic(weights, expected, text, *settings)
    assert nats == pytest.approx(expected_nats, abs=1e-6)
    still = numpy_dynamic(weights, expected, text, 0.0, *settings[1:])
    assert abs(still - nats) > 0.1  # it learned something


def test_weights_that_diverge_are_an_error_that_names_the_rate(model, numbers):
    statistics = statistics_of(model, numbers)
    done = []
    message = r"\[dynamic\] the weights have learned .* rate of 1e\+308 .* smaller rate"
    with pytest.raises(ArgumentError, match=message):
        Dynamic(statistics, rate=1e308)(model, numbers, done.append)
    assert sum(done) < len(numbers) - 1  # it stops there
    choices = (1e308, 0.0, 1e-5)
    found = dynamics.tune(model, numbers, Dynamic(statistics), choices, [0.0])
    assert found.rate < 1


def test_a_model_of_nan_has_no_statistics(model, numbers):
    with torch.no_grad():
        model.head.bias[0] = math.nan
    with pytest.raises(ArgumentError, match=r"\[dynamic\] .* gradients .* are NaN"):
        statistics_of(model, numbers)


def test_weights_without_any_gradient_do_not_become_nan(model, numbers):
    statistics = [torch.zeros_like(p) for p in model.parameters()]
    found = Dynamic(statistics, rate=1e-7, decay=0.5)(model, numbers, ignore)
    assert math.isfinite(found)


def test_an_epsilon_of_0_is_refused():
    with pytest.raises(ArgumentError, match=r"an epsilon of 0 .* above 0"):
        Dynamic((), epsilon=0.0)


def test_a_rate_of_0_is_chosen_where_learning_is_worse(model):
    """A text without order, which a model that expects none is best at."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    numbers = np.random.default_rng(0).integers(0, VOCABULARY, 400)
    start = Dynamic([torch.ones_like(p) for p in model.parameters()], epsilon=1.0)
    found = dynamics.tune(model, numbers, start, (3.0, 1.0, 0.0), (0.1, 0.0))
    assert found.rate == 0
    plain = (len(numbers) - 1) * math.log(VOCABULARY)
    assert found(model, numbers, ignore) == pytest.approx(plain, abs=1e-9)
    assert start(model, numbers, ignore) != pytest.approx(plain, abs=1e-9)


def test_dynamic_evaluation_is_tuned_on_a_text(model, numbers):
    start = Dynamic(statistics_of(model, numbers), segment=8)
    rates, decays = (0.0, 1e-3, 1e-2), (0.0, 0.5)
    found = dynamics.tune(model, numbers, start, rates, decays)
    assert found.rate > 0  # it repeats itself: learning from it pays
    assert found.rate in rates
    assert found.decay in decays
    nats = [d(model, numbers, ignore) for d in (found, start)]
    assert nats[0] < nats[1]


# -- the command ------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text())
    return path


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "small"
    options = [*SMALL, "--tokenizer", "word", "--steps", 30]
    call("train", text, "--out", directory, *options)
    return directory


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A text that says the same again and again."""
    path = tmp_path_factory.mktemp("text") / "other.txt"
    path.write_text("said the queen to the night of love \n" * 40)
    return path


def test_both_gain_and_say_what_they_used(run, other):
    plain = json.loads(call("evaluate", run, other, "--json"))
    for options in (["--cache", "50"], ["--dynamic"]):
        found = json.loads(call("evaluate", run, other, "--json", *options))
        assert found["perplexity"] < plain["perplexity"]
        (name,) = found.keys() - plain.keys()
        assert name == options[0].removeprefix("--")
        assert f"{name}: " in call("evaluate", run, other, *options)
    given = ["--dynamic", "--rate", 0, "--decay", 0.1, "--segment", 7]
    found = json.loads(call("evaluate", run, other, "--json", *given))
    assert found.pop("dynamic") == {"rate": 0, "decay": 0.1, "segment": 7}
    assert found["nats_per_token"] == pytest.approx(plain["nats_per_token"], abs=1e-5)
    assert "dynamic changes nothing at 0" in call("evaluate", run, other, *given)


def test_nothing_is_tuned_on_the_text_that_is_evaluated(run):
    message = call("evaluate", run, "--cache", 50, ok=False)
    assert "holds out no text beside the one that is evaluated" in message
    assert "received 50 alone, expected N,θ,λ as in 500,0.3,0.1, or another" in message
    found = json.loads(call("evaluate", run, "--json", "--cache", "50,0.5,0.1"))
    assert found["cache"] == {"size": 50, "theta": 0.5, "lambda": 0.1}
    loaded = Run(run)
    reader, how = Adaptation(dynamic=True).reader(loaded, loaded.trained_model(), False)
    assert how == {"dynamic": {"rate": 5e-5, "decay": 2e-3, "segment": 5}}
    assert (reader.rate, reader.epsilon) == (5e-5, 2e-5)


def test_a_text_given_by_name_may_be_the_one_to_tune_on(text, tmp_path):
    """A copy of --valid under any name: its figures would be those it was tuned for."""
    held_out = tmp_path / "held-out.txt"
    held_out.write_text("the queen of love said to the king \n" * 20)
    options = [*SMALL, "--valid", held_out, "--steps", 2, "--tokenizer", "ptb"]
    call("train", text, "--out", tmp_path / "run", *options)
    copy = tmp_path / "copy.txt"
    copy.write_bytes(held_out.read_bytes())
    message = call("evaluate", tmp_path / "run", copy, "--cache", 50, ok=False)
    assert "holds out no text beside the one that is evaluated" in message
    found = errors("evaluate", tmp_path / "run", copy, "--dynamic")
    assert found.startswith("note: --dynamic is not tuned")
    copy.write_text("the king said no more \n" * 20)
    assert errors("evaluate", tmp_path / "run", copy, "--dynamic") == ""


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none.txt", [], "no such file or folder; received"),
        ("one.txt", [], "too short to evaluate: 1 tokens"),
        ("text.txt", ["--free-running"], "both free_running and another way"),
    ],
)
def test_what_is_refused_is_refused_before_tuning(
    run, tmp_path, monkeypatch, name, options, message
):
    def tuned(*arguments, **more):
        raise AssertionError("minutes of work")

    monkeypatch.setattr("cellwright.text.cache.tune", tuned)
    (tmp_path / "one.txt").write_text("a")
    (tmp_path / "text.txt").write_text("the king said")
    command = ["evaluate", run, tmp_path / name, "--cache", 50, *options]
    assert message in call(*command, ok=False)


def test_what_is_not_tuned_needs_no_held_out_text(run, other, tmp_path):
    """As of a model that was published: it has no texts."""
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "held-out.tokens").unlink()
    for options in (
        ["--cache", "20,0.3,0.1"],
        ["--dynamic", "--rate", 0, "--decay", 0],
    ):
        call("evaluate", copy, other, *options)
    assert "held-out.tokens" in call("evaluate", copy, other, "--cache", 20, ok=False)


def errors(*arguments):
    """What a command writes on standard error."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stderr


@pytest.mark.parametrize(
    ("given", "usual"),
    [
        ([], "the paper's --rate and --decay"),
        (["--rate", 1e-5], "the paper's --decay"),
        (["--decay", 0], "the paper's --rate"),
        (["--rate", 1e-5, "--decay", 0], None),
    ],
)
def test_it_says_that_it_does_not_tune(run, other, given, usual):
    found = errors("evaluate", run, "--json", "--dynamic", *given)
    if usual:
        assert found.startswith("note: --dynamic is not tuned, for the run holds out")
        assert f"; {usual} (Krause et al. 2018) will be used." in found
    else:
        assert found == ""
    assert errors("evaluate", run, other, "--dynamic", *given) == ""  # it tunes


def test_a_run_that_holds_out_nothing_has_nothing_to_tune_on(text, other, tmp_path):
    options = [*SMALL, "--val-fraction", 0, "--steps", 1]
    call("train", text, "--out", tmp_path / "run", *options)
    command = ["evaluate", tmp_path / "run", other]
    assert "note: --dynamic is not tuned" in errors(*command, "--dynamic")
    message = call(*command, "--cache", 50, ok=False)
    assert message.endswith("expected N,θ,λ as in 500,0.3,0.1\n")


@pytest.mark.parametrize(
    ("options", "bars"),
    [
        (["--dynamic"], ["gathering statistics", "tuning the rate"]),
        (["--cache", "20"], ["tuning the cache"]),
    ],
)
def test_a_terminal_shows_how_far_tuning_is(run, other, monkeypatch, options, bars):
    command = ["evaluate", run, other, *options]
    assert errors(*command) == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if it were a terminal
    shown = errors(*command)
    for bar in [*bars, "evaluating"]:
        assert bar in shown


@pytest.mark.parametrize("asked", [Adaptation(dynamic=True), Adaptation("20")])
def test_a_bar_ends_at_its_total(run, asked):
    shown = []

    @contextmanager
    def bar(what, total):
        done = []
        yield done.append
        shown.append((what, sum(done), total))

    loaded = Run(run)
    asked.reader(loaded, loaded.trained_model(), True, bar)
    assert shown
    for what, done, total in shown:
        assert done == total > 1, what


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache", "5,1"], "expected N,θ,λ as in 500,0.3,0.1, or N"),
        (["--cache", "many"], "expected N,θ,λ"),
        (["--cache", "0"], "expected N,θ,λ"),
        (["--cache", "5,1,2"], "λ from 0 to 1"),
        (["--cache", "5,1,0.1", "--dynamic"], "both a cache and --dynamic"),
        (["--cache", "5,1,0.1", "--free-running"], "both free_running and another"),
        (["--cache", "5,1,1"], "tokens of probability 0, those that are not in it"),
        (["--rate", "0.1"], "[rate] belongs to --dynamic"),
        (["--dynamic", "--segment", "0"], "segments of 0; expected"),
    ],
)
def test_bad_options_are_one_message(run, options, message):
    assert message in call("evaluate", run, *options, ok=False)
