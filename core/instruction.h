// One instruction of a pointwise program, as the compiler writes it and the
// interpreter reads it.
#pragma once

#include <stdint.h>

namespace cellwright {

enum class Opcode : int32_t {
#define OPCODE(name, reads, kind) name##_,
#include "opcodes.def"
#undef OPCODE
};

struct Instruction {
    Opcode op;
    int32_t dst;       // register written; -1 where none is
    int32_t a, b, c;   // registers, or what opcodes.def says
    double immediate;
};

}  // namespace cellwright
