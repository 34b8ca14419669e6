// What a backward scan does for each chunk of levels when it has gone through them: the
// stages that wait for no level, weight gradients, sums over rows.
#pragma once

#include <atomic>
#include <vector>

#include "tile.h"

namespace cellwright {

template <class T> class ChunkTasks {
public:
    ChunkTasks(Context<T>& context, RowLookup<T>& lookup, const Tiles<T>& tiles)
        : context_(context), lookup_(lookup), tiles_(tiles), next_(context.chunks.size()) {}

    // Every thread calls it: they wait for one another.
    void run(size_t chunk, int thread);

private:
    void transpose(const SourceLayout& source, const Chunk& chunk, int thread);
    void take_tasks(size_t chunk, int thread);
    void tile(const Task& task, const Chunk& chunk, int64_t rows, int thread) const;
    void gradient(const Task& task, std::span<const Run> present) const;
    void reduction(const Task& task, const Chunk& chunk) const;

    Context<T>& context_;
    RowLookup<T>& lookup_;
    const Tiles<T>& tiles_;
    std::vector<std::atomic<int64_t>> next_;  // task of each chunk
};

}  // namespace cellwright
