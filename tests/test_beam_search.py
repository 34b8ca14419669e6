"""Beam search: exhaustive where the beam is wide, and never better than that."""

from itertools import product

import pytest
import torch

from cellwright import ArgumentError
from cellwright.nn.beam_search import Search, beam_search

END, VOCABULARY, LONGEST = 1, 4, 3


def model(rows, beam):
    """A random table of predictions by row and prefix, and `advance` over it."""
    generator = torch.Generator().manual_seed(7)
    table = {}

    def logits(row, prefix):
        if (row, prefix) not in table:
            drawn = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
            table[row, prefix] = 2 * drawn
        return table[row, prefix]

    for row in range(rows):  # the table is the same whatever order it is asked in
        for length in range(LONGEST + 1):
            for prefix in product(range(VOCABULARY), repeat=length):
                logits(row, prefix)
    prefixes = [()] * (rows * beam)

    def advance(tokens, parents):
        nonlocal prefixes
        if advance.called:
            kept = [prefixes[p] for p in parents.tolist()]
            prefixes = [(*p, t) for p, t in zip(kept, tokens.tolist(), strict=True)]
        advance.called = True
        return torch.stack([logits(n // beam, p) for n, p in enumerate(prefixes)])

    advance.called = False
    return logits, advance


def every_output(logits, row, penalty):
    """All outputs of a row by their scores, computed one by one."""
    others = [t for t in range(VOCABULARY) if t != END]
    found = []
    for length in range(LONGEST + 1):
        for prefix in product(others, repeat=length):
            total = 0.0
            for t, token in enumerate((*prefix, END)):
                chances = logits(row, prefix[:t]).log_softmax(-1)
                last = t == LONGEST  # where only the end token is allowed
                total += chances[token].item()
                assert not last or token == END
            found.append((total / (length + 1) ** penalty, total, list(prefix)))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 0.6, 3.0])
@pytest.mark.parametrize("n_best", [1, 7, 30])
def test_a_wide_beam_is_exhaustive_search(penalty, n_best):
    rows, beam = 3, 60  # there are 40 outputs
    logits, advance = model(rows, beam)
    search = Search(beam, n_best, penalty, LONGEST)
    for row, found in enumerate(beam_search(advance, rows, END, search)):
        expected = every_output(logits, row, penalty)[:n_best]
        assert [h.tokens for h in found] == [tokens for *_, tokens in expected]
        for hypothesis, (score, total, _) in zip(found, expected, strict=True):
            assert hypothesis.score == pytest.approx(score, abs=1e-5)
            assert hypothesis.log_probability == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_narrow_beam_finds_real_outputs_that_are_no_better(penalty):
    scores = {}
    for beam in (1, 2, 3, 60):
        logits, advance = model(4, beam)
        found = beam_search(advance, 4, END, Search(beam, 1, penalty, LONGEST))
        scores[beam] = [own[0].score for own in found]
        for row, (best,) in enumerate(found):
            listed = {tuple(t): s for s, _, t in every_output(logits, row, penalty)}
            assert best.score == pytest.approx(listed[tuple(best.tokens)], abs=1e-5)
            assert best.score <= max(listed.values()) + 1e-5
    assert sum(scores[60]) >= sum(scores[1])


def test_a_beam_of_one_writes_the_likeliest_token_at_each_step():
    logits, advance = model(5, 1)
    for row, (best,) in enumerate(beam_search(advance, 5, END, Search(1, 1, 1.0, 3))):
        tokens = []
        while len(tokens) < LONGEST:
            token = int(logits(row, tuple(tokens)).argmax())
            if token == END:
                break
            tokens.append(token)
        assert best.tokens == tokens


def test_a_row_that_is_done_does_not_wait_for_the_others():
    calls = []

    def advance(tokens, parents):
        calls.append(len(tokens))
        return torch.tensor([[0.0, 50.0, 0.0]] * 2)  # both end at once

    found = beam_search(advance, 2, END, Search(1, 1, 1.0, 1000))
    assert [own[0].tokens for own in found] == [[], []]
    assert calls == [2]


def test_a_token_without_a_chance_is_never_written():
    def advance(tokens, parents):
        return torch.tensor([[5.0, -1.0, -torch.inf]] * 6)

    (own,) = beam_search(advance, 1, END, Search(6, 6, 1.0, 2))
    assert [h.tokens for h in own] == [[0, 0], [0], []]  # no more outputs than exist
    assert all(torch.tensor(h.score).isfinite() for h in own)


def test_predictions_that_are_no_numbers_are_refused():
    def advance(tokens, parents):
        return torch.full((1, 3), torch.nan)

    with pytest.raises(
        ArgumentError, match=r"\[beam search\] received a prediction of"
    ):
        beam_search(advance, 1, END, Search(1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beam": 0}, "beam is out of its range; received 0, expected 1 to"),
        (
            {"beam": 2, "n_best": 3},
            "n_best is out of its range; received 3, expected 1",
        ),
        ({"length_penalty": -1.0}, "length_penalty .* received -1.0"),
        ({"length_penalty": float("nan")}, "length_penalty .* received nan"),
        ({"max_length": -1}, "max_length .* received -1"),
    ],
)
def test_numbers_out_of_range(wrong, message):
    with pytest.raises(ArgumentError, match=message):
        Search(**wrong)
