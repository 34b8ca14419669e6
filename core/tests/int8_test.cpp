// Products of whole numbers against sums of 64 bits: of every instruction set that the
// machine has; and the code of the instruction that it may lack, on a model of it.
#include <doctest/doctest.h>

#include <cstdlib>

#include "support.h"

#define CELLWRIGHT_ISA model
#define CELLWRIGHT_VECTOR_BYTES 16
#define CELLWRIGHT_VECTOR_REGISTERS 16
#include "simd/int8_dot.h"

using namespace cellwright;

namespace {

struct Whole {
    Int8Kernels kernels;
    bool bytes;
    int lanes;
};

struct Shape {
    int vectors;
    int64_t rows, depth, offset;  // of the first k in a row
};

// Whole numbers of that size at most, and one of each group that has it: so the scale is 1.
std::vector<float> numbers(int64_t groups, int64_t count, int64_t step, int most, bool extreme,
                           Random& random) {
    std::vector<float> all(size_t(groups * count));
    for (float& x : all) {
        const int64_t value = int64_t(random.bits() % uint64_t(2 * most + 1)) - most;
        x = float(!extreme ? value : value < 0 ? -most : most);
    }
    for (int64_t g = 0; g < groups; ++g)
        all[size_t(step == 1 ? g * count + int64_t(random.bits() % uint64_t(count))
                             : g + int64_t(random.bits() % uint64_t(count)) * step)] = float(most);
    return all;
}

// A row's memory, as the layout has it: its bytes by rows of a cache line, the scale last.
int64_t row_of(int64_t count) { return ((count + 3) / 2 + 1 + 15) / 16 * 16; }

int64_t packed_depth(const Whole& k, int64_t depth) {
    return k.bytes ? ((depth + 3) / 4 + (depth + kDepth - 1) / kDepth) * 4 : (depth + 1) / 2 * 2;
}

void check_product(const Whole& k, const Shape& s, bool extreme) {
    Random random(uint64_t(s.rows * 31 + s.depth * 7 + s.vectors));
    const int64_t width = s.vectors * k.lanes, count = s.offset + s.depth + 1;
    const auto panel = numbers(width, s.depth, width, 127, extreme, random);
    const auto source = numbers(s.rows, count, 1, 32767, extreme, random);
    Aligned<int8_t> weights{size_t(packed_depth(k, s.depth) * width)};
    std::vector<float> scales(size_t(width), 0), narrow(size_t(s.rows * row_of(count)));
    k.kernels.pack(panel.data(), s.depth, width, weights.data(), scales.data());
    Aligned<float> sums{size_t(s.rows * width)};
    std::fill_n(sums.data(), s.rows * width, 1.0f);
    std::vector<const float*> rows;
    for (int64_t r = 0; r < s.rows; ++r) {
        float* const row = &narrow[size_t(r * row_of(count))];
        k.kernels.narrow(&source[size_t(r * count)], count, row, row_of(count) - 1);
        rows.push_back(row);
    }
    Int8Product<float> p{rows.data(), s.offset, row_of(count) - 1, s.rows, s.depth,
                         weights.data(), scales.data(), {}, width, s.vectors};
    for (int v = 0; v < s.vectors; ++v) p.columns[v] = sums.data() + v * k.lanes;
    k.kernels.product(p);
    for (int64_t r = 0; r < s.rows; ++r)
        for (int64_t c = 0; c < width; ++c) {
            int64_t exact = 1, size = 1;
            for (int64_t i = 0; i < s.depth; ++i) {
                const auto x = int64_t(source[size_t(r * count + s.offset + i)]);
                const int64_t product = x * int64_t(panel[size_t(i * width + c)]);
                exact += product;
                size += std::abs(product);
            }
            // Of each 128 numbers the sum is whole; then it is a float.
            CHECK(std::fabs(double(sums.data()[r * width + c]) - double(exact)) <=
                  1.2e-7 * double(size));
        }
}

void check_all(const Whole& k) {
    for (int vectors = 1; vectors <= kMaxVectors; ++vectors)
        for (int64_t rows : {1, 2, 5, 13})
            for (int64_t depth : {1, 3, 4, 6, 128, 131}) {
                check_product(k, {vectors, rows, depth, depth % 4}, false);
                check_product(k, {vectors, rows, depth, 0}, true);
            }
}

TEST_CASE("products of whole numbers are exact") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        const Kernels<float>& k = set->f32;
        check_all({{k.product_int8, k.pack_int8, k.narrow_int8}, k.multiplies_bytes, k.lanes});
    }
}

TEST_CASE("products of bytes, on a model of the instruction, are exact") {
    check_all({{model::product_bytes, model::pack_bytes, model::narrow_bytes}, true, 4});
}

}  // namespace
