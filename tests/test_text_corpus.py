"""Corpora: which files, bad input, pieces, memory-mapped tokens, batches."""

import codecs
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cellwright import ArgumentError
from cellwright.text import corpus
from cellwright.text.corpus import (
    CorpusError,
    TextStream,
    check_length,
    fit_batch,
    open_text,
    standard_library,
    write_tokens,
)
from cellwright.text.tokenizer import TextTokenizer


def text_of(sources, tmp_path):
    return "".join(open_text([str(s) for s in sources], tmp_path / "spool").pieces())


def test_files_are_read_in_the_order_given_line_ends_as_they_are(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"un\r\n")
    (tmp_path / "b.txt").write_bytes("deux é€🎻".encode())
    b, a = tmp_path / "b.txt", tmp_path / "a.txt"
    assert text_of([b, a], tmp_path) == "deux é€🎻un\r\n"
    assert open_text([str(b), str(a)], tmp_path / "spool").characters == 12


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 4)
    for name, content in (("a.txt", "ab\ufeffc"), ("b.txt", "zwölf")):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert (
        text_of([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path) == "ab\ufeffczwölf"
    )
    assert open_text([str(tmp_path / "b.txt")], tmp_path / "spool").characters == 5


def test_a_folder_is_read_in_the_order_of_its_paths_without_what_is_no_text(tmp_path):
    folder = tmp_path / "books"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "z.txt").write_text("z")
    (folder / "sub" / "a.txt").write_text("a")
    (folder / ".git" / "x").write_text("hidden")
    (folder / "image.png").write_bytes(b"\x89PNG\xff")
    text = open_text([str(folder)], tmp_path / "spool")
    assert "".join(text.pieces()) == "az"
    assert [path.name for path in text.skipped] == ["image.png"]


