// Products of whole numbers: weights in 8 bits, a scale for each of their rows; the rows
// that they are multiplied by in 16 bits, a scale each. Weights lie in pairs of k.
#pragma once

#include "whole.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

typedef int16_t Shorts __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
typedef int16_t FewShorts __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES / 2)));
typedef int8_t FewBytes __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES / 2)));
typedef char FewChars __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES / 2)));

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

// One instruction, where GCC 12 makes four of `__builtin_convertvector`.
CELLWRIGHT_INLINE Shorts widened(FewBytes bytes) {
#if defined(__AVX512BW__) && __has_builtin(__builtin_ia32_pmovsxbw512_mask)
    return (Shorts)__builtin_ia32_pmovsxbw512_mask((FewChars)bytes, Shorts{}, (uint32_t)-1);
#elif defined(__AVX2__) && !defined(__AVX512BW__) && __has_builtin(__builtin_ia32_pmovsxbw256)
    return (Shorts)__builtin_ia32_pmovsxbw256((FewChars)bytes);
#else
    return __builtin_convertvector(bytes, Shorts);
#endif
}

static void pack_int8(const float* panel, int64_t depth, int64_t width, void* out,
                      float* scales) {
    for (int64_t i = 0; i < width; i += kLanes<float>) {
        const Vec<float> inverse = scale_columns(panel + i, depth, width, scales + i);
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
    int16_t* const d = (int16_t*)out;
    out[scale_at] = each_whole(row, count, 2, [&](int64_t i, IVec<float> numbers) {
        const auto shorts = __builtin_convertvector(numbers, FewShorts);
        __builtin_memcpy(d + i, &shorts, sizeof shorts);
    });
}

struct ShortPairs {
    static constexpr int rows(int vectors) { return kRows[vectors]; }
    static constexpr int64_t packed_depth(int64_t depth) { return (depth + 1) / 2 * 2; }

    template <int M, int N>
    static void add(const Int8Product<float>& p, int64_t row, int64_t k, int64_t depth,
                    const int8_t* weights) {
        constexpr int W = kLanes<float>;
        IVec<float> sum[M][N] = {};
        const int16_t* x[M];
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) x[m] = (const int16_t*)p.rows[row + m] + p.offset + k;
        for (int64_t i = 0; i < depth; i += 2) {
            Shorts w[N];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) {
                FewBytes bytes;
                __builtin_memcpy(&bytes, weights + (i * N + 2 * n) * W, sizeof bytes);
                w[n] = widened(bytes);
            }
#pragma GCC unroll 16
            for (int m = 0; m < M; ++m) {
                int32_t pair;
                __builtin_memcpy(&pair, x[m] + i, sizeof pair);
                const Shorts both = (Shorts)(pair - IVec<float>{});
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n) sum[m][n] += multiply_pairs(w[n], both);
            }
        }
        add_scaled<M, N>(p, row, sum);
    }
};

static void product_int8(const Int8Product<float>& p) { whole_product<ShortPairs>(p); }

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
