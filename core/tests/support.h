// What the tests share: an operation run through the interpreter of an instruction set.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "flush_subnormals.h"
#include "isa.h"

namespace cellwright {

// Memory as the core has it: 64-byte aligned.
template <class T> class Aligned {
public:
    explicit Aligned(size_t count) : memory_(count + 64 / sizeof(T)) {
        const auto at = reinterpret_cast<uintptr_t>(memory_.data());
        data_ = memory_.data() + (64 - at % 64) % 64 / sizeof(T);
    }
    T* data() { return data_; }

private:
    std::vector<T> memory_;
    T* data_;
};

// One pointwise operation over many values, as a tile of one row.
template <class T>
std::vector<T> apply(const Kernels<T>& kernels, Opcode op, const std::vector<T>& values) {
    const int64_t width = (int64_t(values.size()) + 63) / 64 * 64;
    Aligned<T> registers(2 * width);
    std::copy(values.begin(), values.end(), registers.data());
    const Instruction code{op, 1, 0, 1, 0, 0};
    Tile<T> tile{};
    tile.code = &code;
    tile.count = 1;
    tile.tile_registers = registers.data();
    tile.tile_size = width;
    tile.tiles = 2;
    tile.rows = 1;
    tile.width = width;
    tile.units = int64_t(values.size());
    const FlushSubnormals flush;  // as a scan does
    kernels.pointwise(tile);
    return {registers.data() + width, registers.data() + width + values.size()};
}

// A small generator, the same everywhere.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return state_ >> 11;
    }
    double uniform(double low, double high) {
        return low + (high - low) * double(bits()) / double(uint64_t(1) << 53);
    }

private:
    uint64_t state_;
};

}  // namespace cellwright
