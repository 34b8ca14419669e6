"""What an installed package must do: `smoke.py native`, `pure`, or `core`.

`core` is for an environment that has torch and numpy alone.
"""

import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

import cellwright as cw
from cellwright.__main__ import main


def check_place() -> None:
    """The package is the one of this environment, not the sources' own."""
    where = Path(cw.__file__).resolve()
    assert Path(sys.prefix).resolve() in where.parents, where


def check_training(layer: torch.nn.Module, peer: torch.nn.Module) -> None:
    """The layer's outputs and gradients are its peer's."""
    peer.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3, 4)
    results = []
    for module in (layer, peer):
        y = module(x)[0]
        results.append([y, *torch.autograd.grad(y.sum(), list(module.parameters()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def native() -> None:
    for cell in ("lstm", "peephole", "gru"):
        layer = cw.Recurrent(cell, 4, 6)
        assert layer.engine == "native", layer.engine_reason
        check_training(layer, cw.Recurrent(cell, 4, 6, engine="reference"))
    layer = cw.LSTM(4, 6)
    assert layer.engine == "native", layer.engine_reason
    check_training(layer, torch.nn.LSTM(4, 6))
    print("native:", layer.engine_reason)


def pure() -> None:
    for cell, engine in (("lstm", "torch"), ("peephole", "reference")):
        layer = cw.Recurrent(cell, 4, 6)
        assert layer.engine == engine, layer.engine_reason
        check_training(layer, cw.Recurrent(cell, 4, 6, engine="reference"))
    try:
        cw.Recurrent("peephole", 4, 6, engine="native")
    except cw.ArgumentError as error:
        message = str(error)
    else:
        raise AssertionError("engine='native' must be an error without the core")
    assert "no compiled core" in message, message
    assert "CELLWRIGHT_NO_NATIVE" in message, message
    assert "No module named 'cellwright._core'" in message, message
    print("engine='native':", message)


def core() -> None:
    layer = cw.Recurrent("peephole", 4, 6)
    check_training(layer, cw.Recurrent("peephole", 4, 6, engine="reference"))
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(x)[0], layer(x)[0])
    for needs_more in (lambda: import_module("cellwright.text.run"), main):
        message = refusal(needs_more)
        assert "needs packages that are not installed" in message, message
        assert "pip install 'cellwright[train]'" in message, message
    print("without the extra train:", message)


def refusal(action: Callable[[], object]) -> str:
    try:
        action()
    except (ImportError, SystemExit) as error:
        return str(error)
    raise AssertionError("it runs without the extra train")


if __name__ == "__main__":
    torch.manual_seed(0)
    check_place()
    {"native": native, "pure": pure, "core": core}[sys.argv[1]]()
