"""Tables and the summary of `engine.py`: ratios, geometric means, the targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

MODES = ("training", "inference")

Sections = dict[str, Any]


def print_section(name: str, section: Sections) -> None:
    if "error" in section:
        print(f"  {section['error']}")
    elif name == "model":
        _print_model(section)
    elif name == "overhead":
        _print_overhead(section)
    elif name == "memory":
        _print_memory(section)
    else:
        _print_cell(section)


def _print_cell(section: Sections) -> None:
    """One row a shape: ms of ours, then how many times as long each peer took."""
    for mode in MODES:
        rows = {s: v[mode] for s, v in section["shapes"].items()}
        peers = [p for p in _names(rows.values()) if p != "cellwright"]
        head = "".join(f"{p:>15}" for p in peers)
        print(f"  {mode:10} B x T x I x H       ms   ± %  of peak{head}")
        for shape, row in rows.items():
            ours = row["cellwright"]
            line = f"  {'':10} {shape:16} {ours['median_ms']:8.3f} {_spread(ours):4.0f}"
            line += f" {100 * ours['of_peak']:7.0f} %"
            for peer in peers:
                line += f"{_times(row, peer):>15}"
            print(line)


def _print_model(section: Sections) -> None:
    for shape, kinds in section["shapes"].items():
        for kind, row in kinds.items():
            ours = row["cellwright"]["median_ms"]
            times = _times(row, "torch.nn")
            print(f"  {kind:5} {shape:16} {ours:8.2f} ms   torch.nn {times}")


def _print_overhead(section: Sections) -> None:
    for name, modes in section["microseconds"].items():
        values = [f"{m} {v['median']:8.1f} µs" for m, v in modes.items()]
        print(f"  {name:32} {'   '.join(values)}")


def _print_memory(section: Sections) -> None:
    print(f"  LSTM, training, {section['shape']}")
    for peer, row in section["peers"].items():
        text = row.get("error") or (
            f"{row['peak_mib']:8.1f} MiB = {row['planes']:5.2f} T·B·H floats"
            f"{row['median_ms']:10.1f} ms"
        )
        print(f"  {peer:22} {text}")


def _spread(figures: dict[str, float]) -> float:
    """Half the range between the quartiles, in percent of the median."""
    half = (figures["q3_ms"] - figures["q1_ms"]) / 2
    return 100 * half / figures["median_ms"]


def _times(row: dict[str, Any], peer: str) -> str:
    if peer not in row:
        return "–"
    return f"{row[peer]['median_ms'] / row['cellwright']['median_ms']:.2f}×"


def _names(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


# -- the summary ---------------------------------------------------------------------


def summary(sections: Sections) -> dict[str, Any]:
    """By section and mode: for every peer the geometric mean of (its time / ours) over
    the shapes, and the smallest of them with its shape."""
    result: dict[str, Any] = {}
    for key, section in sections.items():
        if "error" in section or key.split("/")[0] in ("model", "overhead", "memory"):
            continue
        result[key] = {mode: _ratios(section["shapes"], mode) for mode in MODES}
    return result | _together(result)


def _together(cells: dict[str, Any]) -> dict[str, Any]:
    """Over the cells that torch.nn does not have: the geometric mean of their means.

    But for the full peephole, which has two matrix products one after the other, in the
    loop too, and a figure of its own.
    """
    result: dict[str, Any] = {}
    for key, modes in cells.items():
        if "torch.nn" in modes["training"] or key.startswith("peephole/"):
            continue
        whole = result.setdefault("not in torch.nn/" + key.split("/")[1], {})
        for mode, peers in modes.items():
            for peer, ratios in peers.items():
                whole.setdefault(mode, {}).setdefault(peer, []).append(ratios)
    for modes in result.values():
        for mode, peers in modes.items():
            modes[mode] = {peer: _merged(cells) for peer, cells in peers.items()}
    return result


def _merged(cells: list[dict[str, Any]]) -> dict[str, Any]:
    worst = min(cells, key=lambda r: r["minimum"])
    mean = statistics.geometric_mean(r["geometric_mean"] for r in cells)
    return {**worst, "geometric_mean": round(mean, 3), "cells": len(cells)}


def _ratios(shapes: dict[str, Any], mode: str) -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {}
    for shape, modes in shapes.items():
        ours = modes[mode]["cellwright"]["median_ms"]
        for peer, figures in modes[mode].items():
            if peer != "cellwright":
                found.setdefault(peer, {})[shape] = figures["median_ms"] / ours
    return {
        peer: {
            "geometric_mean": round(statistics.geometric_mean(ratios.values()), 3),
            "minimum": round(min(ratios.values()), 3),
            "minimum_at": min(ratios, key=lambda s: ratios[s]),
            "shapes": len(ratios),
        }
        for peer, ratios in found.items()
    }


def print_summary(sections: Sections) -> None:
    """How many times as fast as each peer: geometric mean, and the smallest ratio."""
    table = summary(sections)
    print("\nHow many times as fast: geometric mean over the shapes (smallest)")
    for key, modes in table.items():
        for mode, peers in modes.items():
            values = [
                f"{p} {r['geometric_mean']:.2f} ({r['minimum']:.2f})"
                for p, r in peers.items()
            ]
            print(f"  {key:20} {mode:10} {'   '.join(values)}")
    for key, section in sections.items():
        for shape, modes in section.get("shapes", {}).items():
            _print_per_flop(key, shape, modes)


def _print_per_flop(key: str, shape: str, modes: dict[str, Any]) -> None:
    """Time per matrix operation relative to our LSTM, where that is above 1.25."""
    for mode in MODES:
        ratio = modes.get(mode, {}).get("cellwright", {}).get("per_flop_of_lstm", 0)
        if ratio > 1.25:
            print(f"  {key:20} {mode:10} {shape:16} {ratio:.2f}× our LSTM's per FLOP")
