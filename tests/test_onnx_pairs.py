"""Exported runs of pairs: an encoder and a decoder that ONNX Runtime steps."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from cellwright.export import export_pairs
from cellwright.language.errors import ArgumentError
from cellwright.text.pairs.run import PairRun
from onnx_cases import onnxruntime
from test_cli import _one_thread, call
from test_docs import code
from test_pairs_cli import SMALL, small_pairs
from web.runs import make_run

__all__ = ["_one_thread"]  # a fixture
TEXTS = ["abca", "c", "abcabc", "ba"]
STEPS = 9


@pytest.fixture(scope="module", params=["attends", "has several states"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    pairs, out = folder / "small.tsv", folder / "run"
    pairs.write_text(small_pairs())
    cells = ["--encoder", "peephole", "--decoder", "lstm"]
    options = [] if request.param == "attends" else cells
    options += ["--output-tokens", "space", "--steps", 40, "--lr", 0.02]
    call("pairs", "train", pairs, "--out", out, *SMALL, *options)
    return out


@pytest.fixture(scope="module")
def sessions(run):
    out = run.parent / "deploy"
    files = call("export", run, "-o", out, "--to", "onnx", "--name", "demo").split()
    names = [f"demo_{part}.onnx" for part in ("encoder", "decoder")]
    assert files == [str(out / name) for name in names]
    return [onnxruntime.InferenceSession(file) for file in files]


def about(session):
    return session.get_modelmeta().custom_metadata_map


def encoded(encoder):
    """The tokens of `TEXTS`, (S, B), and their numbers: what the encoder takes."""
    tokenizer = Tokenizer.from_str(about(encoder)["cellwright.tokenizer"])
    rows = [tokenizer.encode(text).ids for text in TEXTS]
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((lengths.max(), len(rows)), dtype=np.int64)
    for b, row in enumerate(rows):
        tokens[: len(row), b] = row
    return {"tokens": tokens, "lengths": lengths}


def steps_of(sessions, choose):
    """The logits of every step, (T, B, V), where `choose` reads the next tokens."""
    encoder, decoder = sessions
    source = encoded(encoder)
    names = [output.name for output in encoder.get_outputs()]
    memory = dict(zip(names, encoder.run(None, source), strict=True))
    if "source" in memory:
        memory["source_lengths"] = source["lengths"]
    states = [name for name in names if name != "source"]
    end = json.loads(about(decoder)["cellwright.end"])
    tokens, found = np.full((1, len(TEXTS)), end), []
    for _ in range(STEPS):
        logits, *news = decoder.run(None, {"tokens": tokens, **memory})
        memory.update(zip(states, news, strict=True))
        tokens = choose(logits)
        found.append(logits[0])
    return np.stack(found)


def test_greedy_decoding_in_numpy_is_the_models(run, sessions):
    loaded, written = PairRun(run), []

    def choose(logits):
        written.append(logits[0].argmax(-1))
        return written[-1][None]

    steps_of(sessions, choose)
    source = {n: torch.from_numpy(v) for n, v in encoded(sessions[0]).items()}
    best = loaded.trained_model().greedy(*source.values(), max_length=STEPS)
    assert len({tuple(h.tokens) for h in best}) > 1
    tokenizer = Tokenizer.from_str(about(sessions[1])["cellwright.tokenizer"])
    for row, hypothesis in zip(np.stack(written).T.tolist(), best, strict=True):
        tokens = row[: row.index(0)] if 0 in row else row
        assert tokens == list(hypothesis.tokens)
        text = " ".join(tokenizer.id_to_token(t - 1) for t in tokens)
        assert text == loaded.tokenizer.decode_output(hypothesis.tokens)


def test_every_logit_is_the_models(run, sessions):
    model = PairRun(run).trained_model().eval()
    vocabulary = model.head.out_features
    target = np.random.default_rng(0).integers(1, vocabulary, (STEPS, 1, len(TEXTS)))
    read = iter(target)
    found = steps_of(sessions, lambda logits: next(read))
    source = {n: torch.from_numpy(v) for n, v in encoded(sessions[0]).items()}
    with torch.no_grad():
        expected, _ = model(*source.values(), torch.from_numpy(target[:, 0]))
    if model.unknown is not None:
        assert (found[..., model.unknown] == -np.inf).all()
        expected[..., model.unknown] = -torch.inf
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("run", ["attends"], indirect=True)
def test_the_page_on_deploying(run, sessions, monkeypatch, capsys):
    block = "".join(code("docs/deploy.md")[1:3])
    assert "dates_" in block
    monkeypatch.chdir(run.parent)
    block = block.replace("dates_", "demo_").replace("1 May 2001", TEXTS[0])
    exec(block, {})
    source = {n: torch.from_numpy(v[..., :1]) for n, v in encoded(sessions[0]).items()}
    loaded = PairRun(run)
    (best,) = loaded.trained_model().greedy(*source.values())
    expected = loaded.tokenizer.decode_output(best.tokens).replace(" ", "")
    assert capsys.readouterr().out == expected + "\n"
    assert expected


def test_a_run_of_a_language_model_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"received a Run, expected a run of pairs"):
        export_pairs(make_run(tmp_path), tmp_path / "out", "demo")
    assert not (tmp_path / "out").exists()


def test_the_files_say_what_they_are(run, sessions):
    loaded = PairRun(run)
    for session, cell in zip(sessions, (loaded.encoder, loaded.decoder), strict=True):
        assert about(session)["cellwright.cell"] == cell.to_text()
    encoder, decoder = sessions
    shapes = [i.shape for i in (*encoder.get_inputs(), decoder.get_inputs()[0])]
    assert shapes == [["time", "batch"], ["batch"], [1, "batch"]]
