// How the work of one call is cut and who does it: units into blocks of vectors, levels
// into chunks, what has no order into tasks; and where everything lies in the workspace.
// Offsets are in bytes, sizes in elements.
#pragma once

#include <vector>

#include "call.h"
#include "workspace.h"

namespace cellwright {

constexpr int64_t kMaxLanes = 16;  // of any vector

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What one block of units reads of a term's or gradient's source: all of it, or the
// heads that the block meets.
struct Range {
    int64_t begin, count;  // source columns; for a transposed term: blocks of the panel
    int64_t at;            // where its weights, or sums, begin: an offset in elements
};

struct TermLayout {
    int vectors;  // side by side in all: columns * vectors of a block
    int abreast;  // of them in one product at most
    std::vector<Range> ranges;
    size_t weights;
    size_t scales = 0;  // int8: [block][vectors][lanes]

    int groups() const { return int(ceil_div(vectors, abreast)); }  // products of a block
};

// Rows of a view as a stage's products read them, in less than full precision.
struct NarrowLayout {
    int view;
    int64_t width;       // elements of a row
    int64_t row, at;     // of a thread's rows: the distance, and where they begin
    int64_t scale_at;    // int8: within a row
};

struct StageLayout {
    int vectors;           // of a block
    int64_t width;         // of a block, in elements
    int64_t blocks;
    int64_t tile_rows;
    std::vector<TermLayout> terms;
    std::vector<NarrowLayout> narrow;
    std::vector<Instruction> begin;  // sets the accumulators
    size_t row_registers;
    size_t hoisted = 0;      // terms that are summed up for many levels at once
    int64_t sums_row = 0;    // elements of a row of those sums, within a block
    size_t sums = 0;         // [block][row of the chunk][accumulator][width]
};

// Stages that run together: one over a chunk's rows, or those of a loop over its levels.
struct StageRun {
    size_t first, last;  // [first, last)
    bool levels;
    bool pointwise;  // one stage without products or sums over units: what a unit of a row
                     // is depends on that unit of that row alone; or one of matrices, where
                     // the rows of a block depend on that row alone
};

struct PanelLayout {
    int64_t block, row, stride;  // elements of a row, from row to row, from block to block
    bool reduced = false;
    size_t sums;
};

struct GradientLayout {
    std::vector<Range> ranges;
    size_t sums;
    size_t source;  // among the layout's sources
    int64_t slice;  // columns of a task
};

// What gradients multiply a panel by: for a chunk, column by column.
struct SourceLayout {
    View view;
    Axis axis;
    int64_t width, stride;  // columns, and from one to the next
    size_t columns;
};

struct Chunk {
    int64_t first_level, last_level;  // [first, last)
    int64_t base, rows;               // counted in the order of the scan
};

// How many items of a set the rows of levels have.
struct ItemCounts {
    std::vector<int64_t> of_rows;  // of a level's rows before each, and all; for any level
    std::vector<int64_t> before;   // of the levels before each, and of all
};

// Of a chunk's work that has no order: a tile of a stage, a slice of a gradient, or the
// column sums of a panel's block.
struct Task {
    enum Kind { tile, gradient, reduction } kind;
    int index;
    int64_t block, part;
};

struct Layout {
    Layout(const Program& program, const Call& call, const Widths& widths);

    // Whether the caller leaves an array to the core: see `Buffer`.
    bool left_out(size_t array) const;

    int64_t scratch_stride(const Array& a) const;  // from row to row

    int panel_stage(const Stage& s, const Term& t) const {
        return program.arrays[s.views[t.view].array].stage;
    }
    bool is_narrow() const { return program.precision != Precision::full; }
    // Whether products read rows in bf16, rather than as rounded floats.
    bool multiplies_bf16() const {
        return program.precision == Precision::bf16 && widths.multiplies_bf16;
    }
    // Weights of a column of a term's block for so many k: in fewer bits they are packed in
    // pairs, or in fours after a number of 4 bytes for each kDepth k.
    int64_t packed_depth(int64_t depth) const {
        if (weight_size == element_size) return depth;
        if (program.precision == Precision::int8 && widths.multiplies_bytes)
            return (ceil_div(depth, 4) + ceil_div(depth, kDepth)) * 4;
        return (depth + 1) / 2 * 2;
    }

