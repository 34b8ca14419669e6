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

// The OpenMP runtime that the process already uses, by its functions (GNU's interface,
// which Intel's and LLVM's have too).
struct OpenMP {
    void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
    int (*thread_number)();
    int (*team_size)();
    int (*in_parallel)();
};

// From now on jobs run on this runtime's threads, not on a pool of our own. Its workers
// spin for milliseconds after each of the program's own parallel regions: other threads
// would wait for their cores, but they themselves come at once. A forked child, which has
// none of them, keeps to a pool of its own.
void use_openmp(const OpenMP& runtime);

// CELLWRIGHT_THREADS from the environment, or `otherwise`. Throws SettingError for what
// is no number from 1 to four times the processors: more threads than that only take
// memory, and wait for one another.
int threads_or(int otherwise);

}  // namespace cellwright
