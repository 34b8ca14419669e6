"""A trained run in code of one's own: `load_run`, and `from_pretrained` of a hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .extras import require
from .language.errors import ArgumentError
from .look.record import Record, record

if TYPE_CHECKING:
    from .nn import EncoderDecoder
    from .nn.beam_search import Hypothesis
    from .text.model import LanguageModel
    from .text.pairs.run import PairRun
    from .text.pairs.score import PairScore
    from .text.run import Run


def load_run(directory: Path | str) -> TextRun | PairsRun:
    """Load what `cellwright train` or `cellwright pairs train` made::

        run = cw.load_run("runs/mine")
        run.generate("ROMEO:", length=200, temperature=0.8)
        run.states("to be")["h"]  # (5, H), a row a token

    No code of the run is executed: it holds data alone, and every file is checked.

    Args:
        directory: of the run. Training may go on there meanwhile; what is loaded is the
            best checkpoint where training validated, else the last.

    Returns:
        A `TextRun` of a language model, a `PairsRun` of an encoder-decoder; the model
        is in eval mode, on the CPU.

    Raises:
        RunError: there is no such directory, or it is no run, cut short, or altered.
        CheckpointError: there is no checkpoint yet, or it is damaged.
        MissingExtraError: the extra `train` is not installed.
    """
    require("load_run", "train")
    from .text.directory import RunError, format_of
    from .text.pairs.run import PairRun
    from .text.run import Run
    from .text.trials import runs_in

    path = Path(directory)
    inside = [] if (path / "config.json").exists() else runs_in(path)
    if inside:
        raise RunError(
            f"[{path}] holds several runs; received their folder, expected one of "
            f"{', '.join(map(str, inside))}"
        )
    if format_of(path) == PairRun.format:
        return PairsRun(PairRun(path))
    return TextRun(Run(path))


def from_pretrained(name: Path | str, **options: Any) -> TextRun | PairsRun:
    """Load a run that `push_to_hub` or `save_pretrained` wrote.

    Args:
        name: of a repository of the Hugging Face Hub, "user/name", or a folder.
        options: as `huggingface_hub.ModelHubMixin.from_pretrained` takes them:
            revision, token, cache_dir, local_files_only, ….

    Raises:
        RunError, CheckpointError: as `load_run`.
        MissingExtraError: the extra `hub` is not installed.
    """
    require("from_pretrained", "hub")
    from .hub import Published

    return Published.from_pretrained(name, **options).run


class _LoadedRun:
    """What both kinds of run have."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Write what `load_run` and `from_pretrained` need, and a model card.

        The texts, and the optimiser's state, are left out.

        Raises:
            MissingExtraError: the extra `hub` is not installed.
        """
        self._published().save_pretrained(folder)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub.

        Args:
            repository: "user/name"; it is made where there is none.
            options: as `huggingface_hub.ModelHubMixin.push_to_hub` takes them: private,
                token, commit_message, ….

        Returns:
            The address of the commit.

        Raises:
            MissingExtraError: the extra `hub` is not installed.
        """
        card = {"repo_id": repository, **options.pop("model_card_kwargs", {})}
        published = self._published()
        return published.push_to_hub(repository, model_card_kwargs=card, **options)

    def _published(self) -> Any:
        require("push_to_hub", "hub")
        from .hub import Published

        return Published(self)  # type: ignore[arg-type]


