#include "call.h"

#include <algorithm>
#include <cstring>

#include "require.h"

namespace cellwright {

namespace {

struct Extent {
    const char *first, *last;
    bool written;
    const char* kind;  // "array", "parameter", "gradient" or "final"
    size_t index;
};

struct CallChecker {
    const Program& program;
    const Call& call;
    const std::vector<bool>& written;
    const Schedule& schedule = call.schedule;
    int64_t block_rows = 0;  // of a level in a rolling array: once it has been checked
    std::vector<Extent> extents = {};

    std::string name_of(const Extent& e) const {
        if (std::strcmp(e.kind, "array") == 0) return program.arrays[e.index].name;
        return std::string(e.kind) + " " + std::to_string(e.index);
    }

    // `e` names the buffer; its first and last byte are filled in.
    void buffer(const Buffer& b, int64_t rows, int64_t columns, Extent& e) const {
        const auto where = [&] { return "[" + name_of(e) + "] "; };
        REQUIRE(b.columns == columns, where() + "expected " + std::to_string(columns) +
                                          " columns; received " + std::to_string(b.columns));
        REQUIRE(b.rows >= rows, where() + "expected " + std::to_string(rows) +
                                    " rows; received " + std::to_string(b.rows));
        REQUIRE(b.stride >= b.columns || b.rows <= 1, where() + "rows overlap");
        if (b.rows == 0 || rows == 0) {
            e.written = false;
            return;
        }
        REQUIRE(b.data != nullptr, where() + "no memory");
        const int64_t bytes = b.bytes_of(call.element_size);
        REQUIRE(reinterpret_cast<uintptr_t>(b.data) % bytes == 0, where() + "not aligned");
        e.first = static_cast<const char*>(b.data);
        e.last = e.first + ((b.rows - 1) * b.stride + b.columns) * bytes;
    }

    void add(Extent e, const Buffer& b, int64_t rows, int64_t columns) {
        buffer(b, rows, columns, e);
        extents.push_back(e);
    }

    void counts() const {
        REQUIRE(call.element_size == 4 || call.element_size == 8,
                "[call] elements are float or double");
        REQUIRE(call.element_size == 4 || program.precision == Precision::full,
                "[call] products in bf16 or int8 are of floats");
        REQUIRE(call.isa != nullptr && call.threads >= 1, "[call] no instruction set");
        REQUIRE(program.sets() <= schedule.sets,
                "[call] the program reads " + std::to_string(program.sets()) +
                    " sets of items; received " + std::to_string(schedule.sets));
        REQUIRE(int(call.arrays.size()) == program.given_arrays(),
                "[call] expected " + std::to_string(program.given_arrays()) +
                    " arrays; received " + std::to_string(call.arrays.size()));
        REQUIRE(call.parameters.size() == program.parameters.size(),
                "[call] expected " + std::to_string(program.parameters.size()) +
                    " parameters; received " + std::to_string(call.parameters.size()));
        REQUIRE(call.gradients.size() == (program.backward ? program.parameters.size() : 0),
                "[call] a backward scan writes a gradient for each parameter, a forward one "
                "none");
        REQUIRE((schedule.trees != nullptr) == program.tree,
                program.tree ? "[call] the program scans trees"
                             : "[call] the program scans sequences");
    }

    // The schedule must have the children that the program reads.
    void children(const Trees& t) const {
        const auto check = [&](const View& v) {
            const bool every = v.slot == kEveryChild;
            REQUIRE(!v.previous || (every ? t.first_child != nullptr : v.slot < t.slots),
                    "[call] the schedule has not the program's children");
        };
        for (const Array& a : program.arrays)
            REQUIRE(a.axis == Axis::node || t.first_child != nullptr,
                    "[call] the schedule has not the program's children");
        for (const Stage& s : program.stages)
            for (const View& v : s.views) check(v);
        for (const Gradient& g : program.gradients) check(g.source);
    }

    int64_t rows_of(size_t array) const {
        const Array& a = program.arrays[array];
        if (a.axis == Axis::child) return schedule.trees->child_count;
        if (a.axis == Axis::item)
            return schedule.items(a.axis.set) * (a.rows == Rows::sequence  ? schedule.steps()
                                                 : a.rows == Rows::rolling ? a.depth
                                                                           : 1);
        switch (a.rows) {
            case Rows::input: return schedule.trees->inputs;
            case Rows::sequence: return schedule.rows;
            case Rows::rolling: return a.depth * block_rows;
            case Rows::spaced: return (schedule.levels + a.depth - 1) / a.depth * block_rows;
            case Rows::batch: return block_rows;
            default:
                return written[array] ? schedule.rows_of_gradients() : schedule.initial_rows;
        }
    }

