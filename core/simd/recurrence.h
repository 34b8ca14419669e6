// Some steps of a recurrence of matrices at once, as products of small matrices.
//
//   C_t = f_t C_{t-1} + v_t k_tᵀ,   y_t = C_t q_t
//
// With d(t, s) = f_{s+1} … f_t, b_t = f_0 … f_t and the matrix C before them,
//
//   y_t = b_t C q_t + sum over s <= t of d(t, s) (k_s · q_t) v_s,
//
// the chunkwise form of linear attention (Yang, Wang, Shen, Panda & Kim 2024, section 2.2).
// Gates enter as products alone, never as quotients: a gate of 0 is one as any other. Sums
// over s <= t read nothing after t.
#pragma once

#include "gemm.h"
#include "pointwise.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

// The left factor of a product: element (r, k) at at[r * row + k * depth].
template <class T> struct Left {
    const T* at;
    int64_t row, depth;
};

// out(r, c) = keep * out(r, c) + sum over k of a(r, k) * b(k, c); `fresh`: out is not read.
// Rows of b and of out are `columns` apart: whole vectors.
template <class T> struct Dense {
    Left<T> a;
    const T* b;
    T* out;
    int64_t rows, depth, columns;
    T keep;
    bool fresh;
};

template <class T, int M, int N>
static void dense_block(const Dense<T>& p, int64_t r, int64_t c) {
    constexpr int W = kLanes<T>;
    const T *a = p.a.at + r * p.a.row, *b = p.b + c;
    T* out = p.out + r * p.columns + c;
    Vec<T> sum[M][N];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
            sum[m][n] = p.fresh ? Vec<T>{} : p.keep * load(out + m * p.columns + n * W);
    for (int64_t k = 0; k < p.depth; ++k) {
        Vec<T> w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) w[n] = load(b + k * p.columns + n * W);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const T x = a[m * p.a.row + k * p.a.depth];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sum[m][n] += x * w[n];
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store<T>(out + m * p.columns + n * W, sum[m][n]);
}

template <class T, int N, int M = kRows[N]>
CELLWRIGHT_INLINE void dense_rows(const Dense<T>& p, int64_t r, int64_t c, int64_t m) {
    if constexpr (M > 0) {
        if (m == M)
            dense_block<T, M, N>(p, r, c);
        else
            dense_rows<T, N, M - 1>(p, r, c, m);
    }
}

template <class T, int N> static void dense_columns(const Dense<T>& p, int64_t c) {
    const int64_t groups = (p.rows + kRows[N] - 1) / kRows[N];
    for (int64_t g = 0, r = 0; g < groups; ++g) {
        const int64_t end = (g + 1) * p.rows / groups;
        dense_rows<T, N>(p, r, c, end - r);
        r = end;
    }
}

template <class T> static void dense(const Dense<T>& p) {
    constexpr int64_t W = kLanes<T>;
    int64_t c = 0;
    for (; c + kVectors * W <= p.columns; c += kVectors * W) dense_columns<T, kVectors>(p, c);
    for (; c + 2 * W <= p.columns; c += 2 * W) dense_columns<T, 2>(p, c);
    for (; c < p.columns; c += W) dense_columns<T, 1>(p, c);
}

// out = a b.
template <class T>
CELLWRIGHT_INLINE void multiply(Left<T> a, int64_t depth, const T* b, T* out, int64_t rows,
                                int64_t columns) {
    dense<T>({a, b, out, rows, depth, columns, 0, true});
}

// out = keep out + a b.
template <class T>
CELLWRIGHT_INLINE void add(Left<T> a, int64_t depth, const T* b, T* out, int64_t rows,
                           int64_t columns, T keep = 1) {
    dense<T>({a, b, out, rows, depth, columns, keep, false});
}

constexpr int64_t kSteps = kRecurrenceSteps;

template <class T> CELLWRIGHT_INLINE void scale_row(T* row, T by, int64_t width) {
    for (int64_t i = 0; i < width; i += kLanes<T>) store<T>(row + i, by * load(row + i));
}
template <class T> CELLWRIGHT_INLINE void multiply_row(T* row, const T* by, int64_t width) {
    for (int64_t i = 0; i < width; i += kLanes<T>)
        store<T>(row + i, load(by + i) * load(row + i));
}

