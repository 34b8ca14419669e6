"""The encoder-decoder: against one written by hand, and what it refuses."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch.nn import functional as F

import cellwright as cw
from cellwright import ArgumentError
from cellwright.nn.beam_search import Search
from oracles import assert_close, normal, randomise

S, B, T = 5, 4, 4
IN, OUT = 6, 5  # token numbers of source and target; an output ends with 0
SOURCE_LENGTHS = torch.tensor([5, 2, 0, 3])
LENGTHS = torch.tensor([4, 1, 3, 2])


def tokens(seed=3):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(0, IN, (S, B), generator=generator)
    target = torch.randint(1, OUT, (T, B), generator=generator)
    target[LENGTHS - 1, torch.arange(B)] = 0
    return source, target


def make(
    encoder="gru", decoder="bahdanau_gru", *, layers=(1, 1), widths=(3, 4), **options
):
    """A small model with asymmetric weights, in float64."""
    read, write = widths
    how = {"dtype": torch.float64, "engine": options.pop("engine", "auto")}
    encoding = cw.Recurrent(encoder, 3, read, layers[0], bidirectional=True, **how)
    items = {i.name: 2 * read for i in cw.cells.get(decoder).graph.items}
    more = {"items": items} if items else {}
    decoding = cw.Recurrent(decoder, 4, write, layers[1], **more, **how)
    model = cw.EncoderDecoder(encoding, decoding, IN, OUT, **options)
    return randomise(model.double())


def by_hand(model, source, target):
    """Bahdanau's model row by row, step by step: logits (T, B, V), zero beyond."""
    rows = []
    weights = model.decoder.cells[0]
    for b in range(B):
        states = []
        for k, order in enumerate((1, -1)):
            h, outputs = torch.zeros(3, dtype=torch.float64), []
            W = model.encoder.cells[k]
            for s in range(int(SOURCE_LENGTHS[b]))[::order]:
                x = model.source_embedding.weight[source[s, b]]
                r = (W.r.weight @ torch.cat([h, x])).sigmoid()
                z = (W.z.weight @ torch.cat([h, x])).sigmoid()
                n = (W.n.weight @ torch.cat([r * h, x])).tanh()
                h = (1 - z) * h + z * n
                outputs.append(h)
            states.append((h, outputs[::order]))
        (last, forward), (first, backward) = states
        items = [torch.cat(both) for both in zip(forward, backward, strict=True)]
        h = model.bridge(torch.cat([last, first]))
        read, logits = 0, []
        for t in range(int(LENGTHS[b])):
            x = model.target_embedding.weight[read]
            h = bahdanau_step(weights, x, h, items)
            logits.append(model.head(h))
            read = target[t, b]
        rows.append(
            torch.stack(logits + [torch.zeros(OUT).double()] * (T - len(logits)))
        )
    return torch.stack(rows, 1)


def bahdanau_step(W, x, h, items):
    context = torch.zeros(6, dtype=torch.float64)
    if items:
        query = W.query.weight @ h
        energies = [
            (W.e.weight @ (query + W.key(item)).tanh()).squeeze() for item in items
        ]
        shares = torch.stack(energies).softmax(0)
        context = sum(a * item for a, item in zip(shares, items, strict=True))
    z = W.z(torch.cat([h, x, context])).sigmoid()
    r = W.r(torch.cat([h, x, context])).sigmoid()
    n = W.n(torch.cat([r * h, x, context])).tanh()
    return (1 - z) * h + z * n


def inside(values):
    """(T, B, …) with zeros beyond the target's lengths."""
    steps = torch.arange(T)[:, None] < LENGTHS
    return values * steps.view(T, B, *[1] * (values.dim() - 2))


def test_values_and_gradients_are_those_written_by_hand():
    model = make()
    source, target = tokens()
    logits, loss = model(source, SOURCE_LENGTHS, target, LENGTHS)
    expected = by_hand(model, source, target)
    assert_close(inside(logits), expected)
    kept = [expected[t, b] for b in range(B) for t in range(int(LENGTHS[b]))]
    wanted = [target[t, b] for b in range(B) for t in range(int(LENGTHS[b]))]
    assert_close(loss, F.cross_entropy(torch.stack(kept), torch.stack(wanted)))
    cotangent = normal(T, B, OUT, seed=5)
    parameters = dict(model.named_parameters())
    found, checked = (
        torch.autograd.grad((inside(y) * cotangent).sum(), parameters.values())
        for y in (logits, expected)
    )
    for name, own, other in zip(parameters, found, checked, strict=True):
        assert own.abs().max() > 0, name
        assert_close(own, other)


