// A program: what one step of a cell, or of its gradient, does, as plain data.
//
// A program scans the levels of a schedule. At every level it runs its stages; a stage
// computes `units` units of every row: matrix products into accumulator registers, then
// pointwise code. The forward step of a cell is one program; its backward step, which
// scans the levels from the last to the first, is another. Nothing in the core knows what
// an LSTM is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "instruction.h"
#include "precision.h"

namespace cellwright {

// How an array's rows belong to the rows of the schedule.
enum class Rows : int32_t {
    sequence,  // one row for each row of the schedule, in its order
    rolling,   // `depth` blocks of the widest level's rows; level l has block l % depth
    initial,   // one row for each row that has no predecessor
    chunk,     // one row for each row of a chunk of levels; always the core's own
    panel,     // gate gradients of a chunk, in blocks of units; always the core's own
    batch,     // one row for each row of the batch, the same at every level; only read
    input,     // one row for each row of the schedule that has an input, as it says
    parameter,  // one row for all: a copy of a parameter; always the core's own, only read
    spaced,     // a block of the widest level's rows for each `depth` levels; level l has
                // block l / depth, and what is there is of the last of them that a row has
};

// What has a row of its own: each row of the schedule; or, in a scan of trees, each
// child of each row; or, in one of sequences, each item of a set that a row reads: those of
// its row of the batch, at every level. Children have rows of sequence, rolling, chunk and
// panel arrays. Items have those and batch arrays: one row an item of the batch in batch
// and rolling arrays, and in sequence arrays one for each step too. Arrays have no rows of
// a matrix.
struct Axis {
    enum Kind : int32_t { node, child, item, matrix } kind;
    int32_t set;  // of items: which one

