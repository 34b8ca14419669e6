// A pool of threads that park when idle, and the barrier its jobs meet at.
#pragma once

#include <atomic>
#include <cstdint>

namespace cellwright {

// A hint to the processor that this thread waits for another.
void pause();

// All threads of a job wait for one another.
class Barrier {
public:
    void expect(int count) { count_ = count; }  // before any of them comes
    void wait();

private:
    int count_ = 1;
    std::atomic<int> waiting_{0};
    std::atomic<uint32_t> round_{0};
};

// A job: `begin(context, count)` on the caller, once it is known how many threads take
// part; then `body(context, thread)` for thread = 0 … count - 1, together. Neither throws.
struct Job {
    void (*begin)(void* context, int count);
    void (*body)(void* context, int thread);
    void* context;
};

// Runs a job on the caller and up to threads - 1 workers: those that come within
// `patience` nanoseconds. On a busy machine, or where another caller holds the pool, the
// job runs on fewer, or on the caller alone, rather than wait. After a fork the child
// starts a pool of its own.
void run_on_pool(int threads, int64_t patience, const Job& job);

// CELLWRIGHT_THREADS from the environment, or `otherwise`.
int threads_or(int otherwise);

}  // namespace cellwright
