"""`EncoderDecoder`: reads a sequence of tokens and writes another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..language import ArgumentError
from .beam_search import Hypothesis, Search, beam_search
from .forcing import run_forced
from .recurrent import Recurrent
from .state import State, map_state


class EncoderDecoder(nn.Module):
    """An encoder reads the source, a decoder writes the target token by token.

    With a decoder whose cell has items it is that of Bahdanau, Cho & Bengio 2015 (or,
    by its cell, of Luong, Pham & Manning 2015): the items are the encoder's outputs.
    With any other cell it is that of Sutskever, Vinyals & Le 2014: all that the decoder
    knows of the source is its initial state::

        encoder = cw.Recurrent("gru", 64, 128, bidirectional=True)
        decoder = cw.Recurrent("bahdanau_gru", 64, 128, items={"source": 256})
        model = cw.EncoderDecoder(encoder, decoder, 30, 40)
        logits, loss = model(source, source_lengths, target, target_lengths)
        best = model.beam_search(source, source_lengths, beam=5)[0][0].tokens

    Tokens are numbers, time first: a source (S, B), a target (T, B) whose rows end with
    the end token. It also stands before the first token of what is written.

    Args:
        encoder: of any cell, several layers, one direction or both.
        decoder: of any cell, several layers, one direction. A cell with items has one
            set of them, as wide as the encoder's output.
        source_vocabulary, target_vocabulary: token numbers on either side.
        bridge: from the final states of the encoder's last layer, (B, width), to the
            initial states of the decoder, (B, width): True for a linear map and tanh,
            a module of your own, or False for the decoder's own initial states. States
            whose declared initial value is infinite are on neither side of it.
        tie: the target's embedding is the output matrix, too (Press & Wolf 2017).
        dropout: of embeddings and of the decoder's outputs, while training.
        label_smoothing: the share of a target's probability that is spread over all
            tokens in the loss (Szegedy et al. 2016).
        end: number of the end token.
        unknown: number of a token that is never written, or None.

    Raises:
        ArgumentError: the layers do not fit each other; a token that is none.
    """

    def __init__(
        self,
        encoder: Recurrent,
        decoder: Recurrent,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        bridge: nn.Module | bool = True,
        tie: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        end: int = 0,
        unknown: int | None = None,
    ):
        super().__init__()
        self.items = _check_layers(encoder, decoder)
        _check_token("end", end, target_vocabulary)
        if unknown is not None:
            _check_token("unknown", unknown, target_vocabulary)
        self.source_embedding = nn.Embedding(source_vocabulary, encoder.input_size)
        self.target_embedding = nn.Embedding(target_vocabulary, decoder.input_size)
        self.encoder, self.decoder = encoder, decoder
        if bridge is True:
            widths = _bridge_width(encoder, 1), _bridge_width(decoder)
            bridge = nn.Sequential(nn.Linear(*widths), nn.Tanh())
        self.bridge = bridge or None
        self.head = nn.Linear(decoder.output_size, target_vocabulary)
        if tie:
            _check_tie(decoder)
            # A unit-variance embedding would give logits of variance H at the output.
            nn.init.normal_(self.target_embedding.weight, std=decoder.output_size**-0.5)
            self.head.weight = self.target_embedding.weight
        self.dropout, self.label_smoothing = dropout, label_smoothing
        self.end, self.unknown = end, unknown

    def forward(
        self,
        source: Tensor,
        source_lengths: Tensor | None,
        target: Tensor,
        target_lengths: Tensor | None = None,
        forcing: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Predict each token of the target from the source and the tokens before it.

        Args:
            source: (S, B) token numbers.
            source_lengths: (B,) tokens of each row; None for S.
            target: (T, B) token numbers, each row with its end token.
            target_lengths: (B,) tokens of each row, the end token included; None for T.
            forcing: the probability that a step reads the true token before it, rather
                than one drawn from the model's prediction: 1 is teacher forcing, 0 free
                running, between them scheduled sampling (see `run_forced`).

        Returns:
            Logits (T, B, V), and the mean cross entropy in nats over all tokens within
            the lengths.

        Raises:
            ArgumentError: forcing is no probability; or as of the layers.
        """
        if not 0 <= forcing <= 1:
            raise ArgumentError(
                f"[forcing] is a probability; received {forcing}, expected 0 to 1"
            )
        memory, state = self.encode(source, source_lengths)
        first = torch.full_like(target[:1], self.end)
        lengths = target_lengths if forcing >= 1 else None

        def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            x = self._drop(self.target_embedding(tokens))  # (t, B, E)
            y, state = self.decoder(x, state, lengths=lengths, **memory)  # (t, B, H)
            return self._logits(y), state  # (t, B, V)

        read = torch.cat([first, target[:-1]])  # (T, B)
        logits, _ = run_forced(step, read, state, forcing, self._sample)
        return logits, self.loss(logits, target, target_lengths)

    def encode(
        self, source: Tensor, lengths: Tensor | None = None
    ) -> tuple[dict[str, Any], State]:
        """What the decoder takes of a source (S, B).

        Returns:
            Its items by their names, none where its cell has none; and its initial
            states, None for its own.
        """
        x = self._drop(self.source_embedding(source))  # (S, B, E)
        y, final = self.encoder(x, lengths=lengths)  # (S, B, D·H)
        memory = {}
        if self.items is not None:
            memory = {self.items: y, f"{self.items}_lengths": lengths}
        if self.bridge is None:
            return memory, None
        finals = [final] if isinstance(final, Tensor) else list(final)
        last = [finals[k][-self.encoder.directions :] for k in _finite(self.encoder)]
        summary = torch.cat([part for s in last for part in s], -1)  # (B, Σ)
        return memory, self._decoder_state(self.bridge(summary))

    def _decoder_state(self, bridged: Tensor) -> State:
        """(B, Σ) -> the decoder's states, (layers, B, size) each."""
        states, start = self.decoder.first_states(bridged.shape[0]), 0
        for k in _finite(self.decoder):
            layers, _, size = states[k].shape
            part = bridged[:, start : start + layers * size]  # (B, layers·size)
            # Not a view: torch.export would fix the rows of an example of one row.
            states[k] = torch.stack(part.split(size, 1))
            start += layers * size
        return states[0] if len(states) == 1 else tuple(states)

    def loss(
        self, logits: Tensor, target: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """The mean cross entropy, in nats, over all tokens within the lengths.

        Args:
            logits: (T, B, V).
            target: (T, B) token numbers.
            lengths: (B,) tokens of each row; None for T.
        """
        if lengths is not None:
            steps = torch.arange(len(target), device=target.device)[:, None]
            beyond = steps >= lengths.to(target.device)  # (T, B)
            target = target.masked_fill(beyond, _IGNORED)
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(
            logits.flatten(0, 1),
            target.flatten(),
            ignore_index=_IGNORED,
            label_smoothing=smoothing,
        )

    def greedy(
        self, source: Tensor, source_lengths: Tensor | None = None, **search: Any
    ) -> list[Hypothesis]:
        """Write the likeliest token at each step: a beam of one, for each row."""
        found = self.beam_search(source, source_lengths, beam=1, **search)
        return [best for (best,) in found]

    @torch.no_grad()
    def beam_search(
        self,
        source: Tensor,
        source_lengths: Tensor | None = None,
        *,
        attention: bool = False,
        **search: Any,
    ) -> list[list[Hypothesis]]:
        """Search for the likeliest outputs of each row, without dropout or gradients.

        Args:
            source: (S, B) token numbers.
            source_lengths: (B,) tokens of each row; None for S.
            attention: give each hypothesis its attention, too.
            **search: `beam`, `n_best`, `length_penalty`, `max_length`: see `Search`.

        Returns:
            For each row its `n_best` hypotheses, the best one first.

        Raises:
            ArgumentError: a number out of its range; a prediction that is no number; or
                attention of a decoder that has none.
        """
        wanted, rows = Search(**search), source.shape[1]
        with self._evaluating():
            memory, state = self.encode(source, source_lengths)
            own = torch.arange(rows).repeat_interleave(wanted.beam)
            advance = self._stepper(memory, state, own)
            found = beam_search(advance, rows, self.end, wanted)
            if attention:
                self._attend(found, source, source_lengths)
        return found

    def _stepper(self, memory: dict[str, Any], state: State, own: Tensor) -> Any:
        """One token for each of N prefixes at a time, as `beam_search` takes it.

        Args:
            memory, state: of B rows, from `encode`.
            own: (N,) the row of each prefix.
        """
        step = self.decoder.stepper(batch_size=len(own))
        if memory:
            items, lengths = memory.values()
            lengths = None if lengths is None else lengths[own]
            step.attend_to(**dict(zip(memory, (items[:, own], lengths), strict=True)))
        if state is not None:
            step.state = map_state(lambda s: s[:, own], state)
        device = self.head.weight.device

        def advance(tokens: Tensor, parents: Tensor) -> Tensor:
            step.state = map_state(lambda s: s[:, parents.to(device)], step.state)
            y = step(self.target_embedding(tokens.to(device)))  # (N, H)
            return self._writable(self._logits(y)).cpu()  # (N, V)

        return advance

    @torch.no_grad()
    def attention(
        self,
        source: Tensor,
        source_lengths: Tensor | None,
        target: Tensor,
        target_lengths: Tensor | None = None,
    ) -> Tensor:
        """The weights of the items when each token of a target is written.

        Arguments are those of `forward`.

        Returns:
            (T, B, S) of the decoder's last layer, the mean over its heads; zero beyond
            the lengths.

        Raises:
            ArgumentError: the decoder's cell does not attend.
        """
        watcher = _AttentionWatcher(self.decoder.num_layers - 1)
        self.decoder.watch(watcher)
        try:
            with self._evaluating():
                self(source, source_lengths, target, target_lengths)
        finally:
            self.decoder.unwatch(watcher)
        if not watcher.weights:
            raise ArgumentError(
                "[EncoderDecoder] the decoder does not attend; received the cell "
                f"{self.decoder.cell.name!r}, expected one that uses attend(...)"
            )
        return torch.stack(watcher.weights).mean(0)

    def _attend(
        self,
        found: list[list[Hypothesis]],
        source: Tensor,
        source_lengths: Tensor | None,
    ) -> None:
        """Give every hypothesis its attention, by forcing its tokens."""
        owners = [row for row, own in enumerate(found) for _ in own]
        every = [h for own in found for h in own]
        written = [torch.tensor([*h.tokens, self.end]) for h in every]
        lengths = torch.tensor([len(tokens) for tokens in written])
        of_source = None if source_lengths is None else source_lengths[owners]
        target = pad_sequence(written).to(source.device)  # (T, N)
        weights = self.attention(source[:, owners], of_source, target, lengths)
        for n, hypothesis in enumerate(every):
            items = len(source) if of_source is None else int(of_source[n])
            hypothesis.attention = weights[: lengths[n], n, :items]

    def _logits(self, y: Tensor) -> Tensor:
        """The decoder's outputs (…, H) -> logits (…, V)."""
        return self.head(self._drop(y))

    def _writable(self, logits: Tensor) -> Tensor:
        """Logits with −∞ for the token that is never written."""
        if self.unknown is None:
            return logits
        unknown = torch.tensor(self.unknown, device=logits.device)
        return logits.index_fill(-1, unknown, -torch.inf)

    def _sample(self, logits: Tensor) -> Tensor:
        """(1, B, V) -> (1, B): a token for each row, drawn from the prediction."""
        return torch.multinomial(self._writable(logits)[0].softmax(-1), 1).t()

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)


