// A pool of threads that parks when idle, and the barrier its jobs meet at.
#pragma once

#include <atomic>
#include <cstdint>

namespace cellwright {

// A hint to the processor that this thread waits for another.
void pause();

// All `count` threads of a job wait for one another.
class Barrier {
public:
    explicit Barrier(int count) : count_(count), waiting_(0), round_(0) {}
    void wait();

private:
    const int count_;
    std::atomic<int> waiting_;
    std::atomic<uint32_t> round_;
};

// A job: `body(context, thread)` for thread = 0 … threads - 1, together.
using Body = void (*)(void* context, int thread);

// Runs a job on the caller and threads - 1 workers, if the pool is free; returns how
// many threads it ran on. A pool that another caller holds, or that cannot grow, leaves
// the job undone and returns 0: the caller then runs it alone. After a fork the child
// starts a pool of its own. `body` must not throw.
int run_on_pool(int threads, Body body, void* context);

// CELLWRIGHT_THREADS from the environment, or `otherwise`.
int threads_or(int otherwise);

}  // namespace cellwright
