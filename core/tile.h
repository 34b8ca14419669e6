// Runs a stage, tile by tile: products into accumulators, then the pointwise code.
#pragma once

#include "rows.h"

namespace cellwright {

// The rows are those that the thread's row pointers show.
template <class T> class Tiles {
public:
    Tiles(const Context<T>& context, const RowLookup<T>& lookup)
        : context_(context), lookup_(lookup) {}

    // All tiles of `rows` rows; the thread's share of them, if `shared`.
    void run(size_t stage, const Chunk& chunk, int64_t rows, bool shared, int thread) const;

    // All tiles of the items of rows [first, last) among those that were found.
    void run_items(size_t stage, const Chunk& chunk, int64_t first, int64_t last,
                   int thread) const;

    // Rows [row, row + rows), one block of units.
    void run_tile(size_t stage, const Chunk& chunk, int64_t block, int64_t row, int64_t rows,
                  int thread) const;

    // Of a stage without products: one block of units of some rows after others.
    void run_loop(size_t stage, int64_t block, std::span<const Run> rows, int thread) const;

    // The thread's share of the sums of a stage's hoisted terms, for all rows of a chunk.
    void hoist(size_t stage, const Chunk& chunk, int thread) const;

    // In less than full precision: rows [first, first + rows) of those that were found, as
    // the stage's products read them. Before `run_tile`; the others do it themselves.
    void narrow(size_t stage, int64_t first, int64_t rows, int thread) const;

private:
    // Where a product adds to: accumulator a of row r is at a * column + r * row.
    struct Sums {
        T* data;
        int64_t column, row, rows;
        int64_t first;  // of the rows, among those that were found
        int thread;
    };

    template <class F>
    void each_tile(const StageLayout& s, int64_t rows, bool shared, int thread,
                   const F& f) const;
    void hoist_tile(size_t stage, int64_t block, int64_t row, int64_t rows, int thread) const;
    Tile<T> tile_of(size_t stage, int64_t block, const TileView<T>* views, int thread) const;
    void multiply(Product<T>& p, const void* weights, const T* scales, int64_t scale_at) const;
    void view_rows(size_t stage, int64_t block, int64_t row, int thread,
                   TileView<T>* views) const;
    void start_accumulators(size_t stage, int64_t block, int64_t chunk_row, Tile<T>& t) const;
    void product(size_t stage, size_t which, int64_t block, const TileView<T>* views,
                 const Sums& sums) const;

    T* hoisted(const StageLayout& s, int64_t block, int64_t row) const {
        return context_.at(s.sums) + (block * context_.chunk_rows + row) * s.sums_row;
    }

    const Context<T>& context_;
    const RowLookup<T>& lookup_;
};

}  // namespace cellwright
