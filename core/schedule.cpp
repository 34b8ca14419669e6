#include "schedule.h"

#include <algorithm>
#include <vector>

#include "require.h"

namespace cellwright {

namespace {

void check_padded(const Schedule& s) {
    REQUIRE(s.width > 0 && s.rows % s.width == 0 && s.initial_rows >= s.width,
            "[schedule] levels must have room for the initial rows");
    std::vector<bool> level(s.rows / s.width), taken(s.width);
    std::vector<int64_t> deepest = {0};  // of the first rows of a level, the last place
    for (int64_t r = 0; r < s.batch_row_count; ++r) {
        const int64_t at = s.batch_rows[r], place = s.places != nullptr ? s.places[r] : at;
        REQUIRE(at >= 0 && at < s.width && !taken[at],
                "[schedule] batch rows must differ");
        taken[at] = true;
        REQUIRE(place >= 0 && place < s.rows && place % s.width == at,
                "[schedule] a place must be of its batch row");
        deepest.push_back(std::max(deepest[r], place));
    }
    for (int64_t l = 0; l < s.levels; ++l) {
        REQUIRE(s.counts[l] >= 0 && s.counts[l] <= s.batch_row_count,
                "[schedule] a level has more rows than there are batch rows");
        const int64_t at = s.offsets[l] / s.width;
        REQUIRE(s.offsets[l] >= 0 && s.offsets[l] < s.rows && s.offsets[l] % s.width == 0 &&
                    !level[at],
                "[schedule] levels must not overlap");
        REQUIRE(deepest[s.counts[l]] < s.rows - s.offsets[l],
                "[schedule] a level reaches past the last row");
        level[at] = true;
    }
}

void check_resets(const Schedule& s) {
    const int64_t rows = s.rows_of_gradients();
    REQUIRE(rows >= s.block_rows(), "[schedule] too few rows for the initial gradients");
    std::vector<int64_t> owner(rows, -1);  // by row of gradients: the row of a level
    const int64_t widest = s.widest_level();
    for (int64_t r = 0; r < widest; ++r) owner[s.width > 0 ? s.batch_rows[r] : r] = r;
    int64_t level = -1, row = -1;
    for (const Reset* reset = s.resets; reset != s.resets + s.reset_count; ++reset) {
        REQUIRE(reset->level > level || (reset->level == level && reset->row > row),
                "[schedule] resets must be in order");
        level = reset->level, row = reset->row;
        REQUIRE(level >= 0 && level < s.levels && row >= 0 && row < s.counts[level],
                "[schedule] a reset must be a row of its level");
        REQUIRE(reset->initial >= 0 && reset->initial < s.initial_rows &&
                    reset->gradient >= 0 && reset->gradient < rows,
                "[schedule] a reset must have an initial row");
        int64_t& of = owner[reset->gradient];
        REQUIRE(of == -1 || of == row,
                "[schedule] two sequences must not leave their gradients in one row");
        of = row;
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
        const int64_t first = t.first_child[r], last = t.first_child[r + 1];
        REQUIRE(first <= last && last <= t.child_count,
                "[trees] children must be in the order of the rows");
        for (int64_t e = first; e < last; ++e) {
            REQUIRE(t.parent[e] == r, "[trees] a child must name its parent's row");
            check(t.child[e], r);
        }
    }
}

// Levels follow one another without gaps; `up` or downwards.
void check_levels(const Schedule& s, bool up) {
    int64_t at = up ? 0 : s.rows;
    for (int64_t l = 0; l < s.levels; ++l) {
        REQUIRE(s.counts[l] >= 0 && s.counts[l] <= s.rows, "[schedule] a level's count");
        if (!up) at -= s.counts[l];
        REQUIRE(s.offsets[l] == at, "[schedule] levels must follow one another");
        if (up) at += s.counts[l];
    }
    REQUIRE(at == (up ? s.rows : 0), "[schedule] levels must hold all rows");
}

void check_items(const Schedule& s) {
    REQUIRE(s.trees == nullptr && s.first_item_count == s.block_rows() + 1,
            "[schedule] expected where the items of each row of the batch begin");
    for (int32_t set = 0; set < s.sets; ++set) {
        const int64_t* first = s.first_item_of(set);
        REQUIRE(first[0] == 0 && std::is_sorted(first, first + s.first_item_count),
                "[schedule] items must follow one another");
    }
}

}  // namespace

void Schedule::validate() const {
    REQUIRE(levels >= 0 && rows >= 0 && initial_rows >= 0,
            "[schedule] sizes must not be negative");
    if (sets > 0) check_items(*this);
    if (width > 0) {
        check_padded(*this);
        return check_resets(*this);
    }
    const bool up = levels < 2 || offsets[0] <= offsets[levels - 1];
    check_levels(*this, up);
    if (trees != nullptr) {
        REQUIRE(up && reset_count == 0, "[schedule] trees have children alone, levels upwards");
        return check_trees(*this, *trees);
    }
    REQUIRE(initial_rows >= widest_level(), "[schedule] too few initial rows");
    check_resets(*this);
}

int64_t Schedule::widest_level() const {
    int64_t most = 0;
    for (int64_t l = 0; l < levels; ++l) most = std::max(most, counts[l]);
    return most;
}

int64_t Schedule::scanned_rows() const {
    int64_t sum = 0;
    for (int64_t l = 0; l < levels; ++l) sum += counts[l];
    return sum;
}

int64_t Schedule::block_rows() const { return width > 0 ? width : widest_level(); }

int64_t Schedule::rows_of_gradients() const {
    return gradient_rows > 0 ? gradient_rows : initial_rows;
}

}  // namespace cellwright
