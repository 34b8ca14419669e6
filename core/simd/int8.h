// Products of whole numbers: weights in 8 bits, a scale for each of their rows; the rows
// that they are multiplied by in 16 bits, a scale each.
#pragma once

#include "gemm.h"
#include "bf16.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

typedef int16_t Shorts __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
typedef int16_t FewShorts __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES / 2)));
typedef int8_t FewBytes __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES / 2)));

// For each lane a[2i] * b[2i] + a[2i + 1] * b[2i + 1].
CELLWRIGHT_INLINE IVec<float> multiply_pairs(Shorts a, Shorts b) {
#if defined(__AVX512BW__) && CELLWRIGHT_VECTOR_BYTES == 64
#if __has_builtin(__builtin_ia32_pmaddwd512)
    return (IVec<float>)__builtin_ia32_pmaddwd512(a, b);
#else
    return (IVec<float>)__builtin_ia32_pmaddwd512_mask(a, b, IVec<float>{}, (uint16_t)-1);
#endif
#elif defined(__AVX2__)
    return (IVec<float>)__builtin_ia32_pmaddwd256(a, b);
#elif defined(__SSE2__)
    return (IVec<float>)__builtin_ia32_pmaddwd128(a, b);
#else
    const IVec<float> x = (IVec<float>)a, y = (IVec<float>)b;
    return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

// v, at most 2^15 in size, to the nearest whole number.
CELLWRIGHT_INLINE IVec<float> whole(Vec<float> v) {
    const Vec<float> rounding = splat<float>(Lane<float>::rounding);
    return (IVec<float>)(v + rounding) - (IVec<float>)rounding;
}

CELLWRIGHT_INLINE Vec<float> larger(Vec<float> most, Vec<float> v) {
    v = absolute<float>(v);
    return v > most || v != v ? v : most;
}

constexpr float kLeastScaled = 1e-30f;  // less than this is 0: its inverse were too large
constexpr float kMostScaled = 1e38f;    // more, or no number, makes every sum no number

// The largest whole number over `most`, and its inverse: what numbers of that size at
// most are multiplied by.
CELLWRIGHT_INLINE void find_scale(Vec<float> most, float largest, Vec<float>* scale,
                                  Vec<float>* inverse) {
    const Vec<float> zero = {}, nan = splat<float>(__builtin_nanf(""));
    *scale = most <= kMostScaled ? most / largest : nan;
    *inverse = most > kLeastScaled && most <= kMostScaled ? largest / most : zero;
}

static void pack_int8(const float* panel, int64_t depth, int64_t width, void* out,
                      float* scales) {
    constexpr int W = kLanes<float>;
    for (int64_t i = 0; i < width; i += W) {
        Vec<float> most = {}, scale, inverse;
        for (int64_t k = 0; k < depth; ++k) most = larger(most, load(panel + k * width + i));
        find_scale(most, 127, &scale, &inverse);
        store<float>(scales + i, scale);
        int8_t* d = (int8_t*)out + 2 * i;
        for (int64_t k = 0; k < depth; k += 2, d += 2 * width) {
            const IVec<float> low = whole(row_of(panel + i, k, depth, width) * inverse);
            const IVec<float> high = whole(row_of(panel + i, k + 1, depth, width) * inverse);
            const auto pairs = __builtin_convertvector((low & 0xff) | high << 8, FewShorts);
            __builtin_memcpy(d, &pairs, sizeof pairs);
        }
    }
}

static void narrow_int8(const float* row, int64_t count, float* out, int64_t scale_at) {
    constexpr int W = kLanes<float>;
    const int64_t full = count / W * W;
    Vec<float> most = {}, last = {}, scale, inverse;
    copy_part<float>((float*)&last, row + full, count - full);
    for (int64_t i = 0; i < full; i += W) most = larger(most, load(row + i));
    most = larger(most, last);
    float top = most[0];
    for (int l = 1; l < W; ++l) top = most[l] > top || most[l] != most[l] ? most[l] : top;
    find_scale(splat<float>(top), 32767, &scale, &inverse);
    int16_t* d = (int16_t*)out;
    for (int64_t i = 0; i < count + 2; i += W) {
        const Vec<float> v = i < full ? load(row + i) : i == full ? last : Vec<float>{};
        const auto shorts = __builtin_convertvector(whole(v * inverse), FewShorts);
        __builtin_memcpy(d + i, &shorts, sizeof shorts);
    }
    out[scale_at] = scale[0];
}

template <int M, int N>
static void int8_block(const Int8Product<float>& p, int64_t row, int64_t k, int64_t pairs,
                       const int8_t* weights) {
    constexpr int W = kLanes<float>;
    IVec<float> sum[M][N] = {};
    const int16_t* x[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) x[m] = (const int16_t*)p.rows[row + m] + p.offset + k;
    for (int64_t i = 0; i < pairs; ++i) {
        Shorts w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            FewBytes bytes;
            __builtin_memcpy(&bytes, weights + (i * N + n) * 2 * W, sizeof bytes);
            w[n] = __builtin_convertvector(bytes, Shorts);
        }
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            int32_t pair;
            __builtin_memcpy(&pair, x[m] + 2 * i, sizeof pair);
            const Shorts both = (Shorts)(pair - IVec<float>{});
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sum[m][n] += multiply_pairs(w[n], both);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        const float scale = p.rows[row + m][p.scale_at];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            float* c = p.columns[n] + (row + m) * p.column_stride;
            const Vec<float> sums = __builtin_convertvector(sum[m][n], Vec<float>);
            store<float>(c, load(c) + sums * (scale * load(p.scales + n * W)));
        }
    }
}

template <int N, int M = kRows[N]>
CELLWRIGHT_INLINE void int8_rows(int64_t m, const Int8Product<float>& p, int64_t row,
                                 int64_t k, int64_t pairs, const int8_t* weights) {
    if constexpr (M > 0) {
        if (m == M)
            int8_block<M, N>(p, row, k, pairs, weights);
        else
            int8_rows<N, M - 1>(m, p, row, k, pairs, weights);
    }
}

template <int N> static void product_int8_n(const Int8Product<float>& p) {
    const int64_t groups = (p.row_count + kRows[N] - 1) / kRows[N];
    const int8_t* weights = p.weights;
    for (int64_t k = 0; k < p.depth; k += kDepth) {
        const int64_t pairs = ((p.depth - k < kDepth ? p.depth - k : kDepth) + 1) / 2;
        for (int64_t g = 0, r = 0; g < groups; ++g) {
            const int64_t next = (g + 1) * p.row_count / groups;
            int8_rows<N>(next - r, p, r, k, pairs, weights);
            r = next;
        }
        weights += pairs * N * 2 * kLanes<float>;
    }
}

static void product_int8(const Int8Product<float>& p) {
    static_assert(kDepth * 127 * 32767 < INT32_MAX, "sums are whole");
    constexpr void (*by_vectors[])(const Int8Product<float>&) = {
        nullptr,           product_int8_n<1>, product_int8_n<2>,
        product_int8_n<3>, product_int8_n<4>, product_int8_n<5>,
        product_int8_n<6>, product_int8_n<7>, product_int8_n<8>};
    by_vectors[p.vectors](p);
}

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
