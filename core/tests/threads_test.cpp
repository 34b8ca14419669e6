#include <doctest/doctest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "threads.h"

using namespace cellwright;

TEST_CASE("every thread of a job runs once, and all meet at a barrier") {
    struct Meeting {
        Barrier barrier;
        int count = 0;
        std::atomic<int> arrived{0}, seen[3] = {};
        std::atomic<bool> early{false};
    };
    for (int round = 0; round < 2000; ++round) {
        Meeting meeting;
        run_on_pool(3, 20'000, {[](void* context, int count) {
                            Meeting& m = *static_cast<Meeting*>(context);
                            m.count = count;
                            m.barrier.expect(count);
                        },
                        [](void* context, int thread) {
                            Meeting& m = *static_cast<Meeting*>(context);
                            ++m.seen[thread];
                            ++m.arrived;
                            m.barrier.wait();
                            if (m.arrived != m.count) m.early = true;
                            m.barrier.wait();
                        },
                        &meeting});
        REQUIRE(meeting.count >= 1);
        REQUIRE(meeting.count <= 3);
        CHECK(!meeting.early);
        CHECK(meeting.arrived == meeting.count);
        for (int i = 0; i < 3; ++i) CHECK(meeting.seen[i] == (i < meeting.count ? 1 : 0));
    }
}

TEST_CASE("several callers at once: every job is done") {
    std::atomic<int> begun{0}, first{0};
    std::atomic<int>* counts[] = {&begun, &first};
    const Job job = {[](void* c, int) { ++*static_cast<std::atomic<int>**>(c)[0]; },
                     [](void* c, int thread) {
                         if (thread == 0) ++*static_cast<std::atomic<int>**>(c)[1];
                     },
                     counts};
    std::vector<std::thread> callers;
    for (int i = 0; i < 3; ++i)
        callers.emplace_back([&] {
            for (int k = 0; k < 500; ++k) run_on_pool(2, 20'000, job);
        });
    for (std::thread& t : callers) t.join();
    CHECK(begun == 1500);
    CHECK(first == 1500);
}