class TextRun(_LoadedRun):
    """A trained language model with its tokenizer; `load_run` makes it.

    Attributes:
        run: the directory: settings, sizes, cell, tokenizer, texts.
        model: `model(tokens)`, (T, B) token numbers, gives logits (T, B, V) and the
            state.
    """

    def __init__(self, run: Run) -> None:
        self.run: Run = run
        self.model: LanguageModel = run.trained_model()
        self._tokenizer = run.tokenizer

    def __repr__(self) -> str:
        sizes, kind = self.run.sizes, self._tokenizer.kind
        return (
            f"<run {self.run.directory}: {self.run.cell.name}, {sizes.layers} × "
            f"{sizes.hidden} units, {sizes.vocabulary:,} {kind} tokens>"
        )

    def encode(self, text: str) -> Tensor:
        """Token numbers of a text: (T,), int64."""
        return torch.from_numpy(self._tokenizer.encode(text))

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        """The text of token numbers (T,); U+FFFD stands for the unknown token."""
        return self._tokenizer.decode(map(int, tokens))

    def record(self, text: str, names: str | Iterable[str] | None = None) -> Record:
        """Read a text from the zero state, and record every named value of its steps::

            run.record("to be")["f"]  # (5, H): the forget gate, a row a token

        Args:
            names: as `cw.record` takes them; None for all.

        Returns:
            A mapping from keys such as "rnn.0.f", or "f" where that is unique, to
            tensors (T, size). All of it is held in memory.

        Raises:
            ArgumentError: an empty text, or a name that fits no value.
        """
        tokens = self.encode(text)
        if not len(tokens):
            raise ArgumentError("[record] an empty text; expected at least one token")
        with torch.no_grad(), record(self.model, names) as values:
            self.model.rnn(self.model.embed(tokens.to(_device(self.model))))
        return values

    def states(self, text: str, layer: int = -1) -> dict[str, Tensor]:
        """The states after each token of a text that is read from the zero state.

        Args:
            layer: which one, from 0; -1 is the last.

        Returns:
            For each state of the cell, by its name, (T, size).

        Raises:
            ArgumentError: an empty text, or no such layer.
        """
        count = self.run.sizes.layers
        if not -count <= layer < count:
            raise ArgumentError(
                f"[states] the model has {count} layer(s); received layer {layer}, "
                f"expected {-count} to {count - 1}"
            )
        keys = {s.name: f"rnn.{layer % count}.{s.name}" for s in self.run.cell.states}
        values = self.record(text, list(keys.values()))
        return {name: values[key] for name, key in keys.items()}

    def loss(self, text: str | None = None) -> float:
        """The mean −ln p of a text's tokens, in nats a token.

        The whole text is read, with the state carried from its start, where it is zero.
        N tokens have N − 1 targets.

        Args:
            text: None for the text that the run holds out.

        Raises:
            ArgumentError: fewer than two tokens, or predictions that are no numbers.
            RunError: no text is held out.
        """
        from .text.score import read

        tokens = self.run.read(text)
        if len(tokens) < 2:
            raise ArgumentError(
                f"[loss] a text too short: {len(tokens)} tokens have no target; "
                "expected at least 2"
            )
        nats = read(self.model, tokens, lambda count: None)
        return _finite(nats / (len(tokens) - 1))

    def generate(self, prompt: str = "", length: int = 500, **sampling: Any) -> str:
        """A text that goes on from a prompt, without the prompt.

        Args:
            prompt: read first; an empty one counts as a line end.
            length: tokens to generate.
            sampling: temperature, top_k, top_p and seed, as of
                `cellwright.text.generate.generate`.

        Raises:
            ArgumentError: a setting out of its range, or a prompt that is no text.
        """
        return "".join(self.stream(prompt, length, **sampling))

    def stream(
        self, prompt: str = "", length: int = 500, **sampling: Any
    ) -> Iterator[str]:
        """`generate`, piece by piece, each as soon as it is certain."""
        from .text.generate import generate

        return generate(self.model, self._tokenizer, prompt, length, **sampling)


