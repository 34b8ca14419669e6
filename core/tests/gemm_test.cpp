// The products on packed panels, against plain loops.
#include <doctest/doctest.h>

#include "support.h"

using namespace cellwright;

namespace {

template <class T> void check_product(const Kernels<T>& kernels, int vectors, int64_t rows,
                                      int64_t block, int64_t blocks) {
    Random random(uint64_t(rows * 31 + block));
    const int W = kernels.lanes;
    const int64_t depth = block * blocks, stride = block + 5;
    std::vector<T> source(size_t(rows * blocks * stride));
    Aligned<T> weights(size_t(depth * vectors * W)), sums(size_t(rows * vectors * W));
    for (T& x : source) x = T(random.uniform(-1, 1));
    for (int64_t i = 0; i < depth * vectors * W; ++i)
        weights.data()[i] = T(random.uniform(-1, 1));
    for (int64_t i = 0; i < rows * vectors * W; ++i) sums.data()[i] = T(1);
    std::vector<const T*> pointers;
    for (int64_t r = 0; r < rows; ++r) pointers.push_back(&source[size_t(r * blocks * stride)]);
    Product<T> p{};
    p.source = {pointers.data(), 0, block, blocks, stride};
    p.rows = rows;
    p.weights = weights.data();
    for (int v = 0; v < vectors; ++v) p.columns[v] = sums.data() + v * W;
    p.column_stride = vectors * W;
    p.vectors = vectors;
    kernels.product(p);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < vectors * W; ++c) {
            long double exact = 1;
            for (int64_t k = 0; k < depth; ++k)
                exact += (long double)pointers[size_t(r)][k / block * stride + k % block] *
                         weights.data()[k * vectors * W + c];
            const double error = std::fabs(double(exact - sums.data()[r * vectors * W + c]));
            CHECK(error < double(depth + 1) * 8 * std::numeric_limits<T>::epsilon());
        }
}

template <class T> void check_outer(const Kernels<T>& kernels, int vectors, int64_t rows,
                                    int64_t width) {
    Random random(uint64_t(rows + width));
    const int W = kernels.lanes;
    const int64_t stride = rows + 3;
    std::vector<T> source(size_t(width * stride));
    Aligned<T> panel(size_t(rows * vectors * W)), sums(size_t(width * vectors * W));
    for (T& x : source) x = T(random.uniform(-1, 1));
    for (int64_t i = 0; i < rows * vectors * W; ++i)
        panel.data()[i] = T(random.uniform(-1, 1));
    Outer<T> o{source.data(), stride, rows, 0, width, panel.data(), vectors * W,
               sums.data(), vectors * W, vectors};
    kernels.outer(o);
    for (int64_t k = 0; k < width; ++k)
        for (int64_t c = 0; c < vectors * W; ++c) {
            long double exact = 0;
            for (int64_t r = 0; r < rows; ++r)
                exact += (long double)source[size_t(k * stride + r)] *
                         panel.data()[r * vectors * W + c];
            const double error = std::fabs(double(exact - sums.data()[k * vectors * W + c]));
            CHECK(error < double(rows + 1) * 8 * std::numeric_limits<T>::epsilon());
        }
}

template <class T> void check_transpose(const Kernels<T>& kernels, int64_t width) {
    const int W = kernels.lanes;
    const int64_t stride = W + 3;
    std::vector<T> source(size_t(W * width)), out(size_t(width * stride), T(-1));
    std::vector<const T*> rows;
    for (size_t i = 0; i < source.size(); ++i) source[i] = T(i);
    for (int r = 0; r < W; ++r) rows.push_back(&source[size_t(r * width)]);
    kernels.transpose(rows.data(), width, out.data(), stride);
    for (int64_t k = 0; k < width; ++k)
        for (int64_t r = 0; r < stride; ++r)
            CHECK(out[size_t(k * stride + r)] == (r < W ? T(r * width + k) : T(-1)));
}

template <class T> void check_all(const Kernels<T>& kernels) {
    for (int64_t width : {1, 3, 16, 33}) check_transpose(kernels, width);
    for (int vectors = 1; vectors <= kMaxVectors; ++vectors) {
        for (int64_t rows : {1, 2, 5, 6, 7, 13, 29})
            for (int64_t block : {1, 3, 64, 131}) check_product(kernels, vectors, rows, block, 2);
        for (int64_t rows : {1, 7, 130})
            for (int64_t width : {1, 5, 12, 31}) check_outer(kernels, vectors, rows, width);
    }
}

}  // namespace

TEST_CASE("products and outer products of every shape") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        check_all(set->f32);
        check_all(set->f64);
    }
}
