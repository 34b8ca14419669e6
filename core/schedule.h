// The order in which a program scans rows: level by level, and where each row comes from.
#pragma once

#include <cstdint>

namespace cellwright {

// A row that starts anew: row `row` of level `level` reads row `initial` of the initial
// arrays, and its gradient goes to row `gradient` of those that a backward program writes.
struct Reset {
    int64_t level, row, initial, gradient;
};

// Trees, scanned from the leaves: a row is a node. All arrays of its rows are in an order
// of the caller's, in which a node has a place; -1 is no node.
struct Trees {
    const int64_t* place;       // of each row, each place once
    const int64_t* input;       // the row of input arrays of each row, or -1
    int64_t inputs;             // rows of input arrays
    int64_t slots;              // of children, where a node's are told apart
    const int64_t* children;    // [slots][rows] places
    const int64_t* first_child; // [rows + 1] where a row's own begin in the two below; null
                                // where no node sums over its children
    const int64_t* child;       // places of all children, by their parents' rows
    const int64_t* parent;      // the row that each is a child of
    int64_t child_count;        // of both
};

// Rows of sequences: row r of a level follows row r of the level before, or starts from
// row r of the initial arrays; levels are in the order of the forward scan, one after
// another in memory without gaps, upwards or downwards. Or, with `trees`, rows of trees.
struct Schedule {
    int64_t levels;
    const int64_t* offsets;  // a level's first row
    const int64_t* counts;   // its rows
    int64_t rows;            // of the sequence arrays
    int64_t initial_rows;    // rows of the initial arrays that are read

    // Padded sequences, the longest first: row r of a level is row batch_rows[r] of the
    // batch. It stands at the level's offset + places[r] and starts from that row of the
    // initial arrays. A level has room for `width` rows; what no level names is neither
    // read nor written. Places null: all sequences begin at step 0, and places are batch
    // rows. Width 0: not padded, both are r itself.
    const int64_t* batch_rows = nullptr;
    int64_t batch_row_count = 0, width = 0;
    const int64_t* places = nullptr;

    // In order of level and row. The state that a sequence had before goes nowhere. Several
    // may read one initial row; those that leave their gradient in one row must be of one
    // row of the batch, and the first of them remains.
    const Reset* resets = nullptr;
    int64_t reset_count = 0;
    int64_t gradient_rows = 0;  // rows of the initial arrays that are written; 0: as read

    const Trees* trees = nullptr;  // null: sequences

    // Of each set of items, one set after the other: where those of each row of the batch
    // begin in the arrays of all its items, and where those of the last end.
    const int64_t* first_item = nullptr;
    int64_t first_item_count = 0;  // of a set
    int64_t sets = 0;

    // Throws std::invalid_argument where an index or size is out of place.
    void validate() const;

    int64_t widest_level() const;        // its rows
    int64_t scanned_rows() const;        // of all levels
    int64_t block_rows() const;          // of one level in a rolling array
    int64_t rows_of_gradients() const;   // of the initial arrays that are written
    const int64_t* first_item_of(int32_t set) const {
        return first_item + set * first_item_count;
    }
    int64_t items(int32_t set) const { return first_item_of(set)[first_item_count - 1]; }
    int64_t steps() const { return width > 0 ? rows / width : levels; }
    int64_t step_of(int64_t level) const {  // in arrays of the sequence
        if (width > 0) return offsets[level] / width;
        return levels < 2 || offsets[0] <= offsets[levels - 1] ? level : levels - 1 - level;
    }
    int64_t first_child(int64_t row) const {  // where a row's own begin: see Trees
        return trees != nullptr && trees->first_child != nullptr ? trees->first_child[row] : 0;
    }
};

}  // namespace cellwright
