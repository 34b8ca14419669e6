#include "large_angle.h"

#include <bit>
#include <cstdint>

namespace cellwright {
namespace {

__extension__ using Wide = unsigned __int128;

// A zero word, then 2/pi: bit 64 (from the top, counted from 0) is worth 1/2. 1152 bits
// are enough for the largest double's 192.
constexpr uint64_t kTwoOverPi[] = {
    0x0000000000000000, 0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041,
    0xfe5163abdebbc561, 0xb7246e3a424dd2e0, 0x06492eea09d1921c, 0xfe1deb1cb129a73e,
    0xe88235f52ebb4484, 0xe99c7026b45f7e41, 0x3991d639835339f4, 0x9c845f8bbdf9283b,
    0x1ff897ffde05980f, 0xef2f118b5a0a6d1f, 0x6d367ecf27cb09b7, 0x4f463f669e5fea2d,
    0x7527bac7ebe5f17b, 0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08, 0x56033046fc7b6bab};
constexpr uint64_t kHalfPi = 0xc90fdaa22168c234;  // pi / 2 * 2^63

// Taylor's coefficients beside the first terms, highest degree first, in r^2.
constexpr double kSine[] = {1.0 / 355687428096000.0, -1.0 / 1307674368000.0,
                            1.0 / 6227020800.0,      -1.0 / 39916800.0,
                            1.0 / 362880.0,          -1.0 / 5040.0,
                            1.0 / 120.0,             -1.0 / 6.0};
constexpr double kCosine[] = {-1.0 / 6402373705728000.0, 1.0 / 20922789888000.0,
                              -1.0 / 87178291200.0,      1.0 / 479001600.0,
                              -1.0 / 3628800.0,          1.0 / 40320.0,
                              -1.0 / 720.0,              1.0 / 24.0};

template <int N> double polynomial(double x, const double (&c)[N]) {
    double p = c[0];
    for (int i = 1; i < N; ++i) p = p * x + c[i];
    return p;
}

// 64 bits of 2/pi from bit `at` on.
uint64_t bits_from(int at) {
    const uint64_t* word = kTwoOverPi + at / 64;
    const int shift = at % 64;
    return shift == 0 ? word[0] : word[0] << shift | word[1] >> (64 - shift);
}

struct Reduced {
    int quadrant;
    double rest;  // in [-pi / 4, pi / 4]
};

// x = (quadrant + rest / (pi / 2)) * pi / 2, modulo 2 pi, after Payne and Hanek (1983):
// x = m 2^e, so bits of 2/pi worth 2^(2 - e) and more give whole turns, and are left
// out. 192 bits follow; what is cut off is below 2^-137 of a quadrant, and no double
// comes nearer than 2^-62 to a multiple of pi / 2.
Reduced reduce(double x) {
    const uint64_t bits = std::bit_cast<uint64_t>(x);
    const int exponent = int(bits >> 52 & 0x7ff) - 1075;
    const uint64_t mantissa = (bits & ((uint64_t(1) << 52) - 1)) | uint64_t(1) << 52;
    const int at = exponent + 62;
    const Wide low = Wide(mantissa) * bits_from(at + 128);
    const Wide middle = Wide(mantissa) * bits_from(at + 64) + uint64_t(low >> 64);
    const uint64_t high = mantissa * bits_from(at) + uint64_t(middle >> 64);
    // high:middle:low is x * 2/pi modulo 4: two bits of the quadrant, then a fraction,
    // which a last bit of its own rounds to the nearest quadrant.
    Wide fraction = (Wide(high) << 64 | uint64_t(middle)) << 2 | uint64_t(low) >> 62;
    const bool below = fraction >> 127;
    if (below) fraction = -fraction;
    const uint64_t upper = uint64_t(fraction >> 64);
    const int zeros = upper != 0 ? std::countl_zero(upper)
                                 : 64 + std::countl_zero(uint64_t(fraction));
    const uint64_t leading = uint64_t(fraction << zeros >> 64);
    const uint64_t angle = uint64_t(Wide(leading) * kHalfPi >> 64);
    const double scale = std::bit_cast<double>(uint64_t(1023 - 63 - zeros) << 52);
    const double rest = double(angle) * scale;
    return {int(high >> 62) + below, below ? -rest : rest};
}

}  // namespace

double sine_of_large(double x, int quarter) {
    const double size = __builtin_fabs(x);
    if (!(size < __builtin_inf())) return x - x;
    const auto [quadrant, r] = reduce(size);
    const int turn = quadrant + quarter;
    const double z = r * r;
    const double y = (turn & 1) != 0 ? 1 - (0.5 * z - z * z * polynomial(z, kCosine))
                                     : r + r * z * polynomial(z, kSine);
    const bool negative = ((turn & 2) != 0) != (x < 0 && quarter == 0);
    return negative ? -y : y;
}

}  // namespace cellwright
