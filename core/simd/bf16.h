// bf16: a float's upper 16 bits. Weights lie in pairs of k, as the instructions for such
// numbers read them.
#pragma once

#include "gemm.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

// A float's upper 16 bits, to nearest, ties to even; a NaN stays one. A float still.
CELLWRIGHT_INLINE Vec<float> rounded_to_bf16(Vec<float> v) {
    const UVec<float> bits = (UVec<float>)v;
    const UVec<float> nearest = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    const UVec<float> nan = (bits & 0xffff0000u) | 0x00400000u;
    return (Vec<float>)(v == v ? nearest : nan);
}

static void round_row(const float* row, int64_t count, float* out) {
    constexpr int W = kLanes<float>;
    if (out != row) copy_row<float, true>(out, row, count, count);
    for (int64_t i = 0; i < count; i += W) store<float>(out + i, rounded_to_bf16(load(out + i)));
}

// A vector of numbers in bf16, from element i of a row on, as floats; and back.
typedef uint16_t Halves __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES / 2)));

CELLWRIGHT_INLINE Vec<float> load_bf16(const void* row, int64_t i) {
    Halves halves;
    __builtin_memcpy(&halves, (const uint16_t*)row + i, sizeof halves);
    return (Vec<float>)(__builtin_convertvector(halves, UVec<float>) << 16);
}
CELLWRIGHT_INLINE void store_bf16(void* row, int64_t i, Vec<float> v) {
    const auto halves = __builtin_convertvector((UVec<float>)rounded_to_bf16(v) >> 16, Halves);
    __builtin_memcpy((uint16_t*)row + i, &halves, sizeof halves);
}

// `count` numbers of a row from element `first` on, to whole vectors, and back.
CELLWRIGHT_INLINE void widen(const void* row, int64_t first, int64_t count, float* out) {
    constexpr int W = kLanes<float>;
    int64_t i = 0;
    for (; i + W <= count; i += W) store<float>(out + i, load_bf16(row, first + i));
    if (i == count) return;
    Halves rest = {};
    __builtin_memcpy(&rest, (const uint16_t*)row + first + i, size_t(count - i) * 2);
    store<float>(out + i, load_bf16(&rest, 0));
}
CELLWRIGHT_INLINE void narrow(const float* v, int64_t count, void* row, int64_t first) {
    constexpr int W = kLanes<float>;
    int64_t i = 0;
    for (; i + W <= count; i += W) store_bf16(row, first + i, load(v + i));
    if (i == count) return;
    Halves rest;
    store_bf16(&rest, 0, load(v + i));
    __builtin_memcpy((uint16_t*)row + first + i, &rest, size_t(count - i) * 2);
}

static void widen_row(const void* row, int64_t count, float* out) { widen(row, 0, count, out); }

// As `transpose`, of rows in bf16.
static void transpose_bf16(const float* const* rows, int64_t count, float* out,
                           int64_t stride) {
    constexpr int W = kLanes<float>;
    constexpr int64_t kColumns = 64;
    alignas(64) float wide[W][kColumns];
    const float* starts[W];
    for (int l = 0; l < W; ++l) starts[l] = wide[l];
    for (int64_t k = 0; k < count; k += kColumns) {
        const int64_t n = count - k < kColumns ? count - k : kColumns;
        for (int l = 0; l < W; ++l) widen(rows[l], k, n, wide[l]);
        transpose<float>(starts, n, out + k * stride, stride);
    }
}

static void narrow_row(const float* row, int64_t count, void* out) {
    const int64_t whole = count / kLanes<float> * kLanes<float>;
    narrow(row, whole, out, 0);
    if (whole == count) return;
    alignas(64) float rest[kLanes<float>] = {};
    copy_part<float>(rest, row + whole, count - whole);
    narrow(rest, count - whole, out, whole);
}

static void narrow_columns(const float* const* rows, bool bf16, int64_t count, void* out,
                           int64_t stride) {
    constexpr int W = kLanes<float>;
    constexpr int64_t kColumns = 64;
    alignas(64) float wide[kColumns][W];
    const float* starts[W];
    for (int64_t k = 0; k < count; k += kColumns) {
        const int64_t n = count - k < kColumns ? count - k : kColumns;
        for (int l = 0; l < W; ++l)
            starts[l] = bf16 ? (const float*)((const uint16_t*)rows[l] + k) : rows[l] + k;
        if (bf16)
            transpose_bf16(starts, n, wide[0], W);
        else
            transpose<float>(starts, n, wide[0], W);
        for (int64_t i = 0; i < n; ++i) store_bf16(out, (k + i) * stride, load(wide[i]));
    }
}

static void column_sums_bf16(const void* panel, int64_t stride, int64_t rows, int64_t count,
                             float* sums) {
    for (int64_t i = 0; i < count; i += kLanes<float>) {
        Vec<float> s = load(sums + i);
        for (int64_t r = 0; r < rows; ++r) s += load_bf16(panel, r * stride + i);
        store<float>(sums + i, s);
    }
}

static void round_columns(float* data, int64_t count, int64_t stride) {
    for (int64_t k = 0; k < count; ++k, data += stride)
        store<float>(data, rounded_to_bf16(load(data)));
}

static void pack_bf16(const float* panel, int64_t depth, int64_t width, void* out) {
    UVec<float>* d = (UVec<float>*)out;
    for (int64_t k = 0; k < depth; k += 2)
        for (int64_t i = 0; i < width; i += kLanes<float>) {
            const auto low = (UVec<float>)rounded_to_bf16(row_of(panel + i, k, depth, width));
            const auto high =
                (UVec<float>)rounded_to_bf16(row_of(panel + i, k + 1, depth, width));
            *d++ = low >> 16 | high;
        }
}

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
