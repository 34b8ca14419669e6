#include <doctest/doctest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "threads.h"

using namespace cellwright;

TEST_CASE("every thread of a job runs once, and all meet at a barrier") {
    struct Job {
        Barrier barrier{3};
        std::atomic<int> arrived{0}, seen[3] = {};
        std::atomic<bool> early{false};
    };
    for (int round = 0; round < 200; ++round) {
        Job job;
        const int threads = run_on_pool(
            3,
            [](void* context, int thread) {
                Job& j = *static_cast<Job*>(context);
                ++j.seen[thread];
                ++j.arrived;
                j.barrier.wait();
                if (j.arrived != 3) j.early = true;
                j.barrier.wait();
            },
            &job);
        REQUIRE(threads == 3);
        CHECK(!job.early);
        for (const auto& count : job.seen) CHECK(count == 1);
    }
}

TEST_CASE("a pool that is taken leaves the job to its caller") {
    std::atomic<int> alone{0}, together{0};
    const auto work = [&] {
        for (int i = 0; i < 200; ++i) {
            const int threads = run_on_pool(2, [](void*, int) {}, nullptr);
            ++(threads == 0 ? alone : together);
        }
    };
    std::vector<std::thread> callers;
    for (int i = 0; i < 3; ++i) callers.emplace_back(work);
    for (std::thread& t : callers) t.join();
    CHECK(alone + together == 600);
    CHECK(together > 0);
}
