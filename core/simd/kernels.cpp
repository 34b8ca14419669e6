// One instruction set's kernels. CMake compiles this file once per set and defines
//   CELLWRIGHT_ISA               the namespace and name of the set
//   CELLWRIGHT_VECTOR_BYTES      16, 32 or 64
//   CELLWRIGHT_VECTOR_REGISTERS  16 or 32
#include "bf16.h"
#include "gemm.h"
#include "int8.h"
#include "pointwise.h"
#include "recurrence.h"

namespace cellwright::CELLWRIGHT_ISA {
namespace {

template <class T> constexpr Kernels<T> kernels() {
    Kernels<T> k{{kLanes<T>, kVectors, kVectorsOfFewRows, kTileRows},
                 product<T>, outer<T>, pointwise<T>, transpose<T>, column_sums<T>,
                 matrix_steps<T>, matrix_steps_backward<T>};
    if constexpr (sizeof(T) == 4) {
        k.product_bf16 = product_bf16;
        k.product_int8 = product_int8;
        k.pack_bf16 = pack_bf16;
        k.pack_int8 = pack_int8;
        k.round_row = round_row;
        k.round_columns = round_columns;
        k.widen_row = widen_row;
        k.transpose_bf16 = transpose_bf16;
        k.narrow_row = narrow_row;
        k.narrow_columns = narrow_columns;
        k.column_sums_bf16 = column_sums_bf16;
        k.narrow_int8 = narrow_int8;
    }
    return k;
}

}  // namespace

#define CELLWRIGHT_TEXT_OF(name) #name
#define CELLWRIGHT_TEXT(name) CELLWRIGHT_TEXT_OF(name)

extern const KernelSet kernel_set;
const KernelSet kernel_set = {CELLWRIGHT_TEXT(CELLWRIGHT_ISA), kernels<float>(),
                              kernels<double>()};

}  // namespace cellwright::CELLWRIGHT_ISA
