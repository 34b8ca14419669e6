#include "isa.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "setting.h"

#if defined(CELLWRIGHT_X86_64)
#include <cpuid.h>
#endif
#if defined(CELLWRIGHT_X86_64) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cellwright {

#define ISA(name, supported)           \
    namespace name {                   \
    extern const KernelSet kernel_set; \
    }
#define BF16_ISA(name, supported)          \
    namespace name {                       \
    extern const Bf16Kernels bf16_kernels; \
    }
#define INT8_ISA(name, supported)          \
    namespace name {                       \
    extern const Int8Kernels int8_kernels; \
    }
#include "isas.def"
#undef ISA
#undef BF16_ISA
#undef INT8_ISA

namespace {

#if defined(CELLWRIGHT_X86_64)

[[maybe_unused]] bool cpuid_bit(unsigned leaf, unsigned part, int index, int bit) {
    unsigned registers[4] = {};
    return __get_cpuid_count(leaf, part, &registers[0], &registers[1], &registers[2],
                             &registers[3]) &&
           (registers[index] >> bit & 1u);
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512_vnni() {
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
[[maybe_unused]] bool has_avx512_bf16() { return has_avx512() && cpuid_bit(7, 1, 0, 5); }

// Linux gives the tiles' registers to a process that asks for them.
[[maybe_unused]] bool may_use_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
    return cpuid_bit(7, 0, 3, 22) && cpuid_bit(7, 0, 3, 24) &&
           syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
    return false;
#endif
}

// As a set before it, with products in int8, or bf16, of another.
[[maybe_unused]] KernelSet with_products(const char* name, KernelSet set,
                                         const Int8Kernels& kernels) {
    set.isa = name;
    set.f32.multiplies_bytes = true;
    set.f32.product_int8 = kernels.product;
    set.f32.pack_int8 = kernels.pack;
    set.f32.narrow_int8 = kernels.narrow;
    return set;
}
[[maybe_unused]] KernelSet with_products(const char* name, KernelSet set,
                                         const Bf16Kernels& kernels) {
    set.isa = name;
    set.f32.multiplies_bf16 = true;
    set.f32.product_bf16 = kernels.product;
    set.f32.outer_bf16 = kernels.outer;
    return set;
}

#endif

struct Isas {
    std::vector<KernelSet> sets;  // the best last
    std::vector<std::string> refused;

    Isas() {
#define ISA(name, supported) \
    if (supported) sets.push_back(name::kernel_set);
#define BF16_ISA(name, supported) \
    if (supported) add(with_products(#name, sets.back(), name::bf16_kernels));
#define INT8_ISA(name, supported) \
    if (supported) sets.push_back(with_products(#name, sets.back(), name::int8_kernels));
#include "isas.def"
#undef ISA
#undef BF16_ISA
#undef INT8_ISA
    }

    // Few machines have them: each is tried before it is used.
    [[maybe_unused]] void add(const KernelSet& set) {
        if (multiplies_alike(set.f32, sets.back().f32))
            sets.push_back(set);
        else
            refused.push_back(set.isa);
    }
};

const Isas& isas() {
    static const Isas found;
    return found;
}

float random_bf16(uint32_t& state) {  // in [-1, 1), with 7 bits after the point
    state = state * 1664525u + 1013904223u;
    return float(int32_t(state >> 24) - 128) / 128;
}

// As `Bf16Kernels` reads them, of floats that bf16 holds.
std::vector<uint16_t> halves_of(const std::vector<float>& wide) {
    std::vector<uint16_t> halves;
    for (const float x : wide) {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        halves.push_back(uint16_t(bits >> 16));
    }
    return halves;
}

std::vector<float> product_of(const Kernels<float>& kernels, int64_t rows, int64_t depth,
                              int vectors) {
    const int64_t width = vectors * kernels.lanes;
    uint32_t state = uint32_t(rows + depth + vectors);
    std::vector<float> source(size_t(rows * depth)), panel(size_t(depth * width));
    for (float& x : source) x = random_bf16(state);
    for (float& w : panel) w = random_bf16(state);
    std::vector<uint32_t> packed(size_t((depth + 1) / 2 * width) + 16);
    const auto misplaced = reinterpret_cast<uintptr_t>(packed.data()) % 64;
    uint32_t* const weights = packed.data() + (64 - misplaced) % 64 / 4;
    kernels.pack_bf16(panel.data(), depth, width, weights);
    const std::vector<uint16_t> halves = halves_of(source);
    std::vector<const float*> pointers;
    for (int64_t r = 0; r < rows; ++r) {
        const size_t at = size_t(r * depth);
        pointers.push_back(kernels.multiplies_bf16
                               ? reinterpret_cast<const float*>(&halves[at])
                               : &source[at]);
    }
    std::vector<float> sums(size_t(rows * width), 0.5f);
    Product<float> p{};
    p.source = {pointers.data(), 0, depth, 1, 0};
    p.rows = rows;
    p.weights = reinterpret_cast<const float*>(weights);
    for (int v = 0; v < vectors; ++v) p.columns[v] = sums.data() + v * kernels.lanes;
    p.column_stride = width;
    p.vectors = vectors;
    kernels.product_bf16(p);
    return sums;
}

// A weight gradient of `rows` rows: by the products of bf16, or of floats.
std::vector<float> outer_of(const Kernels<float>& kernels, int64_t rows, int64_t depth,
                            int vectors) {
    const int64_t width = vectors * kernels.lanes;
    uint32_t state = uint32_t(rows + depth + vectors);
    std::vector<float> columns(size_t(rows * depth)), panel(size_t(rows * width));
    for (float& x : columns) x = random_bf16(state);
    for (float& g : panel) g = random_bf16(state);
    std::vector<float> sums(size_t(depth * width), 0.5f);
    Outer<float> o{columns.data(), rows, rows, 0, depth, panel.data(), width, sums.data(),
                   width, vectors};
    if (!kernels.multiplies_bf16) {
        kernels.outer(o);
        return sums;
    }
    const std::vector<uint16_t> narrow_columns = halves_of(columns);
    const std::vector<uint16_t> narrow_panel = halves_of(panel);
    o.source = reinterpret_cast<const float*>(narrow_columns.data());
    o.panel = reinterpret_cast<const float*>(narrow_panel.data());
    kernels.outer_bf16(o);
    return sums;
}

bool are_close(const std::vector<float>& found, const std::vector<float>& expected,
               int64_t terms) {
    for (size_t i = 0; i < found.size(); ++i)
        if (!(std::fabs(found[i] - expected[i]) <= 1e-6f * float(terms))) return false;
    return true;
}

}  // namespace

bool multiplies_alike(const Kernels<float>& kernels, const Kernels<float>& other) {
    constexpr int64_t shapes[][3] = {{1, 131, 8}, {19, 71, 4}, {37, 128, 3}, {16, 32, 1}};
    for (const auto& [rows, depth, vectors] : shapes) {
        const int v = int(vectors);
        if (!are_close(product_of(kernels, rows, depth, v), product_of(other, rows, depth, v),
                       depth) ||
            !are_close(outer_of(kernels, rows, depth, v), outer_of(other, rows, depth, v), rows))
            return false;
    }
    return true;
}

std::vector<const KernelSet*> available_isas() {
    std::vector<const KernelSet*> sets;
    for (const KernelSet& set : isas().sets) sets.push_back(&set);
    return sets;
}

std::vector<std::string> refused_isas() { return isas().refused; }

const KernelSet& choose_isa(const std::string& requested) {
    const auto& sets = isas().sets;
    std::string name = requested, where = "isa";
    if (name.empty()) {
        const char* variable = std::getenv("CELLWRIGHT_ISA");
        if (variable == nullptr || *variable == 0) return sets.back();
        name = variable;
        where = "CELLWRIGHT_ISA";
    }
    std::string known;
    for (const KernelSet& set : sets) {
        if (name == set.isa) return set;
        known += std::string(known.empty() ? "" : ", ") + set.isa;
    }
    for (const std::string& refused : isas().refused)
        if (name == refused)
            throw SettingError("[" + where + "] the products of '" + name +
                               "' on this machine are not those of float32; received it, "
                               "expected one of: " + known);
    throw SettingError("[" + where + "] this machine and build have: " + known +
                       "; received '" + name + "'");
}

}  // namespace cellwright
