// Where the rows that a stage reads and writes lie: of sequences, and of trees.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "context.h"

namespace cellwright {

// Rows [first, first + count) among those that a thread looks at.
struct Run {
    int64_t first, count;
};

// Fills a thread's row pointers (Context::row_pointers), view by view.
template <class T> class RowLookup {
public:
    explicit RowLookup(Context<T>& context)
        : context_(context),
          runs_(context.threads),
          segments_(context.threads, std::vector<const int64_t*>(
                                         std::max<size_t>(1, context.items.size()))) {}
    virtual ~RowLookup() = default;

    // Rows [first, last) of a level.
    virtual void find_level(const Stage& stage, int64_t level, int64_t first, int64_t last,
                            const Chunk& chunk, int thread) = 0;

    // All rows of a chunk, in the order of the scan.
    virtual void find_chunk(const Stage& stage, const Chunk& chunk, int thread) = 0;

    // Whether any of these rows is there; one that is not reads as zeros.
    virtual bool any_present(T* const* rows, int64_t count) const = 0;

    // Whether all that a tile would write is discarded: none of its rows is there.
    virtual bool all_discarded(const Stage& stage, const TileView<T>* views, int64_t rows,
                               int thread) const = 0;

    // Which rows of a gradient's source are there. Valid until the thread asks again.
    virtual std::span<const Run> present(const SourceLayout& source, const Chunk& chunk,
                                         int thread) = 0;

    // Of the rows that were found last: where each row's children, or items of a set, begin
    // among those of all; counted from the first entry. Null where there are none.
    const int64_t* segments(Axis axis, int thread) const { return segments_[thread][axis.set]; }

    void find_source(const SourceLayout& source, const Chunk& chunk, int thread) {
        Stage reader{};
        reader.axis = source.axis;
        reader.views = {source.view};
        find_chunk(reader, chunk, thread);
    }

protected:
    Context<T>& context_;
    std::vector<std::vector<Run>> runs_;                  // of each thread
    std::vector<std::vector<const int64_t*>> segments_;  // of each thread, by set
};

// As the program's schedule has it.
template <class T> std::unique_ptr<RowLookup<T>> make_row_lookup(Context<T>& context);

}  // namespace cellwright
