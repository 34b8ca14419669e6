"""Every primitive operation in C, one line each, and the functions behind them.

In all C text `@` stands for the model's name, `@@` for the same in capitals.
"""

from __future__ import annotations

import re

#: Element by element: C over the arguments. Comparisons are only read by `where`.
ELEMENTWISE = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "where": "@_select({0}, {1}, {2})",
    "maximum": "@_select(({0} > {1}) | ({0} != {0}), {0}, {1})",
    "minimum": "@_select(({0} < {1}) | ({0} != {0}), {0}, {1})",
    "sigmoid": "@_sigmoid({0})",
    "tanh": "@_tanh({0})",
    "exp": "@_exp({0})",
    "log": "@_log({0})",
    "abs": "@_abs({0})",
    "sqrt": "@_sqrt({0})",
    "sin": "@_sin({0})",
    "cos": "@_cos({0})",
}

#: Over all units: a call that writes what is at {0} from what is at {1}, and at {2}; of
#: matrices, in blocks of {rows} by {columns}.
REDUCTIONS = {
    "sum": "@_total({0}, {1}, {size}, {heads});",
    "outer": "@_outer({0}, {1}, {2}, {heads}, {rows}, {columns});",
    "matvec": "@_matvec({0}, {1}, {2}, {heads}, {rows}, {columns});",
    "vecmat": "@_vecmat({0}, {1}, {2}, {heads}, {rows}, {columns});",
    "scale_rows": "@_scale_rows({0}, {1}, {2}, {heads} * {rows}, {columns});",
    "scale_columns": "@_scale_columns({0}, {1}, {2}, {heads}, {rows}, {columns});",
    "spread": "@_spread({0}, {1}, {heads}, {width});",
    "softmax": "@_softmax({0}, {1}, {size});",
    "block_mean": "@_block_mean({0}, {1}, {size}, {heads});",
}

KNOWN = frozenset({*ELEMENTWISE, *REDUCTIONS})

# What C's own library has, where @@_MATH_H is defined.
_LIBRARY = {
    "exp": "expf(x)",
    "sigmoid": "1.0f / (1.0f + expf(-x))",
    "tanh": "tanhf(x)",
    "log": "logf(x)",
    "sqrt": "sqrtf(x)",
    "sin": "sinf(x)",
    "cos": "cosf(x)",
}

