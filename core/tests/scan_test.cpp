// A whole scan, written out by hand: h = tanh(W [h, x] + b), forward and backward.
#include <doctest/doctest.h>

#include <stdexcept>

#include "scan.h"
#include "stepper.h"
#include "support.h"

using namespace cellwright;

namespace {

constexpr int kX = 0, kH = 1;

Program make_forward(int64_t I, int64_t H) {
    const int32_t tile = 0, bias = 1;
    Program p{};
    p.arrays = {{"x", Rows::sequence, I, 1, -1, -1, false},
                {"h", Rows::sequence, H, 1, 2, -1, false},
                {"h.initial", Rows::initial, H, 1, -1, -1, false}};
    p.parameters = {H * (H + I), H};
    Stage s{};
    s.units = H;
    s.tiles = 1;
    s.row_registers = 1;
    s.views = {{kH, true, 0}, {kX, false, 0}, {kH, false, 0}};
    s.vectors = {{1, 0, 1}};
    s.accumulators = {{tile, bias}};
    s.terms = {{0, H, 1, false, 0, {tile}, {{0, 0, H + I}}},
               {1, I, 1, false, 0, {tile}, {{0, H, H + I}}}};
    s.prologue = {{Opcode::vector_, bias, 0, 0, 0, 0}};
    s.code = {{Opcode::tanh_, tile, tile, 0, 0, 0}, {Opcode::store_, -1, tile, 2, 0, 0}};
    p.stages = {s};
    return p;
}

struct Run {
    int64_t T, B, I, H;
    std::vector<double> x, h, initial, weight, bias;
    std::vector<int64_t> offsets, counts;

    Run(int64_t T, int64_t B, int64_t I, int64_t H)
        : T(T), B(B), I(I), H(H), x(T * B * I), h(T * B * H), initial(B * H),
          weight(H * (H + I)), bias(H) {
        Random random(9);
        for (auto* v : {&x, &initial, &weight, &bias})
            for (double& e : *v) e = random.uniform(-0.5, 0.5);
        for (int64_t t = 0; t < T; ++t) {
            offsets.push_back(t * B);
            counts.push_back(B);
        }
    }

    Call call(const KernelSet& isa, int threads) {
        return {8,
                {{x.data(), T * B, I, I}, {h.data(), T * B, H, H}, {initial.data(), B, H, H}},
                {{weight.data(), H, H + I, H + I}, {bias.data(), 1, H, H}},
                {},
                {T, offsets.data(), counts.data(), T * B, B},
                threads,
                &isa};
    }
};

}  // namespace

TEST_CASE("a simple recurrent network, step by step") {
    for (const KernelSet* isa : available_isas())
        for (int threads : {1, 2, 3}) {
            Run run(5, 11, 3, 21);
            const Program program = make_forward(run.I, run.H);
            program.validate();
            cellwright::run(program, run.call(*isa, threads));
            for (int64_t t = 0; t < run.T; ++t)
                for (int64_t b = 0; b < run.B; ++b)
                    for (int64_t u = 0; u < run.H; ++u) {
                        const double* old = t ? &run.h[((t - 1) * run.B + b) * run.H]
                                              : &run.initial[b * run.H];
                        const double* w = &run.weight[u * (run.H + run.I)];
                        double sum = run.bias[u];
                        for (int64_t k = 0; k < run.H; ++k) sum += w[k] * old[k];
                        for (int64_t k = 0; k < run.I; ++k)
                            sum += w[run.H + k] * run.x[(t * run.B + b) * run.I + k];
                        CHECK(run.h[(t * run.B + b) * run.H + u] ==
                              doctest::Approx(std::tanh(sum)).epsilon(1e-13));
                    }
        }
}

