// Products in bf16 where the processor multiplies such numbers: two of each row at a time
// (AVX512-BF16), or tiles of 16 rows x 32 (AMX-BF16). Rows are in bf16, weights as
// `pack_bf16` has made them: rows of pairs are what both instructions read.
//
// Without the instructions the same code computes what they do, as their manual says: the
// tests run that on every machine.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>  // its functions leave no symbols
#endif

#include "gemm.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

// Elements k and k + 1 of a row, and an element k alone beside 0.
CELLWRIGHT_INLINE uint32_t pair_at(const uint16_t* row, int64_t k) {
    uint32_t pair;
    __builtin_memcpy(&pair, row + k, sizeof pair);
    return pair;
}
CELLWRIGHT_INLINE uint32_t single_at(const uint16_t* row, int64_t k) { return row[k]; }

CELLWRIGHT_INLINE Vec<float> halves_of(UVec<float> pairs, int which) {
    return (Vec<float>)(which == 0 ? pairs << 16 : pairs & 0xffff0000u);
}

// The blocks of weights that a product goes through, of `most` k each:
// f(offset in a row, depth, weights, those of the next block).
template <class F>
CELLWRIGHT_INLINE void each_block(const Product<float>& p, int64_t most, F f) {
    const Source<float>& s = p.source;
    const auto* weights = (const uint32_t*)p.weights;
    for (int64_t b = 0; b < s.blocks; ++b)
        for (int64_t k = 0; k < s.block; k += most) {
            const int64_t depth = s.block - k < most ? s.block - k : most;
            const auto* next = weights + (depth + 1) / 2 * p.vectors * kLanes<float>;
            f(s.offset + b * s.stride + k, depth, weights, next);
            weights = next;
        }
}

// sum + the product of each lane's pairs: the second ones' first.
CELLWRIGHT_INLINE Vec<float> dot_pairs(Vec<float> sum, UVec<float> a, UVec<float> b) {
#if defined(__AVX512BF16__)
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += halves_of(a, 1) * halves_of(b, 1);
    return sum + halves_of(a, 0) * halves_of(b, 0);
#endif
}

// So many numbers in bf16, each as the lower half of an element.
CELLWRIGHT_INLINE UVec<float> widened(const uint16_t* row) {
    typedef uint16_t Few __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES / 2)));
    Few few;
    __builtin_memcpy(&few, row, sizeof few);
    return __builtin_convertvector(few, UVec<float>);
}

// M sources by N vectors of a panel in pairs of rows, as a product's weights are in pairs
// of k: sums[m][n] += sum over `count` of pairs of source m times those of vector n.
template <int M, int N>
CELLWRIGHT_INLINE void add_dots(const uint16_t* const* x, int64_t count, const uint32_t* pairs,
                                const uint32_t* next, Vec<float> (&sum)[M][N]) {
    constexpr int W = kLanes<float>;
    const auto add = [&](int64_t k, auto at) __attribute__((always_inline)) {
        UVec<float> w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
            __builtin_memcpy(&w[n], pairs + (k / 2 * N + n) * W, sizeof w[n]);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const UVec<float> both = at(x[m], k) - UVec<float>{};
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sum[m][n] = dot_pairs(sum[m][n], w[n], both);
        }
    };
    int64_t k = 0;
    for (; k + 2 <= count; k += 2) {
        __builtin_prefetch(next + k / 2 * W, 0, 2);
        add(k, pair_at);
    }
    if (k < count) add(k, single_at);  // the panel has a 0 there, but the row goes on
}

// M numbers to a row of N vectors: those that the sums of a block are.
template <int M, int N, class F>
CELLWRIGHT_INLINE void each_vector(F f) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) f(m, n);
}

template <int M, int N>
static void outer_dots_block(const uint16_t* source, int64_t source_stride, int64_t count,
                             const uint32_t* pairs, float* sums, int64_t sums_stride) {
    constexpr int W = kLanes<float>;
    const uint16_t* x[M];
    Vec<float> sum[M][N];
    for (int m = 0; m < M; ++m) x[m] = source + m * source_stride;
    each_vector<M, N>([&](int m, int n) __attribute__((always_inline)) {
        sum[m][n] = load(sums + m * sums_stride + n * W);
    });
    add_dots<M, N>(x, count, pairs, pairs, sum);
    each_vector<M, N>([&](int m, int n) __attribute__((always_inline)) {
        store<float>(sums + m * sums_stride + n * W, sum[m][n]);
    });
}

