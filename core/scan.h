// Runs a program over a schedule.
#pragma once

#include <memory>

#include "call.h"

namespace cellwright {

// Throws std::invalid_argument, before anything is touched, where the call does not fit
// the (validated) program; std::bad_alloc where there is no memory. The result does not
// depend on `threads`.
void run(const Program& program, const Call& call);

// A forward scan of one level that is run again and again, on one thread: its weights are
// packed once, and the parameters not read again. Program and call must outlive it; an
// array is where `place` last said.
class PackedLevel {
public:
    virtual ~PackedLevel() = default;
    virtual void place(size_t array, void* data) = 0;  // as many rows, without gaps
    virtual void run() = 0;
};

// Checks as `run` does; the schedule is one level of a sequence.
std::unique_ptr<PackedLevel> make_packed_level(const Program& program, const Call& call);

}  // namespace cellwright
