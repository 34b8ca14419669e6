#include "chunk.h"

#include <algorithm>

namespace cellwright {

template <class T> void ChunkTasks<T>::run(size_t chunk, int thread) {
    if (context_.tasks.empty()) return;
    for (const SourceLayout& s : context_.sources) transpose(s, context_.chunks[chunk], thread);
    context_.barrier.wait();
    take_tasks(chunk, thread);
    context_.barrier.wait();
}

// The thread's share of a source's rows, as columns.
template <class T>
void ChunkTasks<T>::transpose(const SourceLayout& s, const Chunk& chunk, int thread) {
    lookup_.find_source(s, chunk, thread);
    const T* const* rows = context_.row_pointers(thread, 0);
    const int64_t count = context_.rows_of(chunk, s.axis), W = context_.kernels.lanes;
    const int64_t groups = ceil_div(count, W), parts = context_.threads;
    T* columns = context_.at(s.columns);
    const T* few[kMaxLanes];
    for (int64_t g = groups * thread / parts; g < groups * (thread + 1) / parts; ++g) {
        for (int64_t i = 0; i < W; ++i) few[i] = rows[std::min(g * W + i, count - 1)];
        if (context_.multiplies_bf16()) {
            context_.kernels.narrow_columns(few, context_.call.in_bf16(s.view.array), s.width,
                                            context_.ahead(columns, g * W), s.stride);
            continue;
        }
        if (context_.call.in_bf16(s.view.array)) {
            context_.kernels.transpose_bf16(few, s.width, columns + g * W, s.stride);
            continue;
        }
        context_.kernels.transpose(few, s.width, columns + g * W, s.stride);
        if (context_.program.precision == Precision::bf16)
            context_.kernels.round_columns(columns + g * W, s.width, s.stride);
    }
}

// Threads take task after task. Row pointers are found once for all tasks of one stage or
// gradient.
template <class T> void ChunkTasks<T>::take_tasks(size_t index, int thread) {
    const Chunk& chunk = context_.chunks[index];
    const Task* last = nullptr;
    std::span<const Run> present;
    for (;;) {
        const int64_t i = next_[index].fetch_add(1, std::memory_order_relaxed);
        if (i >= int64_t(context_.tasks.size())) return;
        const Task& task = context_.tasks[i];
        const bool found = last && last->kind == task.kind && last->index == task.index;
        if (task.kind == Task::tile) {
            const Stage& stage = context_.program.stages[task.index];
            const int64_t rows = context_.rows_of(chunk, stage.axis) - task.part;
            if (rows <= 0) continue;
            if (!found) lookup_.find_chunk(stage, chunk, thread);
            tile(task, chunk, rows, thread);
        } else if (task.kind == Task::gradient) {
            const size_t source = context_.gradients[task.index].source;
            if (!found) present = lookup_.present(context_.sources[source], chunk, thread);
            gradient(task, present);
        } else {
            reduction(task, chunk);
        }
        last = &task;
    }
}

template <class T>
void ChunkTasks<T>::tile(const Task& task, const Chunk& chunk, int64_t rows, int thread) const {
    rows = std::min(context_.stages[task.index].tile_rows, rows);
    tiles_.narrow(task.index, task.part, rows, thread);
    tiles_.run_tile(task.index, chunk, task.block, task.part, rows, thread);
}

template <class T>
void ChunkTasks<T>::gradient(const Task& task, std::span<const Run> present) const {
    const Gradient& g = context_.program.gradients[task.index];
    const GradientLayout& l = context_.gradients[task.index];
    const StageLayout& s = context_.stages[context_.program.arrays[g.panel].stage];
    const Range& range = l.ranges[task.block];
    const SourceLayout& source = context_.sources[l.source];
    const int vectors = s.vectors * int(g.pieces.size()), W = context_.kernels.lanes;
    Outer<T> o{};
    o.source_stride = source.stride;
    o.first = range.begin + task.part;
    o.last = range.begin + std::min(range.count, task.part + l.slice);
    o.panel_stride = context_.panels[g.panel].row;
    o.sums_stride = int64_t(vectors) * W;
    T* const columns = context_.at(source.columns);
    T* const panel =
        context_.ahead(context_.arrays[g.panel].data,
                       task.block * context_.panels[g.panel].stride + g.first * s.width);
    const auto outer =
        context_.multiplies_bf16() ? context_.kernels.outer_bf16 : context_.kernels.outer;
    T* sums = context_.at(l.sums) + range.at - range.begin * o.sums_stride;
    const int groups = int(ceil_div(vectors, context_.kernels.vectors));
    for (int first = 0, group = 0; group < groups; ++group) {
        const int next = (group + 1) * vectors / groups;
        o.vectors = next - first;
        o.sums = sums + first * W;
        for (const Run& run : present) {
            o.source = context_.ahead(columns, run.first);
            o.row_count = run.count;
            o.panel = context_.ahead(panel, first * W + run.first * o.panel_stride);
            outer(o);
        }
        first = next;
    }
}

template <class T>
void ChunkTasks<T>::reduction(const Task& task, const Chunk& chunk) const {
    const PanelLayout& p = context_.panels[task.index];
    const Axis axis = context_.program.arrays[task.index].axis;
    const T* panel = context_.ahead(context_.arrays[task.index].data, task.block * p.stride);
    T* sums = context_.at(p.sums) + task.block * p.block;
    const int64_t rows = context_.rows_of(chunk, axis);
    if (context_.multiplies_bf16())
        context_.kernels.column_sums_bf16(panel, p.row, rows, p.block, sums);
    else
        context_.kernels.column_sums(panel, p.row, rows, p.block, sums);
}

template class ChunkTasks<float>;
template class ChunkTasks<double>;

}  // namespace cellwright
