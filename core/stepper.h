// Layers that are run step by step: weights stay packed, states stay where they are.
#pragma once

#include <atomic>
#include <memory>

#include "scan.h"

namespace cellwright {

// One layer of a stepper.
struct StepperLayer {
    Program program;                 // forward; without rows saved for training
    std::vector<Buffer> parameters;  // read once, by the constructor
    std::vector<Buffer> states;      // rows x size each: read and written at every step
    std::vector<Buffer> items;       // one row an item each: read at every step
    std::vector<int64_t> first_item; // of each row, and the end, set by set: see Schedule
};

class Stepper {
public:
    // Checks everything that `step` relies on; throws std::invalid_argument. The states'
    // memory must outlive the stepper, and may overlap nothing else; that of items too.
    Stepper(std::vector<StepperLayer> layers, int element_size, int64_t rows,
            const KernelSet& isa);

    // One step of every layer, each on the output of the one before; named inputs go to
    // all of them. Allocates nothing. `inputs`: x and the named inputs, rows x size each;
    // `y`, rows x size, is written last and may be one of them.
    // Throws std::runtime_error where another thread is in the middle of a step.
    void step(const void* const* inputs, size_t count, void* y);

    size_t inputs() const { return layers_.front()->inputs.size(); }

private:
    struct Layer {
        Program program;
        std::vector<int64_t> first_item;
        Call call;
        std::vector<size_t> inputs;  // arrays
        size_t output;               // an array
        // of each state: where the step puts it, and where it is kept
        struct State { void *next, *current; size_t bytes; };
        std::vector<State> states;
        std::vector<std::unique_ptr<char[]>> memory;  // of what the program writes
        std::unique_ptr<PackedLevel> level;
    };
    std::unique_ptr<Layer> make_layer(StepperLayer given, int element_size, int64_t rows,
                                      const KernelSet& isa);
    static int64_t columns(const Layer& layer, size_t array);

    int64_t rows_, offset_ = 0;  // of the one level
    std::vector<std::unique_ptr<Layer>> layers_;
    size_t output_bytes_;
    std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

}  // namespace cellwright