template <int N, int M = kRows[N]>
CELLWRIGHT_INLINE void outer_dots_of(int64_t m, const uint16_t* source, int64_t source_stride,
                                     int64_t count, const uint32_t* pairs, float* sums,
                                     int64_t sums_stride) {
    if constexpr (M > 0) {
        if (m == M)
            outer_dots_block<M, N>(source, source_stride, count, pairs, sums, sums_stride);
        else
            outer_dots_of<N, M - 1>(m, source, source_stride, count, pairs, sums, sums_stride);
    }
}

// Two rows of a panel side by side in each element; an odd last one beside 0.
template <int N>
CELLWRIGHT_INLINE void pair_rows(const uint16_t* panel, int64_t stride, int64_t count,
                                 uint32_t* pairs) {
    constexpr int W = kLanes<float>;
    for (int64_t r = 0; r < count; r += 2, panel += 2 * stride)
        for (int n = 0; n < N; ++n, pairs += W) {
            UVec<float> both = widened(panel + n * W);
            if (r + 1 < count) both |= widened(panel + stride + n * W) << 16;
            __builtin_memcpy(pairs, &both, sizeof both);
        }
}

template <int N> static void outer_dots_n(const Outer<float>& p) {
    alignas(64) uint32_t pairs[kOuterPairs * N * kLanes<float>];
    const auto *source = (const uint16_t*)p.source, *panel = (const uint16_t*)p.panel;
    const int64_t width = p.last - p.first, groups = (width + kRows[N] - 1) / kRows[N];
    for (int64_t r = 0; r < p.row_count; r += 2 * kOuterPairs) {
        const int64_t left = p.row_count - r;
        const int64_t count = left < 2 * kOuterPairs ? left : 2 * kOuterPairs;
        pair_rows<N>(panel + r * p.panel_stride, p.panel_stride, count, pairs);
        for (int64_t g = 0, k = 0; g < groups; ++g) {
            const int64_t next = (g + 1) * width / groups;
            outer_dots_of<N>(next - k, source + (p.first + k) * p.source_stride + r,
                             p.source_stride, count, pairs,
                             p.sums + (p.first + k) * p.sums_stride, p.sums_stride);
            k = next;
        }
    }
}

static void outer_dots(const Outer<float>& p) {
    constexpr void (*by_vectors[])(const Outer<float>&) = {
        nullptr,         outer_dots_n<1>, outer_dots_n<2>, outer_dots_n<3>, outer_dots_n<4>,
        outer_dots_n<5>, outer_dots_n<6>, outer_dots_n<7>, outer_dots_n<8>};
    by_vectors[p.vectors](p);
}

#if !defined(__AMX_BF16__)

template <int M, int N>
static void dot_block(const Product<float>& p, int64_t row, int64_t offset, int64_t depth,
                      const uint32_t* weights, const uint32_t* next) {
    const uint16_t* x[M];
    Vec<float> sum[M][N];
    for (int m = 0; m < M; ++m) x[m] = (const uint16_t*)p.source.rows[row + m] + offset;
    each_vector<M, N>([&](int m, int n) __attribute__((always_inline)) {
        sum[m][n] = load(p.columns[n] + (row + m) * p.column_stride);
    });
    add_dots<M, N>(x, depth, weights, next, sum);
    each_vector<M, N>([&](int m, int n) __attribute__((always_inline)) {
        store<float>(p.columns[n] + (row + m) * p.column_stride, sum[m][n]);
    });
}

template <int N, int M = kRows[N]>
CELLWRIGHT_INLINE void dot_rows_of(int64_t m, const Product<float>& p, int64_t row,
                                   int64_t offset, int64_t depth, const uint32_t* weights,
                                   const uint32_t* next) {
    if constexpr (M > 0) {
        if (m == M)
            dot_block<M, N>(p, row, offset, depth, weights, next);
        else
            dot_rows_of<N, M - 1>(m, p, row, offset, depth, weights, next);
    }
}

template <int N> static void product_dots_n(const Product<float>& p) {
    const int64_t groups = (p.rows + kRows[N] - 1) / kRows[N];
    each_block(p, kDotDepth,
               [&](int64_t offset, int64_t depth, const uint32_t* weights, const uint32_t* next)
                   __attribute__((always_inline)) {
        const int64_t lines = (depth + 1) / 2 * kLanes<float>;
        for (int64_t g = 0, r = 0; g < groups; ++g) {
            const int64_t end = (g + 1) * p.rows / groups;
            // The first groups fetch the block of weights that comes next.
            dot_rows_of<N>(end - r, p, r, offset, depth, weights,
                           g < N ? next + g * lines : weights);
            r = end;
        }
    });
}

static void product_dots(const Product<float>& p) {
    constexpr void (*by_vectors[])(const Product<float>&) = {
        nullptr,           product_dots_n<1>, product_dots_n<2>,
        product_dots_n<3>, product_dots_n<4>, product_dots_n<5>,
        product_dots_n<6>, product_dots_n<7>, product_dots_n<8>};
    by_vectors[p.vectors](p);
}

