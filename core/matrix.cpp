#include "matrix.h"

#include <algorithm>

#include "tuning.h"

namespace cellwright {

template <class T>
Matrices<T>::Matrices(const Context<T>& context) : context_(context), threads_(context.threads) {
    size_t views = 0;
    for (const Stage& s : context.program.stages) {
        std::vector<Place>& places = places_.emplace_back();
        together_.push_back(1);
        if (s.axis != Axis::matrix) continue;
        views = std::max(views, s.views.size());
        const Place of_form[] = {{},
                                 {s.matrix_rows * s.units, s.units, s.units, false},
                                 {s.matrix_rows, 1, 1, true},
                                 {s.units, 0, s.units, false},
                                 {1, 0, 1, true},
                                 {0, 0, 1, true}};
        for (const View& v : s.views) places.push_back(of_form[int(v.form)]);
        for (const Instruction& in : s.code)  // a sum over all blocks: in their order
            if (sums_up(s, in) && s.views[in.b].form == Form::number)
                together_.back() = s.heads;
    }
    for (Thread& t : threads_) t.rows.resize(views * kTileRows);
    if (views == 0) return;
    const Schedule& s = context.schedule;
    row_levels_.assign(context.level_rows + 1, s.levels);
    std::vector<int64_t> ending(row_levels_.size());  // levels by their number of rows
    for (int64_t l = 0; l < s.levels; ++l) ++ending[s.counts[l]];
    for (size_t row = 0, levels = 0; row < row_levels_.size(); ++row)
        row_levels_[row] -= levels += ending[row];
}

template <class T>
void Matrices<T>::run(size_t stage, int64_t rows, bool shared, int thread) {
    const int64_t parts = context_.program.stages[stage].heads / together_[stage];
    const int64_t count = shared ? context_.threads : 1, part = shared ? thread : 0;
    const int64_t all = rows * parts, end = all * (part + 1) / count;
    for (int64_t i = all * part / count; i < end; ++i) {
        threads_[thread].at.assign(1, i / parts);
        blocks(stage, i % parts * together_[stage], (i % parts + 1) * together_[stage], thread);
    }
}

template <class T>
void Matrices<T>::run_loop(size_t stage, const Chunk& chunk, int64_t first, int64_t last,
                           bool shared, int thread) {
    const bool backward = context_.program.backward;
    const int64_t parts = context_.program.stages[stage].heads / together_[stage];
    const int64_t count = shared ? context_.threads : 1, part = shared ? thread : 0;
    const int64_t all = (last - first) * parts, levels = chunk.last_level - chunk.first_level;
    const int64_t end = all * (part + 1) / count;
    const bool steps = context_.program.stages[stage].recurrence.steps > 0;
    for (int64_t i = all * part / count; i < end; ++i) {
        const int64_t row = first + i / parts;
        std::vector<int64_t>& at = threads_[thread].at;
        at.clear();
        threads_[thread].levels.clear();
        for (int64_t n = 0; n < levels; ++n) {
            const int64_t l = backward ? chunk.last_level - 1 - n : chunk.first_level + n;
            if (row >= context_.schedule.counts[l]) continue;
            at.push_back(context_.rows_before[l] - chunk.base + row);
            threads_[thread].levels.push_back(l);
        }
        if (steps && (backward || row_levels_[row] >= kLeastSteps))
            recurrence(stage, i % parts, thread);
        else
            blocks(stage, i % parts * together_[stage], (i % parts + 1) * together_[stage],
                   thread);
    }
}

// Groups of levels in the order of the scan; the levels of each in their own order.
template <class T> void Matrices<T>::recurrence(size_t stage, int64_t block, int thread) {
    Thread& t = threads_[thread];
    const bool backward = context_.program.backward;
    if (backward) {
        std::reverse(t.at.begin(), t.at.end());
        std::reverse(t.levels.begin(), t.levels.end());
    }
    std::vector<size_t> starts;
    for (size_t i = 0; i < t.at.size(); ++i)
        if (i == 0 || !follows(stage, i - 1, i, thread)) starts.push_back(i);
    starts.push_back(t.at.size());
    for (size_t n = 0; n + 1 < starts.size(); ++n) {
        const size_t i = backward ? starts.size() - 2 - n : n;
        steps(stage, block, t.at.data() + starts[i], t.at.data() + starts[i + 1], thread);
    }
}

// Whether a row goes on from one of its levels to the next, and both go together.
template <class T>
bool Matrices<T>::follows(size_t stage, size_t earlier, size_t later, int thread) const {
    const Recurrence& r = context_.program.stages[stage].recurrence;
    const Thread& t = threads_[thread];
    return t.levels[earlier] / r.steps == t.levels[later] / r.steps &&
           context_.row_pointers(thread, r.after)[t.at[earlier]] ==
               context_.row_pointers(thread, r.before)[t.at[later]];
}

template <class T>
void Matrices<T>::steps(size_t index, int64_t block, const int64_t* first, const int64_t* last,
                        int thread) {
    const Stage& stage = context_.program.stages[index];
    const Recurrence& r = stage.recurrence;
    T** next = threads_[thread].rows.data();
    const auto row = [&](int32_t view, int64_t at) -> T* {
        if (view < 0) return nullptr;
        return context_.row_pointers(thread, view)[at] + block * places_[index][view].of_block;
    };
    const auto rows = [&](int32_t view) -> T* const* {
        if (view < 0) return nullptr;
        T** const begin = next;
        for (const int64_t* at = first; at < last; ++at) *next++ = row(view, *at);
        return begin;
    };
    MatrixSteps<T> s{};
    s.steps = last - first;
    s.rows = stage.matrix_rows;
    s.columns = stage.units;
    s.v = rows(r.v);
    s.k = rows(r.k);
    s.q = rows(r.q);
    s.y = rows(r.y);
    s.gates = rows(r.gate);
    s.decay = T(r.decay);
    s.before = row(r.before, *first);
    s.scratch = context_.at(context_.matrices[thread]);
    if (!context_.program.backward) {
        s.after = row(r.after, last[-1]);
        return context_.kernels.matrix_steps(s);
    }
    s.d_v = rows(r.d_v);
    s.d_k = rows(r.d_k);
    s.d_q = rows(r.d_q);
    s.d_gates = rows(r.d_gate);
    s.d_after = row(r.d_after, last[-1]);
    s.d_before = row(r.d_before, *first);
    context_.kernels.matrix_steps_backward(s);
}

template <class T>
void Matrices<T>::blocks(size_t stage, int64_t first, int64_t last, int thread) {
    const int64_t rows = context_.program.stages[stage].matrix_rows;
    const int64_t tiles = ceil_div(rows, context_.stages[stage].tile_rows);
    for (int64_t block = first; block < last; ++block) {
        clear_sums(stage, block, thread);
        for (int64_t t = 0; t < tiles; ++t) {
            const int64_t row = t * rows / tiles, count = (t + 1) * rows / tiles - row;
            for (const int64_t at : threads_[thread].at)
                run_tile(stage, at, block, row, count, thread);
        }
    }
}

template <class T>
void Matrices<T>::clear_sums(size_t stage, int64_t block, int thread) const {
    const Stage& s = context_.program.stages[stage];
    for (const Instruction& in : s.code) {
        if (!sums_up(s, in)) continue;
        const Place& place = places_[stage][in.b];
        if (place.of_block == 0 && block > 0) continue;  // one sum over all blocks
        T* const* rows = context_.row_pointers(thread, in.b);
        for (const int64_t at : threads_[thread].at)
            std::fill_n(rows[at] + block * place.of_block, place.units, T(0));
    }
}

template <class T>
void Matrices<T>::run_tile(size_t index, int64_t at, int64_t block, int64_t row, int64_t rows,
                           int thread) {
    const Stage& stage = context_.program.stages[index];
    const StageLayout& s = context_.stages[index];
    TileView<T> views[kMaxViews];
    T** out = threads_[thread].rows.data();
    for (size_t v = 0; v < stage.views.size(); ++v) {
        const Place& place = places_[index][v];
        T* const first = context_.row_pointers(thread, v)[at] + block * place.of_block +
                         row * place.of_row;
        for (int64_t r = 0; r < rows; ++r) out[r] = first + r * place.of_row;
        views[v].rows = out;
        views[v].offset = 0;
        views[v].units = place.units;
        views[v].spread = place.spread;
        views[v].segments = nullptr;
        views[v].bf16 = false;
        out += rows;
    }
    Tile<T> t{};
    t.tile_registers = context_.at(context_.tiles[thread]);
    t.tile_size = s.tile_rows * s.width;
    t.row_registers = context_.row_registers(index, 0);
    t.tiles = stage.tiles;
    t.rows = rows;
    t.width = s.width;
    t.units = stage.units;
    t.views = views;
    t.code = stage.code.data();
    t.count = int64_t(stage.code.size());
    context_.kernels.pointwise(t);
}

template class Matrices<float>;
template class Matrices<double>;

}  // namespace cellwright
