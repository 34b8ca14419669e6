"""Whole models as ONNX, run by ONNX Runtime, against the models themselves."""

import copy
import io
import sys

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.text.model import LanguageModel, ModelSizes
from onnx_cases import as_state, assert_close, make, onnxruntime, run, states_of
from test_cli import call, small_text
from test_cli import words as words_of
from test_docs import code

pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")

X, H, CLASSES, WORDS = 5, 6, 7, 13
TRACER = "ignore::torch.jit.TracerWarning"

CELLS = sorted(cw.cells.all())


class Tagger(nn.Module):
    """Embedding → layer → head; a row's words are its own."""

    def __init__(self, layer):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(WORDS, layer.input_size), layer
        self.head = nn.Linear(layer.output_size, CLASSES)

    def forward(self, words, lengths=None, resets=None, state=None, **inputs):
        x = self.embed(words)
        y, state = self.rnn(x, state, lengths=lengths, resets=resets, **inputs)
        return self.head(y), state


class Plain(nn.Module):
    """A layer, and the head that reads it; further named inputs."""

    def __init__(self, layer):
        super().__init__()
        self.rnn, self.head = layer, nn.Linear(layer.output_size, CLASSES)

    def forward(self, x, lengths, inputs):
        y, state = self.rnn(x, lengths=lengths, **inputs)
        return self.head(y), state


