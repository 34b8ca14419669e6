"""What the experiment measures, on nets whose answers are known."""

import math

import pytest
import torch

from cellwright.lab import tasks, teacher_forcing
from cellwright.lab.experiment import Rows
from cellwright.lab.tasks.prose import LETTERS, prose
from cellwright.lab.teacher_forcing import HORIZON, WARM_UP, by_horizon
from cellwright.nn.beam_search import Hypothesis


def test_a_net_that_doubles_its_error_is_seen_to():
    """The truth is 0; the net answers twice what it reads and adds 1: forced it is
    wrong by 1, run freely by 2^h − 1."""
    test = torch.zeros(WARM_UP + 11, 4, 1, dtype=torch.float64)
    forced, free, written = by_horizon(
        lambda x, state: (2 * x + 1, None),
        test,
        lambda a, b: (a - b)[..., 0],
        lambda a: a,
    )
    assert (forced == 1).all()
    assert free[:, 0].tolist() == [2**h - 1 for h in range(1, 11)]
    assert written[:, 0, 0].tolist() == [2**h - 1 for h in range(10)]


def test_state_is_carried_from_the_warm_up():
    """A net that answers the number of steps it has read."""

    def count(x, state):
        before = 0 if state is None else state
        steps = torch.arange(before + 1, before + len(x) + 1.0).view(-1, 1, 1)
        return steps.expand(-1, x.shape[1], 1), before + len(x)

    forced, free, _ = by_horizon(
        count, torch.zeros(WARM_UP + 6, 2, 1), lambda a, b: a[..., 0], lambda a: a
    )
    assert forced[:, 0].tolist() == [WARM_UP + k for k in range(1, 6)]
    assert torch.equal(forced, free)


def test_whole_words_are_counted_where_they_stand():
    text = "xx the zzzq the of zzzq is of the qqqj qj zz".ljust(48, "z")
    codes = torch.tensor([[LETTERS.index(c)] for c in text])
    # quarters of 12 letters: the zzzq | the of zzzq | is of the qqqj | qj (zz… is cut)
    assert teacher_forcing.known_words(codes) == [0.5, 0.6667, 0.75, 0.0]


def test_the_prose_is_letters_and_single_blanks():
    text = prose()
    assert set(text) == set(LETTERS)
    assert "  " not in text
    assert len(text) > 100_000


def test_reach_is_told_in_lyapunov_times():
    errors = [0.1] * 40 + [0.9] * (HORIZON - 40)
    rows = Rows(({"part": "series", "forcing": "1", "typical": errors},))
    expected = 40 * teacher_forcing.INTERVAL / tasks.LYAPUNOV_TIME
    assert teacher_forcing.reach(rows, "1") == pytest.approx(expected)
    assert math.isclose(expected, 1.812, rel_tol=1e-3)


def test_a_copy_ends_with_the_end_token():
    source, target = teacher_forcing.copies(3, torch.Generator().manual_seed(0))
    assert source.shape == (teacher_forcing.COPIED, 3)
    assert torch.equal(target[:-1], source)
    assert target[-1].tolist() == [0, 0, 0]
    assert ((source >= 1) & (source <= teacher_forcing.SYMBOLS)).all()


def test_what_is_written_is_filled_with_end_tokens():
    class Writer:
        end = 0

        def greedy(self, source, max_length):
            assert max_length == 4
            outputs = [], [5], [1, 2, 3], [1, 2, 3, 4]
            return [Hypothesis(tokens, 0.0, 0.0) for tokens in outputs]

    tokens = teacher_forcing.written(Writer(), torch.ones(3, 4, dtype=torch.long))
    rows = [[0, 0, 0, 0], [5, 0, 0, 0], [1, 2, 3, 0], [1, 2, 3, 4]]
    assert tokens.T.tolist() == rows


@pytest.mark.parametrize("forcing", teacher_forcing.FORCINGS)
def test_the_errors_of_copying_are_by_place(forcing):
    case = {"part": "copying", "forcing": forcing, "hidden": 8, "steps": 2, "seed": 0}
    measured = teacher_forcing.run(case)
    for key in ("forced", "free"):
        assert len(measured[key]) == teacher_forcing.COPIED
        assert all(0 <= error <= 1 for error in measured[key])
    assert measured["forced"][0] == pytest.approx(measured["free"][0], abs=0.005)


def test_the_probability_follows_the_schedule_step_by_step():
    schedule = teacher_forcing.probabilities({"forcing": "linear:0", "steps": 4})
    assert [next(schedule) for _ in range(4)] == [1.0, 0.75, 0.5, 0.25]