    bool operator==(const Axis&) const = default;
    bool operator==(Kind other) const { return kind == other; }
};

// A stage of matrices has a row for each row of a matrix: a state is then
// `heads` blocks of `rows` x `units`, one after the other in its row of an array. What such
// a stage sees of an array, for row r of block h:
enum class Form : int32_t {
    whole,    // in other stages: the row itself
    matrix,   // that row of a matrix
    rows,     // one number for each row of a block: element h * rows + r
    columns,  // one number for each column of a block: from h * units on
    heads,    // one number for each block: element h
    number,   // one number: element 0
};

// An array that the program reads or writes. The caller's arrays come first, in the
// order in which they are passed; the rest is scratch that the core owns for one call.
// A caller's array is never kept after the call, and one that is written may overlap no
// other.
struct Array {
    std::string name;  // for messages and listings
    Rows rows;
    int64_t columns;   // for a panel: gate columns, each of the stage's units
    int32_t depth;     // rolling and spaced only
    int32_t initial;   // the array that rows without predecessor read or write; or -1
    int32_t stage;     // panel only: the stage that writes it
    bool scratch;
    Axis axis;
    int32_t parameter;  // parameter only: which
};

constexpr int kMaxViews = 2048;  // of a stage
constexpr int kMaxSets = 1024;   // of items

// Whether an instruction writes a view, its b, and no register.
inline bool stores(const Instruction& in) {
    switch (in.op) {
        case Opcode::store_:
        case Opcode::accumulate_:
        case Opcode::dot_items_:
        case Opcode::outer_items_:
        case Opcode::attention_:
        case Opcode::dot_columns_:
        case Opcode::dot_rows_:
        case Opcode::sum_block_:
        case Opcode::dot_block_:
        case Opcode::attention_gradient_:
        case Opcode::store_panel_: return true;
        default: return false;
    }
}

// The views among an instruction's arguments.
std::vector<int32_t> views_of(const Instruction& in);

constexpr int32_t kEveryChild = -1;

// In a scan of trees a row that is not there (a missing child, or input) reads as 0, and
// what is written to it is discarded.
struct View {
    int32_t array;
    bool previous;  // its predecessor's row, or its row of the initial array; else its own
    int32_t slot;   // which predecessor: 0 in sequences; kEveryChild: a row for each child
    Form form;
};

// Part of a parameter as a matrix: element (unit, k) is at offset + unit * stride + k.
// For a vector (stride 1) or a number (stride 0) k is 0.
struct Piece {
    int32_t parameter;
    int64_t offset, stride;
};

// A product that is added to accumulator registers.
//   direct:      columns[j](u) += sum over k of pieces[j](u, k) * source(k)
//   transposed:  columns[0](k) += sum over j, u of pieces[j](u, k) * panel(first + j, u)
// `heads` blocks on the diagonal: unit u of head j meets only that head's k.
struct Term {
    int32_t view;   // of the stage's views
    int64_t width;  // of the source: operand width, or the units of the panel
    int32_t heads;
    bool transposed;
    int32_t first;  // transposed: the panel's first column
    std::vector<int32_t> columns;
    std::vector<Piece> pieces;
};

// An accumulator register and the row register it starts from.
struct Accumulator {
    int32_t tile, start;
};

// When a stage runs: at every level; or once for each chunk of levels, over all of its
// rows. Stages run in their order, and consecutive ones of levels and of one `loop` level
// by level: a loop over the chunk's levels. Stages after a chunk run in any order.
enum class When : int32_t { level, chunk, after_chunk };

// What a stage of matrices does where it is C' = f C + v kᵀ at every level, and y = C' q:
// the same as its code, for up to `steps` levels at once. Or the derivative of that, where y
// is its cotangent. Views of the stage; -1: none.
struct Recurrence {
    int32_t steps;            // 0: it does something else, level by level
    double decay;             // f where it has no view
    int32_t gate, v, k, q, y;
    int32_t before, after;    // C and C'
    int32_t d_gate, d_v, d_k, d_q, d_before, d_after;  // backward
};

struct Stage {
    When when;
    Axis axis;       // each child, or item, sees what its row has once
    bool whole;      // a tile spans all units: the code reduces over them
    int32_t loop;    // of a level's stage: those of one loop run together at every level
    int64_t units;
    int32_t tiles;  // registers that are tiles; row registers are numbered after them
    int32_t row_registers;
    std::vector<View> views;
    std::vector<Piece> vectors;         // what `vector` instructions load
    std::vector<Accumulator> accumulators;
    std::vector<Term> terms;
    std::vector<Instruction> prologue;  // fills row registers, once a call
    std::vector<Instruction> code;
    int32_t heads;  // of matrices: their blocks,
    int64_t matrix_rows;  // and the rows of one
    Recurrence recurrence;
};

// Elements that a stage of matrices sees of an array.
inline int64_t elements(const Stage& s, Form form) {
    switch (form) {
        case Form::matrix: return s.heads * s.matrix_rows * s.units;
        case Form::rows: return s.heads * s.matrix_rows;
        case Form::columns: return s.heads * s.units;
        case Form::heads: return s.heads;
        default: return 1;
    }
}

// Whether an instruction adds up what a level's rows of a matrix, or of a set, give.
inline bool sums_up(const Stage& s, const Instruction& in) {
    if (in.op == Opcode::dot_rows_ || in.op == Opcode::sum_block_ ||
        in.op == Opcode::dot_block_)
        return true;
    if (in.op != Opcode::accumulate_) return false;
    return s.axis == Axis::matrix && s.views[in.b].form != Form::matrix;
}

// A weight gradient, summed over all rows:
//   pieces[j](u, k) += sum over rows of panel(first + j, u) * source(k)
struct Gradient {
    int32_t panel, first;
    View source;
    int64_t width;
    int32_t heads;
    std::vector<Piece> pieces;
};

// The gradient of a vector or bias: piece(u) += sum over rows of panel(column, u).
struct Reduction {
    int32_t panel, column;
    Piece piece;
};

struct Program {
    bool backward;  // scans from the last level to the first
    bool tree;      // over a schedule of trees
    Precision precision;  // of products; all else is in full precision
    std::vector<Array> arrays;
    std::vector<int64_t> parameters;  // number of elements of each
    std::vector<Stage> stages;
    std::vector<Gradient> gradients;
    std::vector<Reduction> reductions;

    // Throws std::invalid_argument that names stage and fact if any index, size or
    // opcode is out of place. Nothing else in the core checks a program.
    void validate() const;

    int given_arrays() const;
    Axis axis(const View& v) const {
        if (v.previous) return {v.slot == kEveryChild ? Axis::child : Axis::node, 0};
        return arrays[v.array].axis;
    }
    std::vector<bool> written() const;  // by array
    int32_t sets() const;  // of items
};

}  // namespace cellwright
