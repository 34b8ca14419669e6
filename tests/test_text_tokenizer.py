"""Tokenizers: nothing is lost, unknown characters are no failure, streams are whole."""

from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwright import ArgumentError, CellwrightError
from cellwright.text.tokenizer import KINDS, TextTokenizer
from cellwright.train.settings import Settings

TEXT = "The quick brown fox\n\tjumps  over\r\nthe 'lazy' dog — naïve café. 🎻\n"
LEARNED = {kind: TextTokenizer.learn(kind, [TEXT], 400) for kind in KINDS}


@pytest.mark.parametrize("kind", [name for name in KINDS if KINDS[name].lossless])
def test_text_comes_back_as_it_was(kind, tmp_path):
    tokenizer = LEARNED[kind]
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode(tokens) == TEXT
    assert tokens.max() < tokenizer.vocabulary
    tokenizer.save(tmp_path / "t.json")
    again = TextTokenizer.load(kind, tmp_path / "t.json")
    assert again.encode(TEXT).tolist() == tokens.tolist()
    assert again.unknown == tokenizer.unknown
    assert tokenizer.encode("").tolist() == []


def test_a_character_is_a_token_and_a_word_carries_its_blank():
    assert len(LEARNED["char"].encode(TEXT)) == len(TEXT)
    words = LEARNED["word"].encode("The quick dog")
    assert [LEARNED["word"].decode([w]) for w in words] == ["The", " quick", " dog"]


def test_long_texts_are_encoded_in_runs_without_a_seam():
    text = TEXT * 300  # several runs
    assert LEARNED["char"].decode(LEARNED["char"].encode(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_byte_pairs_know_every_text(text):
    tokenizer = LEARNED["bpe"]
    assert tokenizer.unknown is None
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_characters_keep_their_number_and_unknown_ones_are_marked(text):
    tokenizer = LEARNED["char"]
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text)
    expected = "".join(c if c in TEXT else "\ufffd" for c in text)
    assert tokenizer.decode(tokens) == expected


def test_a_stream_holds_a_character_back_until_it_is_whole():
    tokenizer = LEARNED["bpe"]
    tokens = tokenizer.encode("a雪b").tolist()  # 雪: three bytes, never merged
    assert len(tokens) == 5
    assert list(tokenizer.stream(tokens)) == ["a", "雪", "b"]
    assert "".join(tokenizer.stream(tokens[:3])) == "a\ufffd"


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_has_at_most_the_size_asked_for(kind):
    size = 260 if kind == "bpe" else 8
    tokenizer = TextTokenizer.learn(kind, [TEXT], size)
    assert tokenizer.vocabulary <= size
    if kind == "char":  # the most frequent ones are kept; the rest is unknown
        assert tokenizer.decode(tokenizer.encode("o e🎻")) == "o e\ufffd"


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ArgumentError, match="received 'syllable'"):
        TextTokenizer.learn("syllable", [TEXT])
    with pytest.raises(ArgumentError, match="at least 256 tokens; received 10"):
        TextTokenizer.learn("bpe", [TEXT], 10)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(CellwrightError, match="is not a tokenizer"):
        TextTokenizer.load("char", tmp_path / "t.json")


def test_every_kind_is_a_setting():
    assert get_args(get_type_hints(Settings)["tokenizer"]) == tuple(KINDS)
