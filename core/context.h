// What the parts of one scan share: the layout, the memory, and where each array lies.
#pragma once

#include <cstring>
#include <vector>

#include "layout.h"
#include "threads.h"

namespace cellwright {

// Rows of an array, whoever owns it; all of them are one row where the stride is 0. Where
// the array is in bf16 a row's address is a T's in name alone.
template <class T> struct RowsAt {
    T* data;
    int64_t stride;  // in bytes

    T* row(int64_t i) const {
        return reinterpret_cast<T*>(reinterpret_cast<char*>(data) + i * stride);
    }
};

template <class T> struct Context : Layout {
    Context(const Program& program, const Call& call, const Kernels<T>& kernels)
        : Layout(program, call, kernels), kernels(kernels), first_row(threads) {}

    // Once there is memory: finds the arrays in it, and clears the zero row.
    void place_arrays();

    T* at(size_t offset) const { return memory.at<T>(offset); }

    // So many elements further in a panel, or in a source's columns.
    T* ahead(T* at, int64_t elements) const {
        return reinterpret_cast<T*>(reinterpret_cast<char*>(at) + elements * operand_size);
    }

    // Where the rows that a thread looks at lie in a view of its stage.
    T** row_pointers(int thread, size_t view) const {
        return memory.at<T*>(tables[thread]) + int64_t(view) * table_rows;
    }
    // Pointers to the same rows of the i-th of its `narrow` views.
    T** narrow_rows_of(int thread, size_t i) const {
        return memory.at<T*>(narrow_tables[thread]) + int64_t(i) * table_rows;
    }
    T* row_registers(size_t stage, int64_t block) const {
        return at(stages[stage].row_registers) +
               block * program.stages[stage].row_registers * stages[stage].width;
    }

    const Kernels<T>& kernels;
    std::vector<RowsAt<T>> arrays;
    std::vector<int64_t> first_row;  // of each thread: the row of the scan, of the first
                                     // of its row pointers
    Barrier barrier;
};

template <class T> void Context<T>::place_arrays() {
    if (zero_row_bytes > 0) std::memset(at(zero_row), 0, zero_row_bytes);
    arrays.resize(program.arrays.size());
    for (size_t i = 0; i < program.arrays.size(); ++i) {
        const Array& a = program.arrays[i];
        const bool own = a.scratch || left_out(i);
        if (own && a.rows == Rows::initial)
            arrays[i] = {at(zero_row), 0};
        else if (!own)
            arrays[i] = {static_cast<T*>(call.arrays[i].data),
                         call.arrays[i].stride * call.arrays[i].bytes_of(element_size)};
        else
            arrays[i] = {at(scratch[i]),
                         a.rows == Rows::panel       ? operand_size * panels[i].row
                         : a.rows == Rows::parameter ? 0
                                                     : element_size * scratch_stride(a)};
    }
}

}  // namespace cellwright
