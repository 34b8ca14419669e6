"""A model's header and source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import nn

from ...language import ArgumentError
from ...nn.made import make_weights
from .attend import Attend
from .blocks import Block, blocks_of, in_float32
from .int8 import quantised, rounded, with_rounded_matrices
from .operations import functions
from .step import StepWriter
from .templates import ATTEND, HEADER, SOURCE, TEXT, WIDE
from .tokens import tokens_of
from .values import (
    ATTEND_ITEM,
    STEP,
    STEP_ITEM,
    Tables,
    check_apart,
    identifier,
    literal,
)

_MACROS = {"": "TOKENS", "x": "INPUT"}  # of the sizes; a named input has its own


class Model:
    """A model's texts, in which `@` still stands for its name.

    Attributes:
        embedding: (tokens, size), where the model begins with one.
        inputs: sizes of the arguments of the step, by name.
        fields: fields of the state: (size, initial values).
        attend: its sets of items.
        tokens: the text of the tokens, where it is known.
    """

    def __init__(
        self,
        name: str,
        modules: Sequence[nn.Module],
        tokenizer: Any = None,
        max_items: Mapping[str, int] = {},
        weights: str = "float32",
    ) -> None:
        int8 = weights == "int8"
        self.name, self.tables = name, Tables(int8)
        self.embedding, modules = _split_embedding(modules)
        if int8 and self.embedding is not None:
            self.embedding = rounded(self.embedding)
        width = None if self.embedding is None else self.embedding.shape[1]
        count = None if self.embedding is None else len(self.embedding)
        self.tokens = None if tokenizer is None else tokens_of(tokenizer, count)
        self.blocks = blocks_of(modules, width)
        if int8:
            self.blocks = [with_rounded_matrices(block) for block in self.blocks]
        self.output_size = int(self.blocks[-1].graph.output_size)
        self.inputs = _inputs(self.blocks)
        self.fields: dict[str, tuple[int, np.ndarray]] = {}
        own = [self._fields(k, block) for k, block in enumerate(self.blocks)]
        self.attend = Attend(self.blocks, max_items, list(self.fields))
        self.writers = [self._writer(k, fields) for k, fields in enumerate(own)]
        self._source = self._write_source()  # fills the tables

    def named(self, text: str) -> str:
        """A text with the model's name in it."""
        text = re.sub("@@", self.name.upper(), text)
        return text.replace("@", self.name).replace("\x00", "@")

    def _fields(self, index: int, block: Block) -> dict[str, str]:
        """The fields of a block's states, by state."""
        several = sum(bool(b.graph.states) for b in self.blocks) > 1
        names = {}
        for state, values in zip(block.graph.states, block.initial, strict=True):
            label = identifier(state.name) + (f"_{index}" if several else "")
            while label in self.fields:  # Σ and σ are both sigma
                label += "_"
            self.fields[label] = (int(state.size), values)
            names[state.name] = label
        return names

    def _writer(self, index: int, fields: Mapping[str, str]) -> StepWriter:
        block, items = self.blocks[index], self.attend.places[index]
        step = block.graph if block.once is None else block.once.step
        return StepWriter(block, step, str(index), fields, self.tables, items)

    # -- the texts

    def header(self) -> str:
        """NAME.h."""
        sizes = self.inputs
        if self.embedding is not None:
            sizes = {"": len(self.embedding)}
        defines = "".join(
            f"#define @@_{_MACROS.get(n, f'INPUT_{identifier(n).upper()}')}_SIZE {s}\n"
            for n, s in sizes.items()
        )
        defines += f"#define @@_OUTPUT_SIZE {self.output_size}\n"
        fields = "".join(f"    float {n}[{s}];\n" for n, (s, _) in self.fields.items())
        attend = ""
        if self.attend.sizes:
            attend = ATTEND.format(arguments=self.attend.arguments("state"))
        return HEADER.format(
            comment=self._comment(),
            defines=defines + self.attend.defines(),
            fields=fields + self.attend.declarations(),
            attend=attend,
            arguments=", ".join(self._arguments()),
            text="" if self.tokens is None else TEXT,
        )

    def _arguments(self) -> list[str]:
        if self.embedding is not None:
            return ["@_state *state", "int token", "float *logits"]
        inputs = [f"const float *{identifier(name)}" for name in self.inputs]
        return ["@_state *state", *inputs, "float *y"]

    def _comment(self) -> str:
        lines = [f"{self.name}: {'; '.join(b.title for b in self.blocks)}", ""]
        for block in self.blocks:
            lines += [f"{block.title}:", *(f"    {e}" for e in block.equations), ""]
        state = 4 * sum(size for size, _ in self.fields.values()) + self.attend.bytes
        lines += [
            f"State: {state} bytes. Weights: {self.tables.bytes} bytes. "
            f"A step: {self.tables.products[STEP]} multiply-adds.",
            *(
                ["Matrices are in 8 bits, with a scale for each row."]
                * self.tables.int8
            ),
            *self._work_of_items(),
            f"Written by cellwright {metadata.version('cellwright')}.",
        ]
        return "\n".join(f" * {_comment_line(line)}".rstrip() for line in lines)

    def _work_of_items(self) -> list[str]:
        made = self.tables.products
        line = f"An item: {made[STEP_ITEM]} more; once {made[ATTEND_ITEM]}, by attend."
        return [line] if self.attend.sizes else []

    def source(self) -> str:
        """NAME.c."""
        return self._source

    def _write_source(self) -> str:
        steps = "\n".join(writer.function() for writer in self.writers)
        attend = self.attend.functions(self.tables) if self.attend.sizes else ""
        code = f"{steps}{self._init()}{self._step()}{attend}"
        text = "" if self.tokens is None else self.tokens.definition()
        sizes = [size for size, _ in self.fields.values()]
        return SOURCE.format(
            wide=WIDE if all(n >= 16 and n % 8 == 0 for n in sizes) else "",
            functions=functions(code),
            tables=self.tables,
            code=code,
            text=text,
        )

    def _init(self) -> str:
        """The body of NAME_reset."""
        lines = ["const float one = @_one;", "int j;"]
        for label, (size, values) in self.fields.items():
            if (values == values[0]).all():
                value = literal(float(values[0]))
            else:
                value = f"{self.tables.add(f'initial_{label}', values)}[j]"
            lines.append(f"for (j = 0; j < {size}; ++j) s->{label}[j] = {value} * one;")
        body = "\n".join(f"    {line}" for line in lines)
        return (
            f"\nvoid @_reset(@_state *s) {{\n{body}\n}}\n"
            f"\nvoid @_init(@_state *s) {{ @_reset(s);{self._no_items()} }}\n"
        )

    def _no_items(self) -> str:
        return "".join(f" s->{name} = 0;" for name in self.attend.counts.values())

    def _step(self) -> str:
        """NAME_step: the blocks, one after another."""
        arguments = self._arguments()
        y = arguments[-1].rpartition("*")[2]
        x, lines = self._embedded()
        for k, block in enumerate(self.blocks):
            last = k == len(self.blocks) - 1
            target = y if last else f"y_{k}"
            if not last:
                lines.append(f"float {target}[{block.graph.output_size}];")
            named = [identifier(i.name) for i in block.graph.inputs[1:]]
            given = [x, *named, target]
            if block.graph.states:
                given.insert(0, "state")
            lines.append(f"@_block{k}({', '.join(given)});")
            x = target
        body = "\n".join(f"    {line}" for line in lines)
        return f"\nvoid @_step({', '.join(arguments)}) {{\n{body}\n}}\n"

    def _embedded(self) -> tuple[str, list[str]]:
        """What the first block reads, and the lines that make it."""
        if self.embedding is None:
            return "x", []
        count, width = self.embedding.shape
        numbers, scale = self.embedding, None
        if self.tables.int8:
            numbers, scale = quantised(self.embedding)
        tied = self.tables.find(numbers.T)  # by column, as an output matrix
        if tied is not None:
            value = f"{tied}[j * {count} + token]"
        else:
            table, start = self.tables.add("embedding", numbers), f"token * {width}"
            if scale is None:
                return f"{table} + {start}", []
            value = f"{table}[{start} + j]"
        if scale is not None:
            scales = self.tables.add("scale_embedding", scale)
            value = f"(float){value} * {scales}[token]"
        line = f"for (j = 0; j < {width}; ++j) x[j] = {value};"
        return "x", [f"float x[{width}];", "int j;", line]


