// The pointwise interpreter: each instruction runs over a whole tile, so that its
// dispatch is paid once a tile. A tile's registers stay in the L1 cache.
#pragma once

#include "../kernels.h"
#include "../large_angle.h"
#include "math.h"
#include "bf16.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

// A register as the loops see it: a row register repeats (stride 0). Or, with `rows`, what
// a load has left in memory.
template <class T> struct Operand {
    T* data;
    int64_t stride;
    T* const* rows = nullptr;
    int64_t offset = 0;

    T* row(int64_t r) const { return rows ? rows[r] + offset : data + r * stride; }
};

template <class T> static Operand<T> operand(const Tile<T>& t, int32_t index) {
    if (index < t.tiles) return {t.tile_registers + index * t.tile_size, t.width};
    return {t.row_registers + (index - t.tiles) * t.width, 0};
}

// f over every vector of a tile; N operands. A row register as destination is one row.
template <class T, class F>
CELLWRIGHT_INLINE void map(const Tile<T>& t, Operand<T> d, Operand<T> a, Operand<T> b,
                           Operand<T> c, F f) {
    int64_t rows = d.stride == 0 ? 1 : t.rows, width = t.width;
    if (d.stride != 0 && a.stride == width && b.stride == width && c.stride == width) {
        width *= rows;  // all dense: one long row
        rows = 1;
    }
    for (int64_t r = 0; r < rows; ++r) {
        const T *x = a.row(r), *y = b.row(r), *z = c.row(r);
        T* out = d.data + r * d.stride;
        for (int64_t i = 0; i < width; i += kLanes<T>)
            store<T>(out + i, f(load(x + i), load(y + i), load(z + i)));
    }
}

// sin, or cos with a quarter of 1. The first pass leaves what lies beyond the bound as
// it is; that is more than 1, so a second one, if any is needed, knows it by its size.
template <class T, int quarter>
static void map_sine(const Tile<T>& t, Operand<T> d, Operand<T> a) {
    IVec<T> any = {};
    map(t, d, a, a, a, [&](Vec<T> x, Vec<T>, Vec<T>) __attribute__((always_inline)) {
        const IVec<T> beyond = beyond_sine<T>(x);
        any |= beyond;
        return beyond ? x : sine<T, quarter>(x);
    });
    bool found = false;
    for (int i = 0; i < kLanes<T>; ++i) found |= any[i] != 0;
    if (!found) return;
    const int64_t count = d.stride == 0 ? t.width : t.rows * t.width;
    for (T* y = d.data; y < d.data + count; ++y)
        if (__builtin_fabs(*y) > Coefficients<T>::sine_bound)
            *y = (T)sine_of_large(*y, quarter);
}

// A tile is a few cache lines of each row, too short a run for the processor to see
// coming. The next block of units follows in the same rows: fetch it while this one is
// computed.
template <class T, bool kWrite>
CELLWRIGHT_INLINE void fetch_next(const T* row, const TileView<T>& v, int64_t width) {
    const int64_t size = v.bf16 ? 2 : int64_t(sizeof(T));
    const char* next = (const char*)row + (v.offset + width) * size;
    if (v.units >= 2 * width)
        for (int64_t i = 0; i < width * size; i += 64)
            __builtin_prefetch(next + i, kWrite, 2);
}

// A row of a view in bf16, from its offset on, to a whole row of a tile; and `units` of one
// back.
template <class T> CELLWRIGHT_INLINE void load_half(T* d, const T* row, const TileView<T>& v,
                                                    int64_t width) {
    if constexpr (sizeof(T) == 4) {
        if (v.spread) {
            float first[kLanes<float>];
            widen(row, v.offset, 1, first);
            for (int64_t i = 0; i < width; i += kLanes<T>) store<T>(d + i, splat<T>(first[0]));
            return;
        }
        fetch_next<T, false>(row, v, width);
        const int64_t units = v.units < width ? v.units : width;
        widen(row, v.offset, units, d);
        for (int64_t i = (units + kLanes<T> - 1) / kLanes<T> * kLanes<T>; i < width;
             i += kLanes<T>)
            store<T>(d + i, Vec<T>{});
    }
}
template <class T> CELLWRIGHT_INLINE void store_half(T* row, const T* s, const TileView<T>& v,
                                                     int64_t width) {
    if constexpr (sizeof(T) == 4) {
        fetch_next<T, true>(row, v, width);
        narrow(s, v.units < width ? v.units : width, row, v.offset);
    }
}

