// Matrix products on packed panels. The accumulators of a micro-kernel stay in vector
// registers; a panel's block of kDepth rows stays in the L1 cache while the rows of the
// tile pass over it.
#pragma once

#include "../kernels.h"
#include "../tuning.h"
#include "vec.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

// Vectors side by side where there are many rows, and the rows of the micro-kernel by
// vectors: as many accumulators as the registers allow.
#if CELLWRIGHT_VECTOR_REGISTERS == 32
constexpr int kVectors = 4;
constexpr int kRows[] = {0, 12, 12, 8, 6, 4, 4, 3, 3};
#else
constexpr int kVectors = 3;
constexpr int kRows[] = {0, 8, 6, 4, 3, 2, 2, 1, 1};
#endif

// How a product reads its weights: so many k in each element of a panel.
template <class T> struct FullWeights {
    using Number = T;
    using Element = T;
    static constexpr int step = 1;
    CELLWRIGHT_INLINE Vec<T> vector(const T* at, int) { return load(at); }
};
struct Bf16Weights {
    using Number = float;
    using Element = uint32_t;
    static constexpr int step = 2;
    CELLWRIGHT_INLINE Vec<float> vector(const uint32_t* at, int k) {
        UVec<float> pair;
        __builtin_memcpy(&pair, at, sizeof pair);
        return (Vec<float>)(k == 0 ? pair << 16 : pair & 0xffff0000u);
    }
};

template <class P, int M, int N>
static void product_block(const typename P::Number* const* rows, int64_t offset, int64_t depth,
                          const typename P::Element* weights, const typename P::Element* next,
                          typename P::Number* const* columns, int64_t column_stride) {
    using T = typename P::Number;
    constexpr int W = kLanes<T>, step = P::step;
    const T* a[M];
    Vec<T> sum[M][N];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        a[m] = rows[m] + offset;
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[m][n] = load(columns[n] + m * column_stride);
    }
    const auto add = [&](int64_t k, int j) __attribute__((always_inline)) {
        Vec<T> w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) w[n] = P::vector(weights + (k / step * N + n) * W, j);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const T x = a[m][k + j];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sum[m][n] += x * w[n];
        }
    };
    int64_t k = 0;
    for (; k + step <= depth; k += step) {
        __builtin_prefetch(next + k / step * W, 0, 2);
#pragma GCC unroll 2
        for (int j = 0; j < step; ++j) add(k, j);
    }
    if constexpr (step > 1)
        if (k < depth) add(k, 0);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store<T>(columns[n] + m * column_stride, sum[m][n]);
}

template <class P, int N, int M = kRows[N]>
CELLWRIGHT_INLINE void product_rows(int64_t m, const typename P::Number* const* rows,
                                    int64_t offset, int64_t depth,
                                    const typename P::Element* weights,
                                    const typename P::Element* next,
                                    typename P::Number* const* columns,
                                    int64_t column_stride) {
    if constexpr (M > 0) {
        if (m == M)
            product_block<P, M, N>(rows, offset, depth, weights, next, columns,
                                   column_stride);
        else
            product_rows<P, N, M - 1>(m, rows, offset, depth, weights, next, columns,
                                      column_stride);
    }
}

// The rows of a product on one block of weights, in groups of almost equal size.
template <class P, int N>
CELLWRIGHT_INLINE void product_groups(const Product<typename P::Number>& p, int64_t offset,
                                      int64_t depth, const typename P::Element* weights,
                                      const typename P::Element* next, int64_t ahead) {
    using T = typename P::Number;
    const int64_t groups = (p.rows + kRows[N] - 1) / kRows[N];
    const int64_t steps = (depth + P::step - 1) / P::step * kLanes<T>;
    for (int64_t g = 0, r = 0; g < groups; ++g) {
        const int64_t end = (g + 1) * p.rows / groups;
        T* columns[N];
        for (int n = 0; n < N; ++n) columns[n] = p.columns[n] + r * p.column_stride;
        // The first groups fetch the block of weights that comes next.
        product_rows<P, N>(end - r, p.source.rows + r, offset, depth, weights,
                           g < ahead ? next + g * steps : weights, columns, p.column_stride);
        r = end;
    }
}

// Weights that many rows read are converted once for all of them, block by block, into
// memory that stays in the L1 cache.
template <int N>
static void converted(const Product<float>& p, int64_t offset, int64_t depth,
                      const uint32_t* weights, const uint32_t* next) {
    constexpr int W = kLanes<float>;
    alignas(64) float full[kDepth * N * W];
    for (int64_t k = 0; k < depth; k += 2)
        for (int j = 0; j < 2; ++j)
            for (int n = 0; n < N; ++n)
                store<float>(full + ((k + j) * N + n) * W,
                             Bf16Weights::vector(weights + (k / 2 * N + n) * W, j));
    product_groups<FullWeights<float>, N>(p, offset, depth, full, (const float*)next,
                                          (N + 1) / 2);
}