class PairsRun(_LoadedRun):
    """A trained encoder-decoder with its tokenizers; `load_run` makes it.

    Attributes:
        run: the directory: settings, sizes, cells, tokenizers, pairs.
        model: a `cw.EncoderDecoder`.
    """

    def __init__(self, run: PairRun) -> None:
        self.run: PairRun = run
        self.model: EncoderDecoder = run.trained_model()
        self._tokenizer = run.tokenizer

    def __repr__(self) -> str:
        run, sizes = self.run, self.run.sizes
        return (
            f"<run {run.directory}: {run.encoder.name} read by {run.decoder.name}, "
            f"{sizes.layers} × {sizes.hidden} units>"
        )

    def encode(self, text: str) -> Tensor:
        """Token numbers of an input: (S,), int64."""
        return torch.from_numpy(self._tokenizer.encode_inputs([text])[0])

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        """The text of an output's token numbers, up to its end token."""
        return self._tokenizer.decode_output(map(int, tokens))

    def apply(self, texts: Sequence[str], beam: int | None = None) -> list[str]:
        """The best output of each input, by beam search.

        Args:
            texts: the inputs.
            beam: hypotheses that are kept; None: the run's.

        Raises:
            ArgumentError, PairError: an input that is empty, too long, or no text.
        """
        return [self.decode(best.tokens) for best, *_ in self.search(texts, beam=beam)]

    def search(
        self, texts: Sequence[str], beam: int | None = None, **options: Any
    ) -> list[list[Hypothesis]]:
        """The hypotheses of each input, the best first.

        Args:
            texts: the inputs.
            beam: hypotheses that are kept; None: the run's.
            options: n_best, attention, length_penalty and max_length, as of
                `EncoderDecoder.beam_search`.

        Raises:
            ArgumentError, PairError: an input that is empty, too long, or no text.
        """
        from .text.pairs.score import check_inputs, search

        if isinstance(texts, str):
            raise ArgumentError(
                f"[apply] takes several inputs; received one text, expected [{texts!r}]"
            )
        check_inputs(texts, self.run.settings.longest)
        width = self.run.settings.beam if beam is None else beam
        width = max(width, options.get("n_best", 1))
        options["beam"] = width
        found = dict(search(self.model, self._tokenizer, texts, **options))
        return [found[number] for number in range(len(texts))]

    def loss(self, pairs: Sequence[tuple[str, str]] | None = None) -> float:
        """The mean −ln p of all tokens of the outputs, in nats a token.

        Each output is read as it is written: teacher forcing.

        Args:
            pairs: inputs and outputs; None for those that the run holds out.

        Raises:
            ArgumentError: no pair, or predictions that are no numbers.
        """
        from .text.pairs.score import mean_loss

        return _finite(mean_loss(self.model, self._tokenizer, self._pairs(pairs)))

    def evaluate(self, pairs: Sequence[tuple[str, str]] | None = None) -> PairScore:
        """Exact matches and the error rate, as `cellwright pairs evaluate` has them.

        Args:
            pairs: as for `loss`; an input may come with several outputs.
        """
        from .text.pairs.files import examples
        from .text.pairs.score import score

        given = examples(self._pairs(pairs))
        return score(self.model, self._tokenizer, given, self.run.settings.beam)

    def record(
        self,
        text: str,
        output: str | None = None,
        names: str | Iterable[str] | None = None,
    ) -> Record:
        """Read an input, write an output, and record every named value of the steps::

            run.record("5 mars 2021")["decoder.0.h"]  # (T, 1, H), a row a token written

        Args:
            output: what is written; None for the best output.
            names: as `cw.record` takes them; None for all.

        Returns:
            A mapping from keys such as "encoder.0.h" and "decoder.0.attention" to
            tensors (T, 1, size). The decoder's last step writes the end token.
        """
        from .text.pairs.files import Pair
        from .text.pairs.stream import padded

        (best,) = self.apply([text]) if output is None else (output,)
        pair = self._tokenizer.encode_pairs([Pair(text, best)])
        (source, lengths), (target, target_lengths) = map(padded, pair)
        place = _device(self.model)
        with torch.no_grad(), record(self.model, names) as values:
            self.model(source.to(place), lengths, target.to(place), target_lengths)
        return values

    def _pairs(self, pairs: Sequence[tuple[str, str]] | None) -> list[Any]:
        from .text.pairs.files import Pair
        from .text.pairs.score import check_inputs

        found = (
            self.run.pairs("held_out") if pairs is None else [Pair(*p) for p in pairs]
        )
        if not found:
            raise ArgumentError(
                "[pairs] received no pair, expected at least one input with its output"
            )
        for side in zip(*found, strict=True):
            check_inputs(side, self.run.settings.longest)
        return found


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _finite(loss: float) -> float:
    if not abs(loss) < float("inf"):
        raise ArgumentError(
            "[loss] the model's predictions are not finite numbers, and so the loss is "
            "not; its weights are too large for the precision"
        )
    return loss
