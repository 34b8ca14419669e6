"""The options of a command that are made from the fields of `Settings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, Signature, signature
from typing import get_type_hints

from typer import Option

from ..train.settings import Settings


def with_settings(
    command: Callable[..., None], kind: type | None = None
) -> Callable[..., None]:
    """Put an option for every field where a command has `**settings`.

    Args:
        kind: a dataclass of settings; None: `Settings`, those of a language model.
    """
    kind = kind or Settings
    *own, _ = signature(command, eval_str=True).parameters.values()
    before = [p for p in own if p.kind is not Parameter.KEYWORD_ONLY]
    types, options = get_type_hints(kind), []
    for field in fields(kind):
        help, panel, takes = map(field.metadata.get, ("help", "panel", "takes"))
        option = Option(field.default, help=help, rich_help_panel=panel)
        option = Parameter(field.name, Parameter.KEYWORD_ONLY, default=option)
        options.append(option.replace(annotation=takes or types[field.name]))
    made = Signature([*before, *options, *own[len(before) :]])
    command.__signature__ = made  # type: ignore[attr-defined]
    return command
