// Accuracy of the vector mathematics: samples against long double, in both types; and
// every float against double, which takes minutes and is skipped unless asked for
// (make test-floats).
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <thread>

#include "large_angle.h"
#include "support.h"

using namespace cellwright;

namespace {

struct Function {
    const char* name;
    Opcode op;
    double low, high;  // where it is sampled evenly; and near 0 on a logarithmic scale
    double ulps;       // what is promised on normal results
    long double (*exact)(long double);
    double (*of_float)(double);  // the same, exact enough beside a float
};

template <class F>
Function function(const char* name, Opcode op, double low, double high, double ulps, F f) {
    return {name, op, low, high, ulps, f, f};
}

const Function kFunctions[] = {
    function("exp", Opcode::exp_, -700, 709, 4, [](auto x) { return std::exp(x); }),
    function("sigmoid", Opcode::sigmoid_, -700, 60, 4,
             [](auto x) { return 1 / (1 + std::exp(-x)); }),
    function("tanh", Opcode::tanh_, -25, 25, 4, [](auto x) { return std::tanh(x); }),
    function("log", Opcode::log_, 0, 4, 4, [](auto x) { return std::log(x); }),
    function("softplus", Opcode::softplus_, -700, 30, 4,
             [](auto x) { return x > 20 ? x : std::log1p(std::exp(x)); }),
    function("sin", Opcode::sin_, -2e5, 2e5, 4, [](auto x) { return std::sin(x); }),
    function("cos", Opcode::cos_, -2e5, 2e5, 4, [](auto x) { return std::cos(x); }),
    function("sqrt", Opcode::sqrt_, 0, 1e6, 0.5, [](auto x) { return std::sqrt(x); }),
};

// What a run makes of an argument: subnormal ones are 0.
template <class T> T seen(T x) {
    return std::fabs(x) < std::numeric_limits<T>::min() ? std::copysign(T(0), x) : x;
}

// Of a value against the exact one, in units of the exact one's last place. Beyond the
// largest number lies infinity, one place further; a subnormal result may be 0.
template <class T, class Exact> double error_in_ulps(T value, Exact exact) {
    using Limits = std::numeric_limits<T>;
    if (std::isnan(exact) || std::isnan(value))
        return std::isnan(exact) && std::isnan(value) ? 0 : Limits::infinity();
    const Exact top = std::ldexp(Exact(1), Limits::max_exponent);
    const Exact y = std::clamp(Exact(value), -top, top);
    exact = std::clamp(exact, -top, top);
    const Exact size = std::fabs(exact);
    if (size < Limits::min() && std::fabs(y) <= Limits::min()) return 0;
    int exponent;
    std::frexp(std::max(size, Exact(Limits::min())), &exponent);
    if (size == top) --exponent;
    return double(std::ldexp(std::fabs(y - exact), Limits::digits - exponent));
}

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
    for (int i = 0; i < 100000; ++i) {  // any number at all
        using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
        values.push_back(std::bit_cast<T>(Bits(random.bits() << 11 ^ random.bits())));
    }
    return values;
}

// Near the zeros of sin and cos: the worst of all for a reduction by multiples of pi / 2.
template <class T> std::vector<T> near_zeros() {
    std::vector<T> values;
    const long double half_pi = std::acos(-1.0L) / 2;
    for (int i = -90000; i < 90000; ++i) values.push_back(T(i * half_pi));
    for (long double i = 1e5; i < 1e19; i *= 1.0001L) values.push_back(T(std::round(i) * half_pi));
    // The double nearest to a multiple of pi / 2, and others near one (Muller 2016).
    for (auto [mantissa, exponent] : {std::pair(6381956970095103.0, 797), {6411027962775774.0, -48},
                                      {5261692873635770.0, 499}, {7090362283115945.0, 214}})
        values.push_back(T(std::ldexp(mantissa, exponent)));
    values.push_back(std::numeric_limits<T>::max());
    for (T bound : {T(8192), T(131072)})  // where the fast way ends
        for (T x : {std::nextafter(bound, T(0)), bound, std::nextafter(bound, T(1e9))})
            values.insert(values.end(), {x, -x});
    return values;
}

// The largest error; it may be no more than promised.
template <class T>
double worst_ulps(const Kernels<T>& kernels, const Function& f, const std::vector<T>& x) {
    const std::vector<T> y = apply(kernels, f.op, x);
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const double error = error_in_ulps(y[i], f.exact((long double)seen(x[i])));
        if (error <= f.ulps) {
            worst = std::max(worst, error);
            continue;
        }
        CAPTURE(double(x[i]));
        CAPTURE(double(y[i]));
        CHECK(error <= f.ulps);
        return error;
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
    for (Opcode op : {Opcode::sin_, Opcode::cos_})
        for (T x : {inf, -inf}) CHECK(std::isnan(at(op, x)));
    for (Opcode op : {Opcode::exp_, Opcode::sigmoid_, Opcode::tanh_, Opcode::log_,
                      Opcode::softplus_, Opcode::sin_, Opcode::cos_, Opcode::sqrt_,
                      Opcode::relu_, Opcode::abs_, Opcode::neg_, Opcode::identity_})
        CHECK(std::isnan(at(op, nan)));
    for (Opcode op : {Opcode::tanh_, Opcode::sin_, Opcode::sqrt_, Opcode::identity_})
        CHECK(std::signbit(at(op, -T(0))));
}

