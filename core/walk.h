// Runs a program over a schedule.
#pragma once

#include <memory>

#include "kernels.h"
#include "program.h"

namespace cellwright {

// A row that follows none: row `row` of level `level` starts from an initial row, and its
// gradient goes to a row of the initial arrays that a backward program writes.
struct Start {
    int64_t level, row, initial, gradient;
};

// Trees, walked from the leaves: a row is a node. All arrays of its rows are in an order
// of the caller's, in which a node has a place; -1 is no node.
struct Trees {
    const int64_t* place;       // of each row, each place once
    const int64_t* input;       // the row of input arrays of each row, or -1
    int64_t inputs;             // rows of input arrays
    int64_t slots;              // of children, where a node's are told apart
    const int64_t* children;    // [slots][rows] places
    const int64_t* first_child; // [rows + 1] where a row's own begin in the two below
    const int64_t* child;       // places of all children, by their parents' rows
    const int64_t* parent;      // the row that each is a child of
    int64_t child_count;        // of both
};

// Which rows there are, level by level in the order of the forward walk, and where each
// row comes from. Without lanes, levels follow one another in memory without gaps, upwards
// or downwards.
struct Schedule {
    int64_t levels;
    const int64_t* offsets;   // a level's first row
    const int64_t* counts;    // its rows
    int64_t rows;             // of the sequence arrays
    int64_t initial_rows;     // rows of the initial arrays that are read
    // The predecessor of each row: a row of an earlier level, or -1 - i for row i of
    // the initial arrays; no row is the predecessor of two. Null means dense: row r of
    // a level follows row r of the level before, or starts from initial row r.
    const int64_t* previous;

    // A dense schedule over padded sequences, the longest first: row r of a level stands
    // at its offset + places[r], and starts from initial row lanes[r]. A level has room for
    // `width` rows; what no level names is neither read nor written. A place is a lane of
    // whichever step the sequence begins at; null: all begin at step 0, places are lanes.
    // Width 0: no lanes, r itself.
    const int64_t* lanes = nullptr;
    int64_t lane_count = 0, width = 0;
    const int64_t* places = nullptr;

    // Rows of a dense schedule that start anew, in order of level and row. The state that
    // their lane had before goes nowhere. Several may read one initial row; those that
    // leave their gradient in one row must be of one lane, and the first of them remains.
    const Start* starts = nullptr;
    int64_t start_count = 0;
    int64_t gradient_rows = 0;  // rows of the initial arrays that are written; 0: as read

    // Over trees: `previous` is not read. Null in sequences.
    const Trees* trees = nullptr;
};

// `rows` rows of `columns` elements, `stride` elements apart. `Buffer{}` leaves an array of a
// sequence to the core: initial rows that are read are zeros then, and a forward walk's
// rolling array is scratch.
struct Buffer {
    void* data;
    int64_t rows, columns, stride;
};

// What is copied out of an array when the walk has ended: rows from `row` on. Where there
// was no row to walk nothing is.
struct Final {
    size_t array;
    int64_t row;
    Buffer to;
};

struct Call {
    int element_size;                // 4: float, 8: double; of every buffer
    std::vector<Buffer> arrays;      // the program's given arrays, in its order
    std::vector<Buffer> parameters;  // contiguous: rows * columns elements
    std::vector<Buffer> gradients;   // like the parameters; written. Empty if forward
    Schedule schedule;
    int threads;
    const KernelSet* isa;
    std::vector<Final> finals = {};
};

// Throws std::invalid_argument, before anything is touched, where the call does not fit
// the (validated) program; std::bad_alloc where there is no memory. The result does not
// depend on `threads`.
void run(const Program& program, const Call& call);

// A forward walk of one level that is run again and again, on one thread: its weights are
// packed once, and the parameters not read again. Program and call must outlive it; an
// array is where `place` last said.
class Level {
public:
    virtual ~Level() = default;
    virtual void place(size_t array, void* data) = 0;  // as many rows, without gaps
    virtual void run() = 0;
};

// Checks as `run` does; the schedule is one dense level.
std::unique_ptr<Level> make_level(const Program& program, const Call& call);

}  // namespace cellwright
