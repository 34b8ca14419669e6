// In what precision a program's products read their operands.
#pragma once

#include <stdint.h>

namespace cellwright {

enum class Precision : int32_t {
    full,  // that of all numbers of the call
    bf16,  // both operands rounded to bfloat16; sums in float
    int8,  // weights in 8 bits with a scale for each of their rows, the others in 16 bits
           // with a scale for each row; whole sums, scaled in float
};

}  // namespace cellwright