_IGNORED = -100  # a target that the loss leaves out, as torch has it


class _AttentionWatcher:
    """Keeps the attention of one layer's call (a `nn.recording.Watcher`)."""

    gradients = False

    def __init__(self, layer: int):
        self._layer = layer
        self.weights: list[Tensor] = []

    def wants(self, layer: Any, k: int, names: Mapping[str, int]) -> dict[str, int]:
        wanted = k == self._layer
        return {n: v for n, v in names.items() if wanted and _is_attention(n)}

    def take(self, layer: Any, k: int, values: Mapping[str, Tensor]) -> None:
        if k == self._layer:
            self.weights = list(values.values())


def _is_attention(name: str) -> bool:
    return name.split(".")[0] == "attention" and not name.endswith(".pre")


def _finite(layer: Recurrent) -> list[int]:
    """The numbers of the states that a bridge has: not those that start at ±∞."""
    states = layer.graphs[0].states
    return [k for k, state in enumerate(states) if abs(state.init) < float("inf")]


def _bridge_width(layer: Recurrent, layers: int | None = None) -> int:
    """The width of the states of so many layers, or of all, side by side."""
    count = (layers or layer.num_layers) * layer.directions
    return count * sum(int(layer.graphs[-1].states[k].size) for k in _finite(layer))