@pytest.mark.parametrize(
    ("encoder", "decoder", "layers"),
    [
        ("lstm", "luong_lstm", (2, 1)),
        ("lstm", "lstm", (1, 2)),
        ("peephole", "bahdanau_gru", (1, 2)),
        ("gru", "rnn", (2, 2)),
    ],
)
def test_any_cells_any_layers(encoder, decoder, layers):
    widths = (3, 6) if decoder == "luong_lstm" else (3, 4)  # its score is a dot product
    model = make(encoder, decoder, layers=layers, widths=widths)
    source, target = tokens()
    _, loss = model(source, SOURCE_LENGTHS, target, LENGTHS)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
    # what lies beyond the lengths changes nothing
    with torch.no_grad():
        source[2:, 1] = (source[2:, 1] + 1) % IN
        target[1:, 1] = 3
        assert_close(model(source, SOURCE_LENGTHS, target, LENGTHS)[1], loss.detach())


def test_the_bridge_is_the_way_from_the_source_to_a_plain_decoder():
    source, target = tokens()
    other = (source + 1) % IN
    full = torch.full((B,), S)
    for bridge, same in ((True, False), (False, True)):
        model = make("lstm", "lstm", bridge=bridge)
        a, b = (model(s, full, target, LENGTHS)[0] for s in (source, other))
        assert torch.equal(a, b) == same
    own = torch.nn.Linear(12, 8)
    assert make("lstm", "lstm", bridge=own).bridge is own


def test_states_that_start_at_infinity_are_not_bridged():
    @cw.cell
    def stable(W, x, h, m=-float("inf")):
        m = cw.maximum(m, W.s(x))
        return cw.tanh(W.h(h, x) + cw.exp(W.i(x) - m)), m

    write = cw.Recurrent(stable, 4, 4, dtype=torch.float64)
    read = cw.Recurrent(stable, 3, 3, bidirectional=True, dtype=torch.float64)
    model = cw.EncoderDecoder(read, write, IN, OUT).double()
    assert model.bridge[0].weight.shape == (4, 6)
    source, target = tokens()
    _, loss = model(source, SOURCE_LENGTHS, target, LENGTHS)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# -- the loss, forcing, dropout ----------------------


def test_label_smoothing_is_a_mixture_with_all_tokens():
    model = make(label_smoothing=0.2)
    source, target = tokens()
    logits, loss = model(source, SOURCE_LENGTHS, target, LENGTHS)
    chances = logits.log_softmax(-1)
    each = [
        -0.8 * chances[t, b, target[t, b]] - 0.2 * chances[t, b].mean()
        for b in range(B)
        for t in range(int(LENGTHS[b]))
    ]
    assert_close(loss, torch.stack(each).mean())
    model.eval()  # a figure is of the targets alone
    assert model(source, SOURCE_LENGTHS, target, LENGTHS)[1] < loss


def test_without_forcing_it_reads_what_it_wrote(monkeypatch):
    model = make().eval()
    source, target = tokens()
    logits, _ = model(source, SOURCE_LENGTHS, target, LENGTHS)
    stepped, _ = model(source, SOURCE_LENGTHS, target, LENGTHS, forcing=1 - 1e-12)
    assert_close(inside(stepped), inside(logits))
    monkeypatch.setattr(model, "_sample", lambda logits: logits.argmax(-1))
    free, _ = model(source, SOURCE_LENGTHS, target, LENGTHS, forcing=0.0)
    written = free.argmax(-1)  # (T, B)
    again, _ = model(source, SOURCE_LENGTHS, written)
    assert_close(free, again)
    assert not torch.allclose(free[1:], logits[1:])


def test_dropout_draws_in_training_alone():
    model = make(dropout=0.5)
    source, target = tokens()
    drawn = [model(source, SOURCE_LENGTHS, target)[0] for _ in range(2)]
    assert not torch.equal(*drawn)
    model.eval()
    drawn = [model(source, SOURCE_LENGTHS, target)[0] for _ in range(2)]
    assert torch.equal(*drawn)


def test_tied_embeddings_are_one_parameter():
    model = make(tie=True)
    assert model.head.weight is model.target_embedding.weight
    with pytest.raises(ArgumentError, match=r"\[tie\] .* embedding of 4 and outputs"):
        make(tie=True, widths=(3, 5))


# -- search ----------------------


def exhaustive(model, source, length, longest, penalty):
    """Every output of one row by its score, each forced through `forward`."""
    found = []
    for count in range(longest + 1):
        for prefix in product(range(1, OUT), repeat=count):
            target = torch.tensor([*prefix, 0])[:, None]
            logits, _ = model(source, length, target)
            chances = logits[:, 0].log_softmax(-1)
            total = chances.gather(1, target).sum().item()
            found.append((total / (count + 1) ** penalty, list(prefix)))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("decoder", ["bahdanau_gru", "lstm"])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_is_exhaustive_search(decoder, penalty):
    model = make(decoder=decoder, widths=(3, 4))  # in training mode: search evaluates
    source, _ = tokens()
    search = {"beam": 90, "n_best": 6, "length_penalty": penalty, "max_length": 3}
    found = model.beam_search(source, SOURCE_LENGTHS, **search)
    assert model.training
    with torch.no_grad():
        for b in range(B):
            length = SOURCE_LENGTHS[b : b + 1]
            row = source[:, b : b + 1]
            expected = exhaustive(model, row, length, 3, penalty)[:6]
            assert [h.tokens for h in found[b]] == [t for _, t in expected]
            for hypothesis, (score, _) in zip(found[b], expected, strict=True):
                assert hypothesis.score == pytest.approx(score, abs=1e-5)


