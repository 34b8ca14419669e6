#include "walk.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "check.h"
#include "flush_subnormals.h"
#include "layout.h"
#include "threads.h"

namespace cellwright {

namespace {

constexpr int64_t kSpeed = 64;  // multiply-adds a nanosecond, roughly

template <class T> class Walk final : public Level, Layout {
public:
    Walk(const Program& program, const Call& call, const Kernels<T>& kernels)
        : Layout(program, call, kernels),
          kernels_(kernels),
          next_task_(chunks_.size()),
          first_row_(threads_) {}

    void walk() {
        memory_.allocate();
        place_scratch();
        const Job job = {
            [](void* self, int count) { static_cast<Walk*>(self)->begin(count); },
            [](void* self, int thread) {
                const FlushSubnormals flush;
                static_cast<Walk*>(self)->work(thread);
            },
            this};
        // Workers may take a tenth of the time that the job takes alone to come.
        const int64_t alone = work_ * walked_ / kSpeed;
        run_on_pool(threads_, std::clamp<int64_t>(alone / 10, 20'000, 2'000'000), job);
        for (const Final& f : call_.finals) copy(f);
    }

    void copy(const Final& f) const {
        const auto [base, stride] = buffers_[f.array];
        for (int64_t r = 0; r < f.to.rows; ++r)
            std::copy_n(base + (f.row + r) * stride, f.to.columns,
                        static_cast<T*>(f.to.data) + r * f.to.stride);
    }

    void prepare() {
        memory_.allocate_own();
        place_scratch();
        begin(1);
        pack(0);
    }

    void place(size_t array, void* data) override {
        buffers_[array] = {static_cast<T*>(data), program_.arrays[array].columns};
    }

    void run() override {
        const FlushSubnormals flush;
        level(0, chunks_[0], 0);
    }

private:
    // Every array as (base, stride), whoever owns it.
    void place_scratch() {
        if (nothing_size_ > 0) std::memset(memory_.at<T>(nothing_), 0, nothing_size_);
        buffers_.resize(program_.arrays.size());
        for (size_t i = 0; i < program_.arrays.size(); ++i) {
            const Array& a = program_.arrays[i];
            const bool own = a.scratch || left_out(i);
            if (own && a.rows == Rows::initial)
                buffers_[i] = {memory_.at<T>(nothing_), 0};
            else if (!own)
                buffers_[i] = {static_cast<T*>(call_.arrays[i].data), call_.arrays[i].stride};
            else
                buffers_[i] = {memory_.at<T>(scratch_[i]),
                               a.rows == Rows::panel ? panels_[i].row : scratch_stride(a)};
        }
    }

    // -- one thread's work

    void work(int thread) {
        pack(thread);
        wait();
        for (size_t c = 0; c < chunks_.size(); ++c) {
            const Chunk& chunk = chunks_[c];
            before_chunk(chunk, thread);
            const int64_t n = chunk.last_level - chunk.first_level;
            for (int64_t i = 0; i < n; ++i)
                level(program_.backward ? chunk.last_level - 1 - i : chunk.first_level + i,
                      chunk, thread);
            wait();  // nobody fills the next chunk's arrays while this one's are read
            if (tasks_.empty()) continue;
            for (const SourceLayout& s : sources_) turn(s, chunk, thread);
            wait();
            chunk_tasks(c, thread);
            wait();
        }
        unpack(thread);
    }

    void wait() { barrier_.wait(); }

    // Once it is known how many threads there are.
    void begin(int count) {
        threads_ = count;
        barrier_.expect(count);
        share_lanes();
    }

    // Threads that walk on their own take the same number of rows each, over all levels;
    // the first takes all where rows depend on one another.
    void share_lanes() {
        std::vector<int64_t> ending(lanes_ + 1);  // levels by their number of rows
        for (int64_t l = 0; l < schedule_.levels; ++l) ++ending[schedule_.counts[l]];
        first_lane_.assign(threads_ + 1, lanes_);
        first_lane_[0] = 0;
        if (!own_rows_) return;
        int64_t alive = schedule_.levels, before = 0;
        for (int64_t lane = 0, thread = 0; lane < lanes_; ++lane) {
            while (thread < threads_ && before * threads_ >= walked_ * thread)
                first_lane_[thread++] = lane;
            alive -= ending[lane];
            before += alive;
        }
    }

    void level(int64_t l, const Chunk& chunk, int thread) {
        int64_t first = 0, last = schedule_.counts[l];
        if (!shared_stages_) {
            first = std::min(last, first_lane_[thread]);
            last = std::min(last, first_lane_[thread + 1]);
        }
        for (size_t i = 0; i < program_.stages.size(); ++i) {
            if (program_.stages[i].when != When::level) continue;
            if (trees_ != nullptr)
                tree_stage(i, l, chunk, thread);
            else if (last > first)
                stage(i, l, chunk, first, last, thread);
            if (shared_stages_) wait();
        }
    }

    // -- over trees: where a row is, or a child of one, is looked up

    // A whole level; threads that do not share it leave it to the first.
    void tree_stage(size_t index, int64_t l, const Chunk& chunk, int thread) {
        if (!shared_stages_ && thread > 0) return;
        const Stage& stage = program_.stages[index];
        const int64_t first = ranks_[l], last = first + schedule_.counts[l];
        for (size_t v = 0; v < stage.views.size(); ++v)
            point_rows(stage, v, first, last, chunk, thread);
        const int64_t children = first_child(last) - first_child(first);
        tiles(index, stage.axis == Axis::child ? children : last - first, shared_stages_, thread);
    }

    // Where the rows [first, last) of the walk, or their children, are in a view of a
    // stage. What one level leaves to itself alone is counted from `first`.
    void point_rows(const Stage& stage, size_t which, int64_t first, int64_t last,
                    const Chunk& chunk, int thread) {
        const View& view = stage.views[which];
        const Axis axis = program_.axis(view);
        T** out = table(thread, which);
        T* const none = memory_.at<T>(writes(stage, which) ? lost_[thread] : nothing_);
        first_row_[thread] = first;
        if (stage.axis == Axis::child && axis == Axis::node) {  // each sees its parent's
            for (int64_t e = first_child(first); e < first_child(last); ++e)
                *out++ = row_of(view, axis, trees_->parent[e], first, chunk, none);
            return;
        }
        const bool children = axis == Axis::child;
        const int64_t begin = children ? first_child(first) : first;
        const int64_t end = children ? first_child(last) : last;
        for (int64_t r = begin; r < end; ++r) *out++ = row_of(view, axis, r, begin, chunk, none);
    }

    T* row_of(const View& view, Axis axis, int64_t row, int64_t first, const Chunk& chunk,
              T* none) const {
        const Array& a = program_.arrays[view.array];
        const auto [base, stride] = buffers_[view.array];
        const bool child = axis == Axis::child;
        int64_t at = row;
        if (view.previous)
            at = child ? trees_->child[row] : trees_->children[view.slot * walked_ + row];
        else if (a.rows == Rows::input)
            at = trees_->input[row];
        else if (a.rows == Rows::sequence)
            at = child ? row : trees_->place[row];
        else if (a.rows == Rows::rolling)
            at = row - first;
        else
            at = row - (child ? chunk.first_child : chunk.base);
        return at < 0 ? none : base + at * stride;
    }

    static bool writes(const Stage& stage, size_t view) {
        return std::any_of(stage.code.begin(), stage.code.end(), [&](const Instruction& in) {
            return in.op == Opcode::store_ && size_t(in.b) == view;
        });
    }

    // Whether a product with these rows adds nothing: none of them is there.
    bool nothing_in(const TileView<T>& view, int64_t rows) const {
        const T* none = memory_.at<T>(nothing_);
        return std::all_of(view.rows, view.rows + rows, [&](const T* r) { return r == none; });
    }

    // Whether all that a tile would write is lost.
    bool in_vain(const Stage& stage, const TileView<T>* views, int64_t rows, int thread) const {
        const T* lost = memory_.at<T>(lost_[thread]);
        for (const Instruction& in : stage.code) {
            if (in.op == Opcode::store_panel_) return false;
            if (in.op != Opcode::store_) continue;
            T* const* row = views[in.b].rows;
            if (std::any_of(row, row + rows, [&](const T* r) { return r != lost; })) return false;
        }
        return true;
    }

    void stage(size_t index, int64_t l, const Chunk& chunk, int64_t first, int64_t last,
               int thread) {
        const std::vector<View>& views = program_.stages[index].views;
        for (size_t v = 0; v < views.size(); ++v)
            point(views[v], l, chunk, first, last, table(thread, v));
        first_row_[thread] = ranks_[l] - chunk.base + first;
        tiles(index, last - first, shared_stages_, thread);
    }

    void before_chunk(const Chunk& chunk, int thread) {
        for (size_t i = 0; i < program_.stages.size(); ++i) {
            if (program_.stages[i].when != When::before_chunk) continue;
            point_chunk(program_.stages[i], chunk, thread);
            tiles(i, rows_of(chunk, program_.stages[i].axis), true, thread);
            wait();
        }
        if (!hoists_) return;
        for (size_t i = 0; i < program_.stages.size(); ++i) {
            if (layouts_[i].hoisted == 0) continue;
            point_chunk(program_.stages[i], chunk, thread);
            each_tile(layouts_[i], chunk.rows, true, thread,
                      [&](int64_t block, int64_t row, int64_t rows) {
                          hoist(i, block, row, rows, thread);
                      });
        }
        wait();
    }

    // The sums of a stage's hoisted terms, for rows of a chunk and one block of units.
    void hoist(size_t index, int64_t block, int64_t row, int64_t rows, int thread) const {
        const Stage& stage = program_.stages[index];
        const StageLayout& s = layouts_[index];
        const T* start = row_registers(index, block) - stage.tiles * s.width;
        T* sums = hoisted(s, block, row);
        for (int64_t r = 0; r < rows; ++r)
            for (const Accumulator& a : stage.accumulators)
                std::copy_n(start + a.start * s.width, s.width,
                            sums + r * s.sums_row + a.tile * s.width);
        TileView<T> views[kMaxViews];
        for (size_t v = 0; v < stage.views.size(); ++v) views[v].rows = table(thread, v) + row;
        for (size_t i = 0; i < s.hoisted; ++i)
            product(stage, s, i, block, views, {sums, s.width, s.sums_row, rows});
    }

    T* hoisted(const StageLayout& s, int64_t block, int64_t row) const {
        return memory_.at<T>(s.sums) + (block * chunk_rows_ + row) * s.sums_row;
    }

    // The tiles of a stage, for the rows of the thread's table; its share, if `shared`.
    void tiles(size_t index, int64_t rows, bool shared, int thread) const {
        each_tile(layouts_[index], rows, shared, thread,
                  [&](int64_t block, int64_t row, int64_t count) {
                      tile(index, block, row, count, thread);
                  });
    }

    template <class F>
    void each_tile(const StageLayout& s, int64_t rows, bool shared, int thread,
                   const F& f) const {
        const int64_t tiles = ceil_div(rows, s.tile_rows), items = tiles * s.blocks;
        const int64_t parts = shared ? threads_ : 1, part = shared ? thread : 0;
        for (int64_t i = items * part / parts; i < items * (part + 1) / parts; ++i) {
            const int64_t t = i % tiles, from = t * rows / tiles;
            f(i / tiles, from, (t + 1) * rows / tiles - from);
        }
    }

    T** table(int thread, size_t view) const {
        return memory_.at<T*>(tables_[thread]) + int64_t(view) * table_rows_;
    }

    // Where rows [first, last) of level l are in a view.
    void point(const View& view, int64_t l, const Chunk& chunk, int64_t first, int64_t last,
               T** out) const {
        const Array& a = program_.arrays[view.array];
        const auto [base, stride] = buffers_[view.array];
        const Schedule& s = schedule_;
        if (a.rows == Rows::chunk || a.rows == Rows::panel) {
            T* row = base + (ranks_[l] - chunk.base + first) * stride;
            for (int64_t r = first; r < last; ++r, row += stride) out[r - first] = row;
            return;
        }
        const int64_t* const places = s.places != nullptr ? s.places : s.lanes;
        const int64_t* const where = a.rows == Rows::sequence ? places : s.lanes;
        const auto along = [&](const int64_t* map, T* start, int64_t step, int64_t from,
                               int64_t to) {
            for (int64_t r = from; r < to; ++r)
                out[r - first] = start + (s.width > 0 ? map[r] : r) * step;
        };
        const bool carried = program_.backward && a.rows == Rows::rolling && a.initial >= 0;
        if (!view.previous) {
            const int64_t row =
                a.rows == Rows::sequence ? s.offsets[l] : l % a.depth * block_;
            along(where, base + row * stride, stride, first, last);
            if (carried && l + 1 < s.levels)  // whose successor starts anew
                each_start(l + 1, first, last, [&](const Start& start) {
                    out[start.row - first] = memory_.at<T>(nothing_);
                });
            return;
        }
        const bool has_initial = a.initial >= 0;
        const auto [start, start_stride] = buffers_[has_initial ? a.initial : view.array];
        if (s.previous != nullptr) {
            for (int64_t r = first; r < last; ++r) {
                const int64_t p = s.previous[s.offsets[l] + r];
                out[r - first] = p >= 0 ? base + p * stride : start + (-1 - p) * start_stride;
            }
            return;
        }
        const int64_t before = l > 0 ? s.counts[l - 1] : 0;
        const int64_t middle = std::clamp(has_initial ? before : last, first, last);
        int64_t row = 0;
        if (a.rows == Rows::sequence && l > 0) row = s.offsets[l - 1];
        if (a.rows == Rows::rolling) row = (l + a.depth - 1) % a.depth * block_;
        along(where, base + row * stride, stride, first, middle);
        along(s.lanes, start, start_stride, middle, last);
        if (has_initial)
            each_start(l, first, last, [&, start = start, step = start_stride](const Start& s) {
                out[s.row - first] = start + (carried ? s.gradient : s.initial) * step;
            });
    }

    // The starts among rows [first, last) of a level.
    template <class F>
    void each_start(int64_t l, int64_t first, int64_t last, const F& f) const {
        for (int64_t i = starts_[l]; i < starts_[l + 1]; ++i) {
            const Start& start = schedule_.starts[i];
            if (start.row >= first && start.row < last) f(start);
        }
    }

    // Rows [row, row + rows) of the thread's table, one block of units: products, then code.
    void tile(size_t index, int64_t block, int64_t row, int64_t rows, int thread) const {
        const Stage& stage = program_.stages[index];
        const StageLayout& s = layouts_[index];
        TileView<T> views[kMaxViews];
        for (size_t v = 0; v < stage.views.size(); ++v) {
            const int32_t id = stage.views[v].array;
            const Array& a = program_.arrays[id];
            const bool panel = a.rows == Rows::panel, one = a.columns == 1 && stage.units > 1;
            views[v].rows = table(thread, v) + row;
            views[v].offset = panel ? block * panels_[id].stride : one ? 0 : block * s.width;
            views[v].units = std::max<int64_t>(0, a.columns - block * s.width);
            views[v].spread = one;
            if (stage.axis == Axis::node && program_.axis(stage.views[v]) == Axis::child) {
                const int64_t* start = trees_->first_child + first_row_[thread];
                views[v].segments = start + row;
                views[v].rows = table(thread, v) + (start[row] - start[0]);
            }
        }
        if (trees_ != nullptr && in_vain(stage, views, rows, thread)) return;
        T* registers = memory_.at<T>(tiles_[thread]);
        Tile<T> t{};
        t.tile_registers = registers;
        t.tile_size = s.tile_rows * s.width;
        t.row_registers = row_registers(index, block);
        t.tiles = stage.tiles;
        t.rows = rows;
        t.width = s.width;
        t.units = std::min(s.width, stage.units - block * s.width);
        t.views = views;
        if (s.hoisted > 0) {
            const T* sums = hoisted(s, block, first_row_[thread] + row);
            for (const Accumulator& a : stage.accumulators)
                for (int64_t r = 0; r < rows; ++r)
                    std::copy_n(sums + r * s.sums_row + a.tile * s.width, s.width,
                                registers + a.tile * t.tile_size + r * s.width);
        } else {
            t.code = s.begin.data();
            t.count = int64_t(s.begin.size());
            kernels_.pointwise(t);
        }
        for (size_t i = s.hoisted; i < stage.terms.size(); ++i)
            product(stage, s, i, block, views, {registers, t.tile_size, s.width, rows});
        t.code = stage.code.data();
        t.count = int64_t(stage.code.size());
        kernels_.pointwise(t);
    }

    // Where a product adds to: accumulator a of row r is at a * column + r * row.
    struct Sums {
        T* data;
        int64_t column, row, rows;
    };

    void product(const Stage& stage, const StageLayout& s, size_t which, int64_t block,
                 const TileView<T>* views, const Sums& sums) const {
        const Term& term = stage.terms[which];
        const TermLayout& l = s.terms[which];
        const Range& range = l.ranges[block];
        if (trees_ != nullptr && nothing_in(views[term.view], sums.rows)) return;
        Product<T> p{};
        int64_t depth = range.count;
        p.source = {views[term.view].rows, range.begin, range.count, 1, 0};
        if (term.transposed) {
            const int32_t id = stage.views[term.view].array;
            const int64_t width = layouts_[program_.arrays[id].stage].width;
            p.source.offset = range.begin * panels_[id].stride + term.first * width;
            p.source.block = width * int64_t(term.pieces.size());
            p.source.blocks = range.count;
            p.source.stride = panels_[id].stride;
            depth = p.source.block * range.count;
        }
        p.rows = sums.rows;
        p.column_stride = sums.row;
        const T* weights = memory_.at<T>(l.weights) + range.at;
        const int W = kernels_.lanes;
        for (int first = 0, group = 0, groups = l.groups(); group < groups; ++group) {
            const int next = (group + 1) * l.vectors / groups;
            p.vectors = next - first;
            for (int v = first; v < next; ++v)
                p.columns[v - first] = sums.data + term.columns[v / s.vectors] * sums.column +
                                       v % s.vectors * W;
            p.weights = weights;
            kernels_.product(p);
            weights += depth * p.vectors * W;
            first = next;
        }
    }

    T* row_registers(size_t index, int64_t block) const {
        return memory_.at<T>(layouts_[index].row_registers) +
               block * program_.stages[index].row_registers * layouts_[index].width;
    }

    // -- a chunk's tasks, in any order

    void chunk_tasks(size_t c, int thread) {
        const Chunk& chunk = chunks_[c];
        int pointed = -1;  // what the thread's table shows: a stage, or a gradient
        for (;;) {
            const int64_t i = next_task_[c].fetch_add(1, std::memory_order_relaxed);
            if (i >= int64_t(tasks_.size())) return;
            const Task& task = tasks_[i];
            const int key = task.index * 2 + (task.kind == Task::gradient);
            if (task.kind == Task::tile) {
                const Stage& stage = program_.stages[task.index];
                const int64_t rows = rows_of(chunk, stage.axis) - task.part;
                if (rows <= 0) continue;
                if (key != pointed) point_chunk(stage, chunk, thread);
                pointed = key;
                tile(task.index, task.block, task.part,
                     std::min(layouts_[task.index].tile_rows, rows), thread);
            } else if (task.kind == Task::gradient) {
                if (key != pointed && trees_ != nullptr)  // which rows are there
                    point_source(sources_[gradients_[task.index].source], chunk, thread);
                pointed = key;
                gradient(task, chunk, thread);
            } else {
                const PanelLayout& p = panels_[task.index];
                kernels_.column_sums(buffers_[task.index].data + task.block * p.stride, p.row,
                                     rows_of(chunk, program_.arrays[task.index].axis), p.block,
                                     memory_.at<T>(p.sums) + task.block * p.block);
            }
        }
    }

    void point_chunk(const Stage& stage, const Chunk& chunk, int thread) {
        for (size_t v = 0; v < stage.views.size(); ++v)
            if (trees_ != nullptr)
                point_rows(stage, v, chunk.base, chunk.base + chunk.rows, chunk, thread);
            else
                point_chunk(stage.views[v], chunk, table(thread, v));
    }

    // All rows of a chunk, in the order of the walk.
    void point_chunk(const View& view, const Chunk& chunk, T** out) const {
        for (int64_t l = chunk.first_level; l < chunk.last_level; ++l)
            point(view, l, chunk, 0, schedule_.counts[l], out + (ranks_[l] - chunk.base));
    }

    // The thread's share of a source's rows, as columns.
    void turn(const SourceLayout& s, const Chunk& chunk, int thread) {
        point_source(s, chunk, thread);
        const T* const* rows = table(thread, 0);
        const int64_t count = rows_of(chunk, s.axis), W = kernels_.lanes;
        const int64_t groups = ceil_div(count, W);
        T* columns = memory_.at<T>(s.columns);
        const T* few[kMaxLanes];
        for (int64_t g = groups * thread / threads_; g < groups * (thread + 1) / threads_; ++g) {
            for (int64_t i = 0; i < W; ++i) few[i] = rows[std::min(g * W + i, count - 1)];
            kernels_.transpose(few, s.width, columns + g * W, s.stride);
        }
    }

    void point_source(const SourceLayout& s, const Chunk& chunk, int thread) {
        Stage reader{};
        reader.axis = s.axis;
        reader.views = {s.view};
        point_chunk(reader, chunk, thread);
    }

    void gradient(const Task& task, const Chunk& chunk, int thread) const {
        const Gradient& g = program_.gradients[task.index];
        const GradientLayout& l = gradients_[task.index];
        const StageLayout& s = layouts_[program_.arrays[g.panel].stage];
        const Range& range = l.ranges[task.block];
        const int vectors = s.vectors * int(g.pieces.size());
        const int W = kernels_.lanes;
        Outer<T> o{};
        const SourceLayout& source = sources_[l.source];
        o.source_stride = source.stride;
        const int64_t rows = rows_of(chunk, program_.arrays[g.panel].axis);
        o.first = range.begin + task.part;
        o.last = range.begin + std::min(range.count, task.part + l.slice);
        o.panel_stride = panels_[g.panel].row;
        o.sums_stride = int64_t(vectors) * W;
        const T* panel = buffers_[g.panel].data + task.block * panels_[g.panel].stride +
                         g.first * s.width;
        T* sums = memory_.at<T>(l.sums) + range.at - range.begin * o.sums_stride;
        const int groups = int(ceil_div(vectors, kernels_.vectors));
        for (int first = 0, group = 0; group < groups; ++group) {
            const int next = (group + 1) * vectors / groups;
            o.vectors = next - first;
            o.sums = sums + first * W;
            each_run(table(thread, 0), rows, [&](int64_t from, int64_t count) {
                o.source = memory_.at<T>(source.columns) + from;
                o.row_count = count;
                o.panel = panel + first * W + from * o.panel_stride;
                kernels_.outer(o);
            });
            first = next;
        }
    }

    // Runs of rows that are there; in sequences they all are.
    template <class F> void each_run(T* const* table, int64_t rows, const F& f) const {
        if (trees_ == nullptr) return f(0, rows);
        const T* none = memory_.at<T>(nothing_);
        for (int64_t r = 0; r < rows;) {
            const int64_t from = r;
            while (r < rows && table[r] != none) ++r;
            if (r > from) f(from, r - from);
            while (r < rows && table[r] == none) ++r;
        }
    }

    // -- weights into panels, sums back into gradients

    const T* parameter(const Piece& p) const {
        return static_cast<const T*>(call_.parameters[p.parameter].data) + p.offset;
    }

    void pack(int thread) {
        int64_t turn = 0;  // blocks go to the threads in turn
        const auto mine = [&] { return turn++ % threads_ == thread; };
        for (size_t i = 0; i < program_.stages.size(); ++i) {
            const Stage& s = program_.stages[i];
            for (int64_t b = 0; b < layouts_[i].blocks; ++b) {
                if (mine()) fill_row_registers(i, b, thread);
                for (size_t t = 0; t < s.terms.size(); ++t)
                    if (mine()) pack_term(i, t, b);
            }
        }
        clear_gradients(thread);
        if (thread == 0) clear_sums();
    }

    void clear_gradients(int thread) const {
        for (const Buffer& g : call_.gradients) {
            const int64_t n = g.rows * g.columns, from = n * thread / threads_;
            std::memset(static_cast<T*>(g.data) + from, 0,
                        size_t(n * (thread + 1) / threads_ - from) * sizeof(T));
        }
    }

    void clear_sums() {
        for (size_t i = 0; i < gradients_.size(); ++i) {
            const Gradient& g = program_.gradients[i];
            const int64_t width =
                layouts_[program_.arrays[g.panel].stage].width * int64_t(g.pieces.size());
            const Range& last = gradients_[i].ranges.back();
            std::memset(memory_.at<T>(gradients_[i].sums), 0,
                        size_t(last.at + last.count * width) * sizeof(T));
        }
        for (size_t i = 0; i < panels_.size(); ++i)
            if (panels_[i].reduced)
                std::memset(memory_.at<T>(panels_[i].sums), 0,
                            size_t(layouts_[program_.arrays[i].stage].blocks *
                                   panels_[i].block) * sizeof(T));
    }

    void fill_row_registers(size_t index, int64_t block, int thread) const {
        const Stage& stage = program_.stages[index];
        const StageLayout& s = layouts_[index];
        T* registers = row_registers(index, block);
        for (const Instruction& in : stage.prologue) {
            T* d = registers + (in.dst - stage.tiles) * s.width;
            if (in.op == Opcode::constant_) std::fill(d, d + s.width, T(in.immediate));
            if (in.op != Opcode::vector_) continue;
            const Piece& p = stage.vectors[in.a];
            for (int64_t i = 0, u = block * s.width; i < s.width; ++i, ++u)
                d[i] = u < stage.units ? parameter(p)[u * p.stride] : T(0);
        }
        Tile<T> t{};
        t.code = stage.prologue.data();
        t.count = int64_t(stage.prologue.size());
        t.tile_registers = memory_.at<T>(tiles_[thread]);
        t.row_registers = registers;
        t.tiles = stage.tiles;
        t.rows = 1;
        t.width = s.width;
        t.units = std::min(s.width, stage.units - block * s.width);
        kernels_.pointwise(t);
    }

    // Weights of a block, in the order in which the product reads them: for each group
    // of vectors, for each k, the vectors. Where a block meets several heads, a unit's
    // weights outside its own head are 0.
    void pack_term(size_t index, size_t which, int64_t block) const {
        const Stage& stage = program_.stages[index];
        const StageLayout& s = layouts_[index];
        const Term& term = stage.terms[which];
        const TermLayout& l = s.terms[which];
        T* out = memory_.at<T>(l.weights) + l.ranges[block].at;
        for (int first = 0, group = 0, groups = l.groups(); group < groups; ++group) {
            const int next = (group + 1) * l.vectors / groups;
            const int64_t depth = term.transposed
                                      ? pack_transposed(stage, s, term, l, block, first, next, out)
                                      : pack_direct(stage, s, term, l, block, first, next, out);
            out += depth * (next - first) * kernels_.lanes;
            first = next;
        }
    }

    int64_t pack_direct(const Stage& stage, const StageLayout& s, const Term& term,
                        const TermLayout& l, int64_t block, int first, int next, T* out) const {
        const int W = kernels_.lanes;
        const Range& range = l.ranges[block];
        const int64_t step = int64_t(next - first) * W, head = term.width / term.heads;
        const int64_t unit_head = stage.units / term.heads;
        constexpr int64_t kBlock = 64;  // of k: what is written stays in the L1 cache
        for (int64_t k0 = 0; k0 < range.count; k0 += kBlock) {
            const int64_t k1 = std::min(range.count, k0 + kBlock);
            for (int v = first; v < next; ++v) {
                const int64_t unit = block * s.width + v % s.vectors * W;
                if (term.heads == 1 && unit + W <= stage.units) {  // whole rows
                    const Piece& piece = term.pieces[v / s.vectors];
                    const T* rows[kMaxLanes];
                    for (int lane = 0; lane < W; ++lane)
                        rows[lane] = parameter(piece) + (unit + lane) * piece.stride + k0;
                    kernels_.transpose(rows, k1 - k0, out + k0 * step + (v - first) * W, step);
                    continue;
                }
                const Piece& piece = term.pieces[v / s.vectors];
                for (int lane = 0; lane < W; ++lane) {
                    const int64_t u = block * s.width + v % s.vectors * W + lane;
                    T* d = out + (v - first) * W + lane;
                    // columns of this unit's own head, within the range
                    const int64_t begin =
                        u < stage.units ? u / unit_head * head - range.begin : range.count;
                    const int64_t from = std::clamp(begin, k0, k1);
                    const int64_t to = std::clamp(begin + head, k0, k1);
                    const T* w = parameter(piece) + u * piece.stride - begin;
                    for (int64_t k = k0; k < from; ++k) d[k * step] = 0;
                    for (int64_t k = from; k < to; ++k) d[k * step] = w[k];
                    for (int64_t k = std::max(from, to); k < k1; ++k) d[k * step] = 0;
                }
            }
        }
        return range.count;
    }

    int64_t pack_transposed(const Stage& stage, const StageLayout& s, const Term& term,
                            const TermLayout& l, int64_t block, int first, int next,
                            T* out) const {
        const int W = kernels_.lanes;
        const Range& range = l.ranges[block];
        const int64_t width = layouts_[panel_stage(stage, term)].width;
        const int64_t step = int64_t(next - first) * W, head = stage.units / term.heads;
        const int64_t unit_head = term.width / term.heads;
        const int64_t first_column = block * s.width + first * W;
        T* d = out;
        for (int64_t b = range.begin; b < range.begin + range.count; ++b)
            for (const Piece& piece : term.pieces)
                for (int64_t u = b * width; u < (b + 1) * width; ++u, d += step) {
                    std::fill(d, d + step, T(0));
                    if (u >= term.width) continue;
                    const int64_t begin = u / unit_head * head;  // this unit's columns
                    const int64_t from = std::max(begin, first_column);
                    const int64_t to = std::min(begin + head, first_column + step);
                    const T* w = parameter(piece) + u * piece.stride;
                    if (to > from)
                        std::copy(w + (from - begin), w + (to - begin), d + (from - first_column));
                }
        return range.count * width * int64_t(term.pieces.size());
    }

    T* gradient_of(const Piece& p) const {
        return static_cast<T*>(call_.gradients[p.parameter].data) + p.offset;
    }

    void unpack(int thread) {
        for (size_t i = 0; i < gradients_.size(); ++i) {
            const Gradient& g = program_.gradients[i];
            const int32_t index = program_.arrays[g.panel].stage;
            const StageLayout& s = layouts_[index];
            for (int64_t b = thread; b < s.blocks; b += threads_)
                unpack_gradient(g, gradients_[i], s, program_.stages[index].units, b);
            wait();  // a weight that is used twice gets two gradients
        }
        if (thread != 0) return;
        for (const Reduction& r : program_.reductions) {
            const int32_t index = program_.arrays[r.panel].stage;
            const StageLayout& s = layouts_[index];
            const T* sums = memory_.at<T>(panels_[r.panel].sums) + r.column * s.width;
            T* out = gradient_of(r.piece);
            for (int64_t u = 0; u < program_.stages[index].units; ++u)
                out[u * r.piece.stride] +=
                    sums[u / s.width * panels_[r.panel].block + u % s.width];
        }
    }

    void unpack_gradient(const Gradient& g, const GradientLayout& l, const StageLayout& s,
                         int64_t units, int64_t block) const {
        const Range& range = l.ranges[block];
        const int64_t step = s.width * int64_t(g.pieces.size());
        const int64_t head = g.width / g.heads, unit_head = units / g.heads;
        const T* sums = memory_.at<T>(l.sums) + range.at;
        constexpr int64_t kBlock = 64;
        for (int64_t k0 = 0; k0 < head; k0 += kBlock)
            for (size_t j = 0; j < g.pieces.size(); ++j)
                for (int64_t i = 0, u = block * s.width; i < s.width && u < units; ++i, ++u) {
                    T* out = gradient_of(g.pieces[j]) + u * g.pieces[j].stride;
                    const T* from = sums + (u / unit_head * head - range.begin) * step +
                                    int64_t(j) * s.width + i;
                    for (int64_t k = k0; k < std::min(head, k0 + kBlock); ++k)
                        out[k] += from[k * step];
                }
    }

    struct Placed {
        T* data;
        int64_t stride;
    };

    const Kernels<T>& kernels_;
    std::vector<Placed> buffers_;                  // by array
    std::vector<std::atomic<int64_t>> next_task_;  // by chunk
    std::vector<int64_t> first_lane_;  // of each thread
    std::vector<int64_t> first_row_;   // of each thread: the row its table begins with
    Barrier barrier_;
};

}  // namespace

void run(const Program& program, const Call& call) {
    const std::vector<bool> written = program.written();
    check_call(program, call, written);
    if (walked_rows(call.schedule) == 0) {
        for (const Buffer& g : call.gradients)
            if (g.data != nullptr)
                std::memset(g.data, 0, size_t(g.rows * g.columns) * call.element_size);
        return;
    }
    for (size_t i = 0; i < call.arrays.size(); ++i) {
        const Buffer& b = call.arrays[i];
        if (written[i]) expect_writes(b.data, size_t(b.rows * b.stride) * call.element_size);
    }
    if (call.element_size == 4)
        Walk<float>(program, call, call.isa->f32).walk();
    else
        Walk<double>(program, call, call.isa->f64).walk();
}

template <class T>
static std::unique_ptr<Level> prepared(const Program& program, const Call& call,
                                       const Kernels<T>& kernels) {
    auto walk = std::make_unique<Walk<T>>(program, call, kernels);
    walk->prepare();
    return walk;
}

std::unique_ptr<Level> make_level(const Program& program, const Call& call) {
    check_call(program, call, program.written());
    REQUIRE(!program.backward && call.threads == 1, "[level] walks forward on one thread");
    REQUIRE(call.schedule.levels == 1 && call.schedule.previous == nullptr &&
                call.schedule.rows > 0,
            "[level] expected one dense level of rows");
    return call.element_size == 4 ? prepared(program, call, call.isa->f32)
                                  : prepared(program, call, call.isa->f64);
}

}  // namespace cellwright
