// Products in bf16 against plain loops over the packed weights: of every instruction set
// that the machine has; and the code of the instructions that it may lack, on a model of
// them.
#include <doctest/doctest.h>

#include <cstring>

#include "support.h"

#define CELLWRIGHT_ISA model
#define CELLWRIGHT_VECTOR_BYTES 16
#define CELLWRIGHT_VECTOR_REGISTERS 16
#include "simd/bf16_dot.h"

using namespace cellwright;

namespace {

float half(uint32_t bits) {
    bits <<= 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Element (k, column) of a panel lies at pair k / 2, column, k % 2.
void check_product(Bf16Product product, int lanes, int vectors, int64_t rows, int64_t block,
                   int64_t blocks) {
    Random random(uint64_t(rows * 31 + block));
    const int64_t depth = block * blocks, stride = block + 5, width = vectors * lanes;
    std::vector<float> source(size_t(rows * blocks * stride));
    Aligned<uint16_t> weights(size_t((depth + 1) / 2 * width * 2));
    Aligned<float> sums(size_t(rows * width));
    const auto value = [&] { return uint16_t(random.bits() % 2 << 15 | (0x3e00 + random.bits() % 256)); };
    for (float& x : source) x = half(value());
    for (int64_t k = 0; k < depth; ++k)
        for (int64_t c = 0; c < width; ++c)
            weights.data()[(k / 2 * width + c) * 2 + k % 2] = value();
    for (int64_t i = 0; i < rows * width; ++i) sums.data()[i] = 1;
    std::vector<const float*> pointers;
    for (int64_t r = 0; r < rows; ++r) pointers.push_back(&source[size_t(r * blocks * stride)]);
    Product<float> p{};
    p.source = {pointers.data(), 0, block, blocks, stride};
    p.rows = rows;
    p.weights = reinterpret_cast<const float*>(weights.data());
    for (int v = 0; v < vectors; ++v) p.columns[v] = sums.data() + v * lanes;
    p.column_stride = width;
    p.vectors = vectors;
    product(p);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < width; ++c) {
            double exact = 1;
            for (int64_t k = 0; k < depth; ++k)
                exact += double(pointers[size_t(r)][k / block * stride + k % block]) *
                         half(weights.data()[(k / 2 * width + c) * 2 + k % 2]);
            CHECK(std::fabs(exact - sums.data()[r * width + c]) < double(depth + 1) * 1e-6);
        }
}

void check_all(Bf16Product product, int lanes) {
    for (int vectors = 1; vectors <= kMaxVectors; ++vectors)
        for (int64_t rows : {1, 7, 16, 29}) {
            for (int64_t block : {1, 3, 32, 131}) check_product(product, lanes, vectors, rows, block, 1);
            check_product(product, lanes, vectors, rows, 64, 2);
        }
}

}  // namespace

TEST_CASE("panels in bf16: pairs of k, an odd last one beside 0") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        constexpr int64_t depth = 5;
        const int64_t width = 2 * set->f32.lanes;
        Aligned<float> panel(size_t(depth * width));
        Aligned<uint16_t> packed(size_t((depth + 1) * width));
        for (int64_t i = 0; i < depth * width; ++i) panel.data()[i] = half(uint32_t(0x3f80 + i));
        set->f32.pack_bf16(panel.data(), depth, width, packed.data());
        for (int64_t k = 0; k <= depth; ++k)
            for (int64_t c = 0; c < width; ++c)
                CHECK(packed.data()[(k / 2 * width + c) * 2 + k % 2] ==
                      (k < depth ? 0x3f80 + k * width + c : 0));
    }
}

TEST_CASE("products in bf16 of every shape") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        check_all(set->f32.product_bf16, set->f32.lanes);
    }
}

TEST_CASE("dots of pairs and tiles, on a model of their instructions") {
    check_all(model::product_dots, model::kLanes<float>);
    check_all(model::product_tiles, model::kLanes<float>);
}

TEST_CASE("a set whose products are wrong is refused") {
    const Kernels<float>& right = available_isas().front()->f32;
    CHECK(refused_isas().empty());
    CHECK(multiplies_alike(right, right));
    Kernels<float> wrong = right;
    static const Bf16Product product = right.product_bf16;
    wrong.product_bf16 = [](const Product<float>& p) {
        Product<float> shifted = p;
        if (p.rows > 1) ++shifted.source.rows, --shifted.rows;
        product(shifted);
    };
    CHECK(!multiplies_alike(wrong, right));
}
