#include "isa.h"

#include <cstdlib>

#include "setting.h"

namespace cellwright {

#define ISA(name, supported) \
    namespace name {         \
    extern const KernelSet kernel_set; \
    }
#include "isas.def"
#undef ISA

std::vector<const KernelSet*> available_isas() {
    std::vector<const KernelSet*> sets;
#define ISA(name, supported) \
    if (supported) sets.push_back(&name::kernel_set);
#include "isas.def"
#undef ISA
    return sets;
}

const KernelSet& choose_isa(const std::string& requested) {
    const auto sets = available_isas();
    std::string name = requested, where = "isa";
    if (name.empty()) {
        const char* variable = std::getenv("CELLWRIGHT_ISA");
        if (variable == nullptr || *variable == 0) return *sets.back();
        name = variable;
        where = "CELLWRIGHT_ISA";
    }
    std::string known;
    for (const KernelSet* set : sets) {
        if (name == set->isa) return *set;
        known += std::string(known.empty() ? "" : ", ") + set->isa;
    }
    throw SettingError("[" + where + "] this machine and build have: " + known +
                       "; received '" + name + "'");
}

}  // namespace cellwright
