"""Sets of settings by name: what `--recipe` gives where an option is not written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .settings import Settings


def awd(hidden: int) -> dict[str, Any]:
    """AWD-LSTM: Merity, Keskar & Socher 2018, section 5, for the Penn Treebank by word.

    Dropouts are theirs times hidden / 1150, their width, and at most theirs: a smaller
    net has less to regularise. All layers have one width, and so has the tied embedding
    (theirs: 400). Weight decay, penalties, clipping, rate, batch, windows and the
    non-monotone interval are theirs.

    Args:
        hidden: units of a layer.
    """
    dropouts = {
        "input_dropout": 0.4,  # of the embedding's outputs
        "dropout": 0.25,  # between layers
        "output_dropout": 0.4,
        "embedding_dropout": 0.1,  # of whole words
        "weight_drop": 0.5,
    }
    scale = min(1.0, hidden / 1150)
    return {
        "cell": "lstm",
        "hidden": hidden,
        "layers": 3,
        "tie": True,
        "locked": True,
        **{name: round(p * scale, 4) for name, p in dropouts.items()},
        "ar": 2.0,
        "tar": 1.0,
        "tokenizer": "ptb",
        "batch": 40,
        "window": 70,
        "random_window": True,
        "optimiser": "sgd",
        "momentum": 0.0,
        "lr": 30.0,
        "schedule": "constant",
        "warm_up": 0,
        "weight_decay": 1.2e-6,
        "clip": 0.25,
        "average": "nt-asgd:5",
        "restart": 0.0,
    }


def long(hidden: int) -> dict[str, Any]:
    """A character model for some ten passes over a text of about a million characters.

    A wider layer than the defaults, which are for a minute, and dropout. Searched on
    the last tenth of a training text; see "Ten minutes" in docs/training.md.

    Args:
        hidden: not read.
    """
    return {
        "hidden": 448,
        "embedding": 64,
        "dropout": 0.1,
        "output_dropout": 0.3,
        "window": 64,
    }


RECIPES: dict[str, Callable[[int], dict[str, Any]]] = {"awd": awd, "long": long}


def with_recipe(settings: Settings, written: set[str]) -> Settings:
    """The settings with those of their recipe, but for the ones that were written."""
    if settings.recipe is None:
        return settings
    given = RECIPES[settings.recipe](settings.hidden)
    return replace(
        settings, **{name: v for name, v in given.items() if name not in written}
    )
