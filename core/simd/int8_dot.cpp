// The products of an instruction set that multiplies bytes; all else is avx512's. CMake
// compiles this file with the same definitions as kernels.cpp.
#include "int8_dot.h"

namespace cellwright::CELLWRIGHT_ISA {

extern const Int8Kernels int8_kernels;
const Int8Kernels int8_kernels = {product_bytes, pack_bytes, narrow_bytes};

}  // namespace cellwright::CELLWRIGHT_ISA
