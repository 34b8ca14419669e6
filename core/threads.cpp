#include "threads.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "setting.h"
#include "tuning.h"

namespace cellwright {

namespace {

// What the workers and their callers share. Workers hold it alive.
//
// A caller opens a round for joining and counts it in `round`; workers that see it come
// and join; the caller closes it and gives the word with `started`. A worker that comes
// too late finds it closed, or joins the next.
struct Shared {
    std::atomic<uint32_t> round{0};
    std::atomic<uint64_t> joining{0};  // round << 32 | places left << 16 | joined
    std::atomic<uint32_t> started{0};  // the round whose job may run
    std::atomic<int> running{0};       // workers still inside it
    Job job{};
};

// A place in the open round: its thread number, or 0 where there is none.
int join(Shared& shared, uint32_t& round) {
    uint64_t word = shared.joining.load(std::memory_order_acquire);
    while (word >> 16 & 0xffff) {
        const uint64_t taken = word - (uint64_t(1) << 16) + 1;
        if (shared.joining.compare_exchange_weak(word, taken, std::memory_order_acq_rel)) {
            round = uint32_t(word >> 32);
            return int(taken & 0xffff);
        }
    }
    return 0;
}

void work(std::shared_ptr<Shared> shared, uint32_t seen) {
    for (;;) {
        for (int i = 0; i < kSpins && shared->round.load(std::memory_order_acquire) == seen; ++i)
            pause();
        shared->round.wait(seen, std::memory_order_acquire);
        seen = shared->round.load(std::memory_order_acquire);
        const int thread = join(*shared, seen);
        if (thread == 0) continue;
        for (int spins = 0; shared->started.load(std::memory_order_acquire) != seen; ++spins)
            spins < kSpins ? pause() : std::this_thread::yield();
        shared->job.body(shared->job.context, thread);
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

namespace {

void run_alone(const Job& job) {
    job.begin(job.context, 1);
    job.body(job.context, 0);
}

struct Team {
    OpenMP runtime{};
    pid_t process = 0;  // of which it is; 0 without one
};

Team team;
std::mutex team_busy;

struct TeamJob {
    const Job& job;
    std::atomic<bool> begun{false};
};

// What each thread of the team runs: thread 0 is the caller.
void run_in_team(void* data) {
    TeamJob& shared = *static_cast<TeamJob*>(data);
    const int thread = team.runtime.thread_number();
    if (thread == 0) {
        shared.job.begin(shared.job.context, team.runtime.team_size());
        shared.begun.store(true, std::memory_order_release);
    }
    for (int spins = 0; !shared.begun.load(std::memory_order_acquire); ++spins)
        spins < kSpins ? pause() : std::this_thread::yield();
    shared.job.body(shared.job.context, thread);
}

bool has_team() { return team.process == getpid() && !team.runtime.in_parallel(); }

}  // namespace

void use_openmp(const OpenMP& runtime) {
    const std::lock_guard lock(team_busy);
    team = {runtime, getpid()};
}

void run_on_pool(int threads, int64_t patience, const Job& job) {
    if (threads <= 1) return run_alone(job);
    if (has_team()) {
        const std::unique_lock lock(team_busy, std::try_to_lock);
        if (!lock) return run_alone(job);
        TeamJob shared{job};
        return team.runtime.parallel(run_in_team, &shared, unsigned(threads), 0);
    }
    Pool* p = pool();
    std::unique_lock lock(p->busy, std::try_to_lock);
    if (!lock) return run_alone(job);
    Shared& shared = *p->shared;
    try {
        for (; p->workers < threads - 1; ++p->workers)
            std::thread(work, p->shared, shared.round.load()).detach();
    } catch (const std::system_error&) {  // as many as there are
    }
    const uint32_t round = shared.round.load(std::memory_order_relaxed) + 1;
    const uint64_t open = uint64_t(round) << 32, places = uint64_t(threads - 1) << 16;
    shared.job = job;
    shared.joining.store(open | places, std::memory_order_release);
    shared.round.store(round, std::memory_order_release);
    shared.round.notify_all();
    const auto all_here = [&] {
        return (shared.joining.load(std::memory_order_acquire) >> 16 & 0xffff) == 0;
    };
    using Clock = std::chrono::steady_clock;
    const auto until = Clock::now() + std::chrono::nanoseconds(patience);
    while (!all_here() && Clock::now() < until) pause();
    const int joined = int(shared.joining.exchange(open, std::memory_order_acq_rel) & 0xffff);
    shared.running.store(joined, std::memory_order_relaxed);
    job.begin(job.context, joined + 1);
    shared.started.store(round, std::memory_order_release);
    job.body(job.context, 0);
    for (int spins = 0; shared.running.load(std::memory_order_acquire) != 0; ++spins)
        spins < kSpins ? pause() : std::this_thread::yield();
}

int threads_or(int otherwise) {
    const char* variable = std::getenv("CELLWRIGHT_THREADS");
    if (variable == nullptr || *variable == 0) return otherwise;
    const int most = 4 * int(std::max(1u, std::thread::hardware_concurrency()));
    const char* end = variable + std::strlen(variable);
    int threads = 0;
    const auto [rest, error] = std::from_chars(variable, end, threads);
    if (error != std::errc() || rest != end || threads < 1 || threads > most)
        throw SettingError("[CELLWRIGHT_THREADS] received '" + std::string(variable) +
                           "', expected a whole number from 1 to " + std::to_string(most) +
                           ", four times this machine's processors");
    return threads;
}

}  // namespace cellwright
