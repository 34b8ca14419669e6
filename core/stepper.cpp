#include "stepper.h"

#include <cstring>
#include <stdexcept>

namespace cellwright {

namespace {

void require(bool fact, const char* what) {
    if (!fact) throw std::invalid_argument(std::string("[stepper] ") + what);
}

// Ends a step, however it ends.
struct Release {
    std::atomic_flag& flag;
    ~Release() { flag.clear(std::memory_order_release); }
};

}  // namespace

Stepper::Stepper(std::vector<StepperLayer> layers, int element_size, int64_t rows,
                 const KernelSet& isa)
    : rows_(rows) {
    require(!layers.empty(), "expected a layer or more");
    require(rows >= 1, "expected a row or more");
    for (StepperLayer& given : layers)
        layers_.push_back(make_layer(std::move(given), element_size, rows, isa));
    require(inputs() >= 1, "expected a program that reads an input");
    for (size_t l = 0; l < layers_.size(); ++l) {
        require(layers_[l]->inputs.size() == inputs(), "layers take the same named inputs");
        for (size_t i = 0; i < inputs(); ++i) {
            const bool chained = i == 0 && l > 0;
            const Layer& source = *layers_[chained ? l - 1 : 0];
            require(columns(*layers_[l], layers_[l]->inputs[i]) ==
                        columns(source, chained ? source.output : source.inputs[i]),
                    "a layer's input must be as wide as what it is given");
        }
    }
    const Layer& last = *layers_.back();
    output_bytes_ = size_t(rows * columns(last, last.output) * element_size);
}

int64_t Stepper::columns(const Layer& layer, size_t array) {
    return layer.program.arrays[array].columns;
}

// The arrays of a forward program tell what they are: a state's is followed by its
// initial rows; of the others the output is written, and the inputs are not.
std::unique_ptr<Stepper::Layer> Stepper::make_layer(StepperLayer given, int element_size,
                                                    int64_t rows, const KernelSet& isa) {
    auto layer = std::make_unique<Layer>();
    layer->program = std::move(given.program);
    const Program& program = layer->program;
    const std::vector<bool> written = program.written();
    std::vector<Buffer> arrays(program.given_arrays());
    std::vector<size_t> outputs, nexts;
    size_t items = 0;
    for (size_t i = 0; i < arrays.size(); ++i) {
        const Array& a = program.arrays[i];
        if (a.rows == Rows::initial) continue;
        if (a.axis == Axis::item) {
            require(items < given.items.size(), "expected the memory of all items");
            arrays[i] = given.items[items++];
            continue;
        }
        const int64_t depth = a.rows == Rows::rolling ? a.depth : 1;
        auto memory = std::make_unique<char[]>(size_t(depth * rows * a.columns * element_size));
        arrays[i] = {memory.get(), depth * rows, a.columns, a.columns};
        layer->memory.push_back(std::move(memory));
        if (a.initial < 0) {
            (written[i] ? outputs : layer->inputs).push_back(i);
            continue;
        }
        const size_t state = nexts.size();
        require(state < given.states.size(), "expected the memory of every state");
        const Buffer& current = given.states[state];
        arrays[a.initial] = current;
        nexts.push_back(i);
        layer->states.push_back({arrays[i].data, current.data,
                                 size_t(rows * a.columns * element_size)});
    }
    require(nexts.size() == given.states.size() && !nexts.empty(), "expected a state");
    require(outputs.size() < 2, "the program writes more than states and an output");
    layer->output = outputs.empty() ? nexts[0] : outputs[0];
    layer->call = {element_size, std::move(arrays), std::move(given.parameters), {},
                   {1, &offset_, &rows_, rows, rows}, 1, &isa};
    layer->first_item = std::move(given.first_item);
    if (program.sets() > 0) {
        Schedule& schedule = layer->call.schedule;
        schedule.sets = program.sets();
        schedule.first_item = layer->first_item.data();
        schedule.first_item_count = rows + 1;
        require(int64_t(layer->first_item.size()) == (rows + 1) * schedule.sets,
                "expected where the items of each row begin");
    }
    for (const Buffer& b : given.states)
        require(b.rows == rows && b.stride == b.columns, "a state's rows are not contiguous");
    layer->level = make_packed_level(program, layer->call);
    return layer;
}

void Stepper::step(const void* const* inputs, size_t count, void* y) {
    require(count == this->inputs(), "expected x and every named input");
    for (size_t i = 0; i < count; ++i) require(inputs[i] != nullptr, "no memory");
    require(y != nullptr, "no memory");
    if (busy_.test_and_set(std::memory_order_acquire))
        throw std::runtime_error(
            "[stepper] two threads step it at once; give each a stepper of its own");
    const Release release{busy_};
    const void* x = inputs[0];
    for (const auto& layer : layers_) {
        for (size_t i = 0; i < count; ++i)
            layer->level->place(layer->inputs[i], const_cast<void*>(i == 0 ? x : inputs[i]));
        layer->level->run();
        for (const Layer::State& s : layer->states) std::memcpy(s.current, s.next, s.bytes);
        x = layer->call.arrays[layer->output].data;
    }
    std::memcpy(y, x, output_bytes_);
}

}  // namespace cellwright
