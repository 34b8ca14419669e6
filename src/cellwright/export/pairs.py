"""A run of pairs as two ONNX models: its encoder, and one step of its decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..files import write_output
from ..language import Cell
from ..language.errors import ArgumentError
from ..nn.encoder_decoder import EncoderDecoder
from ..nn.state import State
from .onnx import export_onnx
from .onnx.writer import import_onnx

if TYPE_CHECKING:
    from ..text.pairs.run import PairRun
    from ..text.tokenizer import TextTokenizer


def export_pairs(run: PairRun, folder: Path, name: str) -> list[Path]:
    """Write NAME_encoder.onnx and NAME_decoder.onnx; docs/deploy.md has their inputs.

    Metadata of each: `cellwright.cell`, and `cellwright.tokenizer`, that of the inputs
    or of the outputs. The decoder's: `cellwright.end`, the end token's number.

    Returns:
        The files.

    Raises:
        ArgumentError: another kind of run.
        MissingExtraError: the extra `onnx` is not installed.
    """
    model: Any = run.trained_model()
    if not isinstance(model, EncoderDecoder):
        raise ArgumentError(
            f"[export_pairs] received a {type(run).__name__}, expected a run of pairs; "
            "cellwright.export_onnx writes a run of a language model"
        )
    model.eval()
    names = [state.name for state in model.decoder.graphs[0].states]
    firsts = [f"{name}_0" for name in names]
    items = [] if model.items is None else [model.items, f"{model.items}_lengths"]
    tokens, lengths = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1).long()
    encoder, decoder = _Encoder(model), _DecoderStep(model)
    made = encoder(tokens, lengths)
    memory = (made[0].detach(), lengths) if items else ()
    states = tuple(state.detach() for state in made[len(items[:1]) :])
    files = [folder / f"{name}_{part}.onnx" for part in ("encoder", "decoder")]
    written = export_onnx(
        encoder,
        example=(tokens, lengths),
        input_names=["tokens", "lengths"],
        output_names=[*items[:1], *firsts],
    )
    _write(written, files[0], run.encoder, run.tokenizer.input)
    written = export_onnx(
        decoder,
        example=(tokens, states, *memory),
        input_names=["tokens", *firsts, *items],
        output_names=["logits", *(f"{name}_n" for name in names)],
        step=True,
    )
    end = {"cellwright.end": json.dumps(model.end)}
    _write(written, files[1], run.decoder, run.tokenizer.output, end)
    return files


def _write(
    model: Any, path: Path, cell: Cell, tokenizer: TextTokenizer, more: Any = ()
) -> None:
    metadata = {
        "cellwright.cell": cell.to_text(),
        "cellwright.tokenizer": tokenizer.to_json(),
        **dict(more),
    }
    import_onnx().helper.set_model_props(model, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_output(path, model.SerializeToString())


class _Encoder(nn.Module):
    """The items, if the decoder attends, and the decoder's first states."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        memory, state = self.model.encode(tokens, lengths)
        items = [memory[self.model.items]] if self.model.items else []
        return (*items, *_several(state))


class _DecoderStep(nn.Module):
    """The logits of the next token, −∞ for what is never written, and the states."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Tensor,
        states: tuple[Tensor, ...],
        items: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        model, name = self.model, self.model.items
        memory = {name: items, f"{name}_lengths": lengths} if name else {}
        state = states[0] if len(states) == 1 else states
        y, state = model.decoder(model.target_embedding(tokens), state, **memory)
        return (model._writable(model._logits(y)), *_several(state))


def _several(state: State) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)
