// What a call must be before a pointer of it is used.
#pragma once

#include <stdexcept>

#include "walk.h"

namespace cellwright {

// The message is put together only when it is needed.
#define REQUIRE(fact, message)                          \
    do {                                                \
        if (!(fact)) throw std::invalid_argument(message); \
    } while (false)

int64_t widest(const Schedule& s);       // rows of the widest level
int64_t walked_rows(const Schedule& s);  // of all levels
int64_t block_rows(const Schedule& s);   // of one level in a rolling array

// Whether the caller leaves an array to the core: see `Buffer`.
bool left_out(const Program& program, const Call& call, size_t array, bool written);

// Throws std::invalid_argument where sizes, places or memory do not fit the program.
// `written` is `program.written()`.
void check_call(const Program& program, const Call& call, const std::vector<bool>& written);

}  // namespace cellwright
