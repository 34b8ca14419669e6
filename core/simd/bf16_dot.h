// Products in bf16 where the processor multiplies such numbers: two of each row at a time
// (AVX512-BF16), or tiles of 16 rows x 32 (AMX-BF16). Rows come as rounded floats, weights
// as `pack_bf16` has made them: a row of pairs is what both instructions read.
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

constexpr int64_t kPairs = kDepth / 2;  // of a block of weights

// The upper halves of two floats, the first one's in the lower half.
CELLWRIGHT_INLINE uint32_t pair_of(const float* x, bool both) {
    uint32_t low, high = 0;
    __builtin_memcpy(&low, x, sizeof low);
    if (both) __builtin_memcpy(&high, x + 1, sizeof high);
    return low >> 16 | (high & 0xffff0000u);
}

// An odd last element is paired with 0, as in the weights.
CELLWRIGHT_INLINE void pack_row(const float* x, int64_t depth, uint32_t* pairs) {
    typedef uint64_t Longs __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
    typedef uint32_t Few __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES / 2)));
    int64_t k = 0;
    for (; k + kLanes<float> <= depth; k += kLanes<float>) {
        const Longs both = (Longs)load(x + k);
        const auto packed =
            __builtin_convertvector((both >> 16 & 0xffff) | (both >> 32 & 0xffff0000), Few);
        __builtin_memcpy(pairs + k / 2, &packed, sizeof packed);
    }
    for (; k < depth; k += 2) pairs[k / 2] = pair_of(x + k, k + 1 < depth);
}

CELLWRIGHT_INLINE Vec<float> halves_of(UVec<float> pairs, int which) {
    return (Vec<float>)(which == 0 ? pairs << 16 : pairs & 0xffff0000u);
}

// The blocks of weights that a product goes through: f(offset in a row, depth, weights).
template <class F>
CELLWRIGHT_INLINE void each_block(const Product<float>& p, F f) {
    const Source<float>& s = p.source;
    const auto* weights = (const uint32_t*)p.weights;
    for (int64_t b = 0; b < s.blocks; ++b)
        for (int64_t k = 0; k < s.block; k += kDepth) {
            const int64_t depth = s.block - k < kDepth ? s.block - k : kDepth;
            f(s.offset + b * s.stride + k, depth, weights);
            weights += (depth + 1) / 2 * p.vectors * kLanes<float>;
        }
}

#if !defined(__AMX_BF16__)

// sum + the product of each lane's pairs: the second ones' first.
CELLWRIGHT_INLINE Vec<float> dot_pairs(Vec<float> sum, UVec<float> a, UVec<float> b) {
#if defined(__AVX512BF16__)
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += halves_of(a, 1) * halves_of(b, 1);
    return sum + halves_of(a, 0) * halves_of(b, 0);
#endif
}

template <int M, int N>
static void dot_block(const Product<float>& p, int64_t row, int64_t offset, int64_t depth,
                      const uint32_t* weights) {
    constexpr int W = kLanes<float>;
    alignas(64) uint32_t pairs[M][kPairs];
    Vec<float> sum[M][N];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        pack_row(p.source.rows[row + m] + offset, depth, pairs[m]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
            sum[m][n] = load(p.columns[n] + (row + m) * p.column_stride);
    }
    for (int64_t k = 0; k < (depth + 1) / 2; ++k) {
        UVec<float> w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) __builtin_memcpy(&w[n], weights + (k * N + n) * W, sizeof w[n]);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const UVec<float> x = pairs[m][k] - UVec<float>{};
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sum[m][n] = dot_pairs(sum[m][n], w[n], x);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
            store<float>(p.columns[n] + (row + m) * p.column_stride, sum[m][n]);
}

template <int N, int M = kRows[N]>
CELLWRIGHT_INLINE void dot_rows_of(int64_t m, const Product<float>& p, int64_t row,
                                   int64_t offset, int64_t depth, const uint32_t* weights) {
    if constexpr (M > 0) {
        if (m == M)
            dot_block<M, N>(p, row, offset, depth, weights);
        else
            dot_rows_of<N, M - 1>(m, p, row, offset, depth, weights);
    }
}

template <int N> static void product_dots_n(const Product<float>& p) {
    const int64_t groups = (p.rows + kRows[N] - 1) / kRows[N];
    each_block(p, [&](int64_t offset, int64_t depth, const uint32_t* weights)
                      __attribute__((always_inline)) {
        for (int64_t g = 0, r = 0; g < groups; ++g) {
            const int64_t next = (g + 1) * p.rows / groups;
            dot_rows_of<N>(next - r, p, r, offset, depth, weights);
            r = next;
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
    alignas(64) uint32_t pairs[kPairs / kTileLines][kTileLines][kTileLines];
    alignas(64) uint32_t last[kTileLines][W];  // weights past the end are 0
    for (int m = 0; m < count; ++m) {
        alignas(64) uint32_t line[kPairs] = {};
        pack_row(p.source.rows[row + m] + offset, depth, line);
        for (int64_t t = 0; t < kPairs / kTileLines; ++t)
            __builtin_memcpy(pairs[t][m], line + t * kTileLines, kTileLineBytes);
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
        each_block(p, [&](int64_t offset, int64_t depth, const uint32_t* weights)
                          __attribute__((always_inline)) {
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
