// The products of an instruction set that multiplies bf16; all else is avx512's. CMake
// compiles this file once for each, with the same definitions as kernels.cpp.
#include "bf16_dot.h"

namespace cellwright::CELLWRIGHT_ISA {

extern const Bf16Kernels bf16_kernels;
#if defined(__AMX_BF16__)
const Bf16Kernels bf16_kernels = {product_tiles, outer_dots};
#else
const Bf16Kernels bf16_kernels = {product_dots, outer_dots};
#endif

}  // namespace cellwright::CELLWRIGHT_ISA
