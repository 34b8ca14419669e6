#include "check.h"

#include <algorithm>
#include <cstring>

namespace cellwright {

int64_t widest(const Schedule& s) {
    int64_t rows = 0;
    for (int64_t l = 0; l < s.levels; ++l) rows = std::max(rows, s.counts[l]);
    return rows;
}

int64_t walked_rows(const Schedule& s) {
    int64_t rows = 0;
    for (int64_t l = 0; l < s.levels; ++l) rows += s.counts[l];
    return rows;
}

int64_t block_rows(const Schedule& s) { return s.width > 0 ? s.width : widest(s); }

namespace {

int64_t gradient_rows(const Schedule& s) {
    return s.gradient_rows > 0 ? s.gradient_rows : s.initial_rows;
}

struct Extent {
    const char *first, *last;
    bool written;
    const char* kind;  // "array", "parameter", "gradient" or "final"
    size_t index;
};

void check_lanes(const Schedule& s) {
    REQUIRE(s.previous == nullptr, "[schedule] lanes are of a dense schedule");
    REQUIRE(s.width > 0 && s.rows % s.width == 0 && s.initial_rows >= s.width,
            "[schedule] levels must have room for the initial rows");
    std::vector<bool> level(s.rows / s.width), lane(s.width);
    std::vector<int64_t> deepest = {0};  // of the first rows of a level, the last place
    for (int64_t r = 0; r < s.lane_count; ++r) {
        const int64_t at = s.lanes[r], place = s.places != nullptr ? s.places[r] : at;
        REQUIRE(at >= 0 && at < s.width && !lane[at], "[schedule] lanes must differ");
        lane[at] = true;
        REQUIRE(place >= 0 && place < s.rows && place % s.width == at,
                "[schedule] a place must be of its lane");
        deepest.push_back(std::max(deepest[r], place));
    }
    for (int64_t l = 0; l < s.levels; ++l) {
        REQUIRE(s.counts[l] >= 0 && s.counts[l] <= s.lane_count,
                "[schedule] a level has more rows than there are lanes");
        const int64_t at = s.offsets[l] / s.width;
        REQUIRE(s.offsets[l] >= 0 && s.offsets[l] < s.rows && s.offsets[l] % s.width == 0 &&
                    !level[at],
                "[schedule] levels must not overlap");
        REQUIRE(deepest[s.counts[l]] < s.rows - s.offsets[l],
                "[schedule] a level reaches past the last row");
        level[at] = true;
    }
}

void check_starts(const Schedule& s) {
    const int64_t rows = gradient_rows(s);
    REQUIRE(rows >= block_rows(s), "[schedule] too few rows for the initial gradients");
    std::vector<int64_t> owner(rows, -1);  // lanes
    for (int64_t r = 0; r < widest(s); ++r) owner[s.width > 0 ? s.lanes[r] : r] = r;
    int64_t level = -1, row = -1;
    for (const Start* a = s.starts; a != s.starts + s.start_count; ++a) {
        REQUIRE(a->level > level || (a->level == level && a->row > row),
                "[schedule] starts must be in order");
        level = a->level, row = a->row;
        REQUIRE(level >= 0 && level < s.levels && row >= 0 && row < s.counts[level],
                "[schedule] a start must be a row of its level");
        REQUIRE(a->initial >= 0 && a->initial < s.initial_rows && a->gradient >= 0 &&
                    a->gradient < rows,
                "[schedule] a start must have an initial row");
        int64_t& lane = owner[a->gradient];
        REQUIRE(lane == -1 || lane == row,
                "[schedule] two lanes must not leave their gradients in one row");
        lane = row;
    }
}

// Every child is a node of a level before its parent's, and no other's child.
void check_trees(const Schedule& s, const Trees& t) {
    std::vector<int64_t> level_of(s.rows, -1);  // by place
    for (int64_t l = 0, r = 0; l < s.levels; ++l)
        for (const int64_t end = r + s.counts[l]; r < end; ++r) {
            const int64_t at = t.place[r];
            REQUIRE(at >= 0 && at < s.rows && level_of[at] < 0, "[trees] places must differ");
            level_of[at] = l;
            REQUIRE(t.input[r] >= -1 && t.input[r] < t.inputs, "[trees] no such input");
        }
    std::vector<bool> has_parent(s.rows);
    const auto check = [&](int64_t child, int64_t row) {
        REQUIRE(child >= 0 && child < s.rows && level_of[child] < level_of[t.place[row]],
                "[trees] a child must be a node of an earlier level");
        REQUIRE(!has_parent[child], "[trees] a node must not be the child of two");
        has_parent[child] = true;
    };
    for (int64_t k = 0; k < t.slots; ++k)
        for (int64_t r = 0; r < s.rows; ++r)
            if (t.children[k * s.rows + r] != -1) check(t.children[k * s.rows + r], r);
    if (t.first_child == nullptr) return;
    REQUIRE(t.first_child[0] == 0 && t.first_child[s.rows] == t.child_count,
            "[trees] children must follow one another");
    for (int64_t r = 0; r < s.rows; ++r) {
        REQUIRE(t.first_child[r] <= t.first_child[r + 1] && t.first_child[r + 1] <= t.child_count,
                "[trees] children must be in the order of the rows");
        for (int64_t e = t.first_child[r]; e < t.first_child[r + 1]; ++e) {
            REQUIRE(t.parent[e] == r, "[trees] a child must name its parent's row");
            check(t.child[e], r);
        }
    }
}

void check_schedule(const Schedule& s) {
    REQUIRE(s.levels >= 0 && s.rows >= 0 && s.initial_rows >= 0,
            "[schedule] sizes must not be negative");
    if (s.width > 0) {
        check_lanes(s);
        return check_starts(s);
    }
    int64_t total = 0;
    const bool up = s.levels < 2 || s.offsets[0] <= s.offsets[s.levels - 1];
    int64_t at = up ? 0 : s.rows;
    for (int64_t l = 0; l < s.levels; ++l) {
        REQUIRE(s.counts[l] >= 0 && s.counts[l] <= s.rows, "[schedule] a level's count");
        if (!up) at -= s.counts[l];
        REQUIRE(s.offsets[l] == at, "[schedule] levels must follow one another");
        if (up) at += s.counts[l];
        total += s.counts[l];
    }
    REQUIRE(total == s.rows, "[schedule] levels must hold all rows");
    if (s.trees != nullptr) {
        REQUIRE(up && s.previous == nullptr && s.start_count == 0,
                "[schedule] trees have children alone, levels upwards");
        return check_trees(s, *s.trees);
    }
    if (s.previous == nullptr) {
        REQUIRE(s.initial_rows >= widest(s), "[schedule] too few initial rows");
        return check_starts(s);
    }
    REQUIRE(s.start_count == 0, "[schedule] starts are of a dense schedule");
    std::vector<bool> done(s.rows), taken(s.rows), started(s.initial_rows);
    for (int64_t l = 0; l < s.levels; ++l) {
        for (int64_t r = s.offsets[l]; r < s.offsets[l] + s.counts[l]; ++r) {
            const int64_t p = s.previous[r];
            const bool begins = p < 0;
            const int64_t i = begins ? -1 - p : p;
            REQUIRE(begins ? i < s.initial_rows : i < s.rows && done[i],
                    "[schedule] a predecessor must be a row of an earlier level");
            REQUIRE(!(begins ? started[i] : taken[i]),
                    "[schedule] a row must not be the predecessor of two");
            (begins ? started : taken)[i] = true;
        }
        for (int64_t r = s.offsets[l]; r < s.offsets[l] + s.counts[l]; ++r) done[r] = true;
    }
}

std::string name_of(const Program& program, const Extent& e) {
    if (std::strcmp(e.kind, "array") == 0) return program.arrays[e.index].name;
    return std::string(e.kind) + " " + std::to_string(e.index);
}

// `e` names the buffer, and becomes where it lies.
void check_buffer(const Program& program, const Buffer& b, int64_t rows, int64_t columns,
                  int size, Extent& e) {
    const auto where = [&] { return "[" + name_of(program, e) + "] "; };
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
    REQUIRE(reinterpret_cast<uintptr_t>(b.data) % size == 0, where() + "not aligned");
    e.first = static_cast<const char*>(b.data);
    e.last = e.first + ((b.rows - 1) * b.stride + b.columns) * size;
}

// A program reads children that its schedule tells of.
void check_children(const Program& program, const Trees& t) {
    const auto check = [&](const View& v) {
        const bool each = v.slot == kEveryChild;
        REQUIRE(!v.previous || (each ? t.first_child != nullptr : v.slot < t.slots),
                "[call] the schedule has not the program's children");
    };
    for (const Array& a : program.arrays)
        REQUIRE(a.axis == Axis::node || t.first_child != nullptr,
                "[call] the schedule has not the program's children");
    for (const Stage& s : program.stages) std::for_each(s.views.begin(), s.views.end(), check);
    for (const Gradient& g : program.gradients) check(g.source);
}

}  // namespace

bool left_out(const Program& program, const Call& call, size_t array, bool written) {
    const Buffer& b = call.arrays[array];
    const Rows rows = program.arrays[array].rows;
    return b.data == nullptr && b.columns == 0 && !program.tree &&
           (rows == Rows::initial ? !written : rows == Rows::rolling && !program.backward);
}

void check_call(const Program& program, const Call& call, const std::vector<bool>& written) {
    const Schedule& s = call.schedule;
    check_schedule(s);
    REQUIRE(call.element_size == 4 || call.element_size == 8,
            "[call] elements are float or double");
    REQUIRE(call.isa != nullptr && call.threads >= 1, "[call] no instruction set");
    REQUIRE(int(call.arrays.size()) == program.given_arrays(),
            "[call] expected " + std::to_string(program.given_arrays()) +
                " arrays; received " + std::to_string(call.arrays.size()));
    REQUIRE(call.parameters.size() == program.parameters.size(),
            "[call] expected " + std::to_string(program.parameters.size()) +
                " parameters; received " + std::to_string(call.parameters.size()));
    REQUIRE(call.gradients.size() == (program.backward ? program.parameters.size() : 0),
            "[call] a backward walk writes a gradient for each parameter, a forward one none");
    const int64_t block = block_rows(s);
    REQUIRE((s.trees != nullptr) == program.tree,
            program.tree ? "[call] the program walks over trees"
                         : "[call] the program walks over sequences");
    if (program.tree) check_children(program, *s.trees);
    std::vector<Extent> extents;
    extents.reserve(call.arrays.size() + 2 * call.parameters.size() + call.finals.size());
    const auto check = [&](const char* kind, size_t index, const Buffer& b, int64_t rows,
                           int64_t columns, bool writes) {
        extents.push_back({nullptr, nullptr, writes, kind, index});
        check_buffer(program, b, rows, columns, call.element_size, extents.back());
    };
    for (size_t i = 0; i < call.arrays.size(); ++i) {
        const Array& a = program.arrays[i];
        const int64_t rows = a.axis == Axis::child     ? s.trees->child_count
                             : a.rows == Rows::input   ? s.trees->inputs
                             : a.rows == Rows::sequence ? s.rows
                             : a.rows == Rows::rolling ? a.depth * block
                             : a.rows == Rows::lane    ? block
                             : written[i]              ? gradient_rows(s)
                                                       : s.initial_rows;
        REQUIRE(a.rows != Rows::rolling || (s.previous == nullptr && s.trees == nullptr),
                "[" + a.name + "] a rolling array needs a dense schedule");
        if (!left_out(program, call, i, written[i]))
            check("array", i, call.arrays[i], rows, a.columns, written[i]);
    }
    const auto check_all = [&](const std::vector<Buffer>& buffers, const char* kind,
                               bool writes) {
        for (size_t i = 0; i < buffers.size(); ++i) {
            const Buffer& b = buffers[i];
            const auto where = [&] { return std::string("[") + kind + " " + std::to_string(i); };
            REQUIRE(b.stride == b.columns, where() + "] not contiguous");
            REQUIRE(b.rows * b.columns == program.parameters[i],
                    where() + "] expected " + std::to_string(program.parameters[i]) +
                        " elements; received " + std::to_string(b.rows * b.columns));
            check(kind, i, b, b.rows, b.columns, writes);
        }
    };
    check_all(call.parameters, "parameter", false);
    check_all(call.gradients, "gradient", true);
    for (size_t i = 0; i < call.finals.size(); ++i) {
        const Final& f = call.finals[i];
        REQUIRE(f.array < call.arrays.size(), "[call] a final row's array is not among them");
        const Array& a = program.arrays[f.array];
        const bool own = left_out(program, call, f.array, written[f.array]);
        const int64_t rows = !own                       ? call.arrays[f.array].rows
                             : a.rows == Rows::rolling ? a.depth * block
                                                       : 0;
        REQUIRE(f.row >= 0 && f.to.rows >= 0 && f.to.rows <= rows - f.row,
                "[" + a.name + "] has not so many final rows");
        check("final", i, f.to, f.to.rows, a.columns, true);
    }
    for (const Extent& a : extents)
        for (const Extent& b : extents)
            REQUIRE(!a.written || &a == &b || a.first >= b.last || b.first >= a.last,
                    "[" + name_of(program, a) + "] is written and overlaps " +
                        name_of(program, b));
}

}  // namespace cellwright
