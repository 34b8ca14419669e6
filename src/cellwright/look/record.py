"""`cellwright.record`: the gates and states of every step, of any layer in a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from ..compiler.once import made_once
from ..language import ArgumentError, Graph
from ..language.errors import did_you_mean
from ..language.graph import ATTENTION
from ..language.names import recordable
from ..nn.layer import SequenceLayer


class UnknownValueError(ArgumentError, KeyError):
    """No recorded value has this key, or several have."""

    __str__ = Exception.__str__  # a KeyError would print its message in quotes


def record(
    model: nn.Module,
    names: str | Iterable[str] | None = None,
    gradients: bool = False,
) -> Record:
    """Record named values of every step of a model's recurrent layers::

        with cw.record(model) as values:
            model(x)
        values["rnn.0.c"]  # layer `rnn`, layer·direction 0, the new c: (T, B, size)
        values["f"]  # where only one layer·direction has an f

    Args:
        model: a `Recurrent`, an `LSTM`, `GRU` or `RNN` of cellwright, or a module with
            some inside. Layers of trees are left out.
        names: what to record: a key, the end of one ("c": in every layer), a pattern
            ("rnn.*.c"), or several of them. "f.pre" is what f's activation was applied
            to. None is every named value, without what ends in ".pre", and of what a
            cell computes for each item of a set "attention" alone.
        gradients: the values are part of the autograd graph: a loss may contain them,
            and after `backward()` their `.grad` is ∂loss/∂value through everything that
            the value feeds, later steps included. Otherwise they are detached.

    Returns:
        A mapping from keys to tensors. While it is entered it records what its own
        thread calls. The values are laid out as the layer lays out y, also batch first
        and unbatched; the steps after the end of a shorter row are zero, and a packed
        sequence's values are padded. Of several calls of a layer it holds the last.
        Directions are numbers of their own: 2·layer + 1 walks from the end. See
        docs/looking.md.

    Raises:
        ArgumentError: the model has no such layer, or a name fits no value.
        UnknownValueError: on reading, a key that fits no recorded value, or several.
    """
    return Record(model, names, gradients)


class Record(Mapping[str, Tensor]):
    """What `record` gives: values by key, once the model has run."""

    def __init__(
        self, model: nn.Module, names: str | Iterable[str] | None, gradients: bool
    ) -> None:
        self.gradients = gradients
        self._paths = _layers(model)
        self._asked_for = {layer: _asked_for(layer) for layer in self._paths}
        self._patterns = [names] if isinstance(names, str) else names and list(names)
        known = [key for layer in self._paths for key in self._keys(layer)]
        for pattern in self._patterns or ():
            if not any(_fits(key, pattern) for key in known):
                raise ArgumentError(
                    f"[record] no value of this model fits {pattern!r}; received "
                    f"names={names!r}. {did_you_mean(pattern, _suggestions(known))}"
                )
        self._values: dict[tuple[str, ...], Tensor] = {}

    def _keys(self, layer: Any) -> list[tuple[str, ...]]:
        """(path, number, name) of everything that a layer could record."""
        names = recordable(_step(layer))
        count = layer.num_layers * layer.directions
        path = self._paths[layer]
        return [(*path, str(k), name) for k in range(count) for name in names]

    # -- while it records

    def __enter__(self) -> Record:
        for layer in self._paths:
            if not layer.current_engine.records:
                warnings.warn(
                    f"[record] layer {'.'.join(self._paths[layer])!r} runs on torch's "
                    "kernel, which keeps its gates; while it is recorded it runs on "
                    f"the {layer.watched_engine} engine",
                    stacklevel=2,
                )
            layer.watch(self)
        return self

    def __exit__(self, *exception: object) -> None:
        for layer in self._paths:
            layer.unwatch(self)

    def wants(self, layer: Any, k: int, names: Mapping[str, int]) -> dict[str, int]:
        """Those of the names (and nodes) of layer·direction k that are recorded."""
        if self._patterns is None:
            rest = self._asked_for[layer]
            return {n: node for n, node in names.items() if n not in rest}
        start = (*self._paths[layer], str(k))
        return {
            name: node
            for name, node in names.items()
            if any(_fits((*start, name), pattern) for pattern in self._patterns)
        }

    def take(self, layer: Any, k: int, values: Mapping[str, Tensor]) -> None:
        """The values of one call, in place of an earlier one's."""
        for name, value in values.items():
            self._values[(*self._paths[layer], str(k), name)] = value

    # -- what was recorded

    def __getitem__(self, key: str) -> Tensor:
        found = [full for full in self._values if _ends(full, key)]
        exact = [full for full in found if ".".join(full) == key]
        if len(exact or found) == 1:
            return self._values[(exact or found)[0]]
        known = [".".join(full) for full in found or self._values]
        if found:
            fact = f"several values are called {key!r}: {', '.join(known)}"
            remedy = f"expected one of them, such as values[{known[0]!r}]"
        elif known:
            fact = f"no recorded value is called {key!r}"
            remedy = did_you_mean(key, _suggestions(self._values))
        else:
            fact = "nothing has been recorded yet"
            remedy = "call the model inside of the with block"
        raise UnknownValueError(f"[record] {fact}; received {key!r}. {remedy}")

    def __iter__(self) -> Iterator[str]:
        return (".".join(full) for full in self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shapes = (f"{k}: {tuple(v.shape)}" for k, v in self.items())
        return f"<record {', '.join(shapes) or 'of nothing yet'}>"


def _layers(model: Any) -> dict[Any, tuple[str, ...]]:
    """The model's layers, and the path to each."""
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    found = {
        module: tuple(p for p in path.split(".") if p and p != "_orig_mod")
        for path, module in modules
        if isinstance(module, SequenceLayer)
    }
    if not found:
        raise ArgumentError(
            "[record] expected a module with a cellwright layer of sequences "
            f"(Recurrent, LSTM, GRU, RNN); received {type(model).__name__}, which has "
            "none. A torch.nn layer becomes one with cellwright.from_torch; the values "
            "of a TreeRecurrent are not recorded"
        )
    return found


def _step(layer: Any) -> Graph:
    """What a layer computes at every step; products of items are made before."""
    return made_once(layer.cell.graph).step


def _asked_for(layer: Any) -> set[str]:
    """The names that are recorded only where they are asked for."""
    step = _step(layer)
    sets, nodes = step.sets, step.nodes
    return {
        name
        for name, n in recordable(step).items()
        if name.endswith(".pre") or (sets[n] and nodes[n].op != ATTENTION)
    }


def _ends(full: tuple[str, ...], key: str) -> bool:
    """Whether a key is the end of a full one, from a part's beginning."""
    ends = (".".join(full[start:]) for start in range(len(full)))
    return key in ends


def _fits(full: tuple[str, ...], pattern: str) -> bool:
    return _ends(full, pattern) or fnmatchcase(".".join(full), pattern)


def _suggestions(keys: Iterable[tuple[str, ...]]) -> list[str]:
    """What a key could have been: whole keys and bare names."""
    return list(dict.fromkeys(k for full in keys for k in (full[-1], ".".join(full))))