def test_standard_input_is_kept_for_a_second_reading(tmp_path, monkeypatch):
    stream = SimpleNamespace(buffer=io.BytesIO("söme text".encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    text = open_text(["-"], tmp_path / "spool")
    assert "".join(text.pieces()) == "söme text"
    assert "".join(text.pieces()) == "söme text"


def test_the_standard_library_is_there_without_tests_or_installed_packages():
    files = standard_library()
    names = {path.name for path in files}
    assert {"argparse.py", "dataclasses.py"} <= names
    assert not any("site-packages" in path.parts for path in files)
    assert not any({"test", "tests"} & set(path.parts) for path in files)
    assert files == sorted(files)
    assert sum(path.stat().st_size for path in files) > 5_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no text in"),
        (b"good \xff bad", r"byte 0xff at offset 5.*iconv"),
        ("é".encode() * 9 + "é".encode()[:1], r"byte 0xc3 at offset 18"),
        (b"\xef\xbb\xbfgood \xff", r"byte 0xff at offset 8"),
        (b"\xef\xbb\xbf", "there is no text in"),
        ("text".encode("utf-16"), r"mark of UTF-16.*iconv -f utf-16"),
        ("text".encode("utf-32"), r"mark of UTF-32.*iconv -f utf-32"),
        (codecs.BOM_UTF16_BE + "text".encode("utf-16-be"), r"mark of UTF-16"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        open_text([str(path)], tmp_path / "spool")


def test_the_place_of_a_bad_byte_is_right_beyond_the_first_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 5)
    path = tmp_path / "bad.txt"
    path.write_bytes("ééééé".encode() + b"\xfe")  # pieces cut characters in two
    with pytest.raises(CorpusError, match="0xfe at offset 10"):
        open_text([str(path)], tmp_path / "spool")


@pytest.mark.parametrize("name", ["no/such.txt", ""])  # "": an unset variable
def test_a_missing_file_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("not what was asked for")
    with pytest.raises(CorpusError, match=f"received '{re.escape(name)}'"):
        open_text([name], tmp_path / "spool")


def test_every_file_ends_its_last_line_where_lines_count(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 5)
    parts = ["the cat\nsat", "", "on it\n", "now"]
    names = [str(tmp_path / str(number)) for number in range(4)]
    for name, part in zip(names, parts, strict=True):
        Path(name).write_text(part)
    text = open_text(names, tmp_path / "spool", whole_lines=True)
    whole = "the cat\nsat\non it\nnow\n"
    assert "".join(text.pieces()) == whole
    assert text.characters == len(whole)
    assert "".join(text.pieces(9, 14)) == whole[9:14]
    assert "".join(open_text(names, tmp_path / "spool").pieces()) == "".join(parts)


def test_a_word_is_looked_for_from_its_beginning(tmp_path):
    (tmp_path / "a").write_text("the cat\nsat on it")
    text = open_text([str(tmp_path / "a")], tmp_path / "spool")
    starts = {2: 2, 4: 4, 6: 4, 8: 8, 10: 8, 15: 8, 17: 17}
    assert {place: text.word_start(place) for place in starts} == starts


def test_pieces_give_any_range_and_cut_no_word(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 16)
    whole = "".join(f"wörd{i} " for i in range(40)) + "x" * 50
    half = len(whole) // 2
    (tmp_path / "a").write_text(whole[:half], encoding="utf-8")
    (tmp_path / "b").write_text(whole[half:], encoding="utf-8")
    text = open_text([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "spool")
    assert text.characters == len(whole)
    for start, stop in [
        (0, None),
        (3, 50),
        (half - 1, half + 1),
        (100, 100),
        (200, 999),
    ]:
        assert "".join(text.pieces(start, stop)) == whole[start:stop]
    pieces = list(text.pieces())
    assert len(pieces) > 10
    assert all(p.endswith(" ") for p in pieces if not p.endswith("x"))


def test_tokens_are_memory_mapped_and_checked(tmp_path):
    words = "the cat sat on the mat "
    tokenizer = TextTokenizer.learn("char", [words])
    tokens = write_tokens(iter([words, "a dog"]), tokenizer, tmp_path / "t.tokens")
    assert (tokens.count, tokens.characters) == (28, 28)
    assert tokens.unknown == 2  # d and g
    numbers = tokens.open()
    assert isinstance(numbers, np.memmap)
    assert not numbers.flags.writeable
    assert tokenizer.decode(numbers.tolist()) == words + "a \ufffdo\ufffd"
    tokens.path.write_bytes(tokens.path.read_bytes()[:-2])
    with pytest.raises(CorpusError, match="received 54 bytes, expected 56"):
        tokens.open()


def test_rows_are_contiguous_and_targets_are_one_further():
    stream = TextStream(np.arange(41), batch=4, window=5)  # rows of 10: no slack
    first, second, third = stream.next(), stream.next(), stream.next()
    assert first["x"].shape == (5, 4)
    assert first["x"][:, 1].tolist() == [10, 11, 12, 13, 14]
    assert first["y"][:, 1].tolist() == [11, 12, 13, 14, 15]
    assert second["x"][:, 1].tolist() == [15, 16, 17, 18, 19]
    assert second["y"][-1].tolist() == [10, 20, 30, 40]  # the very last token, too
    assert [bool(b["first"]) for b in (first, second, third)] == [True, False, True]
    assert third["x"].tolist() == first["x"].tolist()


def test_every_epoch_begins_within_the_slack_so_all_of_a_row_is_read():
    stream = TextStream(np.arange(100), batch=1, window=30)  # a row of 99: slack 9
    starts, read = set(), set()
    for _ in range(60):
        windows = [stream.next()["x"][:, 0].tolist() for _ in range(stream.windows)]
        seen = [token for window in windows for token in window]
        assert seen == list(range(seen[0], seen[0] + 90))
        starts.add(seen[0])
        read.update(seen)
    assert starts == set(range(10))
    assert read == set(range(99))


def test_some_windows_begin_anew_the_same_ones_for_every_process():
    def firsts(process):
        stream = TextStream(np.arange(40_001), 2, 5, 1, (process, 2), restart=0.1)
        return [bool(stream.next()["first"]) for _ in range(4000)]

    assert firsts(0) == firsts(1)
    assert 300 < sum(firsts(0)) < 500


def test_processes_share_the_rows():
    whole = TextStream(np.arange(101), 4, 5).next()
    parts = [TextStream(np.arange(101), 4, 5, 0, (rank, 2)).next() for rank in (0, 1)]
    assert torch.equal(torch.cat([p["x"] for p in parts], 1), whole["x"])
    with pytest.raises(ArgumentError, match="5 rows cannot be shared by 2 processes"):
        TextStream(np.arange(101), 5, 5, 0, (0, 2))


def test_a_stream_goes_on_from_its_state():
    first, second = (TextStream(np.arange(95), 2, 4, seed=3) for _ in range(2))
    for _ in range(17):
        first.next()
    second.load_state_dict(first.state_dict())
    for _ in range(20):
        assert torch.equal(first.next()["x"], second.next()["x"])


def test_a_text_too_short_for_its_rows():
    with pytest.raises(CorpusError, match="expected at least 41 tokens"):
        TextStream(np.arange(40), 4, 10)
    assert fit_batch(10**6, 32, 64) == (32, 64)
    assert fit_batch(1000, 32, 64) == (15, 64)
    assert fit_batch(20, 32, 64) == (1, 19)
    for count in (2, 3, 20, 65, 1000):
        batch, window = fit_batch(count, 32, 64)
        assert TextStream(np.arange(count), batch, window).windows >= 1


@pytest.mark.parametrize(
    ("tokens", "batch", "window", "held_out", "remedy"),
    [
        (1, 1, 1, 0, "Use a longer text$"),
        (1, 1, 1, 1, "Use a longer text, or --val-fraction 0$"),
        (8, 2, 4, 0, "Use a longer text, or a smaller batch or window$"),
        (7, 2, 4, 1, "Use a longer text, or a smaller batch or window$"),
        (7, 2, 4, 2, "a smaller batch or window, or --val-fraction 0$"),
    ],
)
def test_a_short_text_is_refused_with_a_remedy_that_helps(
    tokens, batch, window, held_out, remedy
):
    with pytest.raises(CorpusError, match=rf"{tokens} tokens do not fill.*{remedy}"):
        check_length(tokens, batch, window, held_out)
    check_length(batch * window + 1, batch, window)
