// The vector of one instruction set, by the compiler's own vector types.
//
// Everything under core/simd/ is compiled once per instruction set, in a namespace of
// its own (CELLWRIGHT_ISA) with internal linkage, so that no code of one set can be
// linked into another. Include nothing here that defines inline functions.
#pragma once

#include <stdint.h>

namespace cellwright::CELLWRIGHT_ISA {
namespace {

#define CELLWRIGHT_INLINE static inline __attribute__((always_inline))

template <class T> struct Lane;
template <> struct Lane<float> {
    using Int = int32_t;
    typedef float Vec __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
    typedef int32_t IVec __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
    typedef uint32_t UVec __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
    static constexpr int bits = 24, exponent_bias = 127;
    static constexpr float rounding = 12582912.0f;  // 1.5 * 2^23
};
template <> struct Lane<double> {
    using Int = int64_t;
    typedef double Vec __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
    typedef int64_t IVec __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
    typedef uint64_t UVec __attribute__((vector_size(CELLWRIGHT_VECTOR_BYTES)));
    static constexpr int bits = 53, exponent_bias = 1023;
    static constexpr double rounding = 6755399441055744.0;  // 1.5 * 2^52
};

template <class T> using Vec = typename Lane<T>::Vec;
template <class T> using IVec = typename Lane<T>::IVec;
template <class T> using UVec = typename Lane<T>::UVec;  // wraps around
template <class T> constexpr int kLanes = CELLWRIGHT_VECTOR_BYTES / sizeof(T);

template <class T> CELLWRIGHT_INLINE Vec<T> load(const T* p) {
    Vec<T> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class T> CELLWRIGHT_INLINE void store(T* p, Vec<T> v) {
    __builtin_memcpy(p, &v, sizeof v);
}
// The first n < kLanes elements, in a few moves of fixed size.
template <class T, int N = kLanes<T> / 2>
CELLWRIGHT_INLINE void copy_part(T* to, const T* from, int64_t n) {
    if constexpr (N > 0) {
        if (n & N) {
            __builtin_memcpy(to, from, N * sizeof(T));
            to += N;
            from += N;
        }
        copy_part<T, N / 2>(to, from, n);
    }
}
// n elements of a row of whole vectors; `pad`: the rest of the row becomes 0.
template <class T, bool pad>
CELLWRIGHT_INLINE void copy_row(T* to, const T* from, int64_t n, int64_t width) {
    int64_t i = 0;
    for (; i + kLanes<T> <= n; i += kLanes<T>) store<T>(to + i, load(from + i));
    if constexpr (pad)
        for (int64_t z = i; z < width; z += kLanes<T>) store<T>(to + z, Vec<T>{});
    copy_part<T>(to + i, from + i, n - i);
}
template <class T> CELLWRIGHT_INLINE Vec<T> splat(T x) { return x - Vec<T>{}; }
template <class T> CELLWRIGHT_INLINE IVec<T> bits_of(Vec<T> v) { return (IVec<T>)v; }
template <class T> CELLWRIGHT_INLINE Vec<T> of_bits(IVec<T> v) { return (Vec<T>)v; }

template <class T> CELLWRIGHT_INLINE Vec<T> absolute(Vec<T> v) {
    constexpr typename Lane<T>::Int sign = (typename Lane<T>::Int)1 << (sizeof(T) * 8 - 1);
    return of_bits<T>(bits_of<T>(v) & ~sign);
}
template <class T> CELLWRIGHT_INLINE Vec<T> with_sign_of(Vec<T> v, Vec<T> s) {
    constexpr typename Lane<T>::Int sign = (typename Lane<T>::Int)1 << (sizeof(T) * 8 - 1);
    return of_bits<T>((bits_of<T>(v) & ~sign) | (bits_of<T>(s) & sign));
}
// a0 b0 a1 b1 … of the lower halves, and of the upper ones.
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC before 12
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IVec<T>{__VA_ARGS__})
#endif
template <class T> CELLWRIGHT_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) {
    if constexpr (kLanes<T> == 2)
        return SHUFFLE(a, b, 0, 2);
    else if constexpr (kLanes<T> == 4)
        return SHUFFLE(a, b, 0, 4, 1, 5);
    else if constexpr (kLanes<T> == 8)
        return SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    else
        return SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
template <class T> CELLWRIGHT_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) {
    if constexpr (kLanes<T> == 2)
        return SHUFFLE(a, b, 1, 3);
    else if constexpr (kLanes<T> == 4)
        return SHUFFLE(a, b, 2, 6, 3, 7);
    else if constexpr (kLanes<T> == 8)
        return SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    else
        return SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#undef SHUFFLE

// The sum of N lanes: of halves, whose sum again is of halves.
template <class T, int N> struct Lanes {
    typedef T Type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N = kLanes<T>>
CELLWRIGHT_INLINE T sum_of_lanes(typename Lanes<T, N>::Type v) {
    if constexpr (N == 2) {
        return v[0] + v[1];
    } else {
        typename Lanes<T, N / 2>::Type low, high;
#pragma GCC unroll 16
        for (int i = 0; i < N / 2; ++i) low[i] = v[i], high[i] = v[i + N / 2];
        return sum_of_lanes<T, N / 2>(low + high);
    }
}

template <class T> CELLWRIGHT_INLINE Vec<T> square_root(Vec<T> v) {
    Vec<T> r;
    for (int i = 0; i < kLanes<T>; ++i)
        r[i] = sizeof(T) == 4 ? (T)__builtin_sqrtf((float)v[i]) : (T)__builtin_sqrt(v[i]);
    return r;
}

}  // namespace
}  // namespace cellwright::CELLWRIGHT_ISA
