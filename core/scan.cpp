#include "scan.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "chunk.h"
#include "flush_subnormals.h"
#include "matrix.h"
#include "packing.h"
#include "require.h"
#include "tuning.h"

namespace cellwright {

namespace {

template <class T> class Scan final : public PackedLevel {
public:
    Scan(const Program& program, const Call& call, const Kernels<T>& kernels)
        : context_(program, call, kernels) {
        for (const Stage& s : program.stages) {
            Stage& totals = totals_.emplace_back();
            for (const Instruction& in : s.code)
                if (in.op == Opcode::accumulate_ && s.axis != Axis::matrix &&
                    s.axis != program.axis(s.views[in.b]))
                    totals.views.push_back(s.views[in.b]);
        }
    }

    void scan() {
        context_.memory.allocate();
        context_.place_arrays();
        const Job job = {
            [](void* self, int count) { static_cast<Scan*>(self)->begin(count); },
            [](void* self, int thread) {
                const FlushSubnormals flush;
                static_cast<Scan*>(self)->work(thread);
            },
            this};
        const int64_t alone = context_.work * context_.total_rows / kSpeed;
        run_on_pool(context_.threads,
                    std::clamp(alone / kPatiencePart, kLeastPatience, kMostPatience), job);
        for (const Final& f : context_.call.finals) copy(f);
    }

    void prepare() {
        context_.memory.allocate_own();
        context_.place_arrays();
        begin(1);
        packing_.pack(0);
    }

    void place(size_t array, void* data) override {
        const int64_t columns = context_.program.arrays[array].columns;
        context_.arrays[array] = {static_cast<T*>(data), columns * int64_t(sizeof(T))};
    }

    void run() override {
        const FlushSubnormals flush;
        stages(context_.chunks[0], 0);
    }

private:
    // Once it is known how many threads there are.
    void begin(int count) {
        context_.threads = count;
        context_.barrier.expect(count);
        share_rows();
    }

    // Threads that scan on their own take the same number of rows each, over all levels;
    // the first takes all where rows depend on one another.
    void share_rows() {
        const Schedule& s = context_.schedule;
        const int64_t rows = context_.level_rows, threads = context_.threads;
        own_first_.assign(threads + 1, rows);
        own_first_[0] = 0;
        if (!context_.independent_rows) return;
        std::vector<int64_t> ending(rows + 1);  // levels by their number of rows
        for (int64_t l = 0; l < s.levels; ++l) ++ending[s.counts[l]];
        int64_t alive = s.levels, before = 0;
        for (int64_t row = 0, thread = 0; row < rows; ++row) {
            while (thread < threads && before * threads >= context_.total_rows * thread)
                own_first_[thread++] = row;
            alive -= ending[row];
            before += alive;
        }
    }

    void work(int thread) {
        packing_.pack(thread);
        wait();
        for (size_t c = 0; c < context_.chunks.size(); ++c) {
            const Chunk& chunk = context_.chunks[c];
            hoist(chunk, thread);
            stages(chunk, thread);
            tasks_.run(c, thread);
        }
        packing_.unpack(thread);
    }

    void wait() { context_.barrier.wait(); }

    void hoist(const Chunk& chunk, int thread) {
        if (!context_.hoists) return;
        const std::vector<Stage>& stages = context_.program.stages;
        for (size_t i = 0; i < stages.size(); ++i) {
            if (context_.stages[i].hoisted == 0) continue;
            lookup_->find_chunk(stages[i], chunk, thread);
            tiles_.hoist(i, chunk, thread);
        }
        wait();
    }

    // After each run threads wait: the next reads what others wrote.
    void stages(const Chunk& chunk, int thread) {
        for (const StageRun& run : context_.runs) {
            if (run.pointwise && context_.chunked)
                loop(run.first, chunk, thread);
            else if (run.levels)
                levels(run, chunk, thread);
            else
                whole_chunk(run.first, chunk, thread);
            wait();
        }
    }

    // In the order of the scan.
    template <class F> void each_level(const Chunk& chunk, const F& f) const {
        const bool backward = context_.program.backward;
        for (int64_t i = 0; i < chunk.last_level - chunk.first_level; ++i)
            f(backward ? chunk.last_level - 1 - i : chunk.first_level + i);
    }

    void whole_chunk(size_t index, const Chunk& chunk, int thread) {
        const Stage& stage = context_.program.stages[index];
        if (stage.axis == Axis::item) return items_of_chunk(index, chunk, thread);
        lookup_->find_chunk(stage, chunk, thread);
        if (stage.axis == Axis::matrix) return matrices_.run(index, chunk.rows, true, thread);
        tiles_.run(index, chunk, context_.rows_of(chunk, stage.axis), true, thread);
    }

    // The items of a row are one thread's: their totals are sums in order.
    void items_of_chunk(size_t stage, const Chunk& chunk, int thread) {
        const int64_t first = chunk.rows * thread / context_.threads;
        const int64_t last = chunk.rows * (thread + 1) / context_.threads;
        lookup_->find_chunk(totals_[stage], chunk, thread);
        clear_totals(stage, first, last, thread);
        lookup_->find_chunk(context_.program.stages[stage], chunk, thread);
        tiles_.run_items(stage, chunk, first, last, thread);
    }

    void items_of_level(size_t stage, int64_t l, int64_t first, int64_t last,
                        const Chunk& chunk, int thread) {
        lookup_->find_level(totals_[stage], l, first, last, chunk, thread);
        clear_totals(stage, 0, last - first, thread);
        lookup_->find_level(context_.program.stages[stage], l, first, last, chunk, thread);
        tiles_.run_items(stage, chunk, 0, last - first, thread);
    }

    // Rows [first, last) among those that were found in a stage's totals.
    void clear_totals(size_t stage, int64_t first, int64_t last, int thread) const {
        const std::vector<View>& views = totals_[stage].views;
        for (size_t v = 0; v < views.size(); ++v) {
            T* const* rows = context_.row_pointers(thread, v);
            const int64_t columns = context_.program.arrays[views[v].array].columns;
            for (int64_t r = first; r < last; ++r) std::fill_n(rows[r], columns, T(0));
        }
    }

    void loop(size_t index, const Chunk& chunk, int thread) {
        const Stage& stage = context_.program.stages[index];
        if (stage.axis != Axis::matrix) return pointwise_loop(index, chunk, thread);
        const bool shared = context_.shared_units;
        lookup_->find_chunk(stage, chunk, thread);
        matrices_.run_loop(index, chunk, shared ? 0 : own_first_[thread],
                           shared ? context_.level_rows : own_first_[thread + 1], shared,
                           thread);
    }

    // A thread takes some of the units, or of the rows, through all levels of the chunk.
    void pointwise_loop(size_t index, const Chunk& chunk, int thread) {
        const int64_t blocks = context_.stages[index].blocks, threads = context_.threads;
        const int64_t most = context_.stages[index].tile_rows;
        const bool shared = context_.shared_units;
        std::vector<Run> rows;  // of the chunk, tile by tile
        each_level(chunk, [&](int64_t l) {
            const int64_t before = context_.rows_before[l] - chunk.base;
            const auto [first, last] = rows_of_level(l, shared, thread);
            for (int64_t r = first; r < last; r += most)
                rows.push_back({before + r, std::min(most, last - r)});
        });
        lookup_->find_chunk(context_.program.stages[index], chunk, thread);
        const int64_t begin = shared ? blocks * thread / threads : 0;
        const int64_t end = shared ? blocks * (thread + 1) / threads : blocks;
        for (int64_t block = begin; block < end; ++block)
            tiles_.run_loop(index, block, rows, thread);
    }

    // All rows of a level, or the thread's own.
    std::pair<int64_t, int64_t> rows_of_level(int64_t l, bool all, int thread) const {
        const int64_t count = context_.schedule.counts[l];
        if (all) return {0, count};
        return {std::min(count, own_first_[thread]), std::min(count, own_first_[thread + 1])};
    }

    // All levels of a chunk; rows whose items fit into the cache go through them together.
    void levels(const StageRun& run, const Chunk& chunk, int thread) {
        const bool shared = context_.shared_stages;
        int64_t first = shared ? 0 : own_first_[thread];
        const int64_t end = shared ? context_.level_rows : own_first_[thread + 1];
        do {
            const int64_t last = std::min(end, first + context_.group_rows);
            each_level(chunk, [&](int64_t l) { level(run, l, chunk, thread, first, last); });
            first = last;
        } while (first < end);
    }

    // Those of the rows [first, last) that a level has.
    void level(const StageRun& run, int64_t l, const Chunk& chunk, int thread, int64_t first,
               int64_t last) {
        const bool shared = context_.shared_stages;
        last = std::min(last, context_.schedule.counts[l]);
        const std::vector<Stage>& stages = context_.program.stages;
        for (size_t i = run.first; i < run.last; ++i) {
            if (last > first && stages[i].axis == Axis::item) {
                items_of_level(i, l, first, last, chunk, thread);
            } else if (last > first) {
                lookup_->find_level(stages[i], l, first, last, chunk, thread);
                if (stages[i].axis == Axis::matrix) {
                    matrices_.run(i, last - first, shared, thread);
                } else {
                    const int64_t rows = context_.before(stages[i].axis, l, last) -
                                         context_.before(stages[i].axis, l, first);
                    tiles_.run(i, chunk, rows, shared, thread);
                }
            }
            if (shared) wait();
        }
    }

    void copy(const Final& f) const {
        for (int64_t r = 0; r < f.to.rows; ++r)
            std::copy_n(context_.arrays[f.array].row(f.row + r), f.to.columns,
                        static_cast<T*>(f.to.data) + r * f.to.stride);
    }

    Context<T> context_;
    std::unique_ptr<RowLookup<T>> lookup_ = make_row_lookup(context_);
    Tiles<T> tiles_{context_, *lookup_};
    Matrices<T> matrices_{context_};
    Packing<T> packing_{context_};
    ChunkTasks<T> tasks_{context_, *lookup_, tiles_};
    std::vector<Stage> totals_;       // of each stage: readers of what its items add to
    std::vector<int64_t> own_first_;  // of each thread: the first of its rows of a level
};

template <class T>
std::unique_ptr<PackedLevel> packed(const Program& program, const Call& call,
                                    const Kernels<T>& kernels) {
    auto scan = std::make_unique<Scan<T>>(program, call, kernels);
    scan->prepare();
    return scan;
}

}  // namespace

void run(const Program& program, const Call& call) {
    const std::vector<bool> written = program.written();
    call.validate(program, written);
    if (call.schedule.scanned_rows() == 0) {
        for (const Buffer& g : call.gradients)
            if (g.data != nullptr)
                std::memset(g.data, 0, size_t(g.rows * g.columns) * call.element_size);
        return;
    }
    for (size_t i = 0; i < call.arrays.size(); ++i) {
        const Buffer& b = call.arrays[i];
        if (written[i])
            expect_writes(b.data, size_t(b.rows * b.stride * b.bytes_of(call.element_size)));
    }
    if (call.element_size == 4)
        Scan<float>(program, call, call.isa->f32).scan();
    else
        Scan<double>(program, call, call.isa->f64).scan();
}

std::unique_ptr<PackedLevel> make_packed_level(const Program& program, const Call& call) {
    call.validate(program, program.written());
    REQUIRE(!program.backward && call.threads == 1, "[level] scans forward on one thread");
    REQUIRE(call.schedule.levels == 1 && !program.tree && call.schedule.rows > 0,
            "[level] expected one level of a sequence's rows");
    return call.element_size == 4 ? packed(program, call, call.isa->f32)
                                  : packed(program, call, call.isa->f64);
}

}  // namespace cellwright
