#include "tile.h"

#include <algorithm>

namespace cellwright {

template <class T>
template <class F>
void Tiles<T>::each_tile(const StageLayout& s, int64_t rows, bool shared, int thread,
                         const F& f) const {
    const int64_t tiles = ceil_div(rows, s.tile_rows), items = tiles * s.blocks;
    const int64_t parts = shared ? context_.threads : 1, part = shared ? thread : 0;
    for (int64_t i = items * part / parts; i < items * (part + 1) / parts; ++i) {
        const int64_t t = i % tiles, from = t * rows / tiles;
        f(i / tiles, from, (t + 1) * rows / tiles - from);
    }
}

template <class T>
void Tiles<T>::run(size_t stage, const Chunk& chunk, int64_t rows, bool shared,
                   int thread) const {
    narrow(stage, 0, rows, thread);
    each_tile(context_.stages[stage], rows, shared, thread,
              [&](int64_t block, int64_t row, int64_t count) {
                  run_tile(stage, chunk, block, row, count, thread);
              });
}

template <class T>
void Tiles<T>::run_items(size_t stage, const Chunk& chunk, int64_t first, int64_t last,
                         int thread) const {
    const Axis axis = context_.program.stages[stage].axis;
    const int64_t* const begin = lookup_.segments(axis, thread);
    const int64_t from = begin[first] - begin[0], to = begin[last] - begin[0];
    narrow(stage, from, to - from, thread);
    each_tile(context_.stages[stage], to - from, false, thread,
              [&](int64_t block, int64_t row, int64_t count) {
                  run_tile(stage, chunk, block, from + row, count, thread);
              });
}

template <class T>
void Tiles<T>::hoist(size_t stage, const Chunk& chunk, int thread) const {
    narrow(stage, 0, chunk.rows, thread);
    each_tile(context_.stages[stage], chunk.rows, true, thread,
              [&](int64_t block, int64_t row, int64_t rows) {
                  hoist_tile(stage, block, row, rows, thread);
              });
}

template <class T>
void Tiles<T>::hoist_tile(size_t index, int64_t block, int64_t row, int64_t rows,
                          int thread) const {
    const Stage& stage = context_.program.stages[index];
    const StageLayout& s = context_.stages[index];
    const T* start = context_.row_registers(index, block) - stage.tiles * s.width;
    T* sums = hoisted(s, block, row);
    for (int64_t r = 0; r < rows; ++r)
        for (const Accumulator& a : stage.accumulators)
            std::copy_n(start + a.start * s.width, s.width,
                        sums + r * s.sums_row + a.tile * s.width);
    TileView<T> views[kMaxViews];
    for (size_t v = 0; v < stage.views.size(); ++v)
        views[v].rows = context_.row_pointers(thread, v) + row;
    for (size_t i = 0; i < s.hoisted; ++i)
        product(index, i, block, views, {sums, s.width, s.sums_row, rows, row, thread});
}

template <class T>
void Tiles<T>::view_rows(size_t index, int64_t block, int64_t row, int thread,
                         TileView<T>* views) const {
    const Stage& stage = context_.program.stages[index];
    const int64_t width = context_.stages[index].width;
    for (size_t v = 0; v < stage.views.size(); ++v) {
        const int32_t id = stage.views[v].array;
        const Array& a = context_.program.arrays[id];
        const bool panel = a.rows == Rows::panel, one = a.columns == 1 && stage.units > 1;
        views[v].rows = context_.row_pointers(thread, v) + row;
        views[v].offset = panel ? block * context_.panels[id].stride : one ? 0 : block * width;
        views[v].units = std::max<int64_t>(0, a.columns - block * width);
        views[v].spread = one;
        views[v].rounded = context_.program.precision == Precision::bf16;
        views[v].bf16 = panel ? context_.multiplies_bf16() : context_.call.in_bf16(id);
        const Axis axis = context_.program.axis(stage.views[v]);
        if (stage.axis == Axis::node && axis != Axis::node) {
            const int64_t* start = lookup_.segments(axis, thread);
            views[v].segments = start + row;
            views[v].rows = context_.row_pointers(thread, v) + (start[row] - start[0]);
        }
    }
}

// From the sums of the hoisted terms, where there are any, else from row registers.
template <class T>
void Tiles<T>::start_accumulators(size_t index, int64_t block, int64_t chunk_row,
                                  Tile<T>& t) const {
    const StageLayout& s = context_.stages[index];
    if (s.hoisted == 0) {
        t.code = s.begin.data();
        t.count = int64_t(s.begin.size());
        return context_.kernels.pointwise(t);
    }
    const T* sums = hoisted(s, block, chunk_row);
    for (const Accumulator& a : context_.program.stages[index].accumulators)
        for (int64_t r = 0; r < t.rows; ++r)
            std::copy_n(sums + r * s.sums_row + a.tile * s.width, s.width,
                        t.tile_registers + a.tile * t.tile_size + r * s.width);
}

template <class T>
void Tiles<T>::run_tile(size_t index, const Chunk& chunk, int64_t block, int64_t row,
                        int64_t rows, int thread) const {
    const Stage& stage = context_.program.stages[index];
    const StageLayout& s = context_.stages[index];
    TileView<T> views[kMaxViews];
    view_rows(index, block, row, thread, views);
    if (lookup_.all_discarded(stage, views, rows, thread)) return;
    Tile<T> t = tile_of(index, block, views, thread);
    t.rows = rows;
    start_accumulators(index, block, context_.first_row[thread] - chunk.base + row, t);
    for (size_t i = s.hoisted; i < stage.terms.size(); ++i)
        product(index, i, block, views, {t.tile_registers, t.tile_size, s.width, rows, row, thread});
    t.code = stage.code.data();
    t.count = int64_t(stage.code.size());
    context_.kernels.pointwise(t);
}

template <class T>
void Tiles<T>::run_loop(size_t index, int64_t block, std::span<const Run> rows,
                        int thread) const {
    const Stage& stage = context_.program.stages[index];
    TileView<T> views[kMaxViews];
    view_rows(index, block, 0, thread, views);
    Tile<T> t = tile_of(index, block, views, thread);
    t.code = stage.code.data();
    t.count = int64_t(stage.code.size());
    int64_t at = 0;
    for (const Run& run : rows) {
        for (size_t v = 0; v < stage.views.size(); ++v) views[v].rows += run.first - at;
        at = run.first;
        t.rows = run.count;
        context_.kernels.pointwise(t);
    }
}

template <class T>
Tile<T> Tiles<T>::tile_of(size_t index, int64_t block, const TileView<T>* views,
                          int thread) const {
    const Stage& stage = context_.program.stages[index];
    const StageLayout& s = context_.stages[index];
    Tile<T> t{};
    t.tile_registers = context_.at(context_.tiles[thread]);
    t.tile_size = s.tile_rows * s.width;
    t.row_registers = context_.row_registers(index, block);
    t.tiles = stage.tiles;
    t.width = s.width;
    t.units = std::min(s.width, stage.units - block * s.width);
    t.views = views;
    return t;
}

template <class T>
void Tiles<T>::narrow(size_t stage, int64_t first, int64_t rows, int thread) const {
    const bool bf16 = context_.program.precision == Precision::bf16;
    const std::vector<NarrowLayout>& all = context_.stages[stage].narrow;
    for (size_t i = 0; i < all.size(); ++i) {
        const NarrowLayout& n = all[i];
        const bool stored = context_.call.in_bf16(context_.program.stages[stage].views[n.view].array);
        T* const* wide = context_.row_pointers(thread, n.view);
        T** const table = context_.narrow_rows_of(thread, i);
        for (int64_t r = first; r < first + rows; ++r) {
            table[r] = context_.at(context_.narrow_rows[thread]) + n.at + r * n.row;
            if (context_.multiplies_bf16() && stored)
                table[r] = wide[r];
            else if (context_.multiplies_bf16())
                context_.kernels.narrow_row(wide[r], n.width, table[r]);
            else if (stored)
                context_.kernels.widen_row(wide[r], n.width, table[r]);
            else if (bf16)
                context_.kernels.round_row(wide[r], n.width, table[r]);
            else
                context_.kernels.narrow_int8(wide[r], n.width, table[r], n.scale_at);
        }
    }
}

template <class T>
void Tiles<T>::product(size_t index, size_t which, int64_t block, const TileView<T>* views,
                       const Sums& sums) const {
    const Stage& stage = context_.program.stages[index];
    const StageLayout& s = context_.stages[index];
    const Term& term = stage.terms[which];
    const TermLayout& l = s.terms[which];
    const Range& range = l.ranges[block];
    if (!lookup_.any_present(views[term.view].rows, sums.rows)) return;  // it adds nothing
    Product<T> p{};
    p.source = {views[term.view].rows, range.begin, range.count, 1, 0};
    if (term.transposed) {
        const int32_t id = stage.views[term.view].array;
        const int64_t width = context_.stages[context_.program.arrays[id].stage].width;
        const int64_t stride = context_.panels[id].stride;
        p.source.offset = range.begin * stride + term.first * width;
        p.source.block = width * int64_t(term.pieces.size());
        p.source.blocks = range.count;
        p.source.stride = stride;
    }
    p.rows = sums.rows;
    p.column_stride = sums.row;
    int64_t scale_at = 0;
    for (size_t i = 0; i < s.narrow.size(); ++i)
        if (!term.transposed && s.narrow[i].view == term.view) {
            p.source.rows = context_.narrow_rows_of(sums.thread, i) + sums.first;
            scale_at = s.narrow[i].scale_at;
        }
    const int W = context_.kernels.lanes;
    int64_t at = range.at;
    for (int first = 0, group = 0, groups = l.groups(); group < groups; ++group) {
        const int next = (group + 1) * l.vectors / groups;
        p.vectors = next - first;
        for (int v = first; v < next; ++v)
            p.columns[v - first] =
                sums.data + term.columns[v / s.vectors] * sums.column + v % s.vectors * W;
        const char* weights =
            context_.memory.template at<char>(l.weights) + at * context_.weight_size;
        const T* scales = context_.at(l.scales) + (block * l.vectors + first) * W;
        multiply(p, weights, scales, scale_at);
        at += context_.packed_depth(p.source.block * p.source.blocks) * p.vectors * W;
        first = next;
    }
}

template <class T>
void Tiles<T>::multiply(Product<T>& p, const void* weights, const T* scales,
                        int64_t scale_at) const {
    const Kernels<T>& kernels = context_.kernels;
    p.weights = static_cast<const T*>(weights);
    if (context_.weight_size == context_.element_size) return kernels.product(p);
    if (context_.program.precision == Precision::bf16) return kernels.product_bf16(p);
    Int8Product<T> q{p.source.rows, p.source.offset, scale_at, p.rows, p.source.block,
                     static_cast<const int8_t*>(weights), scales, {}, p.column_stride,
                     p.vectors};
    std::copy_n(p.columns, p.vectors, q.columns);
    kernels.product_int8(q);
}

template class Tiles<float>;
template class Tiles<double>;

}  // namespace cellwright