def words(steps, batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(WORDS, (steps, batch), generator=generator)


def sizes(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def kinds(model):
    found = [node.op_type for node in model.graph.node]
    return [k for k in found if k in ("Scan", "LSTM", "GRU", "RNN")]


def language_model(cell, **options):
    """Of two layers, embedding and head tied, after a few steps of training."""
    torch.manual_seed(0)
    made = ModelSizes(WORDS, X, X, layers=2, dropout=0.3, tie=True, **options)
    model = LanguageModel(cw.cells.get(cell), made)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(5):
        tokens = words(6, 3, seed=step)
        logits, _ = model(tokens[:-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [
        ("peephole", torch.float32),
        pytest.param("lstm", torch.float32, marks=pytest.mark.full),
        pytest.param("lstm", torch.float64, marks=pytest.mark.full),
        pytest.param("peephole", torch.float64, marks=pytest.mark.full),
    ],
)
def test_a_language_model_with_its_state(cell, dtype):
    """Whole, and then token by token: from an example of one token in one row."""
    model = language_model(cell, zoneout={"h": 0.1}).to(dtype)
    model.rnn = model.rnn.to(dtype)
    state = as_state(states_of(model.rnn, 1))
    file = cw.export_onnx(
        model, example=(words(1, 1), state), output_names=["logits", "h_n", "c_n"]
    )
    assert model.training
    assert sizes(file.graph.input[0]) == ["time", "batch"]
    assert sizes(file.graph.output[0]) == ["time", "batch", WORDS]
    assert [v.name for v in file.graph.output] == ["logits", "h_n", "c_n"]
    model.eval()
    names = [v.name for v in file.graph.input]
    for steps, batch in ((9, 4), (1, 4), (5, 1)):
        tokens, states = words(steps, batch), list(states_of(model.rnn, batch).values())
        with torch.no_grad():
            expected = model(tokens, tuple(states))
        found = run(file, dict(zip(names, [tokens, *states], strict=True)))
        assert_close(found, expected)
    logits = []
    for token in tokens:  # the last ones
        y, *states = run(file, dict(zip(names, [token[None], *states], strict=True)))
        logits.append(y)
    assert_close([torch.cat(logits), *states], expected)


def assert_tags(model, file, steps, batch, lengths, batch_first=False):
    tokens = words(steps, batch)
    tokens = tokens.T.contiguous() if batch_first else tokens
    lengths = torch.tensor(lengths)
    with torch.no_grad():
        expected = model.eval()(tokens, lengths)
    assert_close(run(file, {"words": tokens, "lengths": lengths}), expected)


LAYERS = {
    "slstm": lambda **o: cw.Recurrent("slstm", X, H, 2, dropout=0.2, **o),
    "gru": lambda **o: cw.Recurrent("gru_bias", X, H, 2, **o),
    "LSTM": lambda **o: cw.LSTM(X, H, 2, **o),
}


@pytest.mark.parametrize(
    ("name", "batch_first"),
    [
        ("slstm", True),
        ("LSTM", False),
        pytest.param("slstm", False, marks=pytest.mark.full),
        pytest.param("LSTM", True, marks=pytest.mark.full),
        pytest.param("gru", True, marks=pytest.mark.full),
    ],
)
def test_a_bidirectional_tagger(name, batch_first):
    """T, B and H of the example are one number, and stay different sizes."""
    model = Tagger(LAYERS[name](bidirectional=True, batch_first=batch_first))
    file = cw.export_onnx(model, example=words(H, H), lengths=True)
    lead = ["batch", "time"] if batch_first else ["time", "batch"]
    assert [(v.name, sizes(v)) for v in file.graph.input] == [
        ("words", lead),
        ("lengths", ["batch"]),
    ]
    assert_tags(model, file, 9, 4, [3, 0, 9, 1], batch_first)
    assert_tags(model, file, 1, 2, [1, 0], batch_first)


def test_resets_and_states_of_a_model(tmp_path):
    import onnx

    model = Tagger(cw.Recurrent("peephole", X, H, bidirectional=True)).eval()
    state = as_state(states_of(model.rnn, 2))
    example = {"words": words(3, 2), "state": state}
    path = tmp_path / "tagger.onnx"
    file = cw.export_onnx(model, path, example=example, lengths=True, resets=True)
    assert onnx.load(path) == file
    names = [v.name for v in file.graph.input]
    resets = torch.rand(8, 3) < 0.4
    given = [words(8, 3), torch.tensor([8, 0, 5]), resets]
    states = states_of(model.rnn, 3)
    with torch.no_grad():
        expected = model(*given, as_state(states))
    given += list(states.values())
    assert_close(run(file, dict(zip(names, given, strict=True))), expected)


class Encoder(nn.Module):
    """What an encoder-decoder makes of a source: its decoder's first state."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, source, lengths):
        return self.whole.encode(source, lengths)[1]


class Decoder(nn.Module):
    """Logits and the new state of some tokens."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, tokens, state):
        x = self.whole.target_embedding(tokens)
        y, state = self.whole.decoder(x, state)
        return self.whole.head(y), state


def test_the_parts_of_an_encoder_decoder():
    torch.manual_seed(0)
    encoder = cw.Recurrent("peephole", X, H, bidirectional=True)
    whole = cw.EncoderDecoder(encoder, cw.Recurrent("gru", X, 8), WORDS, CLASSES)
    whole.eval()
    given = words(5, 3), torch.tensor([5, 0, 2])
    state = Encoder(whole)(*given).detach()
    tokens = words(1, 3, seed=2) % CLASSES
    for part, example in ((Encoder, given), (Decoder, (tokens, state))):
        model = cw.export_onnx(part(whole), example=example)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        names = [i.name for i in session.get_inputs()]
        feeds = {n: v.detach().numpy() for n, v in zip(names, example, strict=True)}
        found = [torch.from_numpy(value) for value in session.run(None, feeds)]
        assert_close(found, part(whole)(*example))


class AttendingDecoder(Decoder):
    """The same over the encoder's outputs."""

    def forward(self, tokens, state, source, source_lengths):
        x = self.whole.target_embedding(tokens)
        items = {"source": source, "source_lengths": source_lengths}
        y, state = self.whole.decoder(x, state, **items)
        return self.whole.head(y), state


@pytest.mark.parametrize("step", [False, True])
def test_a_decoder_that_attends(step):
    torch.manual_seed(0)
    encoder = cw.Recurrent("gru", X, 4, bidirectional=True)
    decoder = cw.Recurrent("bahdanau_gru", X, H, 2, items={"source": 8})
    part = AttendingDecoder(cw.EncoderDecoder(encoder, decoder, WORDS, CLASSES)).eval()

    def given(steps, batch, most):
        tokens, counts = words(steps, batch) % CLASSES, torch.arange(batch) % (most + 1)
        return tokens, torch.randn(2, batch, H), torch.randn(most, batch, 8), counts

    model = cw.export_onnx(part, example=given(1, 1, 1), step=step)
    assert ("Scan" in kinds(model)) != step
    inputs = model.graph.input
    assert [sizes(i)[-1] for i in inputs] == ["batch", H, 8, "batch"]
    assert sizes(inputs[2])[1] == "batch"
    names = [i.name for i in inputs]
    for example in (given(1, 3, 5), given(1, 2, 0)) if step else (given(4, 3, 5),):
        with torch.no_grad():
            expected = part(*example)
        feeds = dict(zip(names, example, strict=True))
        assert_close(run(model, feeds), expected)
    assert "forward" not in vars(decoder)


def test_several_layers_on_any_engine():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = cw.Recurrent("gru", X, H, engine="reference")
            self.second = cw.LSTM(H, H, engine="torch")
            self.third = cw.Recurrent("lstm_projected", H, H, proj_size=3)

        def forward(self, x):
            y, _ = self.first(x)
            y, _ = self.second(y)
            y, _ = self.third(y.relu())
            again, _ = self.third(y.new_ones(1, 1, 1) * nn.functional.pad(y, (0, 3)))
            return y + again

    model = Stack()
    file = cw.export_onnx(model, example=torch.randn(4, 2, X))
    assert kinds(file) == ["GRU", "LSTM", "Scan", "Scan"]
    bodies = [a.g.name for n in file.graph.node for a in n.attribute if a.g.name]
    assert len(set(bodies)) == 2
    x = torch.randn(7, 3, X)
    with torch.no_grad():
        expected = model(x)
    assert_close(run(file, {"x": x}), expected)
    engines = model.first.engine, model.second.engine, model.third.engine
    assert engines[:2] == ("reference", "torch")


@pytest.mark.full
def test_weights_are_in_the_file_once():
    """As parameters where a Scan reads them, stacked where an operator does."""
    import onnx

    for layer in (cw.Recurrent("peephole", 40, 50), cw.LSTM(40, 50)):
        model = Tagger(layer)
        file = cw.export_onnx(model, example=words(3, 2))
        count = sum(onnx.numpy_helper.to_array(t).size for t in file.graph.initializer)
        own = sum(p.numel() for p in model.parameters())
        assert own <= count <= own + 1000


@pytest.mark.full
def test_operators_can_be_left_out_and_the_opset_chosen():
    model = Tagger(cw.LSTM(X, H, bidirectional=True))
    file = cw.export_onnx(
        model, example=words(3, 2), lengths=True, operators=False, opset=21
    )
    assert kinds(file) == ["Scan", "Scan"]
    assert next(o.version for o in file.opset_import if not o.domain) == 21
    assert_tags(model, file, 5, 3, [2, 0, 5])


@pytest.mark.full
def test_made_weights():
    """Pruned and parametrized: what they are made into is computed in the file."""
    layer = cw.Recurrent("peephole", X, H)
    nn.utils.parametrizations.weight_norm(layer.cells[0].f)
    model = Tagger(layer)
    file = cw.export_onnx(model, example=words(3, 2), lengths=True)
    assert_tags(model, file, 5, 3, [2, 0, 5])


def function_of_inputs(W, x, h, *, p, q, source: cw.Items):
    seen = cw.attend(W.e(cw.tanh(W.a(h, source)), size=1), source)
    return cw.tanh(W.n(x, h, p, seen) + cw.sigmoid(W.m(q)))


class WithInputs(nn.Module):
    """Named inputs that are written in another order than the cell's; q is static."""

    def __init__(self):
        super().__init__()
        cell = cw.cell(inputs={"p": 2, "q": 2})(function_of_inputs)
        self.rnn = cw.Recurrent(cell, X, H, items={"source": 3})

    def forward(self, x, q, p, source, counts):
        return self.rnn(x, q=q, p=p, source=source, source_lengths=counts)


def test_named_inputs_beside_items_go_by_name():
    """And `W.a(h, source)`, which the native engine cuts in two."""

    def given(steps, batch, most):
        p, q = torch.randn(steps, batch, 2), torch.randn(batch, 2)
        source, counts = torch.randn(most, batch, 3), torch.arange(batch) % (most + 1)
        return torch.randn(steps, batch, X), q, p, source, counts

    torch.manual_seed(0)
    model = WithInputs().eval()
    file = cw.export_onnx(model, example=given(2, 2, 2))
    arguments = given(4, 3, 5)
    with torch.no_grad():
        expected = model(*arguments)
    names = [i.name for i in file.graph.input]
    assert_close(run(file, dict(zip(names, arguments, strict=True))), expected)


def test_packed_items_and_unknown_inputs_are_refused():
    x, source = torch.randn(2, 2, X), torch.randn(3, 2, 3)
    p = torch.randn(2, 2, 2)

    class Packed(WithInputs):
        def forward(self, x, source):
            packed = nn.utils.rnn.pack_sequence([source[:, 0], source[:, 1]])
            return self.rnn(x, p=p, q=p, source=packed)

    class Unknown(WithInputs):
        def forward(self, x, source):
            return self.rnn(x, p=p, q=p, r=p, source=source)

    refused("source=PackedSequence.*source_lengths", Packed(), example=(x, source))
    refused("has no input 'r'", Unknown(), example=(x, source))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchs_exporter_by_itself_refuses_counts_of_items():
    class Attending(WithInputs):
        def forward(self, x, p, source, counts):
            return self.rnn(x, p=p, q=p, source=source, source_lengths=counts)

    example = torch.randn(2, 2, X), torch.randn(2, 2, 2), torch.randn(3, 2, 3)
    arguments = *example, torch.tensor([3, 1])
    translations = cw.onnx_translations()
    with pytest.raises(torch.onnx.OnnxExporterError, match="source_lengths=tensor"):
        torch.onnx.export(
            Attending().eval(), arguments, dynamo=True, verbose=False,
            custom_translation_table=translations,
        )  # fmt: skip


# -- every cell


def assert_whole(layer):
    model, count = Plain(make(layer, 3, 2)[0]).eval(), int(layer.bidirectional)
    dtype = layer.placement()[1]
    model = model.to(dtype)

    def arguments(steps, batch, lengths):
        _, feeds = make(copy.deepcopy(layer), steps, batch, seed=7)
        return feeds.pop("x"), torch.tensor(lengths), feeds

    example = arguments(3, 2, [3, 2])
    file = cw.export_onnx(model, example=example)
    assert len(kinds(file)) == layer.num_layers * (1 + count)
    given = arguments(6, 4, [4, 0, 6, 1])
    with torch.no_grad():
        expected = model(*given)
    values = [*given[:2], *given[2].values()]
    names = [v.name for v in file.graph.input]
    assert_close(run(file, dict(zip(names, values, strict=True))), expected)


@pytest.mark.full
def test_named_inputs():
    assert_whole(cw.Recurrent("mc_lstm", X, H))


@pytest.mark.full
def test_a_named_input_by_name_and_an_argument_that_is_no_tensor():
    class Flagged(Tagger):
        def forward(self, words, twice=False, *, mass):
            logits, state = super().forward(words, mass=mass)
            return logits * (2 if twice else 1), state

    model = Flagged(cw.Recurrent("mc_lstm", X, H)).eval()
    example = {"words": words(1, 1), "twice": True, "mass": torch.rand(1, 1, 1)}
    file = cw.export_onnx(model, example=example)
    assert [v.name for v in file.graph.input] == ["words", "mass"]
    feeds = {"words": words(6, 3), "mass": torch.rand(6, 3, 1)}
    with torch.no_grad():
        expected = model(twice=True, **feeds)
    assert_close(run(file, feeds), expected)


@pytest.mark.full
def test_a_named_input_that_is_given_once():
    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            function = lambda W, x, h, *, s: cw.tanh(W.a(h, x, s))  # noqa: E731
            cell = cw.cell(inputs={"s": 2})(function)
            self.rnn = cw.Recurrent(cell, X, H, 2, bidirectional=True)

        def forward(self, x, s):
            return self.rnn(x, s=s)

    model = Conditioned()
    file = cw.export_onnx(model, example=(torch.randn(3, 2, X), torch.randn(2, 2)))
    x, s = torch.randn(5, 3, X), torch.randn(3, 2)
    with torch.no_grad():
        expected = model(x, s)
    assert_close(run(file, {"x": x, "s": s}), expected)


@pytest.mark.full
@pytest.mark.parametrize("number", range(0, len(CELLS), 3))
def test_every_third_cell(number):
    """Layers, directions and types in turn: torch's exporter takes seconds, and
    test_onnx.py has every cell's step."""
    layers, bidirectional = 1 + number % 2, number // 2 % 2 == 1
    dtype = (torch.float32, torch.float64)[number // 4 % 2]
    options = {"bidirectional": bidirectional, "dtype": dtype}
    assert_whole(cw.Recurrent(CELLS[number], X, H, layers, **options))


# -- torch's exporter by oneself, and what is refused


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchs_exporter_with_our_translations():
    model = Tagger(cw.Recurrent("peephole", X, H, 2, bidirectional=True)).eval()
    free = torch.export.Dim.AUTO
    program = torch.onnx.export(
        model,
        (words(3, 2), torch.tensor([3, 2])),
        dynamo=True,
        dynamic_shapes=({0: free, 1: free}, {0: free}),
        custom_translation_table=cw.onnx_translations(),
        verbose=False,
    )
    assert_tags(model, program.model_proto, 8, 3, [8, 0, 4])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", TRACER)
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_the_older_exporter_names_this_way(engine):
    model = Tagger(cw.Recurrent("peephole", X, H, engine=engine)).eval()
    with pytest.raises(cw.ArgumentError, match=r"export_onnx\(model, path, example=x"):
        torch.onnx.export(model, (words(3, 2),), io.BytesIO(), dynamo=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", TRACER)
def test_a_trace_of_lengths_as_numbers_names_this_way():
    model = Tagger(cw.LSTM(X, H, engine="torch")).eval()
    arguments = words(3, 2), torch.tensor([3, 2])
    with pytest.raises(cw.ArgumentError, match=r"torch\.export.*export_onnx writes"):
        torch.jit.trace(model, arguments)


def test_without_onnxscript_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript.*'cellwright\[onnx\]'"):
        cw.export_onnx(Tagger(cw.GRU(X, H)), example=words(3, 2))


def refused(match, model, **options):
    options = {"example": words(3, 2), **options}
    with pytest.raises(cw.ArgumentError, match=match):
        cw.export_onnx(model, **options)


def test_what_a_file_cannot_hold_is_refused():
    model = Tagger(cw.GRU(X, H))
    refused("example=what its forward takes", model, example=None)
    refused("a tensor, a tuple, or a dict", model, example=())
    refused(r"forward takes no 'starts'.*layer\(x, starts=starts\)", model, starts=True)
    refused(r"example=\(x, state\)", model, initial_states=True)
    further = {"words": words(3, 2), "mass": torch.ones(3, 2, 1)}
    refused(r"takes mass as \*\*inputs", model, example=further)
    refused(r"without a layer of cellwright's", nn.Sequential(nn.Linear(2, 2)))
    trees = nn.Sequential(cw.TreeRecurrent("child_sum_lstm", X, H))
    refused("TreeRecurrent.*the forest of a call is no tensor", trees)
    refused(r"in torch\.bfloat16", copy.deepcopy(model).bfloat16())
    hooked = Tagger(cw.Recurrent("gru", X, H))
    hooked.rnn.cells[0].z.register_forward_hook(lambda *_: None)
    refused("hooks on a gate", hooked)


def test_a_packed_sequence_is_refused():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = cw.GRU(X, H)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]))
            return self.rnn(packed)[1]

    refused(r"PackedSequence.*lengths=lengths", Packed(), example=torch.randn(3, 2, X))


class Doubled(cw.Recurrent):
    def forward(self, x, **options):
        y, state = super().forward(x, **options)
        return 2 * y, state


def tripled(layer):
    layer.register_forward_hook(lambda layer, given, found: (3 * found[0], found[1]))
    return layer


@pytest.mark.parametrize(
    "layer",
    [Doubled("gru", X, H), tripled(cw.Recurrent("gru", X, H)), tripled(cw.GRU(X, H))],
    ids=["forward", "hook", "drop-in"],
)
def test_what_a_user_adds_to_a_layer_is_written_or_refused(layer):
    """By itself a layer is written from its equations, which know nothing of it."""
    refused(r"calls nothing of yours", layer, example=None)
    x = torch.randn(5, 2, X)
    session = onnxruntime.InferenceSession(
        cw.export_onnx(layer, example=x).SerializeToString()
    )
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    expected = layer(x)[0].detach()
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-6, rtol=0)


def test_hooks_on_a_layer_of_torchs_own_are_refused():
    refused(r"received GRU with hooks", tripled(nn.GRU(X, H)), example=None)


# -- the page


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_pages_code_runs(run_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole, *others = code("docs/onnx.md")
    assert len(whole.splitlines()) < 20
    known = {}
    exec(whole.replace("runs/mine", str(run_directory)), known)
    assert len(capsys.readouterr().out.strip("\n")) > 100
    for block in others:
        exec(block, known)
    for name in ("mine", "tagger", "layer"):
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")


@pytest.fixture
def run_directory(tmp_path):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(small_text())
    sizes = words_of("--hidden 8 --embedding 8 --batch 4 --window 8 --steps 2")
    call("train", text, "--out", run, *sizes)
    return run
