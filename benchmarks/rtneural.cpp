// RTNeural's compile-time form of one layer, for benchmarks/export.py:
// -DKIND=LSTM or GRU, -DINPUT=…, -DUNITS=…; weights as torch.nn lays them out.
#include <RTNeural/RTNeural.h>

#include <algorithm>
#include <vector>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
using Layer = RTNeural::JOIN(KIND, LayerT)<float, INPUT, UNITS>;

static RTNeural::ModelT<float, INPUT, UNITS, Layer> model;
static auto &layer = model.get<0>();

// (rows, columns) -> columns of rows; torch's GRU has its gates r and z the other way.
static std::vector<std::vector<float>> turned(const float *w, int rows, int columns) {
    std::vector<std::vector<float>> found(columns, std::vector<float>(rows));
    for (int k = 0; k < columns; ++k) {
        for (int j = 0; j < rows; ++j) found[k][j] = w[j * columns + k];
        if (rows == 3 * UNITS)
            std::swap_ranges(&found[k][0], &found[k][UNITS], &found[k][UNITS]);
    }
    return found;
}

static void set_biases(RTNeural::LSTMLayerT<float, INPUT, UNITS> &of, const float *b_x,
                       const float *b_h) {
    std::vector<float> sum(4 * UNITS);
    for (int j = 0; j < 4 * UNITS; ++j) sum[j] = b_x[j] + b_h[j];
    of.setBVals(sum);
}

static void set_biases(RTNeural::GRULayerT<float, INPUT, UNITS> &of, const float *b_x,
                       const float *b_h) {
    of.setBVals({turned(b_x, 3 * UNITS, 1)[0], turned(b_h, 3 * UNITS, 1)[0]});
}

static void step(const float *x) {
    alignas(RTNEURAL_DEFAULT_ALIGNMENT) float aligned[INPUT + 16] = {};
    std::copy(x, x + INPUT, aligned);
    model.forward(aligned);
}

extern "C" void begin(const float *w_x, const float *w_h, const float *b_x,
                      const float *b_h, int gates) {
    layer.setWVals(turned(w_x, gates * UNITS, INPUT));
    layer.setUVals(turned(w_h, gates * UNITS, UNITS));
    set_biases(layer, b_x, b_h);
    model.reset();
}

extern "C" void loop(const float *x, float *y, int steps) {
    for (int t = 0; t < steps; ++t) step(x);
    std::copy(model.getOutputs(), model.getOutputs() + UNITS, y);
}
