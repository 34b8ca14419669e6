"""What several commands print: a run, its figures, a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..language.errors import CellwrightError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..text.run import Run
    from ..text.score import Advance, Score


def describe(run: Run) -> str:
    """The run in a few lines."""
    model = run.new_model()
    count = sum(p.numel() for p in model.parameters())
    sizes, settings = run.sizes, run.settings
    layers = f"{sizes.layers} layers" if sizes.layers > 1 else "1 layer"
    test = f", {run.test.count:,} to test on" if run.test else ""
    return (
        f"model: {run.cell.name}, {layers} of {sizes.hidden} units, embedding "
        f"{sizes.embedding}, {count:,} parameters\n"
        f"engine: {model.rnn.engine} ({model.rnn.engine_reason})\n"
        f"text: {run.text.characters:,} characters in {run.text.files} files; "
        f"{run.train_tokens.count:,} {settings.tokenizer} tokens to train on, "
        f"{run.held_out.count:,} held out{test}; vocabulary {sizes.vocabulary:,}"
    )


def on_device(model: nn.Module, device: torch.device) -> list[str]:
    """What runs a new model's layers on a device that is not the CPU; with a warning
    where they would be stepped in Python, and the CPU has an engine for them.

    Args:
        model: on the CPU; it is moved.
    """
    from ..engine.choice import REFERENCE
    from ..nn.layer import SequenceLayer

    layers = {n: m for n, m in model.named_modules() if isinstance(m, SequenceLayer)}
    on_cpu = {name: layer.current_engine for name, layer in layers.items()}
    model.to(device)
    lines = []
    for name, layer in layers.items():
        own, other = layer.current_engine, on_cpu[name]
        lines.append(f"on {device}: {name}: {own.name} ({layer.engine_reason})")
        if own is REFERENCE and other is not REFERENCE:
            lines.append(
                f"warning: on {device} the {own.name} engine steps {name} in Python; "
                f"on the CPU the {other.name} engine runs it whole, which can be "
                "faster: --device cpu"
            )
    return lines


def check_finite(figures: Score) -> None:
    if not figures.finite:
        raise CellwrightError(
            "[evaluate] the model's predictions are not finite numbers, and so no "
            "figure is; its weights are too large for the precision"
        )


def sentence(figures: Score) -> str:
    values = figures.to_json()
    return (
        f"{figures.characters:,} characters: {values['nats_per_char']:.4f} nats "
        f"({values['bits_per_char']:.4f} bits) per character, "
        f"{values['nats_per_token']:.4f} nats ({values['bits_per_token']:.4f} bits) "
        f"per token, perplexity {perplexity_of(figures)}"
    )


def perplexity_of(figures: Score) -> str:
    """The perplexity as a number to read."""
    if figures.perplexity is not None:
        return f"{figures.perplexity:.3f}"
    return "beyond 1e308" if figures.finite else "nan"


def unknown_note(figures: Score) -> str | None:
    """What a user is told of tokens that the model does not know."""
    if not figures.unknown:
        return None
    share = figures.unknown / figures.tokens
    return (
        f"{figures.unknown:,} tokens ({share:.2%}) are not in the vocabulary; they "
        "count as the one unknown token"
    )


def with_bar(total: int, work: Any, *arguments: Any) -> Any:
    """Call `work(*arguments, advance)` under a progress bar on standard error."""
    with progress_bar("evaluating", total) as advance:
        return work(*arguments, advance)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Advance]:
    """A `score.Bar` on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, advance=count)
