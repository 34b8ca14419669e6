"""The frames of the files. `@` stands for the model's name, `@@` for its capitals."""

HEADER = """\
/*
{comment}
 *
 * x, every further input and y are arrays that do not overlap. A state serves one
 * sequence; several states may be stepped in several threads at once.
 */
#ifndef @@_H
#define @@_H

{defines}
#ifdef __cplusplus
extern "C" {{
#endif

typedef struct @_state {{
{fields}}} @_state;

/* To the initial states: before the first step, and to begin another sequence. */
void @_init(@_state *state);
void @_reset(@_state *state);
{attend}
/* One step: reads the inputs, moves on the state, writes the output. */
void @_step({arguments});
{text}
#ifdef __cplusplus
}}
#endif

#endif
"""

SOURCE = """\
/* See @.h. Define @@_MATH_H to use the functions of <math.h>, and @@_RESTRICT where the
 * compiler has another word for restrict, or none. */
#include "@.h"

#include <stdint.h>
#ifdef __cplusplus
#include <cstring>
using std::memcpy;
#endif
#ifdef @@_MATH_H
#include <math.h>
#endif

#ifndef @@_RESTRICT
#if defined(__GNUC__) || defined(_MSC_VER)
#define @@_RESTRICT __restrict
#elif defined(__cplusplus)
#define @@_RESTRICT
#else
#define @@_RESTRICT restrict
#endif
#endif
{wide}{functions}
{tables}
{code}{text}"""

# Where the units fill registers of 16 floats, or of 16 and 8.
WIDE = """
#if defined(__AVX512F__) && !defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 8
#pragma GCC target("prefer-vector-width=512") /* GCC's own choice is half of that */
#endif
"""

ATTEND = """
/* Copies the items that every step from now on looks at, until others are given; init
 * leaves none, reset those that there are. Each set is so many arrays of SIZE numbers.
 * Returns 0; or 1 and changes nothing, where a count is not among 0 ... MAX. */
int @_attend({arguments});
"""

TEXT = """
/* The text of a token: *length bytes. */
const char *@_text(int token, int *length);
"""

TOKENS = """
static const char *const @_texts[{count}] = {{
{texts}
}};
{lengths}
const char *@_text(int token, int *length) {{
    *length = @_lengths[token];
    return @_texts[token];
}}
"""

TEST = """\
/* Steps @ through a sequence and compares with what it should give. Returns 0 if the
 * largest difference is within 1e-4 of the largest output. */
#include "@.h"

#include <stdio.h>

{tables}
int main(void) {{
    static @_state state;
    float y[{size}], largest = 0.0f, error = 0.0f;
    int t, j;
    @_init(&state);
{attend}    for (t = 0; t < {steps}; ++t) {{
        @_step(&state, {arguments}, y);
        for (j = 0; j < {size}; ++j) {{
            const float wanted = expected[t * {size} + j], off = y[j] - wanted;
            const float size = wanted < 0.0f ? -wanted : wanted;
            const float wrong = off < 0.0f ? -off : off;
            if (size > largest) largest = size;
            if (!(wrong <= error)) error = wrong; /* NaN too */
        }}
    }}
    printf("largest output %g, largest error %g\\n", (double)largest, (double)error);
    return error <= 1e-4f * largest + 1e-6f ? 0 : 1;
}}
"""

MAIN = """\
/* Generates text: @_main [PROMPT [LENGTH [TEMPERATURE [SEED]]]]
 *     cc -O2 @_main.c @.c -lm
 * A prompt is read by the longest token that fits: of characters and words that is the
 * tokenizer's own way, of byte pairs nearly. */
#include "@.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNKNOWN = {unknown} }; /* is never generated; -1: there is none */

/* A number from 0 to 1: xorshift64* (Vigna 2016). */
static double uniform(unsigned long long *seed) {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return (double)((*seed * 2685821657736338717ULL) >> 11) / 9007199254740992.0;
}

/* One token, drawn from what the model predicts; of temperature 0 the likeliest. */
static int sample(const float *logits, double temperature, unsigned long long *seed) {
    double total = 0.0, left;
    int best = UNKNOWN == 0 ? 1 : 0, token;
    for (token = 0; token < @@_OUTPUT_SIZE; ++token)
        if (token != UNKNOWN && logits[token] > logits[best]) best = token;
    if (temperature <= 0.0) return best;
    for (token = 0; token < @@_OUTPUT_SIZE; ++token)
        if (token != UNKNOWN)
            total += exp((logits[token] - logits[best]) / temperature);
    left = total * uniform(seed);
    for (token = 0; token < @@_OUTPUT_SIZE; ++token)
        if (token != UNKNOWN) {
            left -= exp((logits[token] - logits[best]) / temperature);
            if (left <= 0.0) return token;
        }
    return best;
}

/* The longest token that the text begins with, or -1. */
static int longest(const char *text) {
    const int rest = (int)strlen(text);
    int found = -1, most = 0, token, length;
    for (token = 0; token < @@_TOKENS_SIZE; ++token) {
        const char *piece = @_text(token, &length);
        if (token == UNKNOWN || length <= most || length > rest) continue;
        if (memcmp(text, piece, (size_t)length) != 0) continue;
        found = token;
        most = length;
    }
    return found;
}

int main(int count, char **arguments) {
    const char *prompt = count > 1 ? arguments[1] : "", *text;
    const int length = count > 2 ? atoi(arguments[2]) : 500;
    const double temperature = count > 3 ? atof(arguments[3]) : 1.0;
    unsigned long long seed = count > 4 ? strtoull(arguments[4], NULL, 10) : 1;
    static @_state state;
    static float logits[@@_OUTPUT_SIZE];
    int k, token, size;
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    @_init(&state);
    fputs(prompt, stdout);
    if (*prompt == '\\0') prompt = "\\n";
    while (*prompt != '\\0') {
        token = longest(prompt);
        size = 1;
        if (token >= 0) @_text(token, &size);
        if (token < 0 && UNKNOWN >= 0) token = UNKNOWN;
        if (token >= 0) @_step(&state, token, logits);
        prompt += size;
    }
    for (k = 0; k < length; ++k) {
        token = sample(logits, temperature, &seed);
        text = @_text(token, &size);
        fwrite(text, 1, (size_t)size, stdout);
        fflush(stdout);
        @_step(&state, token, logits);
    }
    putchar('\\n');
    return 0;
}
"""
