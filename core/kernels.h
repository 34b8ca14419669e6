// What each instruction set offers: the inner loops of the engine, as plain functions on
// plain data. Everything above them is compiled once, for the baseline.
#pragma once

#include <stdint.h>

#include "instruction.h"
#include "tuning.h"

namespace cellwright {

// At most this many vectors of accumulators stand side by side in one product.
constexpr int kMaxVectors = 8;

// A row of a source is cut into blocks: element k of the row is
//     rows[r][(k / block) * stride + k % block].
// An ordinary row is one block; gate gradients come in blocks of units.
template <class T> struct Source {
    const T* const* rows;  // where each row starts
    int64_t offset;        // added to every row
    int64_t block, blocks, stride;
};

// columns[v][r * column_stride ...] += sum over k of source(r, k) * weights[k][v].
// Each element is one chain of additions in the order of k, whatever the rows: a row's
// result has the same bits in every batch.
template <class T> struct Product {
    Source<T> source;
    int64_t rows;
    const T* weights;  // [k][vectors][lanes], 64-byte aligned
    T* columns[kMaxVectors];
    int64_t column_stride;
    int vectors;
};

// The same of whole numbers: column += row scale * weight scale * sum over k of
// rows(r, k) * weights(k). Sums of at most kDepth products are whole.
template <class T> struct Int8Product {
    const T* const* rows;  // as `narrow_int8` has made them
    int64_t offset;        // of the first k in a row, in elements
    int64_t scale_at;      // where a row's scale is, counted in T
    int64_t row_count, depth;
    const int8_t* weights;  // as `pack_int8` has made them, 64-byte aligned
    const T* scales;        // [vectors][lanes]
    T* columns[kMaxVectors];
    int64_t column_stride;
    int vectors;
};

// sums[k][v] += sum over rows of source(k, r) * panel(r, v), k in [first, last).
template <class T> struct Outer {
    const T* source;  // transposed: column k of row r at source[k * source_stride + r]
    int64_t source_stride;
    int64_t row_count;
    int64_t first, last;
    const T* panel;  // vector v of row r at panel[r * panel_stride + v * lanes]
    int64_t panel_stride;
    T* sums;  // [k][vectors][lanes]
    int64_t sums_stride;
    int vectors;
};

// One view as a tile sees it.
template <class T> struct TileView {
    T* const* rows;         // of the tile's first row on
    int64_t offset;         // of the tile's first unit
    int64_t units;          // valid units from there on; the rest of a row is padding
    bool spread;            // the array has one column, the stage has more
    bool rounded;           // a panel's: what is stored is rounded to bf16
    bool bf16;              // the rows are in bf16, addressed as if they were T's
    // Of children or items in a stage of nodes: row r of the tile has rows
    // [segments[r], segments[r + 1]), counted from segments[0]. Null otherwise.
    const int64_t* segments;
};

// A pointwise program over one tile of rows x width. Register r < tiles is a tile at
// tile_registers + r * tile_size; the others are single rows, the same for every row of
// the tile, at row_registers + (r - tiles) * width.
template <class T> struct Tile {
    const Instruction* code;
    int64_t count;
    T* tile_registers;
    int64_t tile_size;
    T* row_registers;
    int tiles;
    int64_t rows, width;
    int64_t units;  // valid units of the tile; reductions look at these
    const TileView<T>* views;
};

// At most `kRecurrenceSteps` steps of C' = f C + v kᵀ, y = C' q, of one block of a row: see
// simd/recurrence.h. Backward, y is its cotangent, and what is written, that of the others;
// null where it is not wanted.
template <class T> struct MatrixSteps {
    int64_t steps, rows, columns;    // of a matrix: its elements are rows * columns
    T *const *v, *const *k, *const *q, *const *y, *const *gates;  // by step
    T decay;                         // f where there are no gates
    const T* before;                 // the matrix before the first step
    T* after;                        // forward: after the last
    T *const *d_v, *const *d_k, *const *d_q, *const *d_gates;
    const T* d_after;
    T* d_before;
    T* scratch;                      // of `matrix_scratch` elements
};

inline int64_t matrix_scratch(int64_t rows, int64_t columns, int64_t lanes) {
    const int64_t S = kRecurrenceSteps, r = rows + lanes, c = columns + lanes;
    return 8 * S * (r + c) + 6 * S * S + 2 * r * c;
}

// How wide the loops of an instruction set are, for one element type.
struct Widths {
    int lanes;                // elements of a vector
    int vectors;              // side by side where there are many rows …
    int vectors_of_few_rows;  // … and few: enough independent sums to keep busy
    int tile_rows;            // rows a tile has at most
    bool multiplies_bf16 = false;  // rather than converting such weights
    bool multiplies_bytes = false;  // four at a time, rather than pairs of 16 bits
};

// Of a set that multiplies bf16. Source rows, columns and panels are then in bf16, all
// their distances counted in such elements, and addressed as if they were float's.
struct Bf16Kernels {
    void (*product)(const Product<float>&);
    void (*outer)(const Outer<float>&);
};

// Of a set that multiplies bytes: what `Kernels` has under these names.
struct Int8Kernels {
    void (*product)(const Int8Product<float>&);
    void (*pack)(const float* panel, int64_t depth, int64_t width, void* out, float* scales);
    void (*narrow)(const float* row, int64_t count, float* out, int64_t scale_at);
};

template <class T> struct Kernels : Widths {
    void (*product)(const Product<T>&);
    void (*outer)(const Outer<T>&);
    void (*pointwise)(const Tile<T>&);
    // out[k * stride + r] = rows[r][k], k < count, r < lanes
    void (*transpose)(const T* const* rows, int64_t count, T* out, int64_t stride);
    // sums[i] += sum over rows of panel[r * stride + i], i < count
    void (*column_sums)(const T* panel, int64_t stride, int64_t rows, int64_t count,
                        T* sums);
    void (*matrix_steps)(const MatrixSteps<T>&);
    void (*matrix_steps_backward)(const MatrixSteps<T>&);

    // Of less than full precision; of float alone.
    // A product whose weights are bf16: [pair of k][vectors][lanes][2]. Its rows are rounded
    // floats, or in bf16 where the set multiplies such numbers.
    void (*product_bf16)(const Product<T>&) = nullptr;
    void (*outer_bf16)(const Outer<T>&) = nullptr;  // of a set that multiplies bf16
    void (*product_int8)(const Int8Product<T>&) = nullptr;
    // Of a panel [depth][width], width a number of lanes, as these products read it; an
    // odd last k is paired with 0. int8: and the scale of each column. Of a set that
    // multiplies bytes: for each kDepth k [vectors][lanes] whole numbers, where sums start,
    // and [four k][vectors][lanes][4].
    void (*pack_bf16)(const T* panel, int64_t depth, int64_t width, void* out) = nullptr;
    void (*pack_int8)(const T* panel, int64_t depth, int64_t width, void* out, T* scales) = nullptr;
    // out[i] = row[i] rounded to bf16, a T still, to whole vectors, or in place; and the
    // vector at each data + k * stride, k < count.
    void (*round_row)(const T* row, int64_t count, T* out) = nullptr;
    void (*round_columns)(T* data, int64_t count, int64_t stride) = nullptr;
    // A row in bf16, to whole vectors of T; and `transpose` of such rows.
    void (*widen_row)(const void* row, int64_t count, T* out) = nullptr;
    void (*transpose_bf16)(const T* const* rows, int64_t count, T* out, int64_t stride) = nullptr;
    // For sets that multiply bf16: a row rounded to it; what `transpose` gives, rounded, of
    // rows that are floats or in bf16; and `column_sums` of a panel in bf16.
    void (*narrow_row)(const T* row, int64_t count, void* out) = nullptr;
    void (*narrow_columns)(const T* const* rows, bool bf16, int64_t count, void* out,
                           int64_t stride) = nullptr;
    void (*column_sums_bf16)(const void* panel, int64_t stride, int64_t rows, int64_t count,
                             T* sums) = nullptr;
    // A row in 16 bits, padded by zeros; its scale goes to out[scale_at]. Of a set that
    // multiplies bytes: upper bytes in the first half of its memory, which ends with the
    // scale, lower ones in the second.
    void (*narrow_int8)(const T* row, int64_t count, T* out, int64_t scale_at) = nullptr;
};

struct KernelSet {
    const char* isa;
    Kernels<float> f32;
    Kernels<double> f64;
};

}  // namespace cellwright
