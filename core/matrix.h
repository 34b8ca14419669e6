// Runs a stage of matrices: block by block, each in tiles of some of its rows.
#pragma once

#include "rows.h"

namespace cellwright {

// The rows of a level that a thread's row pointers show; a block of one is read and
// written by one thread, tile after tile, so that its sums are the same whatever the threads.
template <class T> class Matrices {
public:
    explicit Matrices(const Context<T>& context);

    // All blocks of `rows` rows; the thread's share of them, if `shared`.
    void run(size_t stage, int64_t rows, bool shared, int thread);

    // The blocks of rows [first, last) of a level through all levels of a chunk, one block
    // after the other: it stays in the cache. The thread's share of them, if `shared`.
    void run_loop(size_t stage, const Chunk& chunk, int64_t first, int64_t last, bool shared,
                  int thread);

private:
    // Where a stage sees an array: elements from block to block, and from row to row.
    struct Place {
        int64_t of_block, of_row, units;
        bool spread;
    };
    struct Thread {
        std::vector<T*> rows;     // of a tile's views, or of a recurrence's
        std::vector<int64_t> at;  // of one row through the levels: among the row pointers,
        std::vector<int64_t> levels;  // and the levels
    };

    // Some blocks of one row, at all of the thread's levels.
    void blocks(size_t stage, int64_t first, int64_t last, int thread);
    // A block of one row at all of the thread's levels, by the stage's recurrence.
    void recurrence(size_t stage, int64_t block, int thread);
    // The levels [first, last) among them, in their order.
    void steps(size_t stage, int64_t block, const int64_t* first, const int64_t* last, int thread);
    bool follows(size_t stage, size_t earlier, size_t later, int thread) const;
    void clear_sums(size_t stage, int64_t block, int thread) const;
    void run_tile(size_t stage, int64_t at, int64_t block, int64_t row, int64_t rows,
                  int thread);

    const Context<T>& context_;
    std::vector<std::vector<Place>> places_;  // by stage and view
    std::vector<int64_t> together_;  // by stage: the blocks of a row that one thread takes
    std::vector<Thread> threads_;
    std::vector<int64_t> row_levels_;  // how many levels each row has
};

}  // namespace cellwright