    // Loads, stores, totals and products read bf16; other instructions do not.
    void half_arrays() const {
        if (std::none_of(call.arrays.begin(), call.arrays.end(),
                         [](const Buffer& b) { return b.bf16; }))
            return;
        const auto check = [&](bool fact, int32_t array, const char* what) {
            REQUIRE(fact || !call.in_bf16(array),
                    "[" + program.arrays[array].name + "] received bf16, expected " +
                        (call.element_size == 4 ? "float: " : "double: ") + what);
        };
        for (int32_t i = 0; i < int32_t(call.arrays.size()); ++i) {
            const Array& a = program.arrays[i];
            check(program.precision == Precision::bf16, i, "its products read no other");
            if (a.initial < 0) continue;
            const bool zeros = call.leaves_out(program, a.initial, written[a.initial]);
            check(zeros || call.in_bf16(a.initial), i, "so are its initial rows");
            check(call.in_bf16(i), a.initial, "so are the rows that follow");
        }
        for (const Stage& s : program.stages)
            for (const Instruction& in : s.code) {
                const bool knows = in.op == Opcode::load_ || in.op == Opcode::total_ ||
                                   in.op == Opcode::store_;
                for (const int32_t view : views_of(in))
                    check(knows && s.axis != Axis::matrix, s.views[view].array,
                          "an instruction knows no other");
            }
    }

    void arrays() {
        for (size_t i = 0; i < call.arrays.size(); ++i) {
            const Array& a = program.arrays[i];
            REQUIRE(a.rows != Rows::rolling || !program.tree,
                    "[" + a.name + "] a rolling array needs sequences");
            if (!call.leaves_out(program, i, written[i]))
                add({nullptr, nullptr, written[i], "array", i}, call.arrays[i], rows_of(i),
                    a.columns);
        }
    }

    void parameters(const std::vector<Buffer>& buffers, const char* kind, bool writes) {
        for (size_t i = 0; i < buffers.size(); ++i) {
            const Buffer& b = buffers[i];
            const Extent extent{nullptr, nullptr, writes, kind, i};
            const auto where = [&] { return "[" + name_of(extent); };
            REQUIRE(!b.bf16, where() + "] received bf16");
            REQUIRE(b.stride == b.columns, where() + "] not contiguous");
            REQUIRE(b.rows * b.columns == program.parameters[i],
                    where() + "] expected " + std::to_string(program.parameters[i]) +
                        " elements; received " + std::to_string(b.rows * b.columns));
            add(extent, b, b.rows, b.columns);
        }
    }

    void finals() {
        for (size_t i = 0; i < call.finals.size(); ++i) {
            const Final& f = call.finals[i];
            REQUIRE(f.array < call.arrays.size(),
                    "[call] a final row's array is not among them");
            const Array& a = program.arrays[f.array];
            REQUIRE(!f.to.bf16 && !call.in_bf16(f.array), "[" + a.name + "] received bf16");
            const bool own = call.leaves_out(program, f.array, written[f.array]);
            const int64_t rows = !own                      ? call.arrays[f.array].rows
                                 : a.rows == Rows::rolling ? rows_of(f.array)
                                                           : 0;
            REQUIRE(f.row >= 0 && f.to.rows >= 0 && f.to.rows <= rows - f.row,
                    "[" + a.name + "] has not so many final rows");
            add({nullptr, nullptr, true, "final", i}, f.to, f.to.rows, a.columns);
        }
    }

    void overlaps() const {
        for (const Extent& a : extents)
            for (const Extent& b : extents)
                REQUIRE(!a.written || &a == &b || a.first >= b.last || b.first >= a.last,
                        "[" + name_of(a) + "] is written and overlaps " + name_of(b));
    }

    void check() {
        schedule.validate();
        block_rows = schedule.block_rows();
        counts();
        if (program.tree) children(*schedule.trees);
        extents.reserve(call.arrays.size() + 2 * call.parameters.size() + call.finals.size());
        arrays();
        half_arrays();
        parameters(call.parameters, "parameter", false);
        parameters(call.gradients, "gradient", true);
        finals();
        overlaps();
    }
};

}  // namespace

void Call::validate(const Program& program, const std::vector<bool>& written) const {
    CallChecker{program, *this, written}.check();
}

bool Call::leaves_out(const Program& program, size_t array, bool written) const {
    const Buffer& b = arrays[array];
    const Rows rows = program.arrays[array].rows;
    return b.data == nullptr && b.columns == 0 && !program.tree &&
           (rows == Rows::initial ? !written : rows == Rows::rolling && !program.backward);
}

}  // namespace cellwright
