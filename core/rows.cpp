#include "rows.h"

#include <algorithm>

namespace cellwright {

namespace {

// Rows of sequences: they follow from the level and the row's number, and are all there.
template <class T> class SequenceRows final : public RowLookup<T> {
public:
    explicit SequenceRows(Context<T>& context)
        : RowLookup<T>(context), nodes_(context.threads), of_chunk_(context.threads) {
        for (std::vector<Run>& runs : runs_) runs.resize(1);
        if (context.items.empty()) return;
        for (std::vector<T*>& nodes : nodes_) nodes.resize(context.level_rows);
        for (auto& segments : of_chunk_) segments.resize(context.items.size());
    }

    void find_level(const Stage& stage, int64_t level, int64_t first, int64_t last,
                    const Chunk& chunk, int thread) override {
        context_.first_row[thread] = context_.rows_before[level] + first;
        for (size_t set = 0; set < context_.items.size(); ++set)
            this->segments_[thread][set] = context_.items[set].of_rows.data() + first;
        for (size_t v = 0; v < stage.views.size(); ++v)
            find(stage, v, {level, first, last, context_.row_pointers(thread, v)}, chunk, thread);
    }

    void find_chunk(const Stage& stage, const Chunk& chunk, int thread) override {
        context_.first_row[thread] = chunk.base;
        for (size_t v = 0; v < stage.views.size(); ++v) {
            T** out = context_.row_pointers(thread, v);
            for (int64_t l = chunk.first_level; l < chunk.last_level; ++l)
                out = find(stage, v, {l, 0, schedule_.counts[l], out}, chunk, thread);
        }
        for (int32_t set = 0; set < int32_t(context_.items.size()); ++set)
            find_segments({Axis::item, set}, chunk, thread);
    }

    bool any_present(T* const*, int64_t) const override { return true; }

    bool all_discarded(const Stage&, const TileView<T>*, int64_t, int) const override {
        return false;
    }

    std::span<const Run> present(const SourceLayout& source, const Chunk& chunk,
                                 int thread) override {
        runs_[thread][0] = {0, context_.rows_of(chunk, source.axis)};
        return runs_[thread];
    }

private:
    using RowLookup<T>::context_;
    using RowLookup<T>::runs_;

    void find_segments(Axis axis, const Chunk& chunk, int thread) {
        std::vector<int64_t>& segments = of_chunk_[thread][axis.set];
        segments.clear();
        for (int64_t l = chunk.first_level; l < chunk.last_level; ++l)
            for (int64_t r = 0; r < schedule_.counts[l]; ++r)
                segments.push_back(context_.before(axis, l, r));
        segments.push_back(context_.before(axis, chunk.last_level));
        this->segments_[thread][axis.set] = segments.data();
    }

    // Rows [first, last) of a level; the pointer of row r goes to out[r - first].
    struct Wanted {
        int64_t level, first, last;
        T** out;
    };

    // Of one of a stage's views; returns the end of the pointers.
    T** find(const Stage& stage, size_t v, const Wanted& w, const Chunk& chunk, int thread) {
        const View& view = stage.views[v];
        if (context_.program.axis(view) == Axis::item) return find_items(view, w, chunk);
        if (stage.axis != Axis::item) {
            find_nodes(view, w, chunk);
            return w.out + (w.last - w.first);
        }
        T** const nodes = nodes_[thread].data();  // each item sees its row's
        find_nodes(view, {w.level, w.first, w.last, nodes}, chunk);
        const std::vector<int64_t>& items = context_.items[stage.axis.set].of_rows;
        T** out = w.out;
        for (int64_t r = w.first; r < w.last; ++r)
            out = std::fill_n(out, items[r + 1] - items[r], nodes[r - w.first]);
        return out;
    }

    T** find_items(const View& view, const Wanted& w, const Chunk& chunk) const {
        const Array& a = context_.program.arrays[view.array];
        const RowsAt<T>& at = context_.arrays[view.array];
        T** out = w.out;
        if (a.rows == Rows::chunk || a.rows == Rows::panel) {
            const int64_t start = context_.before(a.axis, chunk.first_level);
            int64_t i = context_.before(a.axis, w.level, w.first) - start;
            const int64_t end = context_.before(a.axis, w.level, w.last) - start;
            for (; i < end; ++i) *out++ = at.row(i);
            return out;
        }
        int64_t block = 0;  // of all items of the batch
        if (a.rows == Rows::sequence) block = schedule_.step_of(w.level);
        if (a.rows == Rows::rolling) block = w.level % a.depth;
        const int64_t before = block * schedule_.items(a.axis.set);
        const int64_t* const first = schedule_.first_item_of(a.axis.set);
        for (int64_t r = w.first; r < w.last; ++r) {
            const int64_t b = schedule_.width > 0 ? schedule_.batch_rows[r] : r;
            for (int64_t i = first[b]; i < first[b + 1]; ++i) *out++ = at.row(before + i);
        }
        return out;
    }

    void find_nodes(const View& view, const Wanted& w, const Chunk& chunk) const {
        const Array& a = context_.program.arrays[view.array];
        if (a.rows == Rows::chunk || a.rows == Rows::panel) {
            const RowsAt<T>& at = context_.arrays[view.array];
            const int64_t first = context_.rows_before[w.level] - chunk.base + w.first;
            for (int64_t i = 0; i < w.last - w.first; ++i) w.out[i] = at.row(first + i);
        } else if (view.previous) {
            find_previous(view, w);
        } else {
            find_current(view, w);
        }
    }

    void find_current(const View& view, const Wanted& w) const {
        const Array& a = context_.program.arrays[view.array];
        const RowsAt<T>& at = context_.arrays[view.array];
        const int64_t row = a.rows == Rows::sequence ? schedule_.offsets[w.level]
                                                     : block_of(a, w.level) * context_.block_rows;
        fill(w, map_of(a), {at.row(row), at.stride}, w.first, w.last);
        if (!is_carried(a) || w.level + 1 == schedule_.levels) return;
        each_reset(w.level + 1, w, [&](const Reset& reset) {  // its gradient goes elsewhere
            w.out[reset.row - w.first] = context_.at(context_.zero_row);
        });
    }

    // Which block of a rolling, or spaced, array a level has.
    static int64_t block_of(const Array& a, int64_t level) {
        return a.rows == Rows::spaced ? level / a.depth : level % a.depth;
    }

    // The rows that there were in the level before, then initial rows.
    void find_previous(const View& view, const Wanted& w) const {
        const Array& a = context_.program.arrays[view.array];
        const RowsAt<T>& at = context_.arrays[view.array];
        const bool has_initial = a.initial >= 0;
        const RowsAt<T> initial = context_.arrays[has_initial ? a.initial : view.array];
        const int64_t before = w.level > 0 ? schedule_.counts[w.level - 1] : 0;
        const int64_t middle = std::clamp(has_initial ? before : w.last, w.first, w.last);
        int64_t row = 0;
        if (a.rows == Rows::sequence && w.level > 0) row = schedule_.offsets[w.level - 1];
        if (a.rows == Rows::rolling || (a.rows == Rows::spaced && w.level > 0))
            row = block_of(a, w.level + (a.rows == Rows::rolling ? a.depth : 0) - 1) *
                  context_.block_rows;
        fill(w, map_of(a), {at.row(row), at.stride}, w.first, middle);
        fill(w, schedule_.batch_rows, initial, middle, w.last);
        if (!has_initial) return;
        const bool carried = is_carried(a);
        each_reset(w.level, w, [&](const Reset& reset) {
            w.out[reset.row - w.first] =
                initial.row(carried ? reset.gradient : reset.initial);
        });
    }

    // Whether an array carries gradients from level to level.
    bool is_carried(const Array& a) const {
        return context_.program.backward && a.rows == Rows::rolling && a.initial >= 0;
    }

    // By row of a level: its row of the level's block of such an array.
    const int64_t* map_of(const Array& a) const {
        return a.rows == Rows::sequence && schedule_.places != nullptr ? schedule_.places
                                                                       : schedule_.batch_rows;
    }

    void fill(const Wanted& w, const int64_t* map, RowsAt<T> at, int64_t first,
              int64_t last) const {
        const bool padded = schedule_.width > 0;
        for (int64_t r = first; r < last; ++r)
            w.out[r - w.first] = at.row(padded ? map[r] : r);
    }

    // The resets among the wanted rows, of a level.
    template <class F> void each_reset(int64_t level, const Wanted& w, const F& f) const {
        const int64_t end = context_.first_reset[level + 1];
        for (int64_t i = context_.first_reset[level]; i < end; ++i) {
            const Reset& reset = schedule_.resets[i];
            if (reset.row >= w.first && reset.row < w.last) f(reset);
        }
    }

    const Schedule& schedule_ = context_.schedule;
    std::vector<std::vector<T*>> nodes_;  // of each thread: for its items
    std::vector<std::vector<std::vector<int64_t>>> of_chunk_;  // of each thread: segments of a
                                                               // chunk, by set
};

// Rows of trees: where a row is, or a child of one, is looked up. What is not there (a
// missing child, or input) is read from the zero row and written to the discarded row.
template <class T> class TreeRows final : public RowLookup<T> {
public:
    explicit TreeRows(Context<T>& context) : RowLookup<T>(context) {
        for (std::vector<Run>& runs : runs_) runs.reserve(context.table_rows / 2 + 1);
    }

    void find_level(const Stage& stage, int64_t level, int64_t first, int64_t last,
                    const Chunk& chunk, int thread) override {
        const int64_t before = context_.rows_before[level];
        find(stage, before + first, before + last, chunk, thread);
    }

    void find_chunk(const Stage& stage, const Chunk& chunk, int thread) override {
        find(stage, chunk.base, chunk.base + chunk.rows, chunk, thread);
    }

    bool any_present(T* const* rows, int64_t count) const override {
        const T* zero = context_.at(context_.zero_row);
        return std::any_of(rows, rows + count, [&](const T* r) { return r != zero; });
    }

    bool all_discarded(const Stage& stage, const TileView<T>* views, int64_t rows,
                       int thread) const override {
        const T* discarded = context_.at(context_.discarded_rows[thread]);
        for (const Instruction& in : stage.code) {
            if (in.op == Opcode::store_panel_) return false;
            if (in.op != Opcode::store_) continue;
            T* const* row = views[in.b].rows;
            if (std::any_of(row, row + rows, [&](const T* r) { return r != discarded; }))
                return false;
        }
        return true;
    }

    std::span<const Run> present(const SourceLayout& source, const Chunk& chunk,
                                 int thread) override {
        this->find_source(source, chunk, thread);
        T* const* table = context_.row_pointers(thread, 0);
        const T* zero = context_.at(context_.zero_row);
        const int64_t rows = context_.rows_of(chunk, source.axis);
        std::vector<Run>& runs = runs_[thread];
        runs.clear();
        for (int64_t r = 0; r < rows; ++r) {
            if (table[r] == zero) continue;
            const int64_t first = r;
            while (r < rows && table[r] != zero) ++r;
            runs.push_back({first, r - first});
        }
        return runs;
    }

private:
    using RowLookup<T>::context_;
    using RowLookup<T>::runs_;

    // The rows [first, last) of the scan, or their children. Rolling arrays have room for
    // these alone.
    void find(const Stage& stage, int64_t first, int64_t last, const Chunk& chunk, int thread) {
        context_.first_row[thread] = first;
        const int64_t* const children = context_.schedule.trees->first_child;
        this->segments_[thread][0] = children == nullptr ? nullptr : children + first;
        for (size_t v = 0; v < stage.views.size(); ++v) {
            const View& view = stage.views[v];
            const Axis axis = context_.program.axis(view);
            T** out = context_.row_pointers(thread, v);
            T* const none = context_.at(writes(stage, v) ? context_.discarded_rows[thread]
                                                         : context_.zero_row);
            const int64_t first_child = context_.schedule.first_child(first);
            const int64_t last_child = context_.schedule.first_child(last);
            if (axis == Axis::child) {
                for (int64_t c = first_child; c < last_child; ++c)
                    *out++ = child_row(view, c, c - first_child, chunk, none);
            } else if (stage.axis == Axis::child) {  // each child sees its parent's
                for (int64_t c = first_child; c < last_child; ++c) {
                    const int64_t parent = trees_.parent[c];
                    *out++ = node_row(view, parent, parent - first, chunk, none);
                }
            } else {
                for (int64_t r = first; r < last; ++r)
                    *out++ = node_row(view, r, r - first, chunk, none);
            }
        }
    }

    // Of the row's node; `rank`: among the level's rows.
    T* node_row(const View& view, int64_t row, int64_t rank, const Chunk& chunk,
                T* none) const {
        const int64_t at = view.previous
                               ? trees_.children[view.slot * context_.total_rows + row]
                               : node_index(view, row, rank, chunk);
        return at < 0 ? none : row_of(view, at);
    }

    int64_t node_index(const View& view, int64_t row, int64_t rank, const Chunk& chunk) const {
        switch (context_.program.arrays[view.array].rows) {
            case Rows::input: return trees_.input[row];
            case Rows::sequence: return trees_.place[row];
            case Rows::rolling: return rank;
            default: return row - chunk.base;
        }
    }

    // Of a child of a row; `rank`: among the children of the level's rows.
    T* child_row(const View& view, int64_t child, int64_t rank, const Chunk& chunk,
                 T* none) const {
        const int64_t at = view.previous ? trees_.child[child]
                                         : child_index(view, child, rank, chunk);
        return at < 0 ? none : row_of(view, at);
    }

    int64_t child_index(const View& view, int64_t child, int64_t rank,
                        const Chunk& chunk) const {
        switch (context_.program.arrays[view.array].rows) {
            case Rows::sequence: return child;
            case Rows::rolling: return rank;
            default: return child - context_.schedule.first_child(chunk.base);
        }
    }

    T* row_of(const View& view, int64_t row) const {
        return context_.arrays[view.array].row(row);
    }

    static bool writes(const Stage& stage, size_t view) {
        return std::any_of(stage.code.begin(), stage.code.end(), [&](const Instruction& in) {
            return in.op == Opcode::store_ && size_t(in.b) == view;
        });
    }

    const Trees& trees_ = *context_.schedule.trees;
};

}  // namespace

template <class T> std::unique_ptr<RowLookup<T>> make_row_lookup(Context<T>& context) {
    if (context.program.tree) return std::make_unique<TreeRows<T>>(context);
    return std::make_unique<SequenceRows<T>>(context);
}

template std::unique_ptr<RowLookup<float>> make_row_lookup(Context<float>&);
template std::unique_ptr<RowLookup<double>> make_row_lookup(Context<double>&);

}  // namespace cellwright