def _check_layers(encoder: Any, decoder: Any) -> str | None:
    """The name of the decoder's items, or None; ArgumentError where nothing fits."""
    for name, layer in (("encoder", encoder), ("decoder", decoder)):
        if not isinstance(layer, Recurrent):
            raise ArgumentError(
                f"[EncoderDecoder] the {name} is a layer; received "
                f"{type(layer).__name__}, expected a cw.Recurrent"
            )
        if layer.batch_first:
            raise ArgumentError(
                f"[EncoderDecoder] tokens are (T, B), time first; received the {name} "
                "with batch_first=True, expected batch_first=False"
            )
        more = [i.name for i in layer.graphs[0].inputs[1:]]
        if more:
            raise ArgumentError(
                f"[EncoderDecoder] the {name} reads tokens alone; received the cell "
                f"{layer.cell.name!r} with the further input {more[0]!r}"
            )
    if decoder.bidirectional:
        raise ArgumentError(
            "[EncoderDecoder] a decoder cannot read what is not written yet; received "
            "bidirectional=True, expected one direction"
        )
    if encoder.cell.graph.items:
        raise ArgumentError(
            "[EncoderDecoder] the encoder has nothing to attend to; received the cell "
            f"{encoder.cell.name!r} with items, expected one without"
        )
    sets = decoder.cell.graph.items
    if not sets:
        return None
    if len(sets) > 1:
        raise ArgumentError(
            "[EncoderDecoder] the encoder's outputs are one set of items; received "
            f"the cell {decoder.cell.name!r} with {', '.join(i.name for i in sets)}"
        )
    found = int(decoder.graphs[0].items[0].size)
    if found != encoder.output_size:
        raise ArgumentError(
            "[EncoderDecoder] the items are the encoder's outputs; received items of "
            f"{found}, expected items={{{sets[0].name!r}: {encoder.output_size}}}"
        )
    return sets[0].name


def _check_token(name: str, token: int, vocabulary: int) -> None:
    if not 0 <= token < vocabulary:
        raise ArgumentError(
            f"[{name}] is no token of the target; received {token}, expected 0 to "
            f"{vocabulary - 1}"
        )


def _check_tie(decoder: Recurrent) -> None:
    if decoder.input_size != decoder.output_size:
        raise ArgumentError(
            "[tie] one matrix cannot be both the embedding and the output; received an "
            f"embedding of {decoder.input_size} and outputs of {decoder.output_size}, "
            "expected equal widths"
        )