    // How many rows of an axis, in the scan's order, are before one of a level; of a level
    // after the last: how many there are.
    int64_t before(Axis axis, int64_t level, int64_t row = 0) const {
        const int64_t nodes = rows_before[level] + row;
        if (axis == Axis::item) return items[axis.set].before[level] + items[axis.set].of_rows[row];
        return axis == Axis::child ? schedule.first_child(nodes) : nodes;
    }
    int64_t rows_of(const Chunk& chunk, Axis axis) const {
        return before(axis, chunk.last_level) - before(axis, chunk.first_level);
    }

    const Program& program;
    const Call& call;
    const Schedule& schedule;
    const Widths& widths;
    const int64_t element_size;
    int64_t weight_size;              // bytes of one in a panel
    int64_t operand_size;             // and of a row's element as products read it: those of
                                      // panels of gate gradients, columns of sources
    const std::vector<bool> written;  // by array

    int64_t level_rows = 0;  // of the widest level
    int64_t block_rows = 0;  // of a level in a rolling array
    int64_t total_rows = 0;  // of all levels
    int64_t chunk_rows = 0;  // of the largest chunk
    int64_t level_children = 0;  // the most there are
    int64_t table_rows = 0;  // of a thread's row pointers, for each view
    int64_t work = 0;        // multiply-adds a row, and as many weights
    int64_t widest_panel = 0;  // elements of what one product reads of a block's weights
    int64_t group_rows = 0;  // rows of a thread that go through a chunk's levels together
    int threads = 1;         // that may take part; a scan then has those that came
    bool shared_stages = false;     // threads share each stage, rather than own rows
    bool independent_rows = false;  // within a level and its rows' own pasts: a sequence's
    bool hoists = false;            // inputs' products are summed up before a chunk
    bool chunked = false;           // some of the work is done for a chunk of levels at once
    bool shared_units = false;      // threads share the units of a pointwise loop

    std::vector<StageLayout> stages;
    std::vector<StageRun> runs;
    std::vector<PanelLayout> panels;  // by array
    std::vector<GradientLayout> gradients;
    std::vector<SourceLayout> sources;
    std::vector<Chunk> chunks;
    std::vector<int64_t> rows_before;  // of the levels before each, in the scan's order; and
                                       // of all
    std::vector<int64_t> first_reset;  // of each level
    std::vector<ItemCounts> items;     // by set
    std::vector<Task> tasks;
    size_t zero_row = 0, zero_row_bytes = 0;  // what a row that is not there reads as
    std::vector<size_t> discarded_rows;       // of each thread: where one is written; trees
    std::vector<size_t> scratch;              // by array
    std::vector<size_t> tiles, tables;        // of each thread: registers, row pointers
    std::vector<size_t> matrices;             // of each thread: what recurrences need
    // Of each thread, in less than full precision: rows, pointers to them, and a panel
    // that is packed.
    std::vector<size_t> narrow_rows, narrow_tables, wide_panels;
    Workspace memory;

private:
    void lay_out_levels();
    void lay_out_items();
    void lay_out_chunks();
    void lay_out_runs();
    void choose_threads();
    void choose_weights(int64_t count);
    void group_rows_of_items();
    void lay_out_stages();
    void lay_out_panels();
    void lay_out_gradients();
    void lay_out_terms(size_t index);
    void lay_out_narrow();
    void lay_out_memory();
    void lay_out_scratch();
    void lay_out_sums();
    void lay_out_tasks();

    bool chunks_items() const;
    int64_t levels_together() const;
    size_t source_of(const Gradient& g);
    size_t leading_inputs(const Stage& s) const;
    int vectors_of_block(size_t index) const;
    int64_t rows_at_once() const;
    int64_t most_entries() const;
    int vectors_abreast(int64_t rows) const;
    int64_t odd_lines(int64_t elements) const;
    int64_t most_rows(Axis axis) const;      // of the largest chunk
    int64_t rows_of_level(Axis axis) const;  // of the widest
    size_t reserve(int64_t elements) { return memory.reserve<char>(elements * element_size); }
};

}  // namespace cellwright