def test_a_row_is_searched_alike_in_every_batch():
    model = make()
    source, _ = tokens()
    whole = model.beam_search(source, SOURCE_LENGTHS, beam=3, max_length=6)
    for b in range(B):
        row, length = source[:, b : b + 1], SOURCE_LENGTHS[b : b + 1]
        (alone,) = model.beam_search(row, length, beam=3, max_length=6)
        assert alone[0].tokens == whole[b][0].tokens
        assert alone[0].score == pytest.approx(whole[b][0].score, abs=1e-6)


def test_greedy_is_the_likeliest_token_at_each_step():
    model = make().eval()
    source, _ = tokens()
    for b, best in enumerate(model.greedy(source, SOURCE_LENGTHS, max_length=5)):
        row, length = source[:, b : b + 1], SOURCE_LENGTHS[b : b + 1]
        for t, token in enumerate([*best.tokens, 0][:5]):
            read = torch.tensor([*best.tokens[:t], 0])[:, None]
            logits, _ = model(row, length, read)
            assert int(logits[-1, 0].argmax()) == token


def test_attention_of_each_hypothesis():
    model = make()
    source, _ = tokens()
    found = model.beam_search(
        source, SOURCE_LENGTHS, beam=3, n_best=2, max_length=4, attention=True
    )
    for b, own in enumerate(found):
        for hypothesis in own:
            steps, items = len(hypothesis.tokens) + 1, int(SOURCE_LENGTHS[b])
            assert hypothesis.attention.shape == (steps, items)
            if items:
                assert_close(hypothesis.attention.sum(1), torch.ones(steps).double())
            target = torch.tensor([*hypothesis.tokens, 0])[:, None]
            row, length = source[:, b : b + 1], SOURCE_LENGTHS[b : b + 1]
            alone = model.attention(row, length, target)[:, 0, :items]
            assert_close(hypothesis.attention, alone)
    with pytest.raises(
        ArgumentError, match="does not attend; received the cell 'lstm'"
    ):
        make(decoder="lstm").beam_search(source, attention=True)


def test_a_token_that_is_never_written():
    source, _ = tokens()
    model = make(unknown=2)
    with torch.no_grad():
        model.head.bias[2] = 50.0
    for own in model.beam_search(
        source, SOURCE_LENGTHS, beam=4, n_best=4, max_length=4
    ):
        assert all(2 not in h.tokens for h in own)


# -- saving, and what is refused ----------------------


def test_save_load_copy_and_pickle():
    model = make(layers=(2, 2), tie=True).eval()
    source, target = tokens()
    expected, _ = model(source, SOURCE_LENGTHS, target, LENGTHS)
    other = make(layers=(2, 2), tie=True).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict())
    for same in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(source, SOURCE_LENGTHS, target, LENGTHS)[0], expected)
        assert same.head.weight is same.target_embedding.weight
        best = same.beam_search(source, SOURCE_LENGTHS, max_length=4)
        assert best == model.beam_search(source, SOURCE_LENGTHS, max_length=4)


def layer(cell="gru", sizes=(4, 4), **options):
    return cw.Recurrent(cell, *sizes, **options)


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        (lambda: torch.nn.GRU(3, 4), layer, "encoder is a layer; received GRU, expec"),
        (layer, lambda: layer(bidirectional=True), "cannot read what is not written"),
        (layer, lambda: layer(batch_first=True), "the decoder with batch_first=True"),
        (
            lambda: layer("bahdanau_gru", items={"source": 4}),
            layer,
            "nothing to attend to; received the cell 'bahdanau_gru'",
        ),
        (
            layer,
            lambda: layer("bahdanau_gru", items={"source": 5}),
            r"received items of 5, expected items=\{'source': 4\}",
        ),
    ],
)
def test_layers_that_do_not_fit(encoder, decoder, message):
    with pytest.raises(ArgumentError, match=message):
        cw.EncoderDecoder(encoder(), decoder(), IN, OUT)


def test_numbers_out_of_range():
    source, target = tokens()
    for forcing in (-0.1, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match=r"\[forcing\] is a probability"):
            make()(source, SOURCE_LENGTHS, target, LENGTHS, forcing)
    with pytest.raises(ArgumentError, match=r"\[end\] .* received 5, expected 0 to 4"):
        make(end=OUT)
    with pytest.raises(ArgumentError, match=r"\[unknown\] .* received -1"):
        make(unknown=-1)


def test_search_settings_are_checked():
    source, _ = tokens()
    with pytest.raises(ArgumentError, match="beam is out of its range; received 0"):
        make().beam_search(source, beam=0)
    assert Search().beam == 5
