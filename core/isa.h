// The instruction sets this library was compiled for, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace cellwright {

// The sets that this machine runs, the best last.
std::vector<const KernelSet*> available_isas();

// Those that it has, and that do not compute what conversion to float32 does.
std::vector<std::string> refused_isas();

// Whether products in bf16 are those of another set of as many lanes, but for the order of
// sums: on random weights and rows.
bool multiplies_alike(const Kernels<float>& kernels, const Kernels<float>& other);

// By name; "" is CELLWRIGHT_ISA from the environment, else the best. Throws
// SettingError where this machine, or this build, does not have it.
const KernelSet& choose_isa(const std::string& name);

template <class T> const Kernels<T>& kernels_of(const KernelSet& set);
template <> inline const Kernels<float>& kernels_of(const KernelSet& s) { return s.f32; }
template <> inline const Kernels<double>& kernels_of(const KernelSet& s) { return s.f64; }

}  // namespace cellwright