template <class P, int N> static void product_n(const Product<typename P::Number>& p) {
    using T = typename P::Number;
    const Source<T>& s = p.source;
    const auto* weights = (const typename P::Element*)p.weights;
    for (int64_t b = 0; b < s.blocks; ++b) {
        for (int64_t k = 0; k < s.block; k += kDepth) {
            const int64_t depth = s.block - k < kDepth ? s.block - k : kDepth;
            const auto* next = weights + (depth + P::step - 1) / P::step * N * kLanes<T>;
            const int64_t offset = s.offset + b * s.stride + k;
            bool done = false;
            if constexpr (P::step > 1)
                if ((done = p.rows > kConvertedGroups * kRows[N]))
                    converted<N>(p, offset, depth, weights, next);
            if (!done) product_groups<P, N>(p, offset, depth, weights, next, N);
            weights = next;
        }
    }
}

template <class P> static void product_by(const Product<typename P::Number>& p) {
    constexpr void (*by_vectors[])(const Product<typename P::Number>&) = {
        nullptr,         product_n<P, 1>, product_n<P, 2>, product_n<P, 3>, product_n<P, 4>,
        product_n<P, 5>, product_n<P, 6>, product_n<P, 7>, product_n<P, 8>};
    by_vectors[p.vectors](p);
}

template <class T> static void product(const Product<T>& p) { product_by<FullWeights<T>>(p); }

[[maybe_unused]] static void product_bf16(const Product<float>& p) { product_by<Bf16Weights>(p); }

// Row k of a panel, or zeros past its end.
CELLWRIGHT_INLINE Vec<float> row_of(const float* panel, int64_t k, int64_t depth,
                                    int64_t width) {
    return k < depth ? load(panel + k * width) : Vec<float>{};
}

template <class T, int M, int N>
static void outer_block(const T* source, int64_t source_stride, int64_t count,
                        const T* panel, int64_t panel_stride, T* sums,
                        int64_t sums_stride) {
    constexpr int W = kLanes<T>;
    Vec<T> sum[M][N];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[m][n] = load(sums + m * sums_stride + n * W);
    for (int64_t r = 0; r < count; ++r) {
        Vec<T> g[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) g[n] = load(panel + r * panel_stride + n * W);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sum[m][n] += source[m * source_stride + r] * g[n];
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store<T>(sums + m * sums_stride + n * W, sum[m][n]);
}

template <class T, int N, int M = kRows[N]>
CELLWRIGHT_INLINE void outer_rows(int64_t m, const T* source, int64_t source_stride,
                                  int64_t count, const T* panel, int64_t panel_stride,
                                  T* sums, int64_t sums_stride) {
    if constexpr (M > 0) {
        if (m == M)
            outer_block<T, M, N>(source, source_stride, count, panel, panel_stride, sums,
                                 sums_stride);
        else
            outer_rows<T, N, M - 1>(m, source, source_stride, count, panel, panel_stride,
                                    sums, sums_stride);
    }
}

template <class T, int N> static void outer_n(const Outer<T>& p) {
    const int64_t width = p.last - p.first;
    const int64_t groups = (width + kRows[N] - 1) / kRows[N];
    for (int64_t r = 0; r < p.row_count; r += kOuterRows) {
        const int64_t count = p.row_count - r < kOuterRows ? p.row_count - r : kOuterRows;
        for (int64_t g = 0, k = 0; g < groups; ++g) {
            const int64_t next = (g + 1) * width / groups;
            outer_rows<T, N>(next - k, p.source + (p.first + k) * p.source_stride + r,
                             p.source_stride, count, p.panel + r * p.panel_stride,
                             p.panel_stride, p.sums + (p.first + k) * p.sums_stride,
                             p.sums_stride);
            k = next;
        }
    }
}

template <class T> static void outer(const Outer<T>& p) {
    constexpr void (*by_vectors[])(const Outer<T>&) = {
        nullptr,        outer_n<T, 1>, outer_n<T, 2>, outer_n<T, 3>, outer_n<T, 4>,
        outer_n<T, 5>, outer_n<T, 6>, outer_n<T, 7>, outer_n<T, 8>};
    by_vectors[p.vectors](p);
}

// As many rows as a vector has lanes. Interleaving the first half of the rows with the
// second, log2(lanes) times over, transposes a square.
template <class T>
static void transpose(const T* const* rows, int64_t count, T* out, int64_t stride) {
    constexpr int W = kLanes<T>;
    int64_t k = 0;
    for (; k + W <= count; k += W) {
        Vec<T> v[2][W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) v[0][i] = load(rows[i] + k);
        int at = 0;
#pragma GCC unroll 4
        for (int n = 1; n < W; n *= 2, at ^= 1)
#pragma GCC unroll 8
            for (int i = 0; i < W / 2; ++i) {
                v[at ^ 1][2 * i] = interleave_low<T>(v[at][i], v[at][i + W / 2]);
                v[at ^ 1][2 * i + 1] = interleave_high<T>(v[at][i], v[at][i + W / 2]);
            }
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store<T>(out + (k + i) * stride, v[at][i]);
    }
    for (; k < count; ++k)
        for (int i = 0; i < W; ++i) out[k * stride + i] = rows[i][k];
}

template <class T>
static void column_sums(const T* panel, int64_t stride, int64_t rows, int64_t count,
                        T* sums) {
    constexpr int W = kLanes<T>;
    for (int64_t i = 0; i < count; i += W) {
        Vec<T> s = load(sums + i);
        for (int64_t r = 0; r < rows; ++r) s += load(panel + r * stride + i);
        store<T>(sums + i, s);
    }
}

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
