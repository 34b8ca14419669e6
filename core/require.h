#pragma once

#include <stdexcept>

// Throws std::invalid_argument; the message is put together only when it is needed.
#define REQUIRE(fact, message)                          \
    do {                                                \
        if (!(fact)) throw std::invalid_argument(message); \
    } while (false)