TEST_CASE("padded sequences: the rows that live are scanned where they lie, and resets start anew") {
    // Of three rows, two live, the longer one first: row 2 for 4 steps, row 0 for 2, from
    // step 0 or from where its place says.
    constexpr int64_t T = 4, B = 3, I = 3, H = 21;
    const std::vector<int64_t> batch_rows = {2, 0}, counts = {2, 2, 1, 1};
    const std::vector<Reset> resets = {{1, 1, 3, 3}, {2, 0, 3, 4}};  // from initial row 3
    for (const KernelSet* isa : available_isas())
        for (int threads : {1, 2})
            for (int64_t begin : {0, 1, 2}) {  // of row 0
                const std::vector<int64_t> places = {2, begin * B};
                Run run(T, B, I, H);
                run.initial.resize((B + 1) * H, 0.25);
                std::fill(run.h.begin(), run.h.end(), 7.0);
                const Program program = make_forward(I, H);
                Call call = run.call(*isa, threads);
                call.arrays[2] = {run.initial.data(), B + 1, H, H};
                call.schedule = {.levels = T,
                                 .offsets = run.offsets.data(),
                                 .counts = counts.data(),
                                 .rows = T * B,
                                 .initial_rows = B + 1,
                                 .batch_rows = batch_rows.data(),
                                 .batch_row_count = 2,
                                 .width = B,
                                 .places = begin > 0 ? places.data() : nullptr,
                                 .resets = resets.data(),
                                 .reset_count = 2,
                                 .gradient_rows = B + 2};
                cellwright::run(program, call);
                for (int64_t t = 0; t < T; ++t)
                    for (int64_t b = 0; b < B; ++b) {
                        const int64_t step = b == 0 ? t - begin : t;  // of its sequence
                        const bool lives = b == 2 || (b == 0 && step >= 0 && step < 2);
                        const bool anew = (b == 0 && step == 1) || (b == 2 && step == 2);
                        const double* old = anew        ? &run.initial[B * H]
                                            : step == 0 ? &run.initial[b * H]
                                                        : &run.h[((t - 1) * B + b) * H];
                        for (int64_t u = 0; u < H; ++u) {
                            const double found = run.h[(t * B + b) * H + u];
                            if (!lives) {
                                CHECK(found == 7.0);
                                continue;
                            }
                            const double* w = &run.weight[u * (H + I)];
                            double sum = run.bias[u];
                            for (int64_t k = 0; k < H; ++k) sum += w[k] * old[k];
                            for (int64_t k = 0; k < I; ++k)
                                sum += w[H + k] * run.x[(t * B + b) * I + k];
                            CHECK(found == doctest::Approx(std::tanh(sum)).epsilon(1e-13));
                        }
                    }
            }
}

TEST_CASE("a place must be of its batch row, and within the array") {
    const KernelSet& isa = *available_isas()[0];
    Run run(4, 3, 3, 4);
    const Program program = make_forward(3, 4);
    const std::vector<int64_t> batch_rows = {2, 0}, counts = {2, 1, 0, 0};
    const auto scan = [&](std::vector<int64_t> places) {
        Call call = run.call(isa, 1);
        call.schedule = {.levels = 4,
                         .offsets = run.offsets.data(),
                         .counts = counts.data(),
                         .rows = 12,
                         .initial_rows = 3,
                         .batch_rows = batch_rows.data(),
                         .batch_row_count = 2,
                         .width = 3,
                         .places = places.data()};
        cellwright::run(program, call);
    };
    scan({8, 9});  // row 2 at steps 2 and 3, row 0 at step 3
    CHECK_THROWS_WITH_AS(scan({11, 0}), doctest::Contains("past the last row"),
                         std::invalid_argument);
    for (std::vector<int64_t> places : {std::vector<int64_t>{3, 0}, {2, -3}, {14, 0}})
        CHECK_THROWS_WITH_AS(scan(places), doctest::Contains("of its batch row"),
                             std::invalid_argument);
}

TEST_CASE("what is out of place is refused before anything is touched") {
    Program program = make_forward(3, 4);
    program.stages[0].terms[0].pieces[0].offset = 100;
    CHECK_THROWS_AS(program.validate(), std::invalid_argument);
    program = make_forward(3, 4);
    program.stages[0].code[1].b = 7;
    CHECK_THROWS_AS(program.validate(), std::invalid_argument);

    Run run(2, 2, 3, 4);
    program = make_forward(3, 4);
    Call call = run.call(*available_isas()[0], 1);
    call.arrays[1].data = call.arrays[0].data;
    CHECK_THROWS_WITH_AS(cellwright::run(program, call), doctest::Contains("overlaps"),
                         std::invalid_argument);
    call = run.call(*available_isas()[0], 1);
    call.schedule.rows = 3;
    CHECK_THROWS_AS(cellwright::run(program, call), std::invalid_argument);
}

