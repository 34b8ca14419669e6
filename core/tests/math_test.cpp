// Accuracy of the vector mathematics, against long double.
#include <doctest/doctest.h>

#include <cstring>

#include "support.h"

using namespace cellwright;

namespace {

using Exact = long double (*)(long double);

struct Function {
    const char* name;
    Opcode op;
    Exact exact;
    double low, high;  // where it is sampled evenly; and near 0 on a logarithmic scale
};

long double sigmoid(long double x) { return 1 / (1 + std::exp(-x)); }
long double softplus(long double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

const Function kFunctions[] = {
    {"exp", Opcode::exp_, [](long double x) { return std::exp(x); }, -700, 709},
    {"sigmoid", Opcode::sigmoid_, sigmoid, -700, 60},
    {"tanh", Opcode::tanh_, [](long double x) { return std::tanh(x); }, -25, 25},
    {"log", Opcode::log_, [](long double x) { return std::log(x); }, 0, 4},
    {"softplus", Opcode::softplus_, softplus, -700, 30},
    {"sin", Opcode::sin_, [](long double x) { return std::sin(x); }, -8192, 8192},
    {"cos", Opcode::cos_, [](long double x) { return std::cos(x); }, -8192, 8192},
    {"sqrt", Opcode::sqrt_, [](long double x) { return std::sqrt(x); }, 0, 1e6},
};

template <class T> std::vector<T> samples(const Function& f) {
    Random random(5);
    // float's range of exp ends earlier
    const double scale = sizeof(T) == 4 && f.low == -700 ? 0.124 : 1;
    std::vector<T> values;
    for (int i = 0; i < 200000; ++i)
        values.push_back(T(random.uniform(f.low * scale, f.high * scale)));
    for (int i = 0; i < 100000; ++i) {  // near 0, and near 1
        const T small = T(std::exp(random.uniform(-60, 3)));
        values.push_back(small);
        if (f.low < 0) values.push_back(-small);
        values.push_back(T(random.uniform(0.5, 1.5)));
    }
    const double pi = 3.14159265358979323846;
    for (int i = -5000; i < 5000; ++i)  // near the zeros of sin and cos
        if (f.low == -8192) values.push_back(T(i * pi / 2));
    return values;
}

template <class T> double worst_ulps(const Kernels<T>& kernels, const Function& f) {
    const std::vector<T> x = samples<T>(f);
    const std::vector<T> y = apply(kernels, f.op, x);
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const long double exact = f.exact((long double)x[i]);
        if (std::fabs(exact) < std::numeric_limits<T>::min() ||
            std::fabs(exact) > std::numeric_limits<T>::max())
            continue;  // not a normal result
        int exponent;
        std::frexp(exact, &exponent);
        const long double ulp = std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits);
        const double error = double(std::fabs((long double)y[i] - exact) / ulp);
        if (!(error <= worst)) worst = error;
        if (!(error <= 4)) {
            CAPTURE(double(x[i]));
            CAPTURE(double(y[i]));
            CHECK(error <= 4);
            return error;
        }
    }
    return worst;
}

template <class T> void check_limits(const Kernels<T>& kernels) {
    const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    const auto at = [&](Opcode op, T x) { return apply<T>(kernels, op, {x})[0]; };
    CHECK(at(Opcode::exp_, inf) == inf);
    CHECK(at(Opcode::exp_, -inf) == 0);
    CHECK(at(Opcode::sigmoid_, inf) == 1);
    CHECK(at(Opcode::sigmoid_, -inf) == 0);
    CHECK(at(Opcode::tanh_, inf) == 1);
    CHECK(at(Opcode::tanh_, -inf) == -1);
    CHECK(at(Opcode::log_, inf) == inf);
    CHECK(at(Opcode::log_, 0) == -inf);
    CHECK(std::isnan(at(Opcode::log_, -1)));
    CHECK(at(Opcode::softplus_, inf) == inf);
    CHECK(at(Opcode::softplus_, -inf) == 0);
    CHECK(std::isnan(at(Opcode::sqrt_, -1)));
    CHECK(at(Opcode::relu_, -inf) == 0);
    for (Opcode op : {Opcode::exp_, Opcode::sigmoid_, Opcode::tanh_, Opcode::log_,
                      Opcode::softplus_, Opcode::sin_, Opcode::cos_, Opcode::sqrt_,
                      Opcode::relu_, Opcode::abs_, Opcode::neg_, Opcode::identity_})
        CHECK(std::isnan(at(op, nan)));
}

}  // namespace

TEST_CASE("at most 4 ulp on normal results") {
    for (const KernelSet* set : available_isas())
        for (const Function& f : kFunctions) {
            const std::string name = std::string(set->isa) + " " + f.name;
            CAPTURE(name);
            const double single = worst_ulps(set->f32, f), twice = worst_ulps(set->f64, f);
            MESSAGE(name, ": float ", single, " ulp, double ", twice);
        }
}

TEST_CASE("infinities and NaN propagate") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        check_limits(set->f32);
        check_limits(set->f64);
    }
}

TEST_CASE("tanh keeps the sign of zero") {
    for (const KernelSet* set : available_isas())
        CHECK(std::signbit(apply<float>(set->f32, Opcode::tanh_, {-0.0f})[0]));
}
