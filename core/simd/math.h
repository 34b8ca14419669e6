// Elementary functions on vectors: at most 4 ulp on normal results, near 0 too.
// Infinities and NaN propagate; numbers below the normal range are 0 (flush_subnormals.h);
// `sine` is for arguments up to its bound. tests/math_test.cpp measures all of this. Products
// and sums may be fused, so the last bits depend on the instruction set.
#pragma once

#include "vec.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

// The coefficients of one element type, highest degree first.
template <class T> struct Coefficients;
template <> struct Coefficients<float> {
    // (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2
    static constexpr float exp[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120,
                                    1.0f / 24,   1.0f / 6,   1.0f / 2};
    // (log((1 + s) / (1 - s)) - 2 s) / s^3 in z = s^2: 2/3 + 2/5 z + 2/7 z^2 …
    static constexpr float log[] = {2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3};
    // (sin(r) - r) / r^3 and (cos(r) - 1 + r^2 / 2) / r^4 on |r| <= pi / 4, in r^2
    static constexpr float sin[] = {1.0f / 362880, -1.0f / 5040, 1.0f / 120, -1.0f / 6};
    static constexpr float cos[] = {-1.0f / 3628800, 1.0f / 40320, -1.0f / 720,
                                    1.0f / 24};
    // ln 2 = high + low, high with enough zero bits at its end that n * high is exact
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    // pi / 2 in parts, each but the last short enough that n * part is exact for every
    // quadrant n of an argument up to sine_bound
    static constexpr float sine_bound = 8192.0f;
    static constexpr float half_pi[] = {0x1.92p+0f, 0x1.fb4p-12f, 0x1.444p-24f,
                                        0x1.68cp-39f, 0x1.1a6264p-54f};
    static constexpr float exp_low = -104.0f, exp_normal = -87.0f, exp_high = 89.0f,
                            tanh_one = 10.0f;
};
template <> struct Coefficients<double> {
    static constexpr double exp[] = {
        1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
        1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
        1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        1.0 / 2.0};
    static constexpr double log[] = {2.0 / 23, 2.0 / 21, 2.0 / 19, 2.0 / 17,
                                     2.0 / 15, 2.0 / 13, 2.0 / 11, 2.0 / 9,
                                     2.0 / 7,  2.0 / 5,  2.0 / 3};
    static constexpr double sin[] = {
        1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0,
        -1.0 / 39916800.0,       1.0 / 362880.0,         -1.0 / 5040.0,
        1.0 / 120.0,             -1.0 / 6.0};
    static constexpr double cos[] = {
        1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0,
        -1.0 / 3628800.0,       1.0 / 40320.0,        -1.0 / 720.0,
        1.0 / 24.0};
    static constexpr double ln2_high = 6.93147180369123816490e-01,
                            ln2_low = 1.90821492927058770002e-10;
    static constexpr double sine_bound = 131072.0;
    static constexpr double half_pi[] = {1.57079632673412561417e+00,
                                         6.07710050630396597660e-11,
                                         2.02226624879595063154e-21};
    static constexpr double exp_low = -746.0, exp_normal = -708.0, exp_high = 710.0,
                            tanh_one = 22.0;
};

template <class T, int N>
CELLWRIGHT_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
    Vec<T> p = splat<T>(c[0]);
#pragma GCC unroll 16
    for (int i = 1; i < N; ++i) p = p * x + c[i];
    return p;
}

// 2^n for whole n in the exponent's range.
template <class T> CELLWRIGHT_INLINE Vec<T> power_of_two(IVec<T> n) {
    return of_bits<T>((n + Lane<T>::exponent_bias) << (Lane<T>::bits - 1));
}

// exp(x) = 2^n * (1 + p): the whole n, and p = expm1 of what is left of x.
template <class T> struct Exponent {
    IVec<T> n;
    Vec<T> p;
};
template <class T> CELLWRIGHT_INLINE Exponent<T> reduce_exponent(Vec<T> x) {
    using C = Coefficients<T>;
    const Vec<T> shifted = x * (T)1.4426950408889634 + Lane<T>::rounding;
    const IVec<T> n = bits_of<T>(shifted) - bits_of<T>(splat<T>(Lane<T>::rounding));
    const Vec<T> whole = shifted - Lane<T>::rounding;
    const Vec<T> r = (x - whole * C::ln2_high) - whole * C::ln2_low;
    return {n, r + r * r * polynomial<T>(r, C::exp)};
}

// NaN stays NaN: every comparison with it is false.
template <class T> CELLWRIGHT_INLINE Vec<T> clamp(Vec<T> x, T low, T high) {
    x = x < low ? splat<T>(low) : x;
    return x > high ? splat<T>(high) : x;
}

