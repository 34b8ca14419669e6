"""Steps and runs as ONNX: what a stream is made of, in ONNX Runtime."""

import errno
import json

import numpy as np
import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright import files
from cellwright.export import onnx as export
from cellwright.text.run import Run
from onnx_cases import as_state, assert_close, make, onnxruntime, run, states_of
from test_cli import call, small_text

X, H, WORDS = 5, 6, 13
CELLS = sorted(cw.cells.all())


def names(values):
    return [value.name for value in values]


def sizes(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def kinds(model):
    return {node.op_type for node in model.graph.node}


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )


# -- a layer's step


def streamed(file, feeds, states, axis=0):
    """A sequence step by step through a file of one step."""
    states = {f"{name}_0": value for name, value in states.items()}
    steps, ys = feeds["x"].shape[axis], []
    for t in range(steps):
        now = {name: value.narrow(axis, t, 1) for name, value in feeds.items()}
        y, *news = run(file, {**now, **states})
        states = dict(zip(states, news, strict=True))
        ys.append(y)
    return [torch.cat(ys, axis), *news]


@pytest.mark.parametrize("number", range(len(CELLS)))
def test_every_cell_step_by_step(number):
    """One and two layers, float32 and float64 in turn; no loop is in the file."""
    dtype = (torch.float32, torch.float64)[number // 2 % 2]
    layer = cw.Recurrent(CELLS[number], X, H, 1 + number % 2, dtype=dtype)
    layer, feeds = make(layer, 3, 2)
    states = states_of(layer, 2)
    file = cw.export_onnx(layer, step=True, operators=False)
    assert not kinds(file) & {"Scan", "Loop", "LSTM", "GRU", "RNN"}
    assert sizes(file.graph.input[0]) == [1, "batch", X]
    assert sizes(file.graph.output[0]) == [1, "batch", layer.output_size]
    with torch.no_grad():
        named = {name: v for name, v in feeds.items() if name != "x"}
        expected = layer(feeds["x"], as_state(states), **named)
    assert_close(streamed(file, feeds, states), expected)


@pytest.mark.parametrize("cell", ["lstm", "slstm"])
def test_a_step_with_resets_and_lengths_batch_first(cell):
    """A length of 0 or 1 says whether a row takes part in the step."""
    layer, feeds = make(cw.Recurrent(cell, X, H, batch_first=True), 1, 4)
    states = states_of(layer, 4)
    marks = {
        "lengths": torch.tensor([1, 0, 1, 0]),
        "resets": torch.tensor([[True], [True], [False], [False]]),
    }
    file = cw.export_onnx(layer, step=True, lengths=True, resets=True)
    assert "Scan" not in kinds(file)
    assert sizes(file.graph.input[0]) == ["batch", 1, X]
    with torch.no_grad():
        expected = layer(feeds["x"], as_state(states), **marks)
    given = {f"{name}_0": value for name, value in states.items()}
    assert_close(run(file, {**feeds, **marks, **given}), expected)


def test_onnxs_own_operators_take_a_step():
    layer, feeds = make(cw.GRU(X, H, 2), 4, 3)
    states = states_of(layer, 3)
    file = cw.export_onnx(layer, step=True)
    assert "GRU" in kinds(file)
    with torch.no_grad():
        expected = layer(feeds["x"], as_state(states))
    assert_close(streamed(file, feeds, states), expected)


def test_the_file_says_what_the_states_start_from():
    layer = cw.Recurrent("slstm", X, H, 2)
    found = metadata(cw.export_onnx(layer, initial_states=True))
    first = json.loads(found["cellwright.initial_states"])
    assert first["h_0"] == 0.0
    assert first["m_0"] == -np.inf
    learned = cw.Recurrent("gru", X, H, 2, learn_initial_state=True)
    nn.init.normal_(learned.initial_states[1]["h"])
    found = metadata(cw.export_onnx(learned, step=True))
    (value,) = json.loads(found["cellwright.initial_states"]).values()
    expected = learned.first_states(3)[0].detach()
    given = np.full(expected.shape, value, np.float32)  # as the pages do it
    np.testing.assert_array_equal(given, expected)
    assert "cellwright.initial_states" not in metadata(cw.export_onnx(layer))


def metadata(model):
    return {entry.key: entry.value for entry in model.metadata_props}


# -- a model's step


class Model(nn.Module):
    """A residual stack over an embedding, batch first."""

    def __init__(self, **options):
        super().__init__()
        self.embed = nn.Embedding(WORDS, H)
        self.first = cw.LSTM(H, H, batch_first=True, **options)
        self.second = cw.Recurrent("peephole", H, H, batch_first=True)

    def forward(self, words, first, second):
        x = self.embed(words)
        y, first = self.first(x, first)
        y, second = self.second(x + y, second)
        return x + y, first, second


def words(steps, batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(WORDS, (batch, steps), generator=generator)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_of_a_model(batch):
    """The example's batch is free, though it be 1; its time is not."""
    pytest.importorskip("onnxscript")
    model = Model().eval()
    states = [
        as_state(states_of(layer, batch)) for layer in (model.first, model.second)
    ]
    file = cw.export_onnx(model, example=(words(1, batch), *states), step=True)
    assert "Scan" not in kinds(file)
    assert sizes(file.graph.input[0]) == ["batch", 1]
    assert sizes(file.graph.output[0]) == ["batch", 1, H]
    tokens = words(4, 2)
    states = [as_state(states_of(layer, 2)) for layer in (model.first, model.second)]
    with torch.no_grad():
        expected = model(tokens, *states)
    now, ys = [state for pair in states for state in pair], []
    for token in tokens.split(1, 1):
        given = zip(names(file.graph.input), [token, *now], strict=True)
        y, *now = run(file, dict(given))
        ys.append(y)
    assert_close([torch.cat(ys, 1), *now], expected)


def test_what_is_no_step_is_refused():
    both = cw.Recurrent("gru", X, H, bidirectional=True)
    with pytest.raises(cw.ArgumentError, match=r"bidirectional layer.*no step"):
        cw.export_onnx(both, step=True)
    pytest.importorskip("onnxscript")
    with pytest.raises(cw.ArgumentError, match=r"bidirectional layer.*no step"):
        cw.export_onnx(nn.Sequential(both), example=torch.ones(1, 2, X), step=True)
    model = nn.Sequential(cw.Recurrent("gru", X, H))
    with pytest.raises(cw.ArgumentError, match=r"received 3 steps.*example of one"):
        cw.export_onnx(model, example=torch.ones(3, 2, X), step=True)


# -- a run


@pytest.fixture(scope="module", params=["lstm", "slstm"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "text.txt").write_text(small_text())
    how = "--hidden 8 --embedding 8 --layers 2 --tie --batch 4 --window 8 --steps 5"
    how += f" --cell {request.param}"
    call("train", folder / "text.txt", "--out", folder / "run", *how.split())
    return folder / "run"


@pytest.mark.parametrize("step", [False, True])
def test_a_run_is_written_whole(trained, tmp_path, step):
    pytest.importorskip("onnxscript")
    how = ["--step"] if step else []
    call("export", trained, "-o", tmp_path, "--to", "onnx", "--name", "it", *how)
    found, trained_run = session(tmp_path / "it.onnx"), Run(trained)
    model, graph = trained_run.trained_model(), trained_run.cell.graph
    states = [state.name for state in graph.states]
    assert names(found.get_inputs()) == ["tokens", *(f"{n}_0" for n in states)]
    assert names(found.get_outputs()) == ["logits", *(f"{n}_n" for n in states)]
    time = 1 if step else "time"
    assert found.get_inputs()[0].shape == [time, "batch"]
    about = found.get_modelmeta().custom_metadata_map
    assert about["cellwright.cell"] == trained_run.cell.to_text()
    assert about["cellwright.tokenizer"] == (trained / "tokenizer.json").read_text()
    first = json.loads(about["cellwright.initial_states"])
    given = {n: np.full((2, 3, 8), value, np.float32) for n, value in first.items()}
    tokens = torch.randint(trained_run.sizes.vocabulary, (7, 3))
    logits = []
    for part in tokens.split(1 if step else 4):
        y, *news = found.run(None, {"tokens": part.numpy(), **given})
        given = dict(zip(given, news, strict=True))
        logits.append(torch.from_numpy(y))
    with torch.no_grad():
        expected = model(tokens)
    news = [torch.from_numpy(value) for value in given.values()]
    assert_close([torch.cat(logits), *news], expected)


def test_a_run_brings_its_own_example(trained):
    with pytest.raises(cw.ArgumentError, match=r"its own example.*trained_model"):
        cw.export_onnx(Run(trained), example=torch.zeros(1, 1, dtype=torch.long))


# -- the file


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path, layer = tmp_path / "layer.onnx", cw.Recurrent("gru", X, H)
    cw.export_onnx(layer, path)
    before = path.read_bytes()

    def full(path, data):
        path.write_bytes(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_and_sync", full)
        with pytest.raises(OSError, match="No space"):
            cw.export_onnx(cw.Recurrent("lstm", X, H), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    cw.export_onnx(cw.Recurrent("lstm", X, H), link)
    assert link.is_symlink()
    assert path.read_bytes() != before


def test_the_suffix_says_the_format(tmp_path):
    import onnx

    written = cw.export_onnx(cw.Recurrent("gru", X, H), tmp_path / "layer.json")
    assert json.loads((tmp_path / "layer.json").read_text())
    assert onnx.load(tmp_path / "layer.json") == written


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_no_file_can_hold_is_refused_and_goes_beside_it(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    layer, x = cw.Recurrent("peephole", X, 40), torch.randn(4, 2, X)
    monkeypatch.setattr(export, "MOST", 1000)
    with pytest.raises(cw.ArgumentError, match=r"less than .* GB.*external_data=True"):
        cw.export_onnx(layer)
    assert cw.export_onnx(cw.Recurrent("gru", 2, 2))
    path = tmp_path / "layer.onnx"
    torch.onnx.export(
        layer.eval(), (x,), path, external_data=True, verbose=False,
        custom_translation_table=cw.onnx_translations(),
    )  # fmt: skip
    assert (tmp_path / "layer.onnx.data").stat().st_size > 4 * 4 * 40 * 40
    found = session(path).run(None, {"x": x.numpy()})
    with torch.no_grad():
        assert_close([torch.from_numpy(value) for value in found], layer(x))