template <class T> static void load_tile(const Tile<T>& t, T* d, const TileView<T>& v) {
    for (int64_t r = 0; r < t.rows; ++r, d += t.width) {
        const T* s = v.rows[r];
        if (v.bf16) {
            load_half(d, s, v, t.width);
        } else if (v.spread) {
            for (int64_t i = 0; i < t.width; i += kLanes<T>) store<T>(d + i, splat<T>(s[0]));
        } else if (v.units >= t.width) {
            fetch_next<T, false>(s, v, t.width);
            for (int64_t i = 0; i < t.width; i += kLanes<T>)
                store<T>(d + i, load(s + v.offset + i));
        } else {
            copy_row<T, true>(d, s + v.offset, v.units, t.width);
        }
    }
}

// d += a row of a view in bf16.
template <class T> static void add_half(T* d, const T* row, const TileView<T>& v,
                                        int64_t width) {
    constexpr int64_t W = kLanes<T>;
    TileView<T> part = v;
    alignas(64) T wide[W];
    for (int64_t i = 0; i < width; i += W) {
        load_half(wide, row, part, W);
        store<T>(d + i, load(d + i) + load(wide));
        if (v.spread) continue;
        part.offset += W;
        part.units = part.units > W ? part.units - W : 0;
    }
}

// Children in their order: one chain of additions, whatever the tile.
template <class T> static void total_tile(const Tile<T>& t, T* d, const TileView<T>& v) {
    for (int64_t r = 0; r < t.rows; ++r, d += t.width) {
        for (int64_t i = 0; i < t.width; ++i) d[i] = 0;
        for (int64_t e = v.segments[r]; e < v.segments[r + 1]; ++e) {
            const T* s = v.rows[e - v.segments[0]];
            if (v.bf16) {
                add_half(d, s, v, t.width);
            } else if (v.spread) {
                for (int64_t i = 0; i < t.width; ++i) d[i] += s[0];
            } else if (v.units >= t.width) {
                for (int64_t i = 0; i < t.width; i += kLanes<T>)
                    store<T>(d + i, load(d + i) + load(s + v.offset + i));
            } else {
                for (int64_t i = 0; i < v.units; ++i) d[i] += s[v.offset + i];
            }
        }
    }
}

template <class T>
static void store_tile(const Tile<T>& t, Operand<T> a, const TileView<T>& v) {
    for (int64_t r = 0; r < t.rows; ++r) {
        T* d = v.rows[r] + v.offset;
        const T* s = a.data + r * a.stride;
        if (v.bf16) {
            store_half(v.rows[r], s, v, t.width);
        } else if (v.units >= t.width) {
            fetch_next<T, true>(v.rows[r], v, t.width);
            for (int64_t i = 0; i < t.width; i += kLanes<T>) store<T>(d + i, load(s + i));
        } else {
            copy_row<T, false>(d, s, v.units, t.width);
        }
    }
}

// d += `count` rows: N vectors.
template <class T, int N>
CELLWRIGHT_INLINE void add_rows(T* d, const T* rows, int64_t stride, int64_t count) {
    Vec<T> sums[N];
    for (int v = 0; v < N; ++v) sums[v] = load(d + v * kLanes<T>);
    for (int64_t r = 0; r < count; ++r)
        for (int v = 0; v < N; ++v) sums[v] += load(rows + r * stride + v * kLanes<T>);
    for (int v = 0; v < N; ++v) store<T>(d + v * kLanes<T>, sums[v]);
}

// Several items may add to one row, in their order: one chain of additions, whatever the
// tile.
template <class T>
static void accumulate(const Tile<T>& t, Operand<T> a, const TileView<T>& v) {
    constexpr int W = kLanes<T>;
    const int64_t units = v.units < t.width ? v.units : t.width;
    for (int64_t r = 0, next = 1; r < t.rows; r = next++) {
        while (next < t.rows && v.rows[next] == v.rows[r]) ++next;
        T* d = v.rows[r] + v.offset;
        const T* s = a.row(r);
        const int64_t count = next - r;
        int64_t i = 0;
        for (; i + 4 * W <= units; i += 4 * W) add_rows<T, 4>(d + i, s + i, a.stride, count);
        for (; i + W <= units; i += W) add_rows<T, 1>(d + i, s + i, a.stride, count);
        for (; i < units; ++i)
            for (int64_t k = 0; k < count; ++k) d[i] += s[k * a.stride + i];
    }
}

