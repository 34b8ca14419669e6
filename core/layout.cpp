#include "layout.h"

#include <algorithm>

#include "check.h"

namespace cellwright {

namespace {

constexpr int64_t kTileBytes = 28 << 10;   // a tile's registers: most of the L1 cache
constexpr int64_t kWideTileRows = 8;       // rows of a tile that spans all units
constexpr int64_t kLineBytes = 64;         // of a cache line
constexpr int64_t kBlocksEach = 4;         // of a stage, for each thread that shares it
constexpr int64_t kReuseRows = 72;         // rows that a tile had better have, if it can
constexpr int64_t kPanelRows = 12;         // of a tile of gate gradients: no product is in it
constexpr int64_t kHoistedRows = 64;       // rows whose inputs' products are held at a time
constexpr int64_t kChunkRows = 512;        // rows of gate gradients held at a time
constexpr int64_t kFewRows = 2;            // too few to fill a micro-kernel's registers
constexpr int64_t kSliceColumns = 96;      // of a gradient: the grain of its tasks
constexpr int64_t kOneThread = 1 << 18;    // multiply-adds not worth a second thread
constexpr int64_t kOneLevel = 1 << 18;     // the same of a level that threads share
constexpr int64_t kFewRowsWork = 1 << 21;  // the same of rows too few for a thread each
constexpr int64_t kOneWalker = 1 << 23;    // the same where one thread walks all levels
constexpr int64_t kOwnRows = 8;            // rows a thread needs to walk on its own
constexpr int64_t kOwnWeights = 3 << 19;   // bytes of weights a thread may walk past

Range heads_range(int64_t first_unit, int64_t last_unit, int64_t units, int64_t width,
                  int64_t heads) {
    const int64_t unit_head = units / heads, width_head = width / heads;
    const int64_t begin = first_unit / unit_head;
    const int64_t end = (last_unit - 1) / unit_head + 1;
    return {begin * width_head, (end - begin) * width_head, 0};
}

bool fills_panel(const Stage& s) {
    return std::any_of(s.code.begin(), s.code.end(), [](const Instruction& in) {
        return in.op == Opcode::store_panel_;
    });
}

}  // namespace

Layout::Layout(const Program& program, const Call& call, const Widths& widths)
    : program_(program),
      call_(call),
      schedule_(call.schedule),
      widths_(widths),
      element_size_(call.element_size),
      lanes_(widest(schedule_)),
      block_(block_rows(schedule_)) {
    lay_out_levels();
    choose_threads();
    // Few rows a level use a product badly. What needs no state needs not wait for it; but
    // threads with rows of their own would have to wait for one another.
    hoists_ = !program_.backward && trees_ == nullptr && schedule_.levels > 1 &&
              lanes_ < kOwnRows && (threads_ == 1 || shared_stages_);
    lay_out_chunks();
    lay_out_stages();
    lay_out_memory();
}

bool Layout::left_out(size_t array) const {
    return array < call_.arrays.size() &&
           cellwright::left_out(program_, call_, array, written_[array]);
}

int64_t Layout::most_rows(Axis axis) const {
    return axis == Axis::child ? chunk_children_ : chunk_rows_;
}

void Layout::lay_out_stages() {
    const int W = widths_.lanes;
    for (const Stage& s : program_.stages) {
        StageLayout l{};
        l.vectors = s.whole ? int(ceil_div(s.units, W)) : vectors_of_block(s);
        l.width = int64_t(l.vectors) * W;
        l.blocks = ceil_div(s.units, l.width);
        const int64_t fit = kTileBytes / (s.tiles * l.width * element_size_);
        l.tile_rows = std::clamp<int64_t>(fit, kWideTileRows, widths_.tile_rows);
        for (const Accumulator& a : s.accumulators) {
            l.begin.push_back({Opcode::identity_, a.tile, a.start, 0, 0, 0});
            l.sums_row = std::max(l.sums_row, (a.tile + 1) * l.width);
        }
        if (hoists_ && s.when == When::level) l.hoisted = leading_inputs(s);
        layouts_.push_back(std::move(l));
    }
    panels_.resize(program_.arrays.size());
    for (size_t i = 0; i < program_.arrays.size(); ++i) {
        const Array& a = program_.arrays[i];
        if (a.rows != Rows::panel) continue;
        panels_[i].block = a.columns * layouts_[a.stage].width;
        panels_[i].row = odd_lines(panels_[i].block);
    }
    for (const Reduction& r : program_.reductions) panels_[r.panel].reduced = true;
    for (size_t i = 0; i < program_.stages.size(); ++i) lay_out_terms(i);
    for (const Gradient& g : program_.gradients) {
        const StageLayout& s = layouts_[program_.arrays[g.panel].stage];
        const int64_t units = program_.stages[program_.arrays[g.panel].stage].units;
        GradientLayout l{};
        for (int64_t b = 0; b < s.blocks; ++b)
            l.ranges.push_back(heads_range(b * s.width, std::min(units, (b + 1) * s.width),
                                           units, g.width, g.heads));
        l.source = source_of(g);
        gradients_.push_back(std::move(l));
    }
}

// Gradients that read the same rows share them.
size_t Layout::source_of(const Gradient& g) {
    const View& v = g.source;
    const Axis axis = program_.arrays[g.panel].axis;
    size_t i = 0;
    for (; i < sources_.size(); ++i) {
        const View& other = sources_[i].view;
        if (other.array == v.array && other.previous == v.previous && other.slot == v.slot &&
            sources_[i].axis == axis)
            break;
    }
    if (i == sources_.size()) sources_.push_back({v, axis, 0, 0, 0});
    sources_[i].width = std::max(sources_[i].width, g.width);
    return i;
}

// How many of a stage's terms, from the first on, read what is there before the walk.
size_t Layout::leading_inputs(const Stage& s) const {
    const auto waits = [&](const Term& t) {
        const View& v = s.views[t.view];
        const Array& a = program_.arrays[v.array];
        const bool input = a.rows == Rows::sequence || a.rows == Rows::lane;
        return a.scratch || !input || v.previous ||
               written_[v.array];
    };
    return std::find_if(s.terms.begin(), s.terms.end(), waits) - s.terms.begin();
}

// A tile is as wide as the L1 cache allows for its rows: whole cache lines of each row
// are moved at once, and dispatch is paid for more. Threads that share a stage need
// blocks to share; heads are best one by one. Sums over a panel go block by block: its
// blocks are the same whatever the rows and threads, and so are the sums' bits.
int Layout::vectors_of_block(const Stage& s) const {
    const int64_t W = widths_.lanes, single = ceil_div(s.units, W);
    const bool panel = fills_panel(s), level = s.when == When::level && !panel;
    const int64_t rows =
        panel ? kPanelRows : level ? std::min(rows_at_once(), kReuseRows) : kReuseRows;
    int64_t most = kTileBytes / (s.tiles * rows * W * element_size_);
    if (!panel && (shared_stages_ || !level))
        most = std::min(most, single / (kBlocksEach * threads_));
    for (const Term& t : s.terms) most = std::min(most, single / t.heads);
    int64_t vectors = 1;
    for (int64_t v = 2; v <= single; ++v) {
        const bool line = vectors * W * element_size_ >= kLineBytes;
        const bool padded = ceil_div(single, v) * v * 7 > single * 8;
        if ((v <= most || !line) && !padded) vectors = v;
    }
    return int(vectors);
}

// Rows of a level that one thread sees.
int64_t Layout::rows_at_once() const {
    return shared_stages_ || !own_rows_ ? lanes_ : ceil_div(lanes_, threads_);
}

// How many vectors a product of so many rows computes: enough independent sums to keep
// the processor busy, and no more than its registers hold.
int Layout::vectors_abreast(int64_t rows) const {
    return rows <= kFewRows ? widths_.vectors_of_few_rows / int(std::max<int64_t>(rows, 1))
                            : widths_.vectors;
}

void Layout::lay_out_terms(size_t index) {
    const Stage& s = program_.stages[index];
    StageLayout& l = layouts_[index];
    for (size_t i = 0; i < s.terms.size(); ++i) {
        const Term& t = s.terms[i];
        TermLayout term{};
        term.vectors = int(t.columns.size()) * l.vectors;
        const bool level = s.when == When::level && i >= l.hoisted;
        term.abreast = vectors_abreast(level ? rows_at_once() : chunk_rows_);
        int64_t at = 0;
        for (int64_t b = 0; b < l.blocks; ++b) {
            Range range = heads_range(b * l.width, std::min(s.units, (b + 1) * l.width),
                                      s.units, t.width, t.heads);
            int64_t depth = range.count;
            if (t.transposed) {  // from units of the panel to its blocks
                const int64_t width = layouts_[panel_stage(s, t)].width;
                const int64_t end = ceil_div(range.begin + range.count, width);
                range.begin /= width;
                range.count = end - range.begin;
                depth = range.count * width * int64_t(t.pieces.size());
            }
            range.at = at;
            at += depth * term.vectors * widths_.lanes;
            term.ranges.push_back(range);
        }
        term.weights = reserve(at);
        l.terms.push_back(std::move(term));
    }
    l.row_registers = reserve(s.row_registers * l.width * l.blocks);
}

void Layout::lay_out_levels() {
    const Schedule& s = schedule_;
    int64_t next = 0;
    for (int64_t l = 0; l < s.levels; ++l) {
        ranks_.push_back(walked_);
        walked_ += s.counts[l];
        level_children_ =
            std::max(level_children_, first_child(walked_) - first_child(ranks_[l]));
        starts_.push_back(next);
        while (next < s.start_count && s.starts[next].level == l) ++next;
    }
    starts_.push_back(next);
    bool zeros = trees_ != nullptr || (program_.backward && s.start_count > 0);
    for (size_t i = 0; i < call_.arrays.size(); ++i)
        zeros = zeros || (left_out(i) && program_.arrays[i].rows == Rows::initial);
    if (!zeros) return;
    int64_t columns = 0;
    for (const Array& a : program_.arrays) columns = std::max(columns, a.columns);
    nothing_size_ = size_t(columns + kMaxLanes) * size_t(element_size_);
    nothing_ = reserve(columns + kMaxLanes);
}

void Layout::lay_out_chunks() {
    const Schedule& s = schedule_;
    const auto add = [&](int64_t first, int64_t last) {  // levels [first, last)
        const int64_t base = ranks_[first];
        const int64_t rows = (last < s.levels ? ranks_[last] : walked_) - base;
        const int64_t child = first_child(base);
        chunks_.push_back({first, last, base, rows, child, first_child(base + rows) - child});
        chunk_rows_ = std::max(chunk_rows_, rows);
        chunk_children_ = std::max(chunk_children_, chunks_.back().children);
    };
    if (!program_.backward && !hoists_) return add(0, s.levels);
    const int64_t most = program_.backward ? kChunkRows : kHoistedRows;
    int64_t done = 0, rows = 0;
    const auto close = [&](int64_t end) {  // levels [done, end) in the order of the walk
        if (program_.backward)
            add(s.levels - end, s.levels - done);
        else
            add(done, end);
        done = end;
        rows = 0;
    };
    for (int64_t i = 0; i < s.levels; ++i) {
        const int64_t more = s.counts[program_.backward ? s.levels - 1 - i : i];
        if (rows > 0 && rows + more > most) close(i);
        rows += more;
    }
    close(s.levels);
}

// Rows are independent in a dense walk, so threads may each walk rows of their own;
// where those are few, or the weights too many to pass by twice, they share each
// stage's units and meet after it, if a level is worth a meeting. Where it is not, one
// row, or rows that depend on one another, are walked by the first thread alone; others
// come for what has no order, if it is long: on a busy machine they let it wait, and so
// does a thread that comes for few rows.
void Layout::choose_threads() {
    for (const Stage& s : program_.stages)
        for (const Term& t : s.terms)
            work_ += int64_t(t.pieces.size()) * t.width * s.units / t.heads;
    threads_ = work_ * walked_ < kOneThread ? 1 : call_.threads;
    own_rows_ = schedule_.previous == nullptr && trees_ == nullptr;
    shared_stages_ = threads_ > 1 && work_ * lanes_ >= kOneLevel &&
                     (!own_rows_ || lanes_ < kOwnRows * threads_ ||
                      work_ * element_size_ > kOwnWeights);
    if (shared_stages_) return;
    if (own_rows_ && !program_.backward) threads_ = int(std::min<int64_t>(threads_, lanes_));
    const bool alone = !own_rows_ || lanes_ == 1, few = lanes_ < kOwnRows * threads_;
    const int64_t worth = alone ? kOneWalker : few ? kFewRowsWork : kOneThread;
    if ((alone && !program_.backward) || work_ * walked_ < worth) threads_ = 1;
}

void Layout::lay_out_memory() {
    size_t views = 1;
    int64_t tile = 0;
    for (size_t i = 0; i < program_.stages.size(); ++i) {
        const Stage& s = program_.stages[i];
        views = std::max(views, s.views.size());
        StageLayout& l = layouts_[i];
        tile = std::max(tile, s.tiles * l.tile_rows * l.width);
        if (l.hoisted > 0) l.sums = reserve(l.blocks * chunk_rows_ * l.sums_row);
    }
    table_rows_ = std::max(lanes_, program_.backward || hoists_ ? chunk_rows_ : 0);
    table_rows_ = std::max({table_rows_, level_children_, chunk_children_});
    for (int t = 0; t < threads_; ++t) {
        if (trees_ != nullptr)
            lost_.push_back(memory_.reserve<char>(int64_t(nothing_size_)));
        tiles_.push_back(reserve(tile));
        tables_.push_back(memory_.reserve<void*>(int64_t(views) * table_rows_));
    }
    lay_out_scratch();
    lay_out_sums();
    if (program_.backward) lay_out_tasks();
}

void Layout::lay_out_scratch() {
    scratch_.resize(program_.arrays.size());
    for (size_t i = 0; i < program_.arrays.size(); ++i) {
        const Array& a = program_.arrays[i];
        if (!a.scratch && !(left_out(i) && a.rows == Rows::rolling)) continue;
        if (a.rows == Rows::panel) {
            const StageLayout& s = layouts_[a.stage];
            panels_[i].stride = (most_rows(a.axis) + 1) * panels_[i].row;
            scratch_[i] = reserve(s.blocks * panels_[i].stride);
            if (panels_[i].reduced)
                panels_[i].sums = reserve(s.blocks * panels_[i].block);
        } else {
            const int64_t rows = a.rows != Rows::rolling ? most_rows(a.axis)
                                 : a.axis == Axis::child ? level_children_
                                                         : a.depth * block_;
            scratch_[i] = reserve(rows * scratch_stride(a));
        }
    }
}

void Layout::lay_out_sums() {
    for (size_t i = 0; i < gradients_.size(); ++i) {
        const Gradient& g = program_.gradients[i];
        const int64_t width =
            layouts_[program_.arrays[g.panel].stage].width * int64_t(g.pieces.size());
        int64_t at = 0;
        for (Range& r : gradients_[i].ranges) {
            r.at = at;
            at += r.count * width;
        }
        gradients_[i].sums = reserve(at);
    }
    for (SourceLayout& s : sources_) {
        s.stride = odd_lines(most_rows(s.axis) + kMaxLanes);
        s.columns = reserve(s.width * s.stride);
    }
}

// So many elements or a few more: an odd number of cache lines. What is read across at
// this distance must not all fall into a few of the L1 cache's sets.
int64_t Layout::odd_lines(int64_t elements) const {
    const int64_t line = kLineBytes / element_size_;
    return (ceil_div(elements, line) | 1) * line;
}

int64_t Layout::scratch_stride(const Array& a) const {
    return ceil_div(a.columns, widths_.lanes) * widths_.lanes;
}

void Layout::lay_out_tasks() {
    for (size_t i = 0; i < program_.stages.size(); ++i)
        if (program_.stages[i].when == When::after_chunk)
            for (int64_t b = 0; b < layouts_[i].blocks; ++b)
                for (int64_t r = 0; r < most_rows(program_.stages[i].axis);
                     r += layouts_[i].tile_rows)
                    tasks_.push_back({Task::tile, int(i), b, r});
    for (size_t i = 0; i < gradients_.size(); ++i) {
        GradientLayout& l = gradients_[i];
        // Smaller tasks where there would be too few of them.
        const int64_t all = l.ranges.front().count * int64_t(l.ranges.size());
        l.slice = std::clamp<int64_t>(all / (kBlocksEach * threads_), 12, kSliceColumns);
        for (size_t b = 0; b < l.ranges.size(); ++b)
            for (int64_t k = 0; k < l.ranges[b].count; k += l.slice)
                tasks_.push_back({Task::gradient, int(i), int64_t(b), k});
    }
    for (size_t i = 0; i < panels_.size(); ++i)
        if (panels_[i].reduced)
            for (int64_t b = 0; b < layouts_[program_.arrays[i].stage].blocks; ++b)
                tasks_.push_back({Task::reduction, int(i), b, 0});
}

}  // namespace cellwright