// Every float, a block after the other, shared out to two threads.
constexpr uint64_t kBlock = uint64_t(1) << 14;

// error_in_ulps of normal results in a few instructions; of others no less than it.
double quick_error(float value, double exact) {
    const uint64_t exponent = std::bit_cast<uint64_t>(exact) >> 52 & 0x7ff;
    const double places = std::bit_cast<double>((2 * 1023 + 23 - exponent) << 52);
    return std::fabs(double(value) - exact) * places;
}

struct Worst {
    double ulps = 0;
    float at = 0;
    void add(float value, double exact, float x) {
        if (value == float(exact) || (value != value && exact != exact)) return;
        if (quick_error(value, exact) <= ulps) return;
        const double error = error_in_ulps(value, exact);
        if (error > ulps) *this = {error, x};
    }
};

std::vector<Worst> worst_of_all_floats(const Function& f) {
    const auto sets = available_isas();
    std::atomic<uint64_t> next{0};
    std::vector<std::vector<Worst>> found(2, std::vector<Worst>(sets.size()));
    const auto work = [&](std::vector<Worst>& worst) {
        std::vector<float> x(kBlock);
        std::vector<double> exact(kBlock);
        for (uint64_t first; (first = next.fetch_add(kBlock)) < uint64_t(1) << 32;) {
            for (uint64_t i = 0; i < kBlock; ++i) {
                x[i] = std::bit_cast<float>(uint32_t(first + i));
                exact[i] = f.of_float(double(seen(x[i])));
            }
            for (size_t set = 0; set < sets.size(); ++set) {
                const std::vector<float> y = apply(sets[set]->f32, f.op, x);
                for (uint64_t i = 0; i < kBlock; ++i) worst[set].add(y[i], exact[i], x[i]);
            }
        }
    };
    std::thread other(work, std::ref(found[1]));
    work(found[0]);
    other.join();
    for (size_t set = 0; set < sets.size(); ++set)
        if (found[1][set].ulps > found[0][set].ulps) found[0][set] = found[1][set];
    return found[0];
}

}  // namespace

TEST_CASE("at most the promised ulps on normal results") {
    for (const KernelSet* set : available_isas())
        for (const Function& f : kFunctions) {
            const std::string name = std::string(set->isa) + " " + f.name;
            CAPTURE(name);
            const double single = worst_ulps(set->f32, f, samples<float>(f)),
                         twice = worst_ulps(set->f64, f, samples<double>(f));
            MESSAGE(name, ": float ", single, " ulp, double ", twice);
        }
}

TEST_CASE("sin and cos near their zeros, and of the largest numbers") {
    for (const KernelSet* set : available_isas())
        for (const Function& f : kFunctions) {
            if (f.op != Opcode::sin_ && f.op != Opcode::cos_) continue;
            const std::string name = std::string(set->isa) + " " + f.name;
            CAPTURE(name);
            const double single = worst_ulps(set->f32, f, near_zeros<float>()),
                         twice = worst_ulps(set->f64, f, near_zeros<double>());
            MESSAGE(name, ": float ", single, " ulp, double ", twice);
        }
}

TEST_CASE("sin and cos beyond the fast way are the same bits on every instruction set") {
    std::vector<double> x;
    Random random(7);
    for (int i = 0; i < 1000; ++i) x.push_back(std::exp(random.uniform(12, 700)));
    for (auto [op, quarter] : {std::pair(Opcode::sin_, 0), {Opcode::cos_, 1}})
        for (const KernelSet* set : available_isas()) {
            CAPTURE(set->isa);
            const std::vector<double> y = apply(set->f64, op, x);
            for (size_t i = 0; i < x.size(); ++i) REQUIRE(y[i] == sine_of_large(x[i], quarter));
        }
}

TEST_CASE("one large argument changes no other element") {
    std::vector<float> x;
    for (int i = 0; i < 100; ++i) x.push_back(float(i) * 0.37f - 18);
    for (const KernelSet* set : available_isas()) {
        const std::vector<float> alone = apply(set->f32, Opcode::sin_, x);
        for (size_t at : {size_t(0), size_t(15), size_t(99)}) {
            std::vector<float> mixed = x;
            mixed[at] = 1.7e9f;
            std::vector<float> y = apply(set->f32, Opcode::sin_, mixed);
            CHECK(y[at] == float(sine_of_large(1.7e9f, 0)));
            y[at] = alone[at];
            CHECK(std::memcmp(y.data(), alone.data(), sizeof(float) * y.size()) == 0);
        }
    }
}

TEST_CASE("infinities, NaN and the sign of zero propagate") {
    for (const KernelSet* set : available_isas()) {
        CAPTURE(set->isa);
        check_limits(set->f32);
        check_limits(set->f64);
    }
}

TEST_CASE("every float: at most the promised ulps" * doctest::skip()) {
    for (const Function& f : kFunctions) {
        const auto sets = available_isas();
        const std::vector<Worst> found = worst_of_all_floats(f);
        for (size_t set = 0; set < sets.size(); ++set) {
            const std::string name = std::string(sets[set]->isa) + " " + f.name;
            CAPTURE(name);
            CAPTURE(found[set].at);
            CHECK(found[set].ulps <= f.ulps);
            MESSAGE(name, ": ", found[set].ulps, " ulp at ", found[set].at);
        }
    }
}
