// What a program runs on: the caller's memory, the schedule, the threads.
#pragma once

#include <vector>

#include "kernels.h"
#include "program.h"
#include "schedule.h"

namespace cellwright {

// `rows` rows of `columns` elements, `stride` elements apart. `Buffer{}` leaves an array of
// a sequence to the core: initial rows that are read are zeros then, and a forward scan's
// rolling array is scratch. In a call of floats an array may be in bf16: what is stored is
// rounded to nearest, ties to even.
struct Buffer {
    void* data;
    int64_t rows, columns, stride;
    bool bf16 = false;

    int64_t bytes_of(int element_size) const { return bf16 ? 2 : element_size; }
};

// Rows of an array, from `row` on, that are copied when the scan has ended; not where there
// was no row to scan.
struct Final {
    size_t array;
    int64_t row;
    Buffer to;
};

struct Call {
    int element_size;                // 4: float, 8: double; of every buffer not in bf16
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

    bool in_bf16(size_t array) const { return array < arrays.size() && arrays[array].bf16; }
};

}  // namespace cellwright