TEST_CASE("what a load leaves in memory is read next, in a stage of matrices too") {
    Program program{};
    program.arrays = {{"C", Rows::sequence, 4, 1, 1, -1, false},
                      {"C.initial", Rows::initial, 4, 1, -1, -1, false}};
    Stage s{};
    s.axis = {Axis::matrix, 0};
    s.whole = true;
    s.units = s.matrix_rows = s.tiles = 2;
    s.heads = 1;
    s.views = {{0, true, 0, Form::matrix}, {0, false, 0, Form::matrix}};
    s.code = {{Opcode::load_, 0, 0, 1, 0, 0},
              {Opcode::add_, 1, 0, 0, 0, 0},
              {Opcode::store_, -1, 1, 1, 0, 0}};
    program.stages = {s};
    CHECK_NOTHROW(program.validate());
    program.stages[0].code[1].op = Opcode::div_;
    CHECK_THROWS_WITH_AS(program.validate(), doctest::Contains("is read next"),
                         std::invalid_argument);
    program.stages[0].code[1].op = Opcode::add_;
    program.stages[0].code[2].a = 0;
    CHECK_THROWS_WITH_AS(program.validate(), doctest::Contains("is read once"),
                         std::invalid_argument);
}

TEST_CASE("steps have the bits of the scan, also where y is x") {
    for (const KernelSet* isa : available_isas())
        for (int64_t B : {1, 2, 11}) {
            Run run(5, B, 21, 21);
            const Program program = make_forward(run.I, run.H);
            std::vector<double> state = run.initial;
            const Buffer kept{state.data(), B, run.H, run.H};
            cellwright::run(program, run.call(*isa, 1));
            Stepper step({{program, run.call(*isa, 1).parameters, {kept}}}, 8, B, *isa);
            for (int64_t t = 0; t < run.T; ++t) {
                double* x = &run.x[t * B * run.I];
                const void* inputs[] = {x};
                step.step(inputs, 1, x);
                for (int64_t i = 0; i < B * run.H; ++i) {
                    CHECK(x[i] == run.h[t * B * run.H + i]);
                    CHECK(x[i] == state[i]);
                }
            }
        }
}

TEST_CASE("a stepper refuses what does not fit") {
    const KernelSet& isa = *available_isas()[0];
    Run run(1, 2, 3, 4);
    const Program program = make_forward(3, 4);
    const std::vector<Buffer> weights = run.call(isa, 1).parameters;
    const Buffer state{run.initial.data(), 2, 4, 4};
    const auto make = [&](std::vector<StepperLayer> layers, int64_t rows) {
        Stepper(std::move(layers), 8, rows, isa);
    };
    CHECK_THROWS_AS(make({}, 2), std::invalid_argument);
    CHECK_THROWS_AS(make({{program, weights, {}}}, 2), std::invalid_argument);
    CHECK_THROWS_AS(make({{program, weights, {state}}}, 3), std::invalid_argument);
    CHECK_THROWS_WITH_AS(make({{program, weights, {state}}, {program, weights, {state}}}, 2),
                         doctest::Contains("as wide"), std::invalid_argument);
    Stepper step({{program, weights, {state}}}, 8, 2, isa);
    CHECK_THROWS_AS(step.step(nullptr, 0, nullptr), std::invalid_argument);
    const void* const nowhere[] = {nullptr};
    CHECK_THROWS_WITH_AS(step.step(nowhere, 1, nullptr), doctest::Contains("no memory"),
                         std::invalid_argument);
}

TEST_CASE("final rows are copied, and a state without initial rows starts from zeros") {
    for (const KernelSet* isa : available_isas())
        for (int threads : {1, 2}) {
            Run run(3, 5, 3, 21);
            const Program program = make_forward(run.I, run.H);
            std::fill(run.initial.begin(), run.initial.end(), 0.0);
            cellwright::run(program, run.call(*isa, threads));
            const std::vector<double> expected = run.h;
            std::fill(run.h.begin(), run.h.end(), 7.0);
            std::vector<double> last(run.B * run.H, 7.0);
            Call call = run.call(*isa, threads);
            call.arrays[2] = {};
            call.finals = {{1, 2 * run.B, {last.data(), run.B, run.H, run.H}}};
            cellwright::run(program, call);
            CHECK(run.h == expected);
            CHECK(std::equal(last.begin(), last.end(), expected.end() - run.B * run.H));
            call.finals[0].row += 1;
            CHECK_THROWS_WITH(cellwright::run(program, call),
                              "[h] has not so many final rows");
            call.finals = {};
            call.arrays[1] = {};
            CHECK_THROWS_WITH(cellwright::run(program, call),
                              "[h] expected 21 columns; received 0");
        }
}