// The memory of one call, and the gates' products.
template <class T> class Steps {
public:
    explicit Steps(const MatrixSteps<T>& s)
        : s(s), rows(padded(s.rows)), columns(padded(s.columns)), next_(s.scratch) {
        const int64_t widest = rows > columns ? rows : columns;
        zeros_ = take(widest > kSteps ? widest : kSteps);
        for (int64_t i = 0; i < widest || i < kSteps; ++i) zeros_[i] = 0;
        d = take(kSteps * kSteps);
        b = take(kSteps);
        for (int64_t t = 0; t < s.steps; ++t) {
            T* row = d + t * kSteps;
            for (int64_t i = 0; i < kSteps; ++i)
                row[i] = t > 0 ? gate(t) * row[i - kSteps] : 0;
            row[t] = 1;
            b[t] = t > 0 ? gate(t) * b[t - 1] : gate(t);
        }
    }

    T gate(int64_t t) const { return s.gates == nullptr ? s.decay : s.gates[t][0]; }
    const T* last() const { return d + (s.steps - 1) * kSteps; }  // d(end, s)
    T whole() const { return b[s.steps - 1]; }

    T* take(int64_t count) {
        T* at = next_;
        next_ += count;
        return at;
    }

    // Rows of whole vectors.
    T* copy(const T* const* from, int64_t count, int64_t width) {
        T* to = take((count > kSteps ? count : kSteps) * padded(width));
        for (int64_t r = 0; r < count; ++r)
            copy_row<T, true>(to + r * padded(width), from[r], width, padded(width));
        return to;
    }
    T* copy_matrix(const T* from) {
        T* to = take(s.rows * columns);
        for (int64_t r = 0; r < s.rows; ++r)
            copy_row<T, true>(to + r * columns, from + r * s.columns, s.columns, columns);
        return to;
    }
    void store_matrix(const T* from, T* to) const {
        for (int64_t r = 0; r < s.rows; ++r)
            copy_row<T, false>(to + r * s.columns, from + r * columns, s.columns, s.columns);
    }
    void store_rows(const T* from, int64_t width, T* const* to) const {
        for (int64_t t = 0; to != nullptr && t < s.steps; ++t)
            copy_row<T, false>(to[t], from + t * padded(width), width, width);
    }

    // The steps as columns: [width][kSteps].
    T* across(const T* from, int64_t width) {
        T* to = take(padded(width) * kSteps);
        turn(from, padded(width), s.steps, width, to, kSteps);
        return to;
    }
    // And back, of the rows of a matrix: [kSteps][rows].
    T* back(const T* from) {
        T* to = take(kSteps * rows);
        turn(from, kSteps, s.rows, s.steps, to, rows);
        return to;
    }

    const MatrixSteps<T>& s;
    const int64_t rows, columns;  // of a matrix, in whole vectors
    T *d, *b;

private:
    static int64_t padded(int64_t n) { return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }

    // to[c][r] = from[r][c] for c < width; where there is no row r < count, 0.
    void turn(const T* from, int64_t from_row, int64_t count, int64_t width, T* to,
              int64_t to_row) const {
        constexpr int W = kLanes<T>;
        for (int64_t r = 0; r < to_row; r += W) {
            const T* few[W];
            for (int i = 0; i < W; ++i)
                few[i] = r + i < count ? from + (r + i) * from_row : zeros_;
            transpose<T>(few, width, to + r, to_row);
        }
    }

    T *next_, *zeros_;
};

template <class T> static void matrix_steps(const MatrixSteps<T>& s) {
    Steps<T> m(s);
    const int64_t L = s.steps, rows = m.rows, columns = m.columns;
    T *q = m.copy(s.q, L, s.columns), *k = m.copy(s.k, L, s.columns);
    T *v = m.copy(s.v, L, s.rows), *c = m.copy_matrix(s.before);
    T *q_across = m.across(q, s.columns), *k_across = m.across(k, s.columns);
    T *scores = m.take(kSteps * kSteps), *from_before = m.take(s.rows * kSteps);
    multiply<T>({q, columns, 1}, s.columns, k_across, scores, L, kSteps);
    multiply<T>({c, columns, 1}, s.columns, q_across, from_before, s.rows, kSteps);
    for (int64_t i = 0; i < s.rows; ++i) multiply_row(from_before + i * kSteps, m.b, kSteps);
    T* y = m.back(from_before);
    for (int64_t t = 0; t < L; ++t) {
        multiply_row(scores + t * kSteps, m.d + t * kSteps, kSteps);
        add<T>({scores + t * kSteps, 0, 1}, t + 1, v, y + t * rows, 1, rows);
    }
    m.store_rows(y, s.rows, s.y);
    for (int64_t t = 0; t < L; ++t) scale_row(v + t * rows, m.last()[t], rows);
    add<T>({v, 1, rows}, L, k, c, s.rows, columns, m.whole());
    m.store_matrix(c, s.after);
}

