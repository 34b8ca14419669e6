#include "packing.h"

#include <algorithm>
#include <cstring>

#include "tuning.h"

namespace cellwright {

template <class T> void Packing<T>::pack(int thread) const {
    int64_t turn = 0;  // blocks go to the threads in turn
    const auto mine = [&] { return turn++ % context_.threads == thread; };
    for (size_t i = 0; i < context_.program.stages.size(); ++i)
        for (int64_t b = 0; b < context_.stages[i].blocks; ++b) {
            if (mine()) fill_row_registers(i, b, thread);
            for (size_t t = 0; t < context_.program.stages[i].terms.size(); ++t)
                if (mine()) pack_term(i, t, b, thread);
        }
    for (size_t i = 0; i < context_.program.arrays.size(); ++i) {
        const Array& a = context_.program.arrays[i];
        if (a.rows == Rows::parameter && mine())
            std::copy_n(static_cast<const T*>(context_.call.parameters[a.parameter].data),
                        a.columns, context_.at(context_.scratch[i]));
    }
    clear_gradients(thread);
    if (thread == 0) clear_sums();
}

template <class T> void Packing<T>::clear_gradients(int thread) const {
    for (const Buffer& g : context_.call.gradients) {
        const int64_t n = g.rows * g.columns, from = n * thread / context_.threads;
        std::memset(static_cast<T*>(g.data) + from, 0,
                    size_t(n * (thread + 1) / context_.threads - from) * sizeof(T));
    }
}

template <class T> void Packing<T>::clear_sums() const {
    const auto clear = [&](size_t at, int64_t count) {
        std::memset(context_.at(at), 0, size_t(count) * sizeof(T));
    };
    const auto& arrays = context_.program.arrays;
    for (size_t i = 0; i < context_.gradients.size(); ++i) {
        const Gradient& g = context_.program.gradients[i];
        const GradientLayout& l = context_.gradients[i];
        const int64_t width = context_.stages[arrays[g.panel].stage].width;
        clear(l.sums,
              l.ranges.back().at + l.ranges.back().count * width * int64_t(g.pieces.size()));
    }
    for (size_t i = 0; i < context_.panels.size(); ++i) {
        const PanelLayout& p = context_.panels[i];
        if (p.reduced) clear(p.sums, context_.stages[arrays[i].stage].blocks * p.block);
    }
}

template <class T>
void Packing<T>::fill_row_registers(size_t index, int64_t block, int thread) const {
    const Stage& stage = context_.program.stages[index];
    const StageLayout& s = context_.stages[index];
    T* registers = context_.row_registers(index, block);
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
    t.tile_registers = context_.at(context_.tiles[thread]);
    t.row_registers = registers;
    t.tiles = stage.tiles;
    t.rows = 1;
    t.width = s.width;
    t.units = std::min(s.width, stage.units - block * s.width);
    context_.kernels.pointwise(t);
}

// Weights of a block, in the order in which the product reads them: for each group of
// vectors, for each k, the vectors. Where a block meets several heads, a unit's weights
// outside its own head are 0.
template <class T>
void Packing<T>::pack_term(size_t index, size_t which, int64_t block, int thread) const {
    const Stage& stage = context_.program.stages[index];
    const StageLayout& s = context_.stages[index];
    const Term& term = stage.terms[which];
    const TermLayout& l = s.terms[which];
    int64_t at = l.ranges[block].at;
    for (int first = 0, group = 0, groups = l.groups(); group < groups; ++group) {
        const int next = (group + 1) * l.vectors / groups;
        const int64_t step = int64_t(next - first) * context_.kernels.lanes;
        const Group g{stage, s, term, l.ranges[block], block, first, next, step};
        if (context_.is_narrow())
            at += pack_narrow(g, l, at, thread);
        else
            at += pack_wide(g, context_.at(l.weights) + at) * step;
        first = next;
    }
}

// Returns how many weights there are.
template <class T>
int64_t Packing<T>::pack_narrow(const Group& g, const TermLayout& l, int64_t at,
                                int thread) const {
    void* const out = context_.memory.template at<char>(l.weights) + at * context_.weight_size;
    if (context_.weight_size == context_.element_size) {
        T* const panel = static_cast<T*>(out);
        const int64_t count = pack_wide(g, panel) * g.step;
        context_.kernels.round_row(panel, count, panel);
        return count;
    }
    T* const wide = context_.at(context_.wide_panels[thread]);
    const int64_t depth = pack_wide(g, wide);
    if (context_.program.precision == Precision::bf16) {
        context_.kernels.pack_bf16(wide, depth, g.step, out);
    } else {
        const int64_t column = g.block * l.vectors + g.first;
        context_.kernels.pack_int8(wide, depth, g.step, out,
                                   context_.at(l.scales) + column * context_.kernels.lanes);
    }
    return context_.packed_depth(depth) * g.step;
}

// Returns how many k there were; so does `pack_transposed`.
template <class T> int64_t Packing<T>::pack_direct(const Group& g, T* out) const {
    const int W = context_.kernels.lanes;
    for (int64_t k0 = 0; k0 < g.range.count; k0 += kPackedDepth) {
        const int64_t k1 = std::min(g.range.count, k0 + kPackedDepth);
        for (int v = g.first; v < g.next; ++v) {
            T* d = out + (v - g.first) * W;
            const int64_t unit = g.block * g.layout.width + v % g.layout.vectors * W;
            if (g.term.heads > 1 || unit + W > g.stage.units) {
                pack_units(g, v, k0, k1, d);
                continue;
            }
            const Piece& piece = g.term.pieces[v / g.layout.vectors];
            const T* rows[kMaxLanes];
            for (int lane = 0; lane < W; ++lane)
                rows[lane] = parameter(piece) + (unit + lane) * piece.stride + k0;
            context_.kernels.transpose(rows, k1 - k0, d + k0 * g.step, g.step);
        }
    }
    return g.range.count;
}

// Of one vector, unit by unit: some are padding, or have columns of their own head only.
template <class T>
void Packing<T>::pack_units(const Group& g, int vector, int64_t first_k, int64_t last_k,
                            T* out) const {
    const int W = context_.kernels.lanes;
    const int64_t head = g.term.width / g.term.heads, unit_head = g.stage.units / g.term.heads;
    const Piece& piece = g.term.pieces[vector / g.layout.vectors];
    for (int lane = 0; lane < W; ++lane) {
        const int64_t u = g.block * g.layout.width + vector % g.layout.vectors * W + lane;
        T* d = out + lane;
        // columns of this unit's own head, within the range
        const int64_t begin =
            u < g.stage.units ? u / unit_head * head - g.range.begin : g.range.count;
        const int64_t from = std::clamp(begin, first_k, last_k);
        const int64_t to = std::clamp(begin + head, first_k, last_k);
        const T* w = parameter(piece) + u * piece.stride - begin;
        for (int64_t k = first_k; k < from; ++k) d[k * g.step] = 0;
        for (int64_t k = from; k < to; ++k) d[k * g.step] = w[k];
        for (int64_t k = std::max(from, to); k < last_k; ++k) d[k * g.step] = 0;
    }
}

template <class T> int64_t Packing<T>::pack_transposed(const Group& g, T* out) const {
    const Term& term = g.term;
    const int64_t width = context_.stages[context_.panel_stage(g.stage, term)].width;
    const int64_t head = g.stage.units / term.heads, unit_head = term.width / term.heads;
    const int64_t first_column = g.block * g.layout.width + g.first * context_.kernels.lanes;
    T* d = out;
    for (int64_t b = g.range.begin; b < g.range.begin + g.range.count; ++b)
        for (const Piece& piece : term.pieces)
            for (int64_t u = b * width; u < (b + 1) * width; ++u, d += g.step) {
                std::fill(d, d + g.step, T(0));
                if (u >= term.width) continue;
                const int64_t begin = u / unit_head * head;  // this unit's columns
                const int64_t from = std::max(begin, first_column);
                const int64_t to = std::min(begin + head, first_column + g.step);
                const T* w = parameter(piece) + u * piece.stride;
                if (to > from)
                    std::copy(w + (from - begin), w + (to - begin), d + (from - first_column));
            }
    return g.range.count * width * int64_t(term.pieces.size());
}

template <class T> void Packing<T>::unpack(int thread) {
    for (size_t i = 0; i < context_.gradients.size(); ++i) {
        const Gradient& g = context_.program.gradients[i];
        const StageLayout& s = context_.stages[context_.program.arrays[g.panel].stage];
        for (int64_t b = thread; b < s.blocks; b += context_.threads)
            unpack_gradient(g, context_.gradients[i], b);
        context_.barrier.wait();  // a weight that is used twice gets two gradients
    }
    if (thread != 0) return;
    for (const Reduction& r : context_.program.reductions) unpack_reduction(r);
}

template <class T> void Packing<T>::unpack_reduction(const Reduction& r) const {
    const int32_t stage = context_.program.arrays[r.panel].stage;
    const int64_t width = context_.stages[stage].width;
    const PanelLayout& p = context_.panels[r.panel];
    const T* sums = context_.at(p.sums) + r.column * width;
    T* out = gradient_of(r.piece);
    for (int64_t u = 0; u < context_.program.stages[stage].units; ++u)
        out[u * r.piece.stride] += sums[u / width * p.block + u % width];
}

template <class T>
void Packing<T>::unpack_gradient(const Gradient& g, const GradientLayout& l,
                                 int64_t block) const {
    const int32_t stage = context_.program.arrays[g.panel].stage;
    const int64_t units = context_.program.stages[stage].units;
    const int64_t width = context_.stages[stage].width;
    const Range& range = l.ranges[block];
    const int64_t step = width * int64_t(g.pieces.size());
    const int64_t head = g.width / g.heads, unit_head = units / g.heads;
    const T* sums = context_.at(l.sums) + range.at;
    for (int64_t k0 = 0; k0 < head; k0 += kPackedDepth)
        for (size_t j = 0; j < g.pieces.size(); ++j)
            for (int64_t i = 0, u = block * width; i < width && u < units; ++i, ++u) {
                T* out = gradient_of(g.pieces[j]) + u * g.pieces[j].stride;
                const T* from = sums + (u / unit_head * head - range.begin) * step +
                                int64_t(j) * width + i;
                for (int64_t k = k0; k < std::min(head, k0 + kPackedDepth); ++k)
                    out[k] += from[k * step];
            }
}

template class Packing<float>;
template class Packing<double>;

}  // namespace cellwright
