#include "workspace.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

#include "tuning.h"

namespace cellwright {

namespace {

// The memory of the last call that gave any back; taken by the next that fits in it.
std::mutex spare_lock;
void* spare = nullptr;
size_t spare_size = 0;

}  // namespace

void expect_writes([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
    constexpr uintptr_t page = 4096;
    if (bytes < kHugeBytes) return;
    const auto first = reinterpret_cast<uintptr_t>(data);
    const uintptr_t from = (first + page - 1) / page * page, to = (first + bytes) / page * page;
    madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);  // advice: it may fail
#endif
}

void Workspace::allocate() {
    {
        const std::lock_guard lock(spare_lock);
        if (spare_size >= size_) {
            memory_ = std::exchange(spare, nullptr);
            capacity_ = std::exchange(spare_size, 0);
        }
    }
    if (memory_ == nullptr) allocate_own();
}

void Workspace::allocate_own() {
    capacity_ = std::max(size_ + size_ / 8, size_t(4096)) / 64 * 64;
    memory_ = std::aligned_alloc(64, capacity_);
    if (memory_ == nullptr) throw std::bad_alloc();
}

Workspace::~Workspace() {
    if (capacity_ <= kKeptBytes) {
        const std::lock_guard lock(spare_lock);
        if (capacity_ > spare_size) {
            std::swap(memory_, spare);
            std::swap(capacity_, spare_size);
        }
    }
    std::free(memory_);
}

}  // namespace cellwright