// The cotangent of f_t is that of C_t times C_{t-1}: over r >= t and s < t, the sum of
// d(r, t) d(t-1, s) (g_r · v_s) (k_s · q_r), where the matrix before is one s more, and the
// cotangent of the matrix after one r more. `products`: of both dots, [r][s]; `first`, `last`:
// those of the matrix before and the cotangent after.
template <class T>
static void gate_gradients(const Steps<T>& m, const T* products, const T* first, const T* last,
                           T both) {
    T sums[kSteps], of_first = both;
    for (int64_t i = 0; i < kSteps; ++i) sums[i] = i < m.s.steps ? last[i] : 0;
    for (int64_t t = m.s.steps - 1; t >= 0; --t) {
        const T f = t + 1 < m.s.steps ? m.gate(t + 1) : 1;
        of_first = f * of_first + first[t];
        T found = (t > 0 ? m.b[t - 1] : 1) * of_first;
        for (int64_t i = 0; i <= t; ++i) sums[i] = f * sums[i] + products[t * kSteps + i];
        for (int64_t i = t + 1; i < kSteps; ++i) sums[i] = 0;
        for (int64_t i = 0; i < t; ++i) found += m.d[(t - 1) * kSteps + i] * sums[i];
        m.s.d_gates[t][0] = found;
    }
}

template <class T> static void matrix_steps_backward(const MatrixSteps<T>& s) {
    Steps<T> m(s);
    const int64_t L = s.steps, rows = m.rows, columns = m.columns;
    T *q = m.copy(s.q, L, s.columns), *k = m.copy(s.k, L, s.columns);
    T *v = m.copy(s.v, L, s.rows), *g = m.copy(s.y, L, s.rows);
    T *k_across = m.across(k, s.columns), *v_across = m.across(v, s.rows);
    T *c = m.copy_matrix(s.before), *e = m.copy_matrix(s.d_after);
    T *of_keys = m.take(kSteps * kSteps), *of_values = m.take(kSteps * kSteps);
    multiply<T>({q, columns, 1}, s.columns, k_across, of_keys, L, kSteps);
    multiply<T>({g, rows, 1}, s.rows, v_across, of_values, L, kSteps);
    // What the matrix before, and the cotangent after, give.
    T *dq = m.take(kSteps * columns), *dk = m.take(kSteps * columns);
    T* dv_across = m.take(s.rows * kSteps);
    multiply<T>({g, rows, 1}, s.rows, c, dq, L, columns);
    multiply<T>({v, rows, 1}, s.rows, e, dk, L, columns);
    multiply<T>({e, columns, 1}, s.columns, k_across, dv_across, s.rows, kSteps);
    if (s.d_gates != nullptr) {
        T *products = m.take(kSteps * kSteps), first[kSteps], last[kSteps];
        for (int64_t i = 0; i < L * kSteps; ++i) products[i] = of_keys[i] * of_values[i];
        for (int64_t t = 0; t < L; ++t) {
            first[t] = dot(dq + t * columns, q + t * columns, columns);
            last[t] = dot(dk + t * columns, k + t * columns, columns);
        }
        gate_gradients(m, products, first, last, dot(c, e, s.rows * columns));
    }
    for (int64_t i = 0; i < s.rows; ++i) multiply_row(dv_across + i * kSteps, m.last(), kSteps);
    T* dv = m.back(dv_across);
    for (int64_t t = 0; t < L; ++t) {
        multiply_row(of_keys + t * kSteps, m.d + t * kSteps, kSteps);
        multiply_row(of_values + t * kSteps, m.d + t * kSteps, kSteps);
        scale_row(dq + t * columns, m.b[t], columns);
        scale_row(dk + t * columns, m.last()[t], columns);
    }
    for (int64_t t = 0; t < L; ++t) {
        const int64_t row = t * kSteps, own = row + t, after = L - t;
        add<T>({of_values + row, 0, 1}, t + 1, k, dq + t * columns, 1, columns);
        add<T>({of_values + own, 0, kSteps}, after, q + t * columns, dk + t * columns, 1, columns);
        add<T>({of_keys + own, 0, kSteps}, after, g + t * rows, dv + t * rows, 1, rows);
    }
    m.store_rows(dq, s.columns, s.d_q);
    m.store_rows(dk, s.columns, s.d_k);
    m.store_rows(dv, s.rows, s.d_v);
    for (int64_t t = 0; t < L; ++t) scale_row(g + t * rows, m.b[t], rows);
    add<T>({g, 1, rows}, L, q, e, s.rows, columns, m.whole());
    m.store_matrix(e, s.d_before);
}

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
