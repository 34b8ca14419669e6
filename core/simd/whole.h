// Whole numbers with scales: what all products of int8 share.
#pragma once

#include "gemm.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

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

// The columns of one vector of a panel in 8 bits: their scales, and the inverse of these.
CELLWRIGHT_INLINE Vec<float> scale_columns(const float* panel, int64_t depth, int64_t width,
                                           float* scales) {
    Vec<float> most = {}, scale, inverse;
    for (int64_t k = 0; k < depth; ++k) most = larger(most, load(panel + k * width));
    find_scale(most, 127, &scale, &inverse);
    store<float>(scales, scale);
    return inverse;
}

// A row in 16 bits: put(i, numbers) takes them vector by vector, up to `padding` zeros past
// its end at least. Returns the scale.
template <class F>
CELLWRIGHT_INLINE float each_whole(const float* row, int64_t count, int64_t padding, F put) {
    constexpr int W = kLanes<float>;
    const int64_t full = count / W * W;
    Vec<float> most = {}, last = {}, scale, inverse;
    copy_part<float>((float*)&last, row + full, count - full);
    for (int64_t i = 0; i < full; i += W) most = larger(most, load(row + i));
    most = larger(most, last);
    float top = most[0];
    for (int l = 1; l < W; ++l) top = most[l] > top || most[l] != most[l] ? most[l] : top;
    find_scale(splat<float>(top), 32767, &scale, &inverse);
    for (int64_t i = 0; i < count + padding; i += W) {
        const Vec<float> v = i < full ? load(row + i) : i == full ? last : Vec<float>{};
        put(i, whole(v * inverse));
    }
    return scale[0];
}

template <int M, int N>
CELLWRIGHT_INLINE void add_scaled(const Int8Product<float>& p, int64_t row,
                                  const IVec<float> (&sum)[M][N]) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        const float scale = p.rows[row + m][p.scale_at];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            float* c = p.columns[n] + (row + m) * p.column_stride;
            const Vec<float> sums = __builtin_convertvector(sum[m][n], Vec<float>);
            store<float>(c, load(c) + sums * (scale * load(p.scales + n * kLanes<float>)));
        }
    }
}

// A product by the micro-kernels `P::add`, of `P::rows` rows at most by so many vectors;
// `P::packed_depth`: how many bytes a column's weights of so many k take.
template <class P, int N, int M = P::rows(N)>
CELLWRIGHT_INLINE void whole_rows(int64_t m, const Int8Product<float>& p, int64_t row,
                                  int64_t k, int64_t depth, const int8_t* weights) {
    if constexpr (M > 0) {
        if (m == M)
            P::template add<M, N>(p, row, k, depth, weights);
        else
            whole_rows<P, N, M - 1>(m, p, row, k, depth, weights);
    }
}

template <class P, int N> static void whole_product_n(const Int8Product<float>& p) {
    const int64_t groups = (p.row_count + P::rows(N) - 1) / P::rows(N);
    const int8_t* weights = p.weights;
    for (int64_t k = 0; k < p.depth; k += kDepth) {
        const int64_t depth = p.depth - k < kDepth ? p.depth - k : kDepth;
        for (int64_t g = 0, r = 0; g < groups; ++g) {
            const int64_t next = (g + 1) * p.row_count / groups;
            whole_rows<P, N>(next - r, p, r, k, depth, weights);
            r = next;
        }
        weights += P::packed_depth(depth) * N * kLanes<float>;
    }
}

template <class P> static void whole_product(const Int8Product<float>& p) {
    static_assert(kDepth * 127 * 32767 < INT32_MAX, "sums are whole");
    constexpr void (*by_vectors[])(const Int8Product<float>&) = {
        nullptr,
        whole_product_n<P, 1>, whole_product_n<P, 2>, whole_product_n<P, 3>,
        whole_product_n<P, 4>, whole_product_n<P, 5>, whole_product_n<P, 6>,
        whole_product_n<P, 7>, whole_product_n<P, 8>};
    by_vectors[p.vectors](p);
}

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
