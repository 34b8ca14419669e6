"""Where a layer runs, and what is said where that is slow."""

import re
from pathlib import Path

import pytest
import torch

import cellwright as cw
from cellwright.cli.show import on_device
from cellwright.cli.train import _late_validation
from cellwright.train.devices import check_device, make_accelerator

ROOT = Path(__file__).parents[1]
META = torch.device("meta")  # stands for any device but the CPU
TORCHS = {"lstm", "np", "gru_reset_after", "rnn", "rnn_relu"}


def layers(*cells):
    module = torch.nn.Module()
    for name in cells:
        module.add_module(name, cw.Recurrent(name, 4, 4))
    return module


def test_the_table_of_engines():
    pytest.importorskip("cellwright._core")
    plain = [n for n, c in cw.cells.all().items() if len(c.graph.inputs) == 1]
    for name in plain:
        layer = cw.Recurrent(name, 4, 4)
        other = "torch" if name in TORCHS else "reference"
        assert layer.engine == layer.double().engine == "native", name
        assert layer.half().engine == other, name
        assert layer.float().to(META).engine == other, name
    page = (ROOT / "docs/devices.md").read_text("utf-8")
    listed = set(
        re.findall(r"`(\w+)`", page[page.index("¹ `") : page.index("and a ce")])
    )
    assert listed == TORCHS | {"lstm_projected"}


def test_the_reason_says_in_plain_words_that_stepping_is_slow():
    layer = cw.Recurrent("peephole", 4, 4).half()
    assert layer.engine_reason.startswith("slow, since every step is run in Python; ")
    asked = cw.Recurrent("peephole", 4, 4, engine="reference")
    assert asked.engine_reason == "asked for"


def test_a_cell_that_would_be_stepped_on_an_accelerator_is_warned_of():
    pytest.importorskip("cellwright._core")
    engine, warning, other = on_device(layers("peephole", "lstm"), META)
    assert engine.startswith("on meta: peephole: reference (slow, since every step")
    assert warning == (
        "warning: on meta the reference engine steps peephole in Python; on the CPU "
        "the native engine runs it whole, which can be faster: --device cpu"
    )
    assert other.startswith("on meta: lstm: torch (the equations are torch's")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for device in ("auto", "cpu"):
        check_device(device)
    with pytest.raises(cw.ArgumentError, match="received 'cuda', expected one of auto"):
        make_accelerator(device="cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    found = torch.device("mps")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
    check_device("mps")
    with pytest.raises(cw.ArgumentError, match="expected one of auto, cpu, mps"):
        check_device("cuda")


def test_the_command_takes_a_device_and_tells_of_a_late_validation(tmp_path):
    from test_cli import SMALL, call, small_text

    (tmp_path / "text.txt").write_text(small_text())
    out = tmp_path / "out"
    options = [*SMALL, "--steps", 2, "--validate-every", 1000]
    message = call(
        "train",
        tmp_path / "text.txt",
        "--device",
        "mps",
        *SMALL,
        "--out",
        out,
        ok=False,
    )
    assert "[device] torch finds no such device here; received 'mps'" in message
    assert not out.exists()
    shown = call("train", tmp_path / "text.txt", "--out", out, *options)
    assert shown.count(_late_validation(1000, 2)) == 1
    call("train", "--resume", "--out", out, "--device", "cpu")
    by_epoch = [*SMALL, "--epochs", 0.01, "--validate-every", 1000]
    shown = call("train", tmp_path / "text.txt", "--out", tmp_path / "b", *by_epoch)
    assert "note: validate-every 1,000 is more than the run's" in shown
