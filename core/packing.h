// Weights into panels, in the order in which products read them; sums of weight gradients
// back into gradients.
#pragma once

#include "context.h"

namespace cellwright {

// What each of these does is one thread's share.
template <class T> class Packing {
public:
    explicit Packing(Context<T>& context) : context_(context) {}

    // Packs the weights, fills the row registers, clears gradients and sums.
    void pack(int thread) const;

    // Every thread calls it: they wait for one another.
    void unpack(int thread);

private:
    // Vectors [first, next) of a block of units: what one product computes of a term.
    struct Group {
        const Stage& stage;
        const StageLayout& layout;
        const Term& term;
        const Range& range;
        int64_t block;
        int first, next;
        int64_t step;  // elements from k to k
    };

    void pack_term(size_t stage, size_t which, int64_t block, int thread) const;
    int64_t pack_narrow(const Group& g, const TermLayout& l, int64_t at, int thread) const;
    int64_t pack_wide(const Group& g, T* out) const {
        return g.term.transposed ? pack_transposed(g, out) : pack_direct(g, out);
    }
    int64_t pack_direct(const Group& g, T* out) const;
    void pack_units(const Group& g, int vector, int64_t first_k, int64_t last_k, T* out) const;
    int64_t pack_transposed(const Group& g, T* out) const;
    void fill_row_registers(size_t stage, int64_t block, int thread) const;
    void clear_gradients(int thread) const;
    void clear_sums() const;
    void unpack_gradient(const Gradient& g, const GradientLayout& l, int64_t block) const;
    void unpack_reduction(const Reduction& r) const;

    const T* parameter(const Piece& p) const {
        return static_cast<const T*>(context_.call.parameters[p.parameter].data) + p.offset;
    }
    T* gradient_of(const Piece& p) const {
        return static_cast<T*>(context_.call.gradients[p.parameter].data) + p.offset;
    }

    Context<T>& context_;
};

}  // namespace cellwright
