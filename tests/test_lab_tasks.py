"""The laboratory's tasks: answers worked out by hand, laws that every draw obeys."""

import itertools
import math

import pytest
import torch
from scipy.io import savemat

from cellwright import ArgumentError
from cellwright.lab import tasks
from cellwright.lab.tasks import chaos, music, reber
from cellwright.lab.tasks.listops import TOKENS, Expression


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


GENERATORS = {
    "adding": lambda g: tasks.adding(9, 30, g),
    "copy": lambda g: tasks.copy(9, 12, g),
    "marked_sum": lambda g: tasks.marked_sum(9, 40, g),
    "marked_product": lambda g: tasks.marked_product(9, 40, g),
    "two_sequence": lambda g: tasks.two_sequence(9, 40, g),
    "temporal_order": lambda g: tasks.temporal_order(9, g),
    "embedded_reber": lambda g: tasks.embedded_reber(9, g),
    "associative_recall": lambda g: tasks.associative_recall(9, 6, 8, g),
    "permutations": lambda g: tasks.permutations(9, 30, 3, g),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_seed_fixes_the_draws(name):
    make = GENERATORS[name]
    a, b, other = make(seeded()), make(seeded()), make(seeded(4))
    assert torch.equal(a.inputs, b.inputs)
    assert torch.equal(a.targets, b.targets)
    assert torch.equal(a.lengths, b.lengths)
    same = a.inputs.shape == other.inputs.shape
    assert not (same and torch.equal(a.inputs, other.inputs))
    assert len(a.inputs) == a.lengths.max()
    assert (a.inputs[~a.mask()] == 0).all()


def test_last_takes_each_sequences_last_step():
    outputs = torch.arange(12.0).view(4, 3, 1)
    batch = tasks.Sequences(outputs, outputs[0], torch.tensor((4, 1, 2)))
    assert batch.last(outputs).flatten().tolist() == [9.0, 1.0, 5.0]
    assert batch.mask().sum(0).tolist() == [4, 1, 2]


# -- long lags -----------------------------------------------------------------


def test_adding_sums_one_number_of_each_half():
    batch = tasks.adding(500, 31, seeded())
    numbers, marks = batch.inputs.unbind(-1)
    assert (marks[:15].sum(0) == 1).all()
    assert (marks[15:].sum(0) == 1).all()
    for row in range(5):
        marked = [float(numbers[t, row]) for t in range(31) if marks[t, row] == 1]
        assert float(batch.targets[row]) == pytest.approx(sum(marked))
    naive = ((batch.targets - 1) ** 2).mean()
    assert float(naive) == pytest.approx(1 / 6, rel=0.15)
    assert (marks[14] + marks[15]).sum() > 0  # marks reach the middle from both sides


def test_copy_asks_for_the_first_symbols_after_the_delimiter():
    batch = tasks.copy(40, 5, seeded(), items=3)
    read = batch.inputs.argmax(-1)
    assert read.shape == (11, 40)
    assert (read[3:7] == 8).all()
    assert (read[7] == 9).all()
    assert (read[8:] == 8).all()
    assert (batch.targets[:8] == 8).all()
    assert torch.equal(batch.targets[8:], read[:3])
    assert set(read[:3].flatten().tolist()) == set(range(8))


@pytest.mark.parametrize("task", [tasks.marked_sum, tasks.marked_product])
def test_marked_pairs_are_worked_out_by_hand(task):
    batch = task(800, 40, seeded())
    seconds = set()
    for row in range(800):
        length = int(batch.lengths[row])
        assert 40 <= length <= 44
        pairs = batch.inputs[:length, row].tolist()
        assert pairs[-1][1] == -1
        places = [t for t, (_, mark) in enumerate(pairs) if mark == 1]
        assert len(places) == 2
        assert places[0] < 10
        assert places[1] < 19
        assert pairs[0][1] == (1 if places[0] == 0 else -1)
        seconds.update(places)
        if task is tasks.marked_sum:
            values = [0.0 if t == 0 else pairs[t][0] for t in places]
            expected = 0.5 + sum(values) / 4
        else:
            expected = math.prod(1.0 if t == 0 else pairs[t][0] for t in places)
        assert float(batch.targets[row]) == pytest.approx(expected, abs=1e-6)
    assert seconds == set(range(19))


def test_two_sequence_tells_its_class_at_the_beginning():
    batch = tasks.two_sequence(400, 50, seeded(), informative=3)
    signs = 2 * batch.targets[:, 0] - 1
    assert torch.equal(batch.inputs[:3, :, 0], signs.expand(3, -1))
    noise = batch.inputs[3:50, :, 0]
    assert float(noise.var()) == pytest.approx(0.2, rel=0.05)
    noisy = tasks.two_sequence(400, 50, seeded(), informative=1, noisy=True)
    signs = 2 * noisy.targets[:, 0] - 1
    around = noisy.inputs[0, :, 0] - signs
    assert float(around.var()) == pytest.approx(0.2, rel=0.2)
    assert float(around.mean()) == pytest.approx(0, abs=0.08)


@pytest.mark.parametrize(
    ("marks", "ranges"),
    [(2, ((10, 20), (50, 60))), (3, ((10, 20), (33, 43), (66, 76)))],
)
def test_temporal_order_reads_the_marks_as_binary_digits(marks, ranges):
    batch = tasks.temporal_order(300, seeded(), marks=marks)
    assert set(batch.targets.tolist()) == set(range(2**marks))
    for row in range(300):
        length = int(batch.lengths[row])
        symbols = batch.inputs[:length, row].argmax(-1)
        text = "".join("EBXYabcd"[s] for s in symbols)
        assert text[0] == "E"
        assert text[-1] == "B"
        places = [t for t, symbol in enumerate(text) if symbol in "XY"]
        assert all(a <= t <= b for t, (a, b) in zip(places, ranges, strict=True))
        digits = "".join("01"["XY".index(text[t])] for t in places)
        assert int(digits, 2) == batch.targets[row]


def test_short_sequences_are_refused():
    with pytest.raises(ArgumentError, match=r"\[adding\].*received 1 steps, expected"):
        tasks.adding(3, 1, seeded())
    with pytest.raises(ArgumentError, match=r"\[temporal_order\].*received marks=4"):
        tasks.temporal_order(3, seeded(), marks=4)


# -- Reber ---------------------------------------------------------------------


def _followers(text: str) -> str:
    """The symbols that may follow a beginning, by Reber's diagram (H&S, figures 3, 4),
    as a regular grammar of its own: state and symbol give the next state."""
    inner = {
        "0B": "1",
        "1T": "2",
        "1P": "3",
        "2S": "2",
        "2X": "4",
        "3T": "3",
        "3V": "5",
        "4X": "3",
        "4S": "6",
        "5P": "4",
        "5V": "6",
        "6E": "7",
    }
    if len(text) < 2:
        return "B" if not text else "TP"
    state = "0"
    for k, symbol in enumerate(text[2:], 2):
        if state == "7":
            assert symbol == text[1]
            assert k == len(text) - 1
            return "E"
        state = inner[state + symbol]
    return text[1] if state == "7" else "".join(k[1] for k in inner if k[0] == state)


def test_embedded_reber_offers_what_the_diagram_allows():
    batch = tasks.embedded_reber(300, seeded())
    strings = set()
    for row in range(300):
        length = int(batch.lengths[row])
        text = "".join(reber.SYMBOLS[s] for s in batch.inputs[:length, row].argmax(-1))
        strings.add(text)
        for t in range(length):
            found = batch.targets[t, row].nonzero().flatten()
            offered = {reber.SYMBOLS[s] for s in found}
            assert offered == set(_followers(text[: t + 1]))
        assert text[1] == text[-1]
        assert _followers(text) == "E"
    assert len(strings) > 60
    assert (batch.targets[~batch.mask()] == 0).all()


# -- the Lorenz system ---------------------------------------------------------


def test_lorenz_rests_at_its_fixed_points_and_moves_by_its_equations():
    at = math.sqrt(chaos.BETA * (chaos.RHO - 1))
    point = torch.tensor((at, at, chaos.RHO - 1), dtype=torch.float64)
    torch.testing.assert_close(chaos.velocity(point), torch.zeros_like(point))
    state = torch.tensor((1.0, 2.0, 3.0), dtype=torch.float64)
    expected = torch.tensor((10.0, 1 * 25 - 2, 2 - 8), dtype=torch.float64)
    torch.testing.assert_close(chaos.velocity(state), expected)


def test_lorenz_is_integrated_to_the_fourth_order():
    state = torch.tensor((1.0, 2.0, 20.0), dtype=torch.float64)

    def integrated(steps: int) -> torch.Tensor:
        at = state
        for _ in range(steps):
            at = chaos.runge_kutta(at, 0.2 / steps)
        return at

    fine = integrated(1280)
    coarse, half = (float((integrated(n) - fine).norm()) for n in (20, 40))
    assert 12 < coarse / half < 20  # 2⁴


def test_lorenz_gives_unit_coordinates_on_the_attractor():
    series = tasks.lorenz(200, 100, seeded())
    assert series.shape == (100, 200, 3)
    assert series.dtype == torch.get_default_dtype()
    torch.testing.assert_close(series.std((0, 1)), torch.ones(3), rtol=0.1, atol=0)
    assert float(series.abs().max()) < 4
    twice = tasks.lorenz(200, 51, seeded(), interval=0.1)
    torch.testing.assert_close(twice[:50], series[::2], rtol=1e-3, atol=1e-3)


# -- ListOps -------------------------------------------------------------------


def test_listops_answers_worked_out_by_hand():
    inner = Expression("MIN", (4, 7))
    outer = Expression("MAX", (2, 9, inner, 0))
    assert str(outer) == "[MAX 2 9 [MIN 4 7 ] 0 ]"  # the paper's example
    assert (outer.value, outer.depth, inner.depth) == (9, 3, 2)
    assert Expression("SM", (7, inner, 6)).value == 7
    assert Expression("MED", (8, 1, 5)).value == 5
    assert Expression("MED", (8, 1, 5, 4)).value == 4  # of 4.5
    assert Expression("MIN", (3, outer)).value == 3


def test_listops_keeps_the_grammars_bounds():
    found = tasks.listops(3000, seeded(), depths=(3, 6), longest=40)
    assert found == tasks.listops(3000, seeded(), depths=(3, 6), longest=40)
    assert len(set(found)) == 3000
    widths = set()
    for expression in found:
        tokens = list(expression.tokens())
        assert len(tokens) <= 40
        assert set(tokens) <= set(TOKENS)
        assert tokens.count("]") == sum(t[0] == "[" for t in tokens)
        assert 3 <= expression.depth <= 6
        assert 0 <= expression.value <= 9
        widths.add(len(expression.arguments))
    assert widths == {2, 3, 4, 5}
    share = sum(e.operator == "SM" for e in found) / 3000
    assert 0.2 < share < 0.3


def test_listops_says_when_there_are_no_more():
    with pytest.raises(ArgumentError, match=r"\[listops\] found 400 expressions"):
        tasks.listops(401, seeded(), depths=(2, 2), arguments=2)


# -- music ---------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path):
    """Two tiny pieces a part, as the public files hold them."""
    import numpy as np

    def part(*lengths):
        cells = np.empty((1, len(lengths)), dtype=object)
        for k, length in enumerate(lengths):
            roll = np.zeros((length, 88), dtype=np.uint8)
            roll[np.arange(length), np.arange(length)] = 1
            cells[0, k] = roll
        return cells

    contents = {
        "traindata": part(5, 3),
        "validdata": part(2),
        "testdata": part(4),
    }
    savemat(tmp_path / "JSB_Chorales.mat", contents)
    return tmp_path


def test_music_is_read_and_cut_into_frames_to_predict(collection, monkeypatch):
    found = tasks.load_music("jsb", collection)
    assert [p.shape for p in found.train] == [(5, 88), (3, 88)]
    assert (len(found.validation), len(found.test)) == (1, 1)
    batch = music.next_frames(found.train)
    assert batch.lengths.tolist() == [4, 2]
    assert batch.inputs.shape == (4, 2, 88)
    assert torch.equal(batch.targets[1, 0], found.train[0][2])
    assert torch.equal(batch.inputs[1, 1], found.train[1][1])
    monkeypatch.setenv("CELLWRIGHT_DATA", str(collection))
    assert len(tasks.load_music("jsb").train) == 2


def test_every_piece_comes_once_in_random_batches(collection):
    pieces = [torch.rand(n, 88) for n in (3, 9, 4, 8, 5)]
    seen = [b.lengths.tolist() for b in music.batches(pieces, 2, seeded())]
    assert sorted(n for lengths in seen for n in lengths) == [2, 3, 4, 7, 8]
    assert [b.lengths.tolist() for b in music.batches(pieces, 2)] == [
        [2, 3],
        [4, 7],
        [8],
    ]


def test_frame_loss_is_nats_a_frame(collection):
    batch = music.next_frames(tasks.load_music("jsb", collection).train)
    logits = torch.zeros(4, 2, 88)
    assert float(music.frame_loss(logits, batch)) == pytest.approx(88 * math.log(2))
    logits[0, 0] = -30.0  # only the key that sounds is then wrong, by 30 nats
    expected = (5 * 88 * math.log(2) + 30.0) / 6
    assert float(music.frame_loss(logits, batch)) == pytest.approx(expected)


def test_missing_data_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("CELLWRIGHT_DATA", raising=False)
    with pytest.raises(tasks.DataMissing, match=r"Nottingham\.mat.*github.*CELLWR"):
        tasks.load_music("nottingham", tmp_path)
    with pytest.raises(tasks.DataMissing, match="no directory"):
        tasks.load_music("jsb")
    with pytest.raises(ArgumentError, match="expected one of jsb, nottingham"):
        tasks.load_music("piano")


# -- permutations --------------------------------------------------------------


def test_two_things_are_parity():
    batch = tasks.permutations(50, 20, 2, seeded())
    exchanges = batch.inputs[..., 1].cumsum(0) % 2
    assert torch.equal(batch.targets[..., 0], exchanges.long())
    assert torch.equal(batch.targets.sum(-1), torch.ones(20, 50, dtype=torch.long))


@pytest.mark.parametrize("swaps", [False, True])
def test_every_step_permutes_the_places(swaps):
    batch = tasks.permutations(300, 6, 4, seeded(), swaps=swaps)
    steps = [p for p in itertools.permutations(range(4)) if not swaps or moved(p) == 2]
    assert batch.inputs.shape == (6, 300, len(steps))
    read = batch.inputs.argmax(-1)
    assert set(read.flatten().tolist()) == set(range(len(steps)))
    for row in range(20):
        places = [0, 1, 2, 3]
        for t in range(6):
            places = [steps[int(read[t, row])][place] for place in places]
            assert batch.targets[t, row].tolist() == places


def moved(permutation):
    return sum(place != thing for place, thing in enumerate(permutation))


def test_permutations_need_a_step_and_two_things():
    with pytest.raises(ArgumentError, match=r"received 0 and 2"):
        tasks.permutations(1, 0, 2, seeded())
    with pytest.raises(ArgumentError, match=r"received 3 and 1"):
        tasks.permutations(1, 3, 1, seeded())


# -- recall --------------------------------------------------------------------


def test_every_key_is_asked_for_once_and_answered_with_its_value():
    batch = tasks.associative_recall(40, 5, 7, seeded())
    assert batch.inputs.shape == (10, 40, 14)
    keys, values = batch.inputs.split(7, -1)
    assert (keys.sum(-1) == 1).all()
    assert (values[:5].sum(-1) == 1).all()
    assert not values[5:].any()
    assert (batch.targets[:5] == tasks.NOTHING).all()
    orders = set()
    for row in range(40):
        shown = keys[:, row].argmax(-1).tolist()
        pairs = dict(zip(shown[:5], values[:5, row].argmax(-1).tolist(), strict=True))
        assert len(pairs) == 5
        assert batch.targets[5:, row].tolist() == [pairs[key] for key in shown[5:]]
        assert set(shown[5:]) == pairs.keys()
        orders.add(tuple(shown[:5].index(key) for key in shown[5:]))
    assert len(orders) > 20


def test_there_are_no_more_pairs_than_keys():
    assert len(tasks.associative_recall(3, 7, 7, seeded()).inputs) == 14
    for pairs in (0, 8):
        with pytest.raises(ArgumentError, match=f"1 to 7 pairs; received {pairs}"):
            tasks.associative_recall(3, pairs, 7, seeded())