# No branches, so that compilers vectorise the loops that call these functions; GCC
# turns `c ? u : v` of floats into a branch, hence @_select.
_FUNCTIONS = {
    "bits": """
static inline uint32_t @_bits(float x) {
#ifdef __cplusplus
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
#else
    union { float value; uint32_t bits; } both;
    both.value = x;
    return both.bits;
#endif
}
""",
    "float": """
static inline float @_float(uint32_t bits) {
#ifdef __cplusplus
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
#else
    union { float value; uint32_t bits; } both;
    both.bits = bits;
    return both.value;
#endif
}
""",
    "select": """
/* u where the condition is 1, v where it is 0. */
static inline float @_select(int condition, float u, float v) {
    const uint32_t mask = 0u - (uint32_t)condition;
    return @_float((@_bits(u) & mask) | (@_bits(v) & ~mask));
}
""",
    "abs": """
static inline float @_abs(float x) { return @_float(@_bits(x) & 0x7fffffffu); }
""",
    "limit": """
/* x, but at most so far from 0; NaN too. All bits: a comparison of floats would have to
 * be a branch, or two masks. `most` is the bits of a float. */
static inline float @_limit(float x, uint32_t most) {
    const uint32_t sign = @_bits(x) & 0x80000000u, size = @_bits(x) ^ sign;
    return @_float((size < most ? size : most) | sign);
}
""",
    "or_nan": """
/* y, or NaN where x is NaN. */
static inline float @_or_nan(float y, float x) {
    const uint32_t beyond = 0x7f800000u - (@_bits(x) & 0x7fffffffu);
    return @_float(@_bits(y) | (0u - (beyond >> 31)));
}
""",
    "nearest": """
/* The whole number next to x / ln 2: the last bits of a float that is near 1.5 2^23. */
static inline int32_t @_nearest(float x) {
    return (int32_t)(@_bits(x * 1.44269504f + 12582912.0f) - 0x4b400000u);
}
""",
    "power": """
static inline float @_power(int32_t n) { return @_float((uint32_t)(n + 127) << 23); }
""",
    "expm1": """
/* exp(x - n ln 2) - 1, where that is within ln 2 / 2 of 0. The terms go in pairs, which
 * wait for fewer others than by Horner's rule. */
static inline float @_expm1(float x, int32_t n) {
    const float whole = (float)n;
    const float r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f, s = r * r;
    const float high = (1.0f / 24.0f + r * (1.0f / 120.0f))
                       + s * (1.0f / 720.0f + r * (1.0f / 5040.0f));
    return r + s * ((0.5f + r * (1.0f / 6.0f)) + s * high);
}
""",
    "exp": """
static inline float @_exp(float x) {
    const float v = @_limit(x, 0x42d00000u); /* 104 */
    const int32_t n = @_nearest(v), half = n >> 1; /* 2^n itself may overflow */
    const float p = @_expm1(v, n), s = @_power(half);
    return @_or_nan((p * s + s) * @_power(n - half), x);
}
""",
    "sigmoid": """
/* 1 / (1 + exp(-x)), both parts times a power of 2, so that none overflows. */
static inline float @_sigmoid(float x) {
    const float v = @_limit(-x, 0x42d00000u); /* 104 */
    const int32_t n = @_nearest(v), half = n >> 1;
    const float p = @_expm1(v, n), s = @_power(half), one = @_power(half - n);
    return @_or_nan(one / (p * s + (s + one)), x);
}
""",
    "tanh": """
/* m / (m + 2) with m = exp(2 |x|) - 1, which keeps its digits near 0. */
static inline float @_tanh(float x) {
    const float v = 2.0f * @_limit(@_abs(x), 0x41200000u); /* 10 */
    const int32_t n = @_nearest(v);
    const float p = @_expm1(v, n), s = @_power(n), m = s * p + (s - 1.0f);
    const float y = m / (m + 2.0f);
    return @_or_nan(@_float(@_bits(y) | (@_bits(x) & 0x80000000u)), x);
}
""",
    "log": """
/* log(2^k (1 + f)), 1 + f from the root of 1/2 to that of 2. */
static inline float @_log(float x) {
    const int tiny = x < 1.17549435e-38f;
    const float v = @_select(tiny, x * 8388608.0f, x);
    const uint32_t shift = @_bits(v) - 0x3f3504f3u;
    const int32_t k = (int32_t)((shift + 0x40000000u) >> 23) - 128;
    const float m = @_float((shift & 0x007fffffu) + 0x3f3504f3u);
    const float f = m - 1.0f, s = f / (f + 2.0f), z = s * s, half = 0.5f * f * f;
    const float whole = @_select(tiny, (float)k - 23.0f, (float)k);
    float p = 2.0f / 11.0f, y;
    p = p * z + 2.0f / 9.0f;
    p = p * z + 2.0f / 7.0f;
    p = p * z + 2.0f / 5.0f;
    p = p * z + 2.0f / 3.0f;
    p = s * (half + z * p);
    y = whole * 0.693359375f - ((half - (p + whole * -2.12194440e-4f)) - f);
    y = @_select(x <= 3.40282347e38f, y, x);            /* infinity, NaN */
    y = @_select(x == 0.0f, @_float(0xff800000u), y);
    return @_select(x < 0.0f, @_float(0x7fc00000u), y);
}
""",
    "sqrt": """
/* A guess from the exponent, then Heron's steps. */
static inline float @_sqrt(float x) {
    const int tiny = x < 1.0e-30f;
    const float v = @_select(tiny, x * 1.8446744e19f, x); /* 2^64 */
    float y = @_float((@_bits(v) >> 1) + 0x1fbd1df5u);
    y = 0.5f * (y + v / y);
    y = 0.5f * (y + v / y);
    y = 0.5f * (y + v / y);
    y = @_select(tiny, y * 2.3283064e-10f, y); /* 2^-32 */
    y = @_select((x > 0.0f) & (x <= 3.40282347e38f), y, x);
    return @_select(x < 0.0f, @_float(0x7fc00000u), y);
}
""",
    "sine": """
/* sin(x + quarter pi / 2); of |x| above 10^6 it is NaN. */
static inline float @_sine(float x, int32_t quarter) {
    const int good = (x >= -1.0e6f) & (x <= 1.0e6f);
    const float v = @_select(good, x, 0.0f);
    const float half = @_float((@_bits(v) & 0x80000000u) | 0x3f000000u);
    const int32_t n = (int32_t)(v * 0.636619772f + half);
    const double whole = (double)n;
    const float r = (float)(((double)v - whole * 1.57079632673412561417e+00)
                            - whole * 6.07710050650619224932e-11);
    const float z = r * r;
    const float s = r + r * z * (-1.0f / 6.0f + z * (1.0f / 120.0f
                    + z * (-1.0f / 5040.0f + z * (1.0f / 362880.0f))));
    const float c = 1.0f - (0.5f * z - z * z * (1.0f / 24.0f + z * (-1.0f / 720.0f
                    + z * (1.0f / 40320.0f + z * (-1.0f / 3628800.0f)))));
    const uint32_t quadrant = (uint32_t)(n + quarter);
    const float y = @_select((int)(quadrant & 1u), c, s);
    const float signed_y = @_float(@_bits(y) ^ ((quadrant & 2u) << 30));
    return @_select(good, signed_y, @_float(0x7fc00000u));
}
""",
    "sin": """
static inline float @_sin(float x) { return @_sine(x, 0); }
""",
    "cos": """
static inline float @_cos(float x) { return @_sine(x, 1); }
""",
    "one": """
/* Times this number: a copy that compilers do not make a call of memcpy. */
static const volatile float @_one = 1.0f;
""",
    "add": """
/* y += W x. W lies column by column; eight at a time in two sums. */
static void @_add(float *@@_RESTRICT y, const float *@@_RESTRICT w,
                  const float *@@_RESTRICT x, int rows, int columns) {
    int k = 0, j;
    for (; k + 8 <= columns; k += 8, w += 8 * rows) {
        const float *w_2 = w + 2 * rows, *w_4 = w + 4 * rows, *w_6 = w + 6 * rows;
        for (j = 0; j < rows; ++j)
            y[j] = (y[j] + w[j] * x[k] + w[rows + j] * x[k + 1]
                    + w_2[j] * x[k + 2] + w_2[rows + j] * x[k + 3])
                   + (w_4[j] * x[k + 4] + w_4[rows + j] * x[k + 5]
                      + w_6[j] * x[k + 6] + w_6[rows + j] * x[k + 7]);
    }
    for (; k < columns; ++k, w += rows) {
        const float a = x[k];
        for (j = 0; j < rows; ++j) y[j] += w[j] * a;
    }
}
""",
    "add_int8": """
/* y += scale (W x), row by row. W lies column by column; 64 rows at a time. */
static void @_add_int8(float *@@_RESTRICT y, const int8_t *@@_RESTRICT w,
                       const float *@@_RESTRICT scale, const float *@@_RESTRICT x,
                       int rows, int columns) {
    const float zero = 0.0f * @_one;
    float sums[64];
    int first, j, k;
    for (first = 0; first < rows; first += 64) {
        const int count = rows - first < 64 ? rows - first : 64;
        const int8_t *w_k = w + first;
        for (j = 0; j < count; ++j) sums[j] = zero;
        for (k = 0; k + 4 <= columns; k += 4, w_k += 4 * rows) {
            const int8_t *w_2 = w_k + 2 * rows;
            for (j = 0; j < count; ++j)
                sums[j] += ((float)w_k[j] * x[k] + (float)w_k[rows + j] * x[k + 1])
                           + ((float)w_2[j] * x[k + 2]
                              + (float)w_2[rows + j] * x[k + 3]);
        }
        for (; k < columns; ++k, w_k += rows)
            for (j = 0; j < count; ++j) sums[j] += (float)w_k[j] * x[k];
        for (j = 0; j < count; ++j) y[first + j] += scale[first + j] * sums[j];
    }
}
""",
    "total": """
/* The sums of so many blocks of x. */
static void @_total(float *@@_RESTRICT y, const float *@@_RESTRICT x, int size,
                    int heads) {
    const int width = size / heads;
    int i, j;
    for (i = 0; i < heads; ++i, x += width) {
        float sum = 0.0f;
        for (j = 0; j < width; ++j) sum += x[j];
        y[i] = sum;
    }
}
""",
    "outer": """
/* y = v k^T, in blocks of v and k. */
static void @_outer(float *@@_RESTRICT y, const float *@@_RESTRICT v,
                    const float *@@_RESTRICT k, int heads, int rows, int columns) {
    int h, i, j;
    for (h = 0; h < heads; ++h, k += columns)
        for (i = 0; i < rows; ++i, ++v, y += columns)
            for (j = 0; j < columns; ++j) y[j] = v[0] * k[j];
}
""",
    "matvec": """
/* y = C q, by the blocks of C. */
static void @_matvec(float *@@_RESTRICT y, const float *@@_RESTRICT c,
                     const float *@@_RESTRICT q, int heads, int rows, int columns) {
    int h, i, j;
    for (h = 0; h < heads; ++h, q += columns)
        for (i = 0; i < rows; ++i, ++y, c += columns) {
            float sum = 0.0f;
            for (j = 0; j < columns; ++j) sum += c[j] * q[j];
            y[0] = sum;
        }
}
""",
    "vecmat": """
/* y = C^T v, by the blocks of C. */
static void @_vecmat(float *@@_RESTRICT y, const float *@@_RESTRICT v,
                     const float *@@_RESTRICT c, int heads, int rows, int columns) {
    int h, i, j;
    for (h = 0; h < heads; ++h, y += columns) {
        for (j = 0; j < columns; ++j) y[j] = 0.0f;
        for (i = 0; i < rows; ++i, ++v, c += columns)
            for (j = 0; j < columns; ++j) y[j] += v[0] * c[j];
    }
}
""",
    "scale_rows": """
/* y = diag(v) C. */
static void @_scale_rows(float *@@_RESTRICT y, const float *@@_RESTRICT c,
                         const float *@@_RESTRICT v, int rows, int columns) {
    int i, j;
    for (i = 0; i < rows; ++i, y += columns, c += columns)
        for (j = 0; j < columns; ++j) y[j] = c[j] * v[i];
}
""",
    "scale_columns": """
/* y = C diag(v), by the blocks of C. */
static void @_scale_columns(float *@@_RESTRICT y, const float *@@_RESTRICT c,
                            const float *@@_RESTRICT v, int heads, int rows,
                            int columns) {
    int h, i, j;
    for (h = 0; h < heads; ++h, v += columns)
        for (i = 0; i < rows; ++i, y += columns, c += columns)
            for (j = 0; j < columns; ++j) y[j] = c[j] * v[j];
}
""",
    "spread": """
/* Every number of x, so many times. */
static void @_spread(float *@@_RESTRICT y, const float *@@_RESTRICT x, int heads,
                     int width) {
    int i, j;
    for (i = 0; i < heads; ++i, y += width)
        for (j = 0; j < width; ++j) y[j] = x[i];
}
""",
    "softmax": """
static void @_softmax(float *@@_RESTRICT y, const float *@@_RESTRICT x, int size) {
    float most = x[0], sum = 0.0f;
    int j;
    for (j = 1; j < size; ++j) most = @_select(x[j] > most, x[j], most);
    for (j = 0; j < size; ++j) y[j] = @_exp(x[j] - most);
    for (j = 0; j < size; ++j) sum += y[j];
    for (j = 0; j < size; ++j) y[j] /= sum;
}
""",
    "attention": """
/* The softmax over the items, unit by unit. */
static void @_attention(float *y, int count, int size) {
    int i, j;
    for (j = 0; j < size; ++j, ++y) {
        float most = count > 0 ? y[0] : 0.0f, sum = 0.0f;
        for (i = 1; i < count; ++i)
            most = @_select(y[i * size] > most, y[i * size], most);
        for (i = 0; i < count; ++i) y[i * size] = @_exp(y[i * size] - most);
        for (i = 0; i < count; ++i) sum += y[i * size];
        for (i = 0; i < count; ++i) y[i * size] /= sum;
    }
}
""",
    "block_mean": """
/* Every unit replaced by the mean of its block. */
static void @_block_mean(float *@@_RESTRICT y, const float *@@_RESTRICT x, int size,
                         int heads) {
    const int width = size / heads;
    int i, j;
    for (i = 0; i < heads; ++i, x += width, y += width) {
        float mean = 0.0f;
        for (j = 0; j < width; ++j) mean += x[j];
        mean /= (float)width;
        for (j = 0; j < width; ++j) y[j] = mean;
    }
}
""",
}


def functions(code: str) -> str:
    """The functions that C code calls, and those that they call."""
    own, with_library = _called(code, _FUNCTIONS), _called(code, _WITH_LIBRARY)
    texts = []
    for name in own:
        text = _FUNCTIONS[name]
        if name in _LIBRARY:
            text = f"\n#ifdef @@_MATH_H{_WITH_LIBRARY[name]}#else{text}#endif\n"
        elif name not in with_library:
            text = f"\n#ifndef @@_MATH_H{text}#endif\n"
        texts.append(text)
    return "".join(texts).replace("#endif\n\n#ifndef @@_MATH_H\n", "\n")


def _called(code: str, known: dict[str, str]) -> list[str]:
    """The functions that code reaches, in the order in which C wants them."""
    found: list[str] = []
    for name in reversed(known):
        if re.search(rf"@_{name}\b", code):
            found.insert(0, name)
            code += known[name]
    return found


_WITH_LIBRARY = _FUNCTIONS | {
    name: f"\nstatic inline float @_{name}(float x) {{ return {text}; }}\n"
    for name, text in _LIBRARY.items()
}