@torch.no_grad()
def _split_embedding(
    modules: Sequence[nn.Module],
) -> tuple[np.ndarray | None, Sequence[nn.Module]]:
    """The embedding that a model begins with, and what comes after it."""
    if not modules or not isinstance(modules[0], nn.Embedding):
        return None, modules
    first, *rest = modules
    make_weights(first)
    return in_float32("the embedding", [first.weight])[0].numpy(), rest  # type: ignore


def _inputs(blocks: Sequence[Block]) -> dict[str, int]:
    """The arguments of the step: x, and every named input of a layer.

    Raises:
        ArgumentError: two layers have one of a name and of different sizes.
    """
    found = {"x": int(blocks[0].graph.inputs[0].size)}
    for block in blocks:
        for own in block.graph.inputs[1:]:
            if found.setdefault(own.name, int(own.size)) != own.size:
                raise ArgumentError(
                    f"[export_c] every layer reads the input {own.name!r}; received "
                    f"sizes {found[own.name]} and {own.size}, expected one size"
                )
    check_apart("inputs", list(found)[1:])
    return found


def _comment_line(text: str) -> str:
    """Text that may stand in a comment of C."""
    for sign, apart in (("*/", "* /"), ("/*", "/ *"), ("??", "? ?"), ("@", "\x00")):
        text = text.replace(sign, apart)
    return text