// The rows of one row's items, in views of a stage of nodes.
template <class T> static T* const* items_of(const TileView<T>& v, int64_t r) {
    return v.rows + (v.segments[r] - v.segments[0]);
}
template <class T> static int64_t count_of(const TileView<T>& v, int64_t r) {
    return v.segments[r + 1] - v.segments[r];
}

// d += sum over the items of weight * value: N vectors from unit i on.
template <class T, int N>
CELLWRIGHT_INLINE void add_weighted(T* d, T* const* weights, T* const* values, int64_t n,
                                    int64_t at) {
    Vec<T> sums[N] = {};
    for (int64_t e = 0; e < n; ++e) {
        const Vec<T> w = splat<T>(weights[e][0]);
        for (int v = 0; v < N; ++v) sums[v] += w * load(values[e] + at + v * kLanes<T>);
    }
    for (int v = 0; v < N; ++v) store<T>(d + v * kLanes<T>, sums[v]);
}

// Items in their order, whatever the tile.
template <class T>
static void weighted_total(const Tile<T>& t, T* d, const TileView<T>& w, const TileView<T>& v) {
    constexpr int W = kLanes<T>;
    for (int64_t r = 0; r < t.rows; ++r, d += t.width) {
        T* const* weights = items_of(w, r);
        T* const* values = items_of(v, r);
        const int64_t n = count_of(v, r), units = v.units < t.width ? v.units : t.width;
        if (v.spread) {
            T sum = 0;
            for (int64_t e = 0; e < n; ++e) sum += weights[e][0] * values[e][0];
            for (int64_t i = 0; i < t.width; ++i) d[i] = sum;
            continue;
        }
        int64_t i = 0;
        for (; i + 4 * W <= units; i += 4 * W)
            add_weighted<T, 4>(d + i, weights, values, n, v.offset + i);
        for (; i + W <= units; i += W)
            add_weighted<T, 1>(d + i, weights, values, n, v.offset + i);
        for (; i < t.width; ++i) {
            d[i] = 0;
            for (int64_t e = 0; e < n && i < units; ++e)
                d[i] += weights[e][0] * values[e][v.offset + i];
        }
    }
}

template <class T>
static void dot_items(const Tile<T>& t, Operand<T> a, const TileView<T>& out,
                      const TileView<T>& v) {
    constexpr int W = kLanes<T>;
    for (int64_t r = 0; r < t.rows; ++r) {
        const T* q = a.data + r * a.stride;
        T* const* values = items_of(v, r);
        T* const* sums = items_of(out, r);
        for (int64_t e = 0, n = count_of(v, r); e < n; ++e) {
            Vec<T> s0 = {}, s1 = {};
            int64_t i = 0;
            for (; i + 2 * W <= t.units; i += 2 * W) {
                s0 += load(q + i) * load(values[e] + i);
                s1 += load(q + i + W) * load(values[e] + i + W);
            }
            for (; i + W <= t.units; i += W) s0 += load(q + i) * load(values[e] + i);
            T sum = sum_of_lanes<T>(s0 + s1);
            for (; i < t.units; ++i) sum += q[i] * values[e][i];
            sums[e][0] = sum;
        }
    }
}

template <class T>
static void outer_items(const Tile<T>& t, Operand<T> a, const TileView<T>& out,
                        const TileView<T>& w) {
    constexpr int W = kLanes<T>;
    for (int64_t r = 0; r < t.rows; ++r) {
        const T* g = a.data + r * a.stride;
        T* const* weights = items_of(w, r);
        T* const* rows = items_of(out, r);
        const int64_t units = out.units < t.width ? out.units : t.width;
        for (int64_t e = 0, n = count_of(out, r); e < n; ++e) {
            T* d = rows[e] + out.offset;
            const Vec<T> s = splat<T>(weights[e][0]);
            int64_t i = 0;
            for (; i + W <= units; i += W) store<T>(d + i, load(d + i) + s * load(g + i));
            for (; i < units; ++i) d[i] += weights[e][0] * g[i];
        }
    }
}

