#include "threads.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace cellwright {

namespace {

constexpr int kSpins = 4000;        // about 100 microseconds before a worker parks
constexpr int kSpinsAtBarrier = 400;  // then give the core away between looks

// What the workers and their callers share. Workers hold it alive.
struct Shared {
    std::atomic<uint32_t> job{0};  // counts jobs; workers wait for a change
    std::atomic<int> running{0};   // workers still inside the current job
    int threads = 0;
    Body body = nullptr;
    void* context = nullptr;
};

void work(std::shared_ptr<Shared> shared, int thread, uint32_t seen) {
    for (;;) {
        for (int i = 0; i < kSpins && shared->job.load(std::memory_order_acquire) == seen; ++i)
            pause();
        shared->job.wait(seen, std::memory_order_acquire);
        seen = shared->job.load(std::memory_order_acquire);
        if (thread < shared->threads) shared->body(shared->context, thread);
        shared->running.fetch_sub(1, std::memory_order_release);
    }
}

struct Pool {
    std::mutex busy;
    std::shared_ptr<Shared> shared = std::make_shared<Shared>();
    int workers = 0;
    pid_t process = getpid();
};

// Never destroyed: detached workers may outlive static destruction.
std::atomic<Pool*> current{nullptr};

Pool* pool() {
    Pool* p = current.load();
    if (p == nullptr || p->process != getpid()) {  // first use, or the child of a fork
        Pool* fresh = new Pool;
        if (current.compare_exchange_strong(p, fresh)) return fresh;
        delete fresh;
    }
    return current.load();
}

}  // namespace

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void Barrier::wait() {
    if (count_ == 1) return;
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        waiting_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
        if (spins < kSpinsAtBarrier)
            pause();
        else
            std::this_thread::yield();
}

int run_on_pool(int threads, Body body, void* context) {
    if (threads <= 1) return 0;
    Pool* p = pool();
    std::unique_lock lock(p->busy, std::try_to_lock);
    if (!lock) return 0;
    Shared& shared = *p->shared;
    try {
        while (p->workers < threads - 1) {
            std::thread(work, p->shared, p->workers + 1, shared.job.load()).detach();
            ++p->workers;
        }
    } catch (const std::system_error&) {
        return 0;
    }
    shared.threads = threads;
    shared.body = body;
    shared.context = context;
    shared.running.store(p->workers, std::memory_order_relaxed);
    shared.job.fetch_add(1, std::memory_order_release);
    shared.job.notify_all();
    body(context, 0);
    for (int spins = 0; shared.running.load(std::memory_order_acquire) != 0; ++spins)
        if (spins < kSpins)
            pause();
        else
            std::this_thread::yield();
    return threads;
}

int threads_or(int otherwise) {
    const char* variable = std::getenv("CELLWRIGHT_THREADS");
    const int threads = variable == nullptr ? 0 : std::atoi(variable);
    return threads > 0 ? threads : otherwise;
}

}  // namespace cellwright
