"""Typing to a model: the kept states are those of reading the whole text at once."""

from __future__ import annotations

import pytest
import torch

import cellwright as cw
from cellwright import cells
from cellwright.language import ArgumentError
from cellwright.look.live import Live
from cellwright.look.reading import Reader
from cellwright.text.model import LanguageModel, ModelSizes
from cellwright.text.tokenizer import REPLACEMENT, TextTokenizer

TEXT = "the cat sat on the mat, and the rat sat on the cat. "


def make(kind: str) -> tuple[Live, LanguageModel, TextTokenizer]:
    tokenizer = TextTokenizer.learn(kind, [TEXT], 260 if kind == "bpe" else None)
    model = LanguageModel(cells.get("lstm"), ModelSizes(tokenizer.vocabulary, 4, 6))
    return Live(Reader(model.eval()), tokenizer), model, tokenizer


def chances(model: LanguageModel, tokens: list[int], unknown: int | None) -> list:
    with torch.no_grad():
        logits, _ = model(torch.tensor(tokens)[:, None])
    last = logits[-1, 0].clone()
    if unknown is not None:
        last[unknown] = -torch.inf
    top = last.softmax(-1).topk(min(10, len(last)))
    return top.values.tolist()


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_key_by_key_is_the_whole_text(kind: str):
    live, model, tokenizer = make(kind)
    for end in [*range(1, 10), 8, 7]:  # a key each, and twice the one for back
        live.edit("the cat x"[:end])
    assert live.show()["text"] == "the cat"
    tokens = tokenizer.encode("the cat").tolist()
    assert live.show()["tokens"] == len(tokens)
    shown = [n["chance"] for n in live.show()["next"]]
    assert shown == pytest.approx(chances(model, tokens, tokenizer.unknown), abs=2e-5)


def test_typing_starts_at_the_learned_state():
    _, model, tokenizer = make("char")
    model.rnn = cw.Recurrent("lstm", 4, 6, learn_initial_state=True).eval()
    cw.init.initial_state_(model.rnn, h=0.9, c=-2.0)
    live = Live(Reader(model), tokenizer)
    live.edit("the")
    shown = [n["chance"] for n in live.show()["next"]]
    told = chances(model, tokenizer.encode("the").tolist(), tokenizer.unknown)
    assert shown == pytest.approx(told, abs=2e-5)


def test_what_the_model_wrote_is_taken_back_a_token_at_a_time():
    live, *_ = make("word")
    live.edit("the cat")
    before = live.show("0.c")
    live.sample(temperature=0)
    after_one = live.show("0.c")
    live.sample(temperature=0)
    assert live.show()["tokens"] == before["tokens"] + 2
    assert live.show()["text"].startswith("the cat")
    live.edit(after_one["text"])
    assert live.show("0.c") == after_one
    live.edit("the cat")
    assert live.show("0.c") == before


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_a_change_in_the_middle_of_what_was_written_is_read_from_there(kind: str):
    live, model, tokenizer = make(kind)
    live.edit("the cat sat")
    for _ in range(5):
        live.sample(temperature=0)
    live.edit("the rat sat on")
    tokens = tokenizer.encode("the rat sat on").tolist()
    assert live.show()["text"] == "the rat sat on"
    shown = [n["chance"] for n in live.show()["next"]]
    assert shown == pytest.approx(chances(model, tokens, tokenizer.unknown), abs=2e-5)


def test_what_the_model_does_not_know_is_told():
    live, *_ = make("char")
    live.edit("the zebra")
    assert live.show()["unknown"] == ["z", "b"]
    live.sample(temperature=0)
    assert live.show()["unknown"] == [REPLACEMENT] * 2
    live.edit("the")
    assert live.show()["unknown"] == []


def test_a_seed_repeats_what_is_written():
    live, *_ = make("char")
    texts = []
    for _ in range(2):
        live.reset(seed=3)
        for _ in range(12):
            live.sample(temperature=1.0, top_k=5)
        texts.append(live.show()["text"])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 13


def test_wrong_options_are_explained():
    live, *_ = make("char")
    with pytest.raises(ArgumentError, match=r"\[temperature\] received -1"):
        live.sample(temperature=-1)
    with pytest.raises(ArgumentError, match=r"\[top-k\] received 0"):
        live.sample(top_k=0)
    with pytest.raises(ArgumentError, match=r"no value '0.q'"):
        live.show("0.q")
    live.LONGEST = 3
    with pytest.raises(ArgumentError, match="expected at most 3 tokens"):
        live.edit("the cat")
