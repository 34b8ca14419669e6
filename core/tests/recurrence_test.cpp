// Some steps of a recurrence of matrices at once, against one after the other.
#include <doctest/doctest.h>

#include "support.h"

using namespace cellwright;

namespace {

using Rows = std::vector<std::vector<double>>;

struct Reference {
    Rows v, k, q, g, y, dv, dk, dq;
    std::vector<double> f, df, before, after, d_after, d_before;

    Reference(int64_t steps, int64_t rows, int64_t columns, double least, double most) {
        Random random(uint64_t(steps * 100 + rows * 10 + columns));
        const auto vector = [&](int64_t n) {
            std::vector<double> made(static_cast<size_t>(n));
            for (double& x : made) x = double(float(random.uniform(-1, 1)));
            return made;
        };
        for (int64_t t = 0; t < steps; ++t) {
            v.push_back(vector(rows)), g.push_back(vector(rows));
            k.push_back(vector(columns)), q.push_back(vector(columns));
            f.push_back(double(float(random.uniform(least, most))));
        }
        f[size_t(steps / 2)] = 0;
        before = vector(rows * columns), d_after = vector(rows * columns);
        forward(rows, columns), backward(rows, columns);
    }

    void forward(int64_t rows, int64_t columns) {
        after = before;
        for (size_t t = 0; t < v.size(); ++t) {
            y.emplace_back(size_t(rows));
            states.push_back(after);
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < columns; ++j) {
                    double& c = after[size_t(i * columns + j)];
                    c = f[t] * c + v[t][size_t(i)] * k[t][size_t(j)];
                    y[t][size_t(i)] += c * q[t][size_t(j)];
                }
        }
        states.push_back(after);
    }

    void backward(int64_t rows, int64_t columns) {
        d_before = d_after;
        const size_t steps = v.size();
        dv.assign(steps, std::vector<double>(size_t(rows)));
        dk.assign(steps, std::vector<double>(size_t(columns))), dq = dk;
        df.assign(steps, 0);
        for (size_t t = steps; t-- > 0;)
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < columns; ++j) {
                    const size_t n = size_t(i * columns + j), r = size_t(i), c = size_t(j);
                    dq[t][c] += states[t + 1][n] * g[t][r];
                    const double d = d_before[n] + g[t][r] * q[t][c];
                    dv[t][r] += d * k[t][c];
                    dk[t][c] += d * v[t][r];
                    df[t] += d * states[t][n];
                    d_before[n] = f[t] * d;
                }
    }

private:
    Rows states;
};

// Rows of T, and their addresses.
template <class T> struct Table {
    explicit Table(const Rows& from) {
        for (const auto& row : from) values.emplace_back(row.begin(), row.end());
        for (auto& row : values) rows.push_back(row.data());
    }
    std::vector<std::vector<T>> values;
    std::vector<T*> rows;
};

template <class T>
void check_equal(const std::vector<T>& found, const std::vector<double>& exact) {
    double most = 1;
    for (const double x : exact) most = std::max(most, std::fabs(x));
    for (size_t i = 0; i < exact.size(); ++i)
        CHECK(std::fabs(double(found[i]) - exact[i]) <
              most * 400 * std::numeric_limits<T>::epsilon());
}

template <class T> void check_steps(const Kernels<T>& kernels, int64_t steps, int64_t rows,
                                    int64_t columns, double least) {
    const Reference exact(steps, rows, columns, least, 1);
    Rows gates;
    for (const double f : exact.f) gates.push_back({f});
    Table<T> v(exact.v), k(exact.k), q(exact.q), g(exact.g), f(gates);
    Table<T> y(exact.y), dv(exact.dv), dk(exact.dk), dq(exact.dq), df(gates);
    std::vector<T> before(exact.before.begin(), exact.before.end()), after(before);
    std::vector<T> d_after(exact.d_after.begin(), exact.d_after.end()), d_before(d_after);
    const int64_t room = matrix_scratch(rows, columns, kernels.lanes);
    Aligned<T> scratch{size_t(room) + 1};
    scratch.data()[room] = T(7);
    MatrixSteps<T> s{};
    s.steps = steps, s.rows = rows, s.columns = columns;
    s.v = v.rows.data(), s.k = k.rows.data(), s.q = q.rows.data(), s.y = y.rows.data();
    s.gates = f.rows.data();
    s.before = before.data(), s.after = after.data();
    s.scratch = scratch.data();
    kernels.matrix_steps(s);
    s.y = g.rows.data();
    s.d_v = dv.rows.data(), s.d_k = dk.rows.data(), s.d_q = dq.rows.data();
    s.d_gates = df.rows.data();
    s.d_after = d_after.data(), s.d_before = d_before.data();
    kernels.matrix_steps_backward(s);
    CHECK(scratch.data()[room] == T(7));
    check_equal(after, exact.after), check_equal(d_before, exact.d_before);
    for (size_t t = 0; t < size_t(steps); ++t) {
        check_equal(y.values[t], exact.y[t]), check_equal(dv.values[t], exact.dv[t]);
        check_equal(dk.values[t], exact.dk[t]), check_equal(dq.values[t], exact.dq[t]);
        check_equal(df.values[t], {exact.df[t]});
    }
}

template <class T> void check_all(const Kernels<T>& kernels) {
    for (const int64_t steps : {1, 2, 7, 15, 16})
        for (const int64_t rows : {1, 5, 16, 33})
            for (const int64_t columns : {1, 3, 16, 70})
                check_steps(kernels, steps, rows, columns, steps % 2 ? -1 : 0.5);
}

}  // namespace

TEST_CASE("steps of a matrix are those of the recurrence") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        check_all(set->f32);
        check_all(set->f64);
    }
}