// exp(score - top) of n items, from row to row; returns their sum.
template <class T>
static T exponentials(T* const* scores, T* const* out, int64_t n, int64_t unit, T top) {
    constexpr int W = kLanes<T>;
    T few[W], sum = 0;
    for (int64_t i = 0; i < n; i += W) {
        const int64_t count = n - i < W ? n - i : W;
        for (int64_t j = 0; j < W; ++j) few[j] = scores[i + (j < count ? j : 0)][unit] - top;
        store<T>(few, exponential<T>(load(few)));
        for (int64_t j = 0; j < count; ++j) sum += out[i + j][unit] = few[j];
    }
    return sum;
}

// Softmax over the items of each row, unit by unit; no items: nothing.
template <class T>
static void attention_tile(const Tile<T>& t, const TileView<T>& from, const TileView<T>& to) {
    for (int64_t r = 0; r < t.rows; ++r) {
        const int64_t n = count_of(from, r);
        T* const* scores = items_of(from, r);
        T* const* out = items_of(to, r);
        for (int64_t u = from.offset; n > 0 && u < from.offset + t.units; ++u) {
            T top = scores[0][u];
            for (int64_t i = 1; i < n; ++i) {
                const T v = scores[i][u];
                top = v > top || v != v ? v : top;
            }
            const T scale = (T)1 / exponentials(scores, out, n, u, top);
            for (int64_t i = 0; i < n; ++i) out[i][u] *= scale;
        }
    }
}

// Of numbers: w (g - sum of w g), where g is the cotangent of what has the softmax w.
template <class T>
static void attention_gradient(const Tile<T>& t, const TileView<T>& weights,
                               const TileView<T>& out, const TileView<T>& cotangents) {
    for (int64_t r = 0; r < t.rows; ++r) {
        const int64_t n = count_of(weights, r);
        T* const* w = items_of(weights, r);
        T* const* g = items_of(cotangents, r);
        T* const* d = items_of(out, r);
        T sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += w[i][0] * g[i][0];
        for (int64_t i = 0; i < n; ++i) d[i][0] = w[i][0] * (g[i][0] - sum);
    }
}

// -- matrices: a tile is some rows of a block; a view that is spread has one number a row.
// Rows of a tile without padding, `columns` elements each, are read and written in vectors,
// and what is left over one by one.

template <class T>
static void load_scaled(const Tile<T>& t, T* d, const TileView<T>& v, const TileView<T>& by) {
    constexpr int W = kLanes<T>;
    const int64_t units = t.units, width = t.width;
    for (int64_t r = 0; r < t.rows; ++r, d += width) {
        const T *row = v.rows[r], scale = by.rows[r][0];
        int64_t i = 0;
        for (; i + W <= units; i += W) store<T>(d + i, splat<T>(scale) * load(row + i));
        for (; i < units; ++i) d[i] = scale * row[i];
        for (; i < width; ++i) d[i] = 0;
    }
}

template <class T>
static void add_outer(const Tile<T>& t, T* d, Operand<T> a, const TileView<T>& v,
                      const TileView<T>& columns) {
    constexpr int W = kLanes<T>;
    const T* k = columns.rows[0];
    const int64_t units = t.units, width = t.width;
    for (int64_t r = 0; r < t.rows; ++r, d += width) {
        const T *row = a.data + r * a.stride, scale = v.rows[r][0];
        int64_t i = 0;
        for (; i + W <= units; i += W)
            store<T>(d + i, load(row + i) + splat<T>(scale) * load(k + i));
        for (; i < units; ++i) d[i] = row[i] + scale * k[i];
        for (; i < width; ++i) d[i] = 0;
    }
}

