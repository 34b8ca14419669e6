"""Detectors by hand, mutual information by known joint distributions."""

from __future__ import annotations

import numpy as np
import pytest

from cellwright.language import ArgumentError
from cellwright.look.detectors import (
    bracket_depth,
    entropy,
    indentation,
    inside_quotes,
    matches,
    mutual_information,
    position_in_line,
    quantile_bins,
)
from cellwright.look.saturation import implied_memory, saturation


def string(classes) -> str:
    return "".join(map(str, classes))


def test_detectors_by_hand():
    assert string(inside_quotes('a"bc"d"e')) == "01111011"
    assert string(bracket_depth("a(b[c]d))e")) == "0112221100"[:10]
    assert string(position_in_line("abcdefgh\nij")) == "01122223301"
    assert string(indentation("a\n    b\n        c")) == "00111111222222222"
    assert string(matches("b+")("abba")) == "0110"
    assert string(matches("^a")("a\naa")) == "1010"


def test_brackets_that_close_nothing_are_no_depth():
    assert string(bracket_depth(")(a)")) == "0111"


def test_a_pattern_that_is_none_is_explained():
    with pytest.raises(ArgumentError, match="expected a regular expression"):
        matches("(")


def test_mutual_information_of_known_distributions():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 40_000)
    noise = rng.normal(size=40_000)
    flips = classes ^ (rng.random(40_000) < 0.11)
    values = np.stack([classes + 0.01 * noise, noise, flips + 0.01 * noise], 1)
    bits = mutual_information(quantile_bins(values), classes)
    entropy = 0.11 * np.log2(1 / 0.11) + 0.89 * np.log2(1 / 0.89)
    np.testing.assert_allclose(bits, [1.0, 0.0, 1 - entropy], atol=0.02)


def test_a_constant_unit_has_no_information():
    constant = quantile_bins(np.ones((50, 1)))
    assert mutual_information(constant, np.arange(50) % 2)[0] == 0


def test_a_text_of_one_class_has_no_information():
    """Not even the 3e-16 bits of rounding."""
    values = np.random.default_rng(1).normal(size=(300, 40))
    classes = np.zeros(300, np.int64)
    assert not mutual_information(quantile_bins(values), classes).any()
    assert entropy(classes) == 0
    assert entropy(np.arange(300) % 4) == pytest.approx(2)


def test_saturation_by_hand():
    gate = np.array([[0.0, 0.95, 1.0], [0.05, 0.5, 1.0]])
    found = saturation(gate)
    np.testing.assert_allclose(found.low, [1, 0, 0])
    np.testing.assert_allclose(found.high, [0, 0.5, 1])
    np.testing.assert_allclose(
        implied_memory(found.mean), [1 / 0.975, 1 / 0.275, np.inf]
    )
    assert implied_memory(np.array([1.5]))[0] == np.inf
