// What a program runs on: the caller's memory, the schedule, the threads.
#pragma once

#include <vector>

#include "kernels.h"
#include "program.h"
#include "schedule.h"

namespace cellwright {

// `rows` rows of `columns` elements, `stride` elements apart. `Buffer{}` leaves an array of
// a sequence to the core: initial rows that are read are zeros then, and a forward scan's
// rolling array is scratch.
struct Buffer {
    void* data;
    int64_t rows, columns, stride;
};

// Rows of an array, from `row` on, that are copied when the scan has ended; not where there
// was no row to scan.
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

    // Throws std::invalid_argument where sizes, places or memory do not fit the program.
    // `written` is `program.written()`.
    void validate(const Program& program, const std::vector<bool>& written) const;

    // Whether the caller leaves an array to the core: see `Buffer`.
    bool leaves_out(const Program& program, size_t array, bool written) const;
};

}  // namespace cellwright
