// Products of whole numbers where the processor multiplies bytes, four of each row at a
// time (AVX512-VNNI). The rows' 16 bits are two bytes, an upper and a lower one; the
// products of both with the weights add up to those of int8.h, to the same whole number.
//
// The instruction takes bytes without a sign from a row. So 2^15 is added to each number of
// a row, and 2^15 times the sum of the weights taken off: where the upper bytes' sums start.
//
// Without the instruction the same code computes what it does: the tests run that on every
// machine.
#pragma once

#if defined(__AVX512VNNI__)
#include <immintrin.h>  // its functions leave no symbols
#endif

#include "whole.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

// sum + for each lane the products of four bytes of x, without a sign, and of w, with one.
CELLWRIGHT_INLINE IVec<float> dot_bytes(IVec<float> sum, IVec<float> x, IVec<float> w) {
#if defined(__AVX512VNNI__)
    return (IVec<float>)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#else
    for (int j = 0; j < 32; j += 8) sum += (x >> j & 0xff) * (w << (24 - j) >> 24);
    return sum;
#endif
}

// Of each block of kDepth k: where sums start, as whole numbers; then four k a lane.
static void pack_bytes(const float* panel, int64_t depth, int64_t width, void* out,
                       float* scales) {
    for (int64_t i = 0; i < width; i += kLanes<float>) {
        const Vec<float> inverse = scale_columns(panel + i, depth, width, scales + i);
        int32_t *d = (int32_t*)out + i, *start = nullptr;
        UVec<float> sum = {};
        for (int64_t k = 0; k < depth; k += 4) {
            if (k % kDepth == 0) start = d, d += width, sum = UVec<float>{};
            UVec<float> quad = {};
            for (int j = 0; j < 4; ++j) {
                const auto w = (UVec<float>)whole(row_of(panel + i, k + j, depth, width) * inverse);
                sum += w;
                quad |= (w & 0xff) << 8 * j;
            }
            __builtin_memcpy(d, &quad, sizeof quad);
            const UVec<float> first = sum * -128u;
            __builtin_memcpy(start, &first, sizeof first);
            d += width;
        }
    }
}

// Where a row's lower bytes begin: the upper ones have the first half of its memory.
CELLWRIGHT_INLINE int64_t lower_bytes(int64_t scale_at) { return 2 * (scale_at + 1); }

static void narrow_bytes(const float* row, int64_t count, float* out, int64_t scale_at) {
    typedef uint8_t Bytes __attribute__((vector_size(kLanes<float>)));
    uint8_t *const upper = (uint8_t*)out, *const lower = upper + lower_bytes(scale_at);
    out[scale_at] = each_whole(row, count, 3, [&](int64_t i, IVec<float> numbers) {
        const UVec<float> shifted = (UVec<float>)numbers + 0x8000u;
        const auto high = __builtin_convertvector(shifted >> 8, Bytes);
        const auto low = __builtin_convertvector(shifted, Bytes);
        __builtin_memcpy(upper + i, &high, sizeof high);
        __builtin_memcpy(lower + i, &low, sizeof low);
    });
}

CELLWRIGHT_INLINE IVec<float> four_bytes(const uint8_t* at) {
    int32_t four;
    __builtin_memcpy(&four, at, sizeof four);
    return four - IVec<float>{};
}

struct ByteDots {
    static constexpr int rows(int vectors) { return vectors < 7 ? 12 / vectors : 1; }
    static constexpr int64_t packed_depth(int64_t depth) { return (depth + 3) / 4 * 4 + 4; }

    template <int M, int N>
    static void add(const Int8Product<float>& p, int64_t row, int64_t k, int64_t depth,
                    const int8_t* weights) {
        constexpr int W = kLanes<float>;
        const int64_t lower = lower_bytes(p.scale_at);
        const auto vector = [&](int64_t i) __attribute__((always_inline)) {
            IVec<float> v;
            __builtin_memcpy(&v, weights + i * 4 * W, sizeof v);
            return v;
        };
        IVec<float> high[M][N], low[M][N] = {};
        const uint8_t* x[M];
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            x[m] = (const uint8_t*)p.rows[row + m] + p.offset + k;
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) high[m][n] = vector(n);
        }
        for (int64_t i = 0; i < depth; i += 4) {
            IVec<float> w[N];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) w[n] = vector((i / 4 + 1) * N + n);
#pragma GCC unroll 16
            for (int m = 0; m < M; ++m) {
                const IVec<float> u = four_bytes(x[m] + i), l = four_bytes(x[m] + lower + i);
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n) {
                    high[m][n] = dot_bytes(high[m][n], u, w[n]);
                    low[m][n] = dot_bytes(low[m][n], l, w[n]);
                }
            }
        }
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) low[m][n] += high[m][n] << 8;
        add_scaled<M, N>(p, row, low);
    }
};

static void product_bytes(const Int8Product<float>& p) { whole_product<ByteDots>(p); }

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