template <class T> CELLWRIGHT_INLINE T dot(const T* a, const T* b, int64_t n) {
    constexpr int W = kLanes<T>;
    Vec<T> s0 = {}, s1 = {};
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        s0 += load(a + i) * load(b + i);
        s1 += load(a + i + W) * load(b + i + W);
    }
    for (; i + W <= n; i += W) s0 += load(a + i) * load(b + i);
    T sum = sum_of_lanes<T>(s0 + s1);
    for (; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

template <class T>
static void dot_columns(const Tile<T>& t, Operand<T> a, const TileView<T>& out,
                        const TileView<T>& v) {
    for (int64_t r = 0; r < t.rows; ++r)
        out.rows[r][0] = dot(a.data + r * a.stride, v.rows[0], t.units);
}

// N vectors from column i on.
template <class T, int N>
CELLWRIGHT_INLINE void add_rows(T* d, const T* a, int64_t stride, T* const* scales,
                                int64_t rows) {
    Vec<T> sums[N];
    for (int v = 0; v < N; ++v) sums[v] = load(d + v * kLanes<T>);
    for (int64_t r = 0; r < rows; ++r, a += stride) {
        const Vec<T> s = splat<T>(scales[r][0]);
        for (int v = 0; v < N; ++v) sums[v] += s * load(a + v * kLanes<T>);
    }
    for (int v = 0; v < N; ++v) store<T>(d + v * kLanes<T>, sums[v]);
}

// Rows in their order: one chain of additions, whatever the tile.
template <class T>
static void dot_rows(const Tile<T>& t, Operand<T> a, const TileView<T>& out,
                     const TileView<T>& v) {
    constexpr int W = kLanes<T>;
    T* d = out.rows[0];
    int64_t i = 0;
    for (; i + 4 * W <= t.units; i += 4 * W)
        add_rows<T, 4>(d + i, a.data + i, a.stride, v.rows, t.rows);
    for (; i + W <= t.units; i += W)
        add_rows<T, 1>(d + i, a.data + i, a.stride, v.rows, t.rows);
    for (; i < t.units; ++i)
        for (int64_t r = 0; r < t.rows; ++r) d[i] += v.rows[r][0] * a.data[r * a.stride + i];
}

template <class T>
static void sum_block(const Tile<T>& t, Operand<T> a, const TileView<T>& out) {
    constexpr int W = kLanes<T>;
    Vec<T> sums = {};
    T rest = 0;
    for (int64_t r = 0; r < t.rows; ++r) {
        const T* row = a.data + r * a.stride;
        int64_t i = 0;
        for (; i + W <= t.units; i += W) sums += load(row + i);
        for (; i < t.units; ++i) rest += row[i];
    }
    out.rows[0][0] += sum_of_lanes<T>(sums) + rest;
}

template <class T>
static void dot_block(const Tile<T>& t, Operand<T> a, const TileView<T>& out,
                      const TileView<T>& v) {
    constexpr int W = kLanes<T>;
    Vec<T> s0 = {}, s1 = {};
    T rest = 0;
    for (int64_t r = 0; r < t.rows; ++r) {
        const T *row = a.data + r * a.stride, *other = v.rows[r];
        int64_t i = 0;
        for (; i + 2 * W <= t.units; i += 2 * W) {
            s0 += load(row + i) * load(other + i);
            s1 += load(row + i + W) * load(other + i + W);
        }
        for (; i + W <= t.units; i += W) s0 += load(row + i) * load(other + i);
        for (; i < t.units; ++i) rest += row[i] * other[i];
    }
    out.rows[0][0] += sum_of_lanes<T>(s0 + s1) + rest;
}

template <class T>
CELLWRIGHT_INLINE void store_half_panel(const Tile<T>& t, const T* s, T* row, int64_t first) {
    if constexpr (sizeof(T) == 4) {
        const int64_t units = t.units < t.width ? t.units : t.width;
        narrow(s, units, row, first);
        if (units < t.width)
            __builtin_memset((uint16_t*)row + first + units, 0, size_t(t.width - units) * 2);
    }
}

// Padding becomes 0: a product reads it, against weights that are 0.
template <class T>
static void store_panel(const Tile<T>& t, Operand<T> a, const TileView<T>& v,
                        int64_t column) {
    for (int64_t r = 0; r < t.rows; ++r) {
        const T* s = a.data + r * a.stride;
        if (v.bf16) {
            store_half_panel(t, s, v.rows[r], v.offset + column * t.width);
            continue;
        }
        T* d = v.rows[r] + v.offset + column * t.width;
        if (t.units >= t.width) {
            for (int64_t i = 0; i < t.width; i += kLanes<T>) store<T>(d + i, load(s + i));
        } else {
            copy_row<T, true>(d, s, t.units, t.width);
        }
        if constexpr (sizeof(T) == 4)
            if (v.rounded)
                for (int64_t i = 0; i < t.width; i += kLanes<T>)
                    store<T>(d + i, rounded_to_bf16(load(d + i)));
    }
}

template <class T> static T sum_of(const T* v, int64_t n) {
    constexpr int W = kLanes<T>;
    Vec<T> s = {};
    int64_t i = 0;
    for (; i + W <= n; i += W) s += load(v + i);
    T sum = sum_of_lanes<T>(s);
    for (; i < n; ++i) sum += v[i];
    return sum;
}

// The reductions. Each works on one block of a row; the caller's result may be its
// argument. What a reduction gives for a whole block stands in each of its elements.
template <class T> static void reduce_sum(T* d, const T* a, int64_t n, double) {
    const T s = sum_of(a, n);
    for (int64_t i = 0; i < n; ++i) d[i] = s;
}
template <class T> static void reduce_mean(T* d, const T* a, int64_t n, double) {
    const T s = sum_of(a, n) / (T)n;
    for (int64_t i = 0; i < n; ++i) d[i] = s;
}
template <class T> static void reduce_norm(T* d, const T* a, int64_t n, double eps) {
    const T mean = sum_of(a, n) / (T)n;
    for (int64_t i = 0; i < n; ++i) d[i] = a[i] - mean;
    T squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += d[i] * d[i];
    T scale = (T)1 / square_root<T>(splat<T>(squares / (T)n + (T)eps))[0];
    if (scale == 0) scale = (T)__builtin_nan("");  // too large to square: no number
    for (int64_t i = 0; i < n; ++i) d[i] *= scale;
}
template <class T> static void reduce_softmax(T* d, const T* a, int64_t n, double) {
    constexpr int W = kLanes<T>;
    T top = a[0];
    for (int64_t i = 1; i < n; ++i) top = a[i] > top || a[i] != a[i] ? a[i] : top;
    int64_t i = 0;
    for (; i + W <= n; i += W) store<T>(d + i, exponential<T>(load(a + i) - top));
    for (; i < n; ++i) d[i] = exponential<T>(splat<T>(a[i] - top))[0];
    const T scale = (T)1 / sum_of(d, n);
    for (i = 0; i < n; ++i) d[i] *= scale;
}

template <class T, class F>
static void reduce(const Tile<T>& t, Operand<T> d, Operand<T> a, int64_t blocks,
                   double immediate, F f) {
    const int64_t n = t.units / blocks;
    const int64_t rows = d.stride == 0 ? 1 : t.rows;
    for (int64_t r = 0; r < rows; ++r) {
        T* out = d.data + r * d.stride;
        for (int64_t b = 0; b < blocks; ++b)
            f(out + b * n, a.data + r * a.stride + b * n, n, immediate);
        for (int64_t i = t.units; i < t.width; ++i) out[i] = 0;
    }
}

template <class T> static void pointwise(const Tile<T>& t) {
    using V = Vec<T>;
    const V zero = {}, one = splat<T>(1);
    Operand<T> in_place[2];  // what loads have left in memory, for the next instruction,
    int32_t placed[2];       // and the registers that it is of
    int waiting = 0;
    for (int64_t at = 0; at < t.count; ++at) {
        const Instruction& in = t.code[at];
        const Operand<T> d = operand(t, in.dst < 0 ? 0 : in.dst);
        // Operands that an instruction does not read repeat its first.
        const auto apply = [&](int reads, auto f) __attribute__((always_inline)) {
            Operand<T> a = operand(t, in.a), b = reads > 1 ? operand(t, in.b) : a;
            for (; waiting > 0; --waiting) {
                if (placed[waiting - 1] == in.a) a = in_place[waiting - 1];
                if (placed[waiting - 1] == in.b) b = in_place[waiting - 1];
            }
            const Operand<T> c = reads > 2 ? operand(t, in.c) : a;
            map(t, d, a, b, c, f);
        };
        switch (in.op) {
#define CASE(name, reads, value)                                                  \
    case Opcode::name##_:                                                         \
        apply(reads, [=](V a, V b, V c) __attribute__((always_inline)) -> V {     \
            (void)b, (void)c;                                                     \
            return value;                                                         \
        });                                                                       \
        break;
            CASE(add, 2, a + b)
            CASE(sub, 2, a - b)
            CASE(mul, 2, a * b)
            CASE(div, 2, a / b)
            CASE(neg, 1, -a)
            CASE(greater, 2, a > b ? one : zero)
            CASE(greater_equal, 2, a >= b ? one : zero)
            CASE(less, 2, a < b ? one : zero)
            CASE(less_equal, 2, a <= b ? one : zero)
            CASE(equal, 2, a == b ? one : zero)
            CASE(not_equal, 2, a != b ? one : zero)
            CASE(sigmoid, 1, sigmoid<T>(a))
            CASE(tanh, 1, hyperbolic_tangent<T>(a))
            CASE(relu, 1, a < zero ? zero : a)
            CASE(softplus, 1, softplus<T>(a))
            CASE(exp, 1, exponential<T>(a))
            CASE(log, 1, logarithm<T>(a))
            CASE(abs, 1, absolute<T>(a))
            CASE(sqrt, 1, square_root<T>(a))
            CASE(identity, 1, a)
            CASE(maximum, 2, a > b ? a : (b == b ? (a == a ? b : a) : b))
            CASE(minimum, 2, a < b ? a : (b == b ? (a == a ? b : a) : b))
            CASE(where, 3, a != zero ? b : c)
            CASE(spread, 2, a)
#undef CASE
            case Opcode::sin_: map_sine<T, 0>(t, d, operand(t, in.a)); break;
            case Opcode::cos_: map_sine<T, 1>(t, d, operand(t, in.a)); break;
            case Opcode::load_: {
                const TileView<T>& v = t.views[in.a];
                if (in.b == 0 || waiting == 2 || v.spread || v.bf16 || v.units < t.width) {
                    load_tile(t, d.data, v);
                    break;
                }
                for (int64_t r = 0; r < t.rows; ++r)
                    fetch_next<T, false>(v.rows[r], v, t.width);
                placed[waiting] = in.dst;
                in_place[waiting++] = {nullptr, -1, v.rows, v.offset};
                break;
            }
            case Opcode::total_: total_tile(t, d.data, t.views[in.a]); break;
            case Opcode::store_: store_tile(t, operand(t, in.a), t.views[in.b]); break;
            case Opcode::accumulate_:
                accumulate(t, operand(t, in.a), t.views[in.b]);
                break;
            case Opcode::weighted_total_:
                weighted_total(t, d.data, t.views[in.a], t.views[in.b]);
                break;
            case Opcode::dot_items_:
                dot_items(t, operand(t, in.a), t.views[in.b], t.views[in.c]);
                break;
            case Opcode::outer_items_:
                outer_items(t, operand(t, in.a), t.views[in.b], t.views[in.c]);
                break;
            case Opcode::load_scaled_:
                load_scaled(t, d.data, t.views[in.a], t.views[in.b]);
                break;
            case Opcode::add_outer_:
                add_outer(t, d.data, operand(t, in.a), t.views[in.b], t.views[in.c]);
                break;
            case Opcode::dot_columns_:
                dot_columns(t, operand(t, in.a), t.views[in.b], t.views[in.c]);
                break;
            case Opcode::dot_rows_:
                dot_rows(t, operand(t, in.a), t.views[in.b], t.views[in.c]);
                break;
            case Opcode::dot_block_:
                dot_block(t, operand(t, in.a), t.views[in.b], t.views[in.c]);
                break;
            case Opcode::sum_block_: sum_block(t, operand(t, in.a), t.views[in.b]); break;
            case Opcode::attention_gradient_:
                attention_gradient(t, t.views[in.a], t.views[in.b], t.views[in.c]);
                break;
            case Opcode::attention_: attention_tile(t, t.views[in.a], t.views[in.b]); break;
            case Opcode::store_panel_:
                store_panel(t, operand(t, in.a), t.views[in.b], in.c);
                break;
            case Opcode::sum_:
                reduce(t, d, operand(t, in.a), 1, 0, reduce_sum<T>);
                break;
            case Opcode::softmax_:
                reduce(t, d, operand(t, in.a), 1, 0, reduce_softmax<T>);
                break;
            case Opcode::layer_norm_:
                reduce(t, d, operand(t, in.a), in.b, in.immediate, reduce_norm<T>);
                break;
            case Opcode::block_mean_:
                reduce(t, d, operand(t, in.a), in.b, 0, reduce_mean<T>);
                break;
            case Opcode::vector_:
            case Opcode::constant_: break;  // row registers, filled when weights are packed
        }
    }
}

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