template <class T> CELLWRIGHT_INLINE Vec<T> exponential(Vec<T> x) {
    using C = Coefficients<T>;
    x = clamp<T>(x, C::exp_low, C::exp_high);
    const Exponent<T> e = reduce_exponent<T>(x);
    const IVec<T> half = e.n >> 1;  // in two factors: 2^n itself may overflow
    return ((T)1 + e.p) * power_of_two<T>(half) * power_of_two<T>(e.n - half);
}

// exp(-x) in one factor: below the normal range it counts for nothing beside 1, and
// 2^n beyond the exponent's range is infinity, whose reciprocal is 0.
template <class T> CELLWRIGHT_INLINE Vec<T> sigmoid(Vec<T> x) {
    using C = Coefficients<T>;
    const Exponent<T> e = reduce_exponent<T>(clamp<T>(-x, C::exp_normal, C::exp_high));
    return (T)1 / ((T)1 + ((T)1 + e.p) * power_of_two<T>(e.n));
}

// tanh|x| = m / (m + 2) with m = expm1(2|x|), which keeps its digits near 0.
template <class T> CELLWRIGHT_INLINE Vec<T> hyperbolic_tangent(Vec<T> x) {
    using C = Coefficients<T>;
    Vec<T> y = absolute<T>(x);
    y = y > C::tanh_one ? splat<T>(C::tanh_one) : y;
    const Exponent<T> e = reduce_exponent<T>(y + y);
    const Vec<T> scale = power_of_two<T>(e.n);
    const Vec<T> m = scale * e.p + (scale - (T)1);
    return with_sign_of<T>(m / (m + (T)2), x);
}

// log(2^k * (1 + f)) with 1 + f in [sqrt(1/2), sqrt(2)), as fdlibm has it.
template <class T> CELLWRIGHT_INLINE Vec<T> logarithm(Vec<T> x) {
    using C = Coefficients<T>;
    using Int = typename Lane<T>::Int;
    constexpr int mantissa = Lane<T>::bits - 1;
    const Vec<T> root_half = splat<T>((T)0.70710678118654752440);
    const IVec<T> shift = (IVec<T>)((UVec<T>)x - (UVec<T>)root_half);
    const IVec<T> k = shift >> mantissa;
    const Vec<T> m = of_bits<T>((shift & (((Int)1 << mantissa) - 1)) + bits_of<T>(root_half));
    const Vec<T> f = m - (T)1;
    const Vec<T> s = f / (f + (T)2), z = s * s, half = (T)0.5 * f * f;
    const Vec<T> rest = s * (half + z * polynomial<T>(z, C::log));
    const Vec<T> whole = __builtin_convertvector(k, Vec<T>);
    Vec<T> y = whole * C::ln2_high - ((half - (rest + whole * C::ln2_low)) - f);
    const T infinity = (T)__builtin_inf();
    y = x == infinity ? x : y;
    y = x == (T)0 ? splat<T>(-infinity) : y;
    y = x < (T)0 ? splat<T>((T)__builtin_nan("")) : y;
    return x == x ? y : x;
}

// log(1 + exp(x)); x itself above 20, as torch has it.
template <class T> CELLWRIGHT_INLINE Vec<T> softplus(Vec<T> x) {
    const Vec<T> e = exponential<T>(-absolute<T>(x));  // in (0, 1]
    const Vec<T> u = (T)1 + e;
    const Vec<T> log1p = logarithm<T>(u) + (e - (u - (T)1)) / u;
    const Vec<T> y = log1p + (x > (T)0 ? x : Vec<T>{});
    return x > (T)20 ? x : (x == x ? y : x);
}

template <class T> CELLWRIGHT_INLINE IVec<T> beyond_sine(Vec<T> x) {
    return absolute<T>(x) > Coefficients<T>::sine_bound;
}

// sin(x + quarter * pi / 2), |x| <= sine_bound: x is reduced to |r| <= pi / 4 and a
// quadrant. `rounding` ends in zero bits, so that `shifted` ends in the quadrant's.
template <class T, int quarter> CELLWRIGHT_INLINE Vec<T> sine(Vec<T> x) {
    using C = Coefficients<T>;
    const Vec<T> shifted = x * (T)0.63661977236758134308 + Lane<T>::rounding;
    const UVec<T> q = (UVec<T>)shifted + quarter;
    const Vec<T> n = shifted - Lane<T>::rounding;
    Vec<T> r = x;
#pragma GCC unroll 8
    for (T part : C::half_pi) r = r - n * part;
    const Vec<T> z = r * r;
    const Vec<T> sine = r * ((T)1 + z * polynomial<T>(z, C::sin));  // keeps -0
    const Vec<T> cosine = (T)1 - ((T)0.5 * z - z * z * polynomial<T>(z, C::cos));
    const Vec<T> y = (q & 1) != 0 ? cosine : sine;
    return (Vec<T>)((UVec<T>)y ^ (q & 2) << (sizeof(T) * 8 - 2));  // 2: negative
}

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