#endif

#if defined(__AMX_BF16__) || !defined(__AVX512BF16__)

constexpr int kTileLines = 16, kTileLineBytes = 64;  // of any tile
constexpr int64_t kTilePairs = kDepth / 2;

// Tile 0 of sums, 1 of rows, 2 of weights; lines of 64 bytes.
struct TileConfig {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t line_bytes[16] = {64, 64, 64};
    uint8_t lines[16] = {};
};

// Sums of `count` rows by one vector: they stay in a tile while rows and weights pass by,
// 16 pairs of k at a time.
struct SumTile {
    float* sums;
    int64_t stride;  // elements from row to row
#if defined(__AMX_BF16__)
    CELLWRIGHT_INLINE void begin(const SumTile& t, int) {
        _tile_loadd(0, t.sums, size_t(t.stride) * 4);
    }
    CELLWRIGHT_INLINE void add(const SumTile&, int, const uint32_t* rows,
                               const uint32_t* weights, int64_t step) {
        _tile_loadd(1, rows, kTileLineBytes);
        _tile_loadd(2, weights, size_t(step) * 4);
        _tile_dpbf16ps(0, 1, 2);
    }
    CELLWRIGHT_INLINE void end(const SumTile& t) {
        _tile_stored(0, t.sums, size_t(t.stride) * 4);
    }
#else
    CELLWRIGHT_INLINE void begin(const SumTile&, int) {}
    CELLWRIGHT_INLINE void add(const SumTile& t, int count, const uint32_t* rows,
                               const uint32_t* weights, int64_t step) {
        for (int m = 0; m < count; ++m) {
            Vec<float> of[2] = {};  // the first ones' products, and the second ones'
            for (int k = 0; k < kTileLines; ++k) {
                UVec<float> w;
                __builtin_memcpy(&w, weights + k * step, sizeof w);
                const UVec<float> x = rows[m * kTileLines + k] - UVec<float>{};
                for (int j = 0; j < 2; ++j) of[j] += halves_of(x, j) * halves_of(w, j);
            }
            float* to = t.sums + m * t.stride;
            store<float>(to, load(to) + (of[0] + of[1]));
        }
    }
    CELLWRIGHT_INLINE void end(const SumTile&) {}
#endif
};

// Up to 16 rows by all vectors, on one block of weights.
static void tile_block(const Product<float>& p, int64_t row, int count, int64_t offset,
                       int64_t depth, const uint32_t* weights) {
    constexpr int W = kLanes<float>;
    alignas(64) uint32_t pairs[kTilePairs / kTileLines][kTileLines][kTileLines];
    alignas(64) uint32_t last[kTileLines][W];  // weights past the end are 0
    for (int m = 0; m < count; ++m) {
        alignas(64) uint16_t line[kDepth] = {};
        __builtin_memcpy(line, (const uint16_t*)p.source.rows[row + m] + offset,
                         size_t(depth) * 2);
        for (int64_t t = 0; t < kTilePairs / kTileLines; ++t)
            __builtin_memcpy(pairs[t][m], line + 2 * t * kTileLines, kTileLineBytes);
    }
    const int64_t step = int64_t(p.vectors) * W, all = (depth + 1) / 2;
    for (int n = 0; n < p.vectors; ++n, weights += W) {
        const SumTile tile{p.columns[n] + row * p.column_stride, p.column_stride};
        SumTile::begin(tile, count);
        int64_t k = 0;
        for (; k + kTileLines <= all; k += kTileLines)
            SumTile::add(tile, count, pairs[k / kTileLines][0], weights + k * step, step);
        if (k < all) {
            __builtin_memset(last, 0, sizeof last);
            for (int64_t i = 0; k + i < all; ++i)
                __builtin_memcpy(last[i], weights + (k + i) * step, sizeof last[i]);
            SumTile::add(tile, count, pairs[k / kTileLines][0], last[0], W);
        }
        SumTile::end(tile);
    }
}

static void product_tiles(const Product<float>& p) {
    for (int64_t r = 0; r < p.rows; r += kTileLines) {
        const int count = int(p.rows - r < kTileLines ? p.rows - r : kTileLines);
#if defined(__AMX_BF16__)
        TileConfig config;
        config.lines[0] = config.lines[1] = uint8_t(count);
        config.lines[2] = kTileLines;
        _tile_loadconfig(&config);
#endif
        each_block(p, kDepth, [&](int64_t offset, int64_t depth, const uint32_t* weights,
                                  const uint32_t*) __attribute__((always_inline)) {
            tile_block(p, r, count, offset, depth, weights);
        });
    }
#if defined(__AMX_BF16__)
    _tile_release();
#endif
}

#endif

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