namespace {

// h = tanh(W [left, right, x] + b) at every node; a child or input may be missing.
Program make_tree_forward(int64_t I, int64_t H) {
    Program p = make_forward(I, H);
    p.tree = true;
    p.arrays = {{"x", Rows::input, I, 1, -1, -1, false, {Axis::node}},
                {"h", Rows::sequence, H, 1, -1, -1, false, {Axis::node}}};
    p.parameters[0] = H * (2 * H + I);
    Stage& s = p.stages[0];
    s.views = {{kH, true, 0}, {kH, true, 1}, {kX, false, 0}, {kH, false, 0}};
    s.terms = {{0, H, 1, false, 0, {0}, {{0, 0, 2 * H + I}}},
               {1, H, 1, false, 0, {0}, {{0, H, 2 * H + I}}},
               {2, I, 1, false, 0, {0}, {{0, 2 * H, 2 * H + I}}}};
    s.code[1].b = 3;
    return p;
}

}  // namespace

TEST_CASE("a tree, node by node") {
    // Leaves 3 and 1 with x; 0 over both of them; 2 over 0 as its right child, without x.
    constexpr int64_t I = 3, H = 21, N = 4;
    const std::vector<int64_t> offsets = {0, 2, 3}, counts = {2, 1, 1}, place = {3, 1, 0, 2},
                               input = {0, 1, 2, -1};
    const std::vector<int64_t> children = {-1, -1, 3, -1, -1, -1, 1, 0};  // left, right
    const Trees trees{place.data(), input.data(), 3, 2, children.data(), nullptr, nullptr,
                      nullptr,      0};
    Random random(4);
    std::vector<double> x(3 * I), weight(H * (2 * H + I)), bias(H), h(N * H, 7.0);
    for (auto* v : {&x, &weight, &bias})
        for (double& e : *v) e = random.uniform(-0.5, 0.5);
    const Program program = make_tree_forward(I, H);
    program.validate();
    const auto scan = [&](const Trees& of, const KernelSet& isa, int threads) {
        Call call{8,
                  {{x.data(), 3, I, I}, {h.data(), N, H, H}},
                  {{weight.data(), H, 2 * H + I, 2 * H + I}, {bias.data(), 1, H, H}},
                  {},
                  {3, offsets.data(), counts.data(), N, 0},
                  threads,
                  &isa};
        call.schedule.trees = &of;
        cellwright::run(program, call);
    };
    for (const KernelSet* isa : available_isas())
        for (int threads : {1, 2}) {
            std::fill(h.begin(), h.end(), 7.0);
            scan(trees, *isa, threads);
            for (int64_t r = 0; r < N; ++r)
                for (int64_t u = 0; u < H; ++u) {
                    const double* w = &weight[u * (2 * H + I)];
                    double sum = bias[u];
                    for (int64_t slot : {0, 1})
                        for (int64_t k = 0; k < H && children[slot * N + r] >= 0; ++k)
                            sum += w[slot * H + k] * h[children[slot * N + r] * H + k];
                    for (int64_t k = 0; k < I && input[r] >= 0; ++k)
                        sum += w[2 * H + k] * x[input[r] * I + k];
                    CHECK(h[place[r] * H + u] ==
                          doctest::Approx(std::tanh(sum)).epsilon(1e-13));
                }
        }
    std::vector<int64_t> wrong = {-1, -1, 2, -1, -1, -1, 1, 0};  // 0's child is its parent
    Trees looped = trees;
    looped.children = wrong.data();
    CHECK_THROWS_WITH_AS(scan(looped, *available_isas()[0], 1),
                         doctest::Contains("earlier level"), std::invalid_argument);
}
