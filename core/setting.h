// A setting of the user's, an option or an environment variable, that cannot be followed.
#pragma once

#include <stdexcept>

namespace cellwright {

struct SettingError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

}  // namespace cellwright
