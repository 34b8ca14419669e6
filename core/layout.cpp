#include "layout.h"

#include <algorithm>

#include "tuning.h"

namespace cellwright {

namespace {

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
    : program(program),
      call(call),
      schedule(call.schedule),
      widths(widths),
      element_size(call.element_size),
      weight_size(call.element_size),
      operand_size(multiplies_bf16() ? 2 : call.element_size),
      written(program.written()),
      level_rows(schedule.widest_level()),
      block_rows(schedule.block_rows()),
      independent_rows(!program.tree) {
    lay_out_levels();
    lay_out_items();
    lay_out_runs();
    choose_threads();
    group_rows_of_items();
    // Few rows a level use a product badly. What needs no state needs not wait for it; but
    // threads with rows of their own would have to wait for one another.
    hoists = !program.backward && independent_rows && schedule.levels > 1 &&
             level_rows < kOwnRows && (threads == 1 || shared_stages);
    lay_out_chunks();
    lay_out_stages();
    lay_out_memory();
}

bool Layout::left_out(size_t array) const {
    return array < call.arrays.size() && call.leaves_out(program, array, written[array]);
}

int64_t Layout::most_rows(Axis axis) const {
    if (axis == Axis::node) return chunk_rows;
    int64_t most = 0;
    for (const Chunk& chunk : chunks) most = std::max(most, rows_of(chunk, axis));
    return most;
}

int64_t Layout::rows_of_level(Axis axis) const {
    if (axis == Axis::item) return items[axis.set].of_rows.back();
    return axis == Axis::child ? level_children : level_rows;
}

void Layout::lay_out_runs() {
    const std::vector<Stage>& all = program.stages;
    for (size_t i = 0; i < all.size();) {
        StageRun run{i, i + 1, all[i].when == When::level, false};
        while (run.levels && run.last < all.size() && all[run.last].when == When::level &&
               all[run.last].loop == all[i].loop)
            ++run.last;
        run.pointwise = run.levels && run.last == i + 1 && independent_rows &&
                        all[i].terms.empty() &&
                        (!all[i].whole || all[i].axis == Axis::matrix);
        if (all[i].when != When::after_chunk) runs.push_back(run);
        chunked = chunked || all[i].when == When::chunk || all[i].recurrence.steps > 0;
        i = run.last;
    }
}

void Layout::lay_out_stages() {
    const int W = widths.lanes;
    for (size_t i = 0; i < program.stages.size(); ++i) {
        const Stage& s = program.stages[i];
        StageLayout l{};
        l.vectors = s.whole ? int(ceil_div(s.units, W)) : vectors_of_block(i);
        l.width = int64_t(l.vectors) * W;
        l.blocks = ceil_div(s.units, l.width);
        const int64_t fit = kTileBytes / (s.tiles * l.width * element_size);
        l.tile_rows = std::clamp<int64_t>(fit, kWideTileRows, widths.tile_rows);
        for (const Accumulator& a : s.accumulators) {
            l.begin.push_back({Opcode::identity_, a.tile, a.start, 0, 0, 0});
            l.sums_row = std::max(l.sums_row, (a.tile + 1) * l.width);
        }
        if (hoists && s.when == When::level && s.axis == Axis::node) l.hoisted = leading_inputs(s);
        stages.push_back(std::move(l));
    }
    lay_out_panels();
    for (size_t i = 0; i < program.stages.size(); ++i) lay_out_terms(i);
    lay_out_gradients();
}

void Layout::lay_out_panels() {
    panels.resize(program.arrays.size());
    for (size_t i = 0; i < program.arrays.size(); ++i) {
        const Array& a = program.arrays[i];
        if (a.rows != Rows::panel) continue;
        panels[i].block = a.columns * stages[a.stage].width;
        panels[i].row = odd_lines(panels[i].block);
    }
    for (const Reduction& r : program.reductions) panels[r.panel].reduced = true;
}

void Layout::lay_out_gradients() {
    for (const Gradient& g : program.gradients) {
        const StageLayout& s = stages[program.arrays[g.panel].stage];
        const int64_t units = program.stages[program.arrays[g.panel].stage].units;
        GradientLayout l{};
        for (int64_t b = 0; b < s.blocks; ++b)
            l.ranges.push_back(heads_range(b * s.width, std::min(units, (b + 1) * s.width),
                                           units, g.width, g.heads));
        l.source = source_of(g);
        gradients.push_back(std::move(l));
    }
}

// Gradients that read the same rows share them.
size_t Layout::source_of(const Gradient& g) {
    const View& v = g.source;
    const Axis axis = program.arrays[g.panel].axis;
    size_t i = 0;
    for (; i < sources.size(); ++i) {
        const View& other = sources[i].view;
        if (other.array == v.array && other.previous == v.previous && other.slot == v.slot &&
            sources[i].axis == axis)
            break;
    }
    if (i == sources.size()) sources.push_back({v, axis, 0, 0, 0});
    sources[i].width = std::max(sources[i].width, g.width);
    return i;
}

// How many of a stage's terms, from the first on, read what is there before the scan.
size_t Layout::leading_inputs(const Stage& s) const {
    const auto waits = [&](const Term& t) {
        const View& v = s.views[t.view];
        const Array& a = program.arrays[v.array];
        const bool input = a.rows == Rows::sequence || a.rows == Rows::batch;
        return a.scratch || !input || v.previous || written[v.array];
    };
    return std::find_if(s.terms.begin(), s.terms.end(), waits) - s.terms.begin();
}

// A tile is as wide as the L1 cache allows for its rows: whole cache lines of each row
// are moved at once, and dispatch is paid for more. Threads that share a stage need
// blocks to share; heads are best one by one. Sums over a panel go block by block: its
// blocks are the same whatever the rows and threads, and so are the sums' bits.
int Layout::vectors_of_block(size_t index) const {
    const Stage& s = program.stages[index];
    const int64_t W = widths.lanes, single = ceil_div(s.units, W);
    const bool panel = fills_panel(s), level = s.when == When::level && !panel;
    const int64_t rows =
        panel ? kPanelRows : level ? std::min(rows_at_once(), kReuseRows) : kReuseRows;
    int64_t most = kTileBytes / (s.tiles * rows * W * element_size);
    const bool pointwise = std::any_of(runs.begin(), runs.end(), [&](const StageRun& r) {
        return r.pointwise && r.first == index;
    });
    if (pointwise && !panel) {
        if (shared_units) most = std::min(most, ceil_div(single, threads));
    } else if (!panel && threads > 1 && (shared_stages || !level)) {
        most = std::min(most, single / (kBlocksEach * threads));
    }
    for (const Term& t : s.terms) most = std::min(most, single / t.heads);
    int64_t vectors = 1;
    for (int64_t v = 2; v <= single; ++v) {
        const bool line = vectors * W * element_size >= kLineBytes;
        const bool padded = ceil_div(single, v) * v * 7 > single * 8;
        if ((v <= most || !line) && !padded) vectors = v;
    }
    return int(vectors);
}

// Rows of a level that one thread sees.
int64_t Layout::rows_at_once() const {
    if (group_rows < level_rows) return group_rows;
    return shared_stages || !independent_rows ? level_rows : ceil_div(level_rows, threads);
}

// How many vectors a product of so many rows computes: enough independent sums to keep
// the processor busy, and no more than its registers hold.
int Layout::vectors_abreast(int64_t rows) const {
    return rows <= kFewRows ? widths.vectors_of_few_rows / int(std::max<int64_t>(rows, 1))
                            : widths.vectors;
}

void Layout::lay_out_terms(size_t index) {
    const Stage& s = program.stages[index];
    StageLayout& l = stages[index];
    for (size_t i = 0; i < s.terms.size(); ++i) {
        const Term& t = s.terms[i];
        TermLayout term{};
        term.vectors = int(t.columns.size()) * l.vectors;
        const bool level = s.when == When::level && i >= l.hoisted;
        term.abreast = vectors_abreast(level ? rows_at_once() : chunk_rows);
        int64_t at = 0;
        for (int64_t b = 0; b < l.blocks; ++b) {
            Range range = heads_range(b * l.width, std::min(s.units, (b + 1) * l.width),
                                      s.units, t.width, t.heads);
            int64_t depth = range.count;
            if (t.transposed) {  // from units of the panel to its blocks
                const int64_t width = stages[panel_stage(s, t)].width;
                const int64_t end = ceil_div(range.begin + range.count, width);
                range.begin /= width;
                range.count = end - range.begin;
                depth = range.count * width * int64_t(t.pieces.size());
            }
            range.at = at;
            widest_panel = std::max(widest_panel, depth * term.abreast * widths.lanes);
            at += packed_depth(depth) * term.vectors * widths.lanes;
            term.ranges.push_back(range);
        }
        term.weights = memory.reserve<char>(at * weight_size);
        if (program.precision == Precision::int8)
            term.scales = reserve(l.blocks * term.vectors * widths.lanes);
        l.terms.push_back(std::move(term));
    }
    l.row_registers = reserve(s.row_registers * l.width * l.blocks);
}

void Layout::lay_out_levels() {
    const Schedule& s = schedule;
    int64_t next = 0;
    for (int64_t l = 0; l < s.levels; ++l) {
        rows_before.push_back(total_rows);
        total_rows += s.counts[l];
        const int64_t children = s.first_child(total_rows) - s.first_child(rows_before[l]);
        level_children = std::max(level_children, children);
        first_reset.push_back(next);
        while (next < s.reset_count && s.resets[next].level == l) ++next;
    }
    first_reset.push_back(next);
    rows_before.push_back(total_rows);
    bool zeros = !independent_rows || (program.backward && s.reset_count > 0);
    for (size_t i = 0; i < call.arrays.size(); ++i)
        zeros = zeros || (left_out(i) && program.arrays[i].rows == Rows::initial);
    if (!zeros) return;
    int64_t columns = 0;
    for (const Array& a : program.arrays) columns = std::max(columns, a.columns);
    zero_row_bytes = size_t(columns + kMaxLanes) * size_t(element_size);
    zero_row = reserve(columns + kMaxLanes);
}

// A row reads the items of its row of the batch, at every level that it lives.
void Layout::lay_out_items() {
    const Schedule& s = schedule;
    items.resize(program.sets());
    for (int32_t set = 0; set < program.sets(); ++set) {
        const int64_t* const first = s.first_item_of(set);
        auto& [of_rows, before] = items[set];
        of_rows.push_back(0);
        for (int64_t r = 0; r < level_rows; ++r) {
            const int64_t at = s.width > 0 ? s.batch_rows[r] : r;
            of_rows.push_back(of_rows[r] + first[at + 1] - first[at]);
        }
        before.push_back(0);
        for (int64_t l = 0; l < s.levels; ++l)
            before.push_back(before[l] + of_rows[s.counts[l]]);
    }
}

// Whether more than a level's items are looked at together.
bool Layout::chunks_items() const {
    const auto of_items = [](const Stage& s) {
        return s.axis == Axis::item && s.when != When::level;
    };
    const auto panel = [](const Array& a) {
        return a.axis == Axis::item && (a.rows == Rows::panel || a.rows == Rows::chunk);
    };
    return std::any_of(program.stages.begin(), program.stages.end(), of_items) ||
           std::any_of(program.arrays.begin(), program.arrays.end(), panel);
}

// Levels of a recurrence that are in one chunk: they are counted from the first level, so
// that what a row gives does not depend on the rows beside it.
int64_t Layout::levels_together() const {
    int64_t most = 1;
    for (const Stage& s : program.stages) most = std::max<int64_t>(most, s.recurrence.steps);
    return most;
}

void Layout::lay_out_chunks() {
    const Schedule& s = schedule;
    const bool together = chunks_items();
    const auto add = [&](int64_t first, int64_t last) {  // levels [first, last)
        const int64_t rows = rows_before[last] - rows_before[first];
        chunks.push_back({first, last, rows_before[first], rows});
        chunk_rows = std::max(chunk_rows, rows);
    };
    if (!program.backward && !hoists && !chunked) return add(0, s.levels);
    const int64_t most = program.backward ? kChunkRows
                         : chunked        ? kForwardRows
                                          : kHoistedRows;
    int64_t done = 0, rows = 0, read = 0;
    const auto close = [&](int64_t end) {  // levels [done, end) in the order of the scan
        if (program.backward)
            add(s.levels - end, s.levels - done);
        else
            add(done, end);
        done = end;
        rows = read = 0;
    };
    const int64_t levels = levels_together();
    for (int64_t i = 0, next = 0; i < s.levels; i = next) {
        const int64_t end = s.levels - i;  // of what is left of a backward scan
        next = program.backward ? s.levels - (end - 1) / levels * levels
                                : std::min(s.levels, i + levels);
        const int64_t first = program.backward ? s.levels - next : i;
        const int64_t last = program.backward ? end : next;
        const int64_t more = rows_before[last] - rows_before[first];
        int64_t reads = 0;
        for (const ItemCounts& of_set : items)
            if (together) reads += of_set.before[last] - of_set.before[first];
        if (rows > 0 && (rows + more > most || read + reads > kChunkItems)) close(i);
        rows += more;
        read += reads;
    }
    close(s.levels);
}

// Rows of sequences are independent, so threads may each scan rows of their own. Where rows
// are few, or all threads' passes over the weights too much, they share each stage's units
// and wait for one another after it, if a level has work enough. If not, the first thread
// scans one row, or rows of trees, alone. The others then only help with the tasks of
// chunks, if there is much to do: on a busy machine a helper may be late, and the first
// thread waits for it.
void Layout::choose_threads() {
    int64_t at_levels = 0, of_items = 0;  // of a level
    for (const Stage& s : program.stages) {
        for (const Term& t : s.terms) {
            const int64_t products = int64_t(t.pieces.size()) * t.width * s.units / t.heads;
            work += products;
            if (s.when != When::chunk) at_levels += products;
        }
        if (s.axis == Axis::item)
            of_items += int64_t(s.code.size()) * s.units * rows_of_level(s.axis);
        if (s.axis == Axis::matrix)
            work += int64_t(s.code.size()) * s.heads * s.matrix_rows * s.units;
    }
    choose_weights(at_levels);
    if (level_rows > 0) work += of_items / level_rows;
    threads = work * total_rows < kOneThread ? 1 : call.threads;
    shared_stages = threads > 1 && items.empty() && at_levels * level_rows >= kOneLevel &&
                    (!independent_rows || level_rows < kOwnRows * threads ||
                     at_levels * weight_size > kOwnWeights);
    shared_units = threads > 1 && independent_rows && level_rows < kOwnRows * threads;
    if (shared_stages) return;
    if (independent_rows && !program.backward && !chunked)
        threads = int(std::min<int64_t>(threads, level_rows));
    const bool alone = !independent_rows || level_rows == 1;
    const bool few = level_rows < kOwnRows * threads;
    const int64_t worth = alone ? kOneScanner : few ? kFewRowsWork : kOneThread;
    if ((alone && !program.backward && !chunked) || work * total_rows < worth) threads = 1;
    shared_units = shared_units && threads > 1;
}

// Weights in bf16 are converted by the products that read them. Where these are of many
// rows, and the weights few, to read them as rounded floats costs less.
void Layout::choose_weights(int64_t count) {
    const bool fit = level_rows > kFewRows && count * element_size <= kRoundedWeights;
    const bool read_narrow = widths.multiplies_bf16 || !fit;
    if (program.precision == Precision::bf16 && read_narrow) weight_size = 2;
    if (program.precision == Precision::int8) weight_size = 1;
}

// At every level a row reads its items again: so few rows go together that these stay in
// the L2 cache from level to level.
void Layout::group_rows_of_items() {
    group_rows = level_rows;
    if (items.empty() || level_rows == 0) return;
    int64_t elements = 0;
    for (const Array& a : program.arrays)
        if (a.axis == Axis::item && !a.scratch && a.rows != Rows::sequence)
            elements += a.columns * rows_of_level(a.axis);
    const int64_t bytes = elements * element_size / level_rows;
    group_rows = std::clamp<int64_t>(kItemBytes / std::max<int64_t>(bytes, 1), kItemRows,
                                     level_rows);
}

// Children, or items, of what is found together: of a level, or of a chunk.
int64_t Layout::most_entries() const {
    if (items.empty()) return std::max(level_children, most_rows({Axis::child, 0}));
    const bool together = chunks_items();
    int64_t most = 0;
    for (int32_t set = 0; set < program.sets(); ++set) {
        const Axis axis{Axis::item, set};
        most = std::max(most, together ? most_rows(axis) : rows_of_level(axis));
    }
    return most;
}

void Layout::lay_out_memory() {
    size_t views = 1;
    int64_t tile = 0, matrix = 0;
    for (size_t i = 0; i < program.stages.size(); ++i) {
        const Stage& s = program.stages[i];
        views = std::max(views, s.views.size());
        if (s.recurrence.steps > 0)
            matrix = std::max(matrix, matrix_scratch(s.matrix_rows, s.units, widths.lanes));
        StageLayout& l = stages[i];
        tile = std::max(tile, s.tiles * l.tile_rows * l.width);
        if (l.hoisted > 0) l.sums = reserve(l.blocks * chunk_rows * l.sums_row);
    }
    table_rows = std::max(level_rows, program.backward || hoists || chunked ? chunk_rows : 0);
    table_rows = std::max(table_rows, most_entries());
    for (int t = 0; t < threads; ++t) {
        if (!independent_rows)
            discarded_rows.push_back(memory.reserve<char>(int64_t(zero_row_bytes)));
        tiles.push_back(reserve(tile));
        tables.push_back(memory.reserve<void*>(int64_t(views) * table_rows));
        matrices.push_back(reserve(matrix));
    }
    lay_out_narrow();
    lay_out_scratch();
    lay_out_sums();
    if (program.backward) lay_out_tasks();
}

// Gate gradients are rounded when they are stored; all other sources of products, here.
void Layout::lay_out_narrow() {
    if (!is_narrow()) return;
    const int64_t line = kLineBytes / element_size;
    int64_t most = 0;
    size_t views = 0;
    for (size_t i = 0; i < stages.size(); ++i) {
        const Stage& s = program.stages[i];
        StageLayout& l = stages[i];
        int64_t at = 0;
        for (size_t t = 0; t < s.terms.size(); ++t) {
            const Term& term = s.terms[t];
            const auto same = [&](const NarrowLayout& n) { return n.view == term.view; };
            if (term.transposed || std::any_of(l.narrow.begin(), l.narrow.end(), same)) continue;
            const int64_t used = program.precision == Precision::int8
                                     ? ceil_div(term.width + 2, 2) + 1
                                     : ceil_div(term.width * operand_size, element_size);
            const int64_t row = ceil_div(used, line) * line;
            l.narrow.push_back({term.view, term.width, row, at, row - 1});
            at += row * table_rows;
        }
        most = std::max(most, at);
        views = std::max(views, l.narrow.size());
    }
    for (int t = 0; t < threads; ++t) {
        narrow_rows.push_back(reserve(most));
        narrow_tables.push_back(memory.reserve<void*>(int64_t(views) * table_rows));
        wide_panels.push_back(reserve(widest_panel));
    }
}

void Layout::lay_out_scratch() {
    scratch.resize(program.arrays.size());
    for (size_t i = 0; i < program.arrays.size(); ++i) {
        const Array& a = program.arrays[i];
        if (!a.scratch && !(left_out(i) && a.rows == Rows::rolling)) continue;
        if (a.rows == Rows::panel) {
            const StageLayout& s = stages[a.stage];
            panels[i].stride = (most_rows(a.axis) + 1) * panels[i].row;
            scratch[i] = memory.reserve<char>(s.blocks * panels[i].stride * operand_size);
            if (panels[i].reduced) panels[i].sums = reserve(s.blocks * panels[i].block);
        } else {
            const int64_t rows = a.rows == Rows::parameter ? 1
                                 : a.rows != Rows::rolling ? most_rows(a.axis)
                                 : a.axis == Axis::child ? level_children
                                 : a.axis == Axis::item ? a.depth * schedule.items(a.axis.set)
                                                        : a.depth * block_rows;
            scratch[i] = reserve(rows * scratch_stride(a));
        }
    }
}

void Layout::lay_out_sums() {
    for (size_t i = 0; i < gradients.size(); ++i) {
        const Gradient& g = program.gradients[i];
        const int64_t width =
            stages[program.arrays[g.panel].stage].width * int64_t(g.pieces.size());
        int64_t at = 0;
        for (Range& r : gradients[i].ranges) {
            r.at = at;
            at += r.count * width;
        }
        gradients[i].sums = reserve(at);
    }
    for (SourceLayout& s : sources) {
        s.stride = odd_lines(most_rows(s.axis) + kMaxLanes);
        s.columns = memory.reserve<char>(s.width * s.stride * operand_size);
    }
}

// So many elements or a few more: an odd number of cache lines. What is read across at
// this distance must not all fall into a few of the L1 cache's sets.
int64_t Layout::odd_lines(int64_t elements) const {
    const int64_t line = kLineBytes / operand_size;
    return (ceil_div(elements, line) | 1) * line;
}

int64_t Layout::scratch_stride(const Array& a) const {
    return ceil_div(a.columns, widths.lanes) * widths.lanes;
}

void Layout::lay_out_tasks() {
    for (size_t i = 0; i < program.stages.size(); ++i) {
        if (program.stages[i].when != When::after_chunk) continue;
        const int64_t rows = most_rows(program.stages[i].axis);
        for (int64_t b = 0; b < stages[i].blocks; ++b)
            for (int64_t r = 0; r < rows; r += stages[i].tile_rows)
                tasks.push_back({Task::tile, int(i), b, r});
    }
    for (size_t i = 0; i < gradients.size(); ++i) {
        GradientLayout& l = gradients[i];
        // Smaller tasks where there would be too few of them.
        const int64_t all = l.ranges.front().count * int64_t(l.ranges.size());
        l.slice = std::clamp<int64_t>(all / (kBlocksEach * threads), kLeastSliceColumns,
                                     kSliceColumns);
        for (size_t b = 0; b < l.ranges.size(); ++b)
            for (int64_t k = 0; k < l.ranges[b].count; k += l.slice)
                tasks.push_back({Task::gradient, int(i), int64_t(b), k});
    }
    for (size_t i = 0; i < panels.size(); ++i)
        if (panels[i].reduced)
            for (int64_t b = 0; b < stages[program.arrays[i].stage].blocks; ++b)
                tasks.push_back({Task::reduction, int(i), b, 0});
}

}  // namespace cellwright
