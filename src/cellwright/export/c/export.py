"""`export_c`: a model as a header and a source in C."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import write_output
from .blocks import modules_of
from .int8 import check_format
from .model import Model
from .program import main_program
from .program import self_test as test_program
from .values import check_name


def export_c(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    name: str = "model",
    self_test: bool = False,
    tokenizer: Any = None,
    max_items: Mapping[str, int] | None = None,
    weights: str = "float32",
) -> list[Path]:
    """Write a model as C: one header, one source, a step at a time, in float32.

    The source is C99, and C++17 too. It allocates nothing, has no global state and
    calls no other function; weights are constants. With the model's name for `NAME`::

        NAME_state state;                  all that changes
        NAME_init(&state);                 to the initial states; so does NAME_reset
        NAME_step(&state, x, y);           one step; named inputs come after x
        NAME_step(&state, token, logits);  of a language model
        NAME_text(token, &length)          the text of a token, with a tokenizer
        NAME_attend(&state, source, n)     of a cell with items: what it looks at

    Args:
        model: a `Recurrent` of any cell, a drop-in, or torch.nn's LSTM, GRU or RNN; a
            stepper; a language model, or a run of one; or an nn.Sequential of such
            layers, nn.Linear, nn.Tanh, nn.Sigmoid, nn.ReLU, and nn.Embedding first.
        folder: where NAME.h and NAME.c go; made where it does not exist.
        name: the prefix of every name.
        self_test: write NAME_test.c too, a program that steps the model through a
            sequence and compares with what it should give; it returns 0 if that holds.
        tokenizer: of a language model: write the text of its tokens, and NAME_main.c,
            a program that generates text. A run brings its own.
        max_items: of cells with items: how many the state has room for, by set,
            `{"source": 50}`. A state has the items and what is made of them once.

        weights: how matrices and embeddings are stored: "float32", or "int8": rounded
            to 8 bits, symmetric, with a float for each row of each, which is a quarter
            of the bytes. Biases and other vectors, states and sums are float32.

    Returns:
        The files written.

    Raises:
        ArgumentError: a model that has no form in C: trees, both directions, hooks, a
            `forward` of your own, an embedding with max_norm, weights that are not
            finite; a name that is none in C; or a cell with items and no number in
            `max_items`.
    """
    check_name(name)
    check_format(weights)
    if hasattr(model, "trained_model"):  # a run
        model, tokenizer = model.trained_model(), model.tokenizer
    written = Model(name, modules_of(model), tokenizer, max_items or {}, weights)
    texts = {f"{name}.h": written.header(), f"{name}.c": written.source()}
    if self_test:
        texts[f"{name}_test.c"] = test_program(written)
    if tokenizer is not None:
        texts[f"{name}_main.c"] = main_program(written)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_output(place / file, written.named(text).encode())
    return [place / file for file in texts]
