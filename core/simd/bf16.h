// bf16: a float's upper 16 bits. Weights lie in pairs of k, as the instructions for such
// numbers read them.
#pragma once

#include "vec.h"

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

static void round_columns(float* data, int64_t count, int64_t stride) {
    for (int64_t k = 0; k < count; ++k, data += stride)
        store<float>(data, rounded_to_bf16(load(data)));
}

// Row k of a panel, or zeros past its end.
CELLWRIGHT_INLINE Vec<float> row_of(const float* panel, int64_t k, int64_t depth,
                                    int64_t width) {
    return k < depth ? load(panel + k * width) : Vec<float>{};
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
