"""sin and cos of any argument, held to exact integer arithmetic of Python's own."""

import functools
import math
import struct
from fractions import Fraction

import pytest
import torch

import cellwright as cw
from native_cases import replace_programs

native = pytest.importorskip("cellwright._core")

BITS = 1400  # of the fraction: a double has at most 1024 before it


def _arctan_of_inverse(k: int) -> int:
    term = total = (1 << BITS + 32) // k
    n = 1
    while term:
        term //= -k * k
        n += 2
        total += term // n
    return total


HALF_PI = 2 * (4 * _arctan_of_inverse(5) - _arctan_of_inverse(239)) >> 32  # Machin


@functools.cache
def exact_sine(x: float, quarter: int) -> Fraction:
    """sin(x + quarter · π/2), to 2^-400."""
    numerator, denominator = x.as_integer_ratio()
    scaled = (numerator << BITS) // denominator
    quadrant, rest = divmod(scaled + HALF_PI // 2, HALF_PI)
    r = (rest - HALF_PI // 2) >> BITS - 420
    turn = (quadrant + quarter) % 4
    n, term = (0, 1 << 420) if turn % 2 else (1, r)
    total = 0
    while term not in (0, -1):
        total += term
        n += 2
        term = -(term * r * r >> 840) // (n * (n - 1))
    return Fraction(-total if turn >= 2 else total, 1 << 420)


def worst_doubles():
    """For each exponent the double nearest to a multiple of π/2, by the convergents of
    the continued fraction of 2^e / (π/2)."""
    for exponent in range(-45, 971, 9):
        ratio = Fraction(1 << BITS, HALF_PI) * Fraction(2) ** exponent
        before, now = (0, 1), (1, 0)  # (numerator, denominator)
        while now[1] < 1 << 53:
            whole = math.floor(ratio)
            before, now = now, (whole * now[0] + before[0], whole * now[1] + before[1])
            if 1 << 45 <= now[1] < 1 << 53:
                yield math.ldexp(now[1], exponent)
            if ratio == whole:
                break
            ratio = 1 / (ratio - whole)


def places(value: float, exact: Fraction) -> float:
    """The error in units of the last place of the exact value."""
    exponent = math.frexp(float(exact))[1]
    return float(abs(Fraction(value) - exact) * Fraction(2) ** (53 - exponent))


def by_native(x: torch.Tensor, isa: str) -> tuple[torch.Tensor, torch.Tensor]:
    @cw.cell
    def both(W, x, h: "input_size", c: "input_size"):  # noqa: F821
        return cw.sin(x), cw.cos(x)

    layer = cw.Recurrent(both, len(x), 1, engine="native", dtype=x.dtype)
    replace_programs(layer, isa=isa)
    with torch.no_grad():
        _, (sine, cosine) = layer(x[None, None])
    return sine[0, 0], cosine[0, 0]


ANGLES = [
    6381956970095103 * 2.0**797,
    5.319372648326541e255,
    1.7e9,
    1e22,
    2.0**1023,
    math.nextafter(math.inf, 0),
    131072.0,
    math.nextafter(131072.0, math.inf),
    8192.0,
    *worst_doubles(),
]


def test_the_worst_doubles_are_near_multiples_of_half_pi():
    """Or the test below would test less than it says."""
    nearest = [min(abs(exact_sine(x, q)) for q in (0, 1)) for x in ANGLES]
    assert min(nearest) < 2**-60
    assert sum(n < 2**-50 for n in nearest) > 100


@pytest.mark.parametrize("isa", native.isas())
def test_doubles_are_right_to_4_places(isa):
    x = torch.tensor([*ANGLES, *(-a for a in ANGLES)], dtype=torch.float64)
    for quarter, found in enumerate(by_native(x, isa)):
        errors = [
            places(v, exact_sine(a, quarter))
            for a, v in zip(x.tolist(), found.tolist(), strict=True)
        ]
        assert max(errors) <= 4, x[errors.index(max(errors))]


@pytest.mark.parametrize("isa", native.isas())
def test_floats_are_right_to_4_places(isa):
    bits = torch.randint(0, 2**31 - 2**23, (4000,), generator=torch.manual_seed(3))
    x = torch.tensor(
        [struct.unpack("f", struct.pack("I", b))[0] for b in bits.tolist()]
    )
    exact = torch.sin(x.double()), torch.cos(x.double())
    for found, right in zip(by_native(x, isa), exact, strict=True):
        ulp = 2.0 ** (torch.frexp(right)[1] - 24)
        wrong = ((found.double() - right).abs() > 4 * ulp) & (right.abs() > 2e-38)
        assert not wrong.any(), x[wrong]


def test_beyond_the_fast_way_every_instruction_set_gives_the_same_bits():
    x = torch.tensor([a for a in ANGLES if abs(a) > 131072], dtype=torch.float64)
    first, *others = (by_native(x, isa) for isa in native.isas())
    for other in others:
        assert torch.equal(torch.stack(other), torch.stack(first))


def test_infinities_and_nan_give_nan():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([math.inf, -math.inf, math.nan], dtype=dtype)
        assert all(v.isnan().all() for v in by_native(x, ""))
