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
// A kernel, and whether its rows are in bf16 rather than floats.
struct Multiplies {
    void (*product)(const Product<float>&);
    bool narrow;
    int lanes;
};

// As such kernels read them, of floats that bf16 holds.
std::vector<uint16_t> halves_of(const std::vector<float>& wide) {
    std::vector<uint16_t> halves;
    for (const float& x : wide) {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        halves.push_back(uint16_t(bits >> 16));
    }
    return halves;
}

void check_product(const Multiplies& kernel, int vectors, int64_t rows, int64_t block,
                   int64_t blocks) {
    const int lanes = kernel.lanes;
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
    for (size_t i = size_t(block); i < source.size(); i += size_t(stride))
        source[i] = half(0x7fc0);  // no number: what follows a block is not read
    const std::vector<uint16_t> halves = halves_of(source);
    std::vector<const float*> wide, pointers;
    for (int64_t r = 0; r < rows; ++r) {
        const size_t at = size_t(r * blocks * stride);
        wide.push_back(&source[at]);
        pointers.push_back(kernel.narrow ? reinterpret_cast<const float*>(&halves[at])
                                         : wide.back());
    }
    Product<float> p{};
    p.source = {pointers.data(), 0, block, blocks, stride};
    p.rows = rows;
    p.weights = reinterpret_cast<const float*>(weights.data());
    for (int v = 0; v < vectors; ++v) p.columns[v] = sums.data() + v * lanes;
    p.column_stride = width;
    p.vectors = vectors;
    kernel.product(p);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < width; ++c) {
            double exact = 1;
            for (int64_t k = 0; k < depth; ++k)
                exact += double(wide[size_t(r)][k / block * stride + k % block]) *
                         half(weights.data()[(k / 2 * width + c) * 2 + k % 2]);
            CHECK(std::fabs(exact - sums.data()[r * width + c]) < double(depth + 1) * 1e-6);
        }
}

void check_all(const Multiplies& kernel) {
    for (int vectors = 1; vectors <= kMaxVectors; ++vectors)
        for (int64_t rows : {1, 7, 16, 29}) {
            for (int64_t block : {1, 3, 32, 131}) check_product(kernel, vectors, rows, block, 1);
            check_product(kernel, vectors, rows, 64, 2);
        }
}

void check_outer(void (*outer)(const Outer<float>&), int lanes, int vectors, int64_t rows,
                 int64_t first, int64_t last) {
    Random random(uint64_t(rows * 17 + last));
    const int64_t width = vectors * lanes, stride = rows + 3;
    std::vector<float> columns(size_t(last * stride)), panel(size_t((rows + 1) * width));
    Aligned<float> sums(size_t(last * width));
    const auto value = [&] { return half(uint32_t(random.bits() % 2 << 15 | (0x3e00 + random.bits() % 256))); };
    for (float& x : columns) x = value();
    for (float& g : panel) g = value();
    for (int64_t k = 0; k < last; ++k) columns[size_t(k * stride + rows)] = half(0x7fc0);
    for (int64_t i = rows * width; i < (rows + 1) * width; ++i)
        panel[size_t(i)] = half(0x7fc0);  // no number: what follows the last row is not read
    for (int64_t i = 0; i < last * width; ++i) sums.data()[i] = 1;
    const auto narrow_columns = halves_of(columns), narrow_panel = halves_of(panel);
    outer({reinterpret_cast<const float*>(narrow_columns.data()), stride, rows, first, last,
           reinterpret_cast<const float*>(narrow_panel.data()), width, sums.data(), width,
           vectors});
    for (int64_t k = 0; k < last; ++k)
        for (int64_t c = 0; c < width; ++c) {
            double exact = 1;
            for (int64_t r = 0; k >= first && r < rows; ++r)
                exact += double(columns[size_t(k * stride + r)]) * panel[size_t(r * width + c)];
            CHECK(std::fabs(exact - sums.data()[k * width + c]) < double(rows + 1) * 1e-6);
        }
}

void check_outers(void (*outer)(const Outer<float>&), int lanes) {
    for (int vectors = 1; vectors <= kMaxVectors; ++vectors)
        for (int64_t rows : {1, 2, 7, 131}) {
            check_outer(outer, lanes, vectors, rows, 0, 1);
            check_outer(outer, lanes, vectors, rows, 2, 17);
        }
}

// A row, and rows as columns, against the kernels that round floats in their places.
void check_narrow(const Kernels<float>& kernels, int64_t count) {
    Random random{uint64_t(count)};
    const int64_t lanes = kernels.lanes, stride = lanes + 2;
    std::vector<std::vector<float>> rows;
    std::vector<std::vector<uint16_t>> halves;
    std::vector<const float*> wide, narrow;
    for (int64_t r = 0; r < lanes; ++r) {
        rows.emplace_back(size_t(count));
        for (float& x : rows.back()) x = float(random.bits() % 65536) / 256 - 128;
        std::vector<uint16_t> row(size_t(count) + 1, 0x7fc0);
        kernels.narrow_row(rows.back().data(), count, row.data());
        CHECK(row.back() == 0x7fc0);  // not written
        halves.push_back(row);
    }
    for (int64_t r = 0; r < lanes; ++r) {
        wide.push_back(rows[size_t(r)].data());
        narrow.push_back(reinterpret_cast<const float*>(halves[size_t(r)].data()));
        Aligned<float> rounded(size_t((count + lanes) / lanes * lanes));
        kernels.round_row(wide.back(), count, rounded.data());
        for (int64_t k = 0; k < count; ++k)
            CHECK(half(halves[size_t(r)][size_t(k)]) == rounded.data()[k]);
    }
    for (const bool bf16 : {false, true}) {
        std::vector<uint16_t> columns(size_t(count * stride));
        kernels.narrow_columns((bf16 ? narrow : wide).data(), bf16, count, columns.data(),
                               stride);
        for (int64_t k = 0; k < count; ++k)
            for (int64_t r = 0; r < lanes; ++r)
                CHECK(columns[size_t(k * stride + r)] == halves[size_t(r)][size_t(k)]);
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
        check_all({set->f32.product_bf16, set->f32.multiplies_bf16, set->f32.lanes});
    }
}

TEST_CASE("dots of pairs and tiles, on a model of their instructions") {
    check_all({model::product_dots, true, model::kLanes<float>});
    check_all({model::product_tiles, true, model::kLanes<float>});
    check_outers(model::outer_dots, model::kLanes<float>);
}

TEST_CASE("weight gradients of rows in bf16") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        if (set->f32.multiplies_bf16) check_outers(set->f32.outer_bf16, set->f32.lanes);
    }
}

TEST_CASE("rows and columns in bf16, rounded to nearest") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        for (int64_t count : {1, 16, 67, 131}) check_narrow(set->f32, count);
    }
}

TEST_CASE("a set whose products are wrong is refused") {
    const Kernels<float>& right = available_isas().front()->f32;
    CHECK(refused_isas().empty());
    CHECK(multiplies_alike(right, right));
    Kernels<float> wrong = right;
    static const auto product = right.product_bf16;
    wrong.product_bf16 = [](const Product<float>& p) {
        Product<float> shifted = p;
        if (p.rows > 1) ++shifted.source.rows, --shifted.rows;
        product(shifted);
    };
    CHECK(!multiplies_alike(wrong, right));
}
