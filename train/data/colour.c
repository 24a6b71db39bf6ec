/* SPDX-License-Identifier: Apache-2.0
 *
 * Types and order of every operation are Pillow's or torchvision's, because results are cut or rounded
 * to bytes: a float where they use float, a double where they use double. Exact in all but the blur,
 * whose 81 products torch adds in an order of its own (tests/train/augment.py says how often that shows).
 */
#include "train/data/colour.h"

#include <math.h>
#include <string.h>

enum { TAPS = 9, REACH = TAPS / 2 };

/* ---- Blending: from `a` towards `b` and, past 1, beyond ---- */

static inline uint8_t blend(int a, int b, float factor)
{
    float v = (float)a + factor * (float)(b - a);
    v       = v < 0.0f ? 0.0f : v;
    return (uint8_t)(v > 255.0f ? 255.0f : v);
}

static void through_table(uint8_t *bytes, int64_t n, const uint8_t table[256])
{
    for (int64_t i = 0; i < n; i++) bytes[i] = table[bytes[i]];
}

/* Every byte blended from one value. */
static void blend_from(uint8_t *rgb, int64_t n, int from, double factor)
{
    uint8_t table[256];
    for (int v = 0; v < 256; v++) table[v] = blend(from, v, (float)factor);
    through_table(rgb, 3 * n, table);
}

static inline int luma(int r, int g, int b) { return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16; }

void dinov_colour_brightness(uint8_t *rgb, int64_t n, double factor) { blend_from(rgb, n, 0, factor); }

void dinov_colour_contrast(uint8_t *rgb, int64_t n, double factor)
{
    const uint8_t *r = rgb, *g = rgb + n, *b = rgb + 2 * n;
    int64_t        sum = 0;
    for (int64_t i = 0; i < n; i++) sum += luma(r[i], g[i], b[i]);
    blend_from(rgb, n, (int)((double)sum / (double)n + 0.5), factor);
}

void dinov_colour_saturation(uint8_t *rgb, int64_t n, double factor)
{
    uint8_t *restrict r = rgb, *restrict g = rgb + n, *restrict b = rgb + 2 * n;
    for (int64_t i = 0; i < n; i++) {
        int grey = luma(r[i], g[i], b[i]);
        r[i]     = blend(grey, r[i], (float)factor);
        g[i]     = blend(grey, g[i], (float)factor);
        b[i]     = blend(grey, b[i], (float)factor);
    }
}

void dinov_colour_grey(uint8_t *rgb, int64_t n)
{
    uint8_t *restrict r = rgb, *restrict g = rgb + n, *restrict b = rgb + 2 * n;
    for (int64_t i = 0; i < n; i++) r[i] = (uint8_t)luma(r[i], g[i], b[i]);
    memcpy(g, r, (size_t)n);
    memcpy(b, r, (size_t)n);
}

void dinov_colour_solarize(uint8_t *rgb, int64_t n)
{
    for (int64_t i = 0; i < 3 * n; i++) rgb[i] = (uint8_t)(rgb[i] < 128 ? rgb[i] : 255 - rgb[i]);
}

/* ---- Hue: to hue, saturation and value in bytes, and back, for eight pixels ---- */

enum { LANES = 8 };

typedef uint8_t bytes8 __attribute__((vector_size(LANES)));
typedef int32_t ints8 __attribute__((vector_size(4 * LANES)));
typedef float   floats8 __attribute__((vector_size(4 * LANES)));
typedef double  doubles8 __attribute__((vector_size(8 * LANES)));

#define INTS(v) __builtin_convertvector(v, ints8) /* of reals: towards zero */
#define FLOATS(v) __builtin_convertvector(v, floats8)
#define DOUBLES(v) __builtin_convertvector(v, doubles8)
#define PICK(mask, a, b) (((mask) & (a)) | (~(mask) & (b)))

/* v (1 - part), to the nearest. */
#define LESS(v, part) INTS(DOUBLES(v) * (1.0 - (part)) + 0.5)

static inline __attribute__((always_inline)) void hue_of_eight(uint8_t *r, uint8_t *g, uint8_t *b, int shift)
{
    bytes8 r8, g8, b8;
    memcpy(&r8, r, LANES), memcpy(&g8, g, LANES), memcpy(&b8, b, LANES);
    ints8 red = INTS(r8), green = INTS(g8), blue = INTS(b8);
    ints8 most = PICK(red > green, red, green), least = PICK(red > green, green, red);
    most  = PICK(most > blue, most, blue);
    least = PICK(least < blue, least, blue);

    /* The distances of the other two from the most, as parts of the range. A grey pixel has saturation 0, whatever its hue. */
    ints8    from_red = red == most, from_green = ~from_red & (green == most), range = most - least;
    ints8    base   = PICK(from_red, 0, PICK(from_green, 2, 4));
    ints8    after  = most - PICK(from_red, blue, PICK(from_green, red, green));
    ints8    before = most - PICK(from_red, green, PICK(from_green, blue, red));
    floats8  by     = FLOATS(range - (range == 0)); /* a true comparison is -1 */
    doubles8 side   = DOUBLES(base) + DOUBLES(FLOATS(after) / by) - DOUBLES(FLOATS(before) / by);
    doubles8 turn   = DOUBLES(FLOATS(side)) / 6.0 + 1.0;
    ints8    hue    = INTS(DOUBLES(FLOATS(turn - DOUBLES(INTS(turn)))) * 255.0);
    ints8    sat    = INTS(DOUBLES(FLOATS(range) / FLOATS(most - (most == 0))) * 255.0);

    doubles8 place   = DOUBLES((hue + shift) & 255) * 6.0 / 255.0;
    ints8    sextant = INTS(place);
    floats8  f = FLOATS(place - DOUBLES(sextant)), fs = FLOATS(DOUBLES(sat) / 255.0);
    ints8    p = LESS(most, DOUBLES(fs)), q = LESS(most, DOUBLES(fs * f)), t = LESS(most, DOUBLES(fs) * (1.0 - DOUBLES(f)));
    sextant &= sextant != 6; /* a whole turn */
    red   = PICK((sextant == 0) | (sextant == 5), most, PICK(sextant == 1, q, PICK(sextant == 4, t, p)));
    green = PICK((sextant == 1) | (sextant == 2), most, PICK(sextant == 3, q, PICK(sextant == 0, t, p)));
    blue  = PICK((sextant == 3) | (sextant == 4), most, PICK(sextant == 5, q, PICK(sextant == 2, t, p)));
    r8    = __builtin_convertvector(red, bytes8);
    g8    = __builtin_convertvector(green, bytes8);
    b8    = __builtin_convertvector(blue, bytes8);
    memcpy(r, &r8, LANES), memcpy(g, &g8, LANES), memcpy(b, &b8, LANES);
}

static inline __attribute__((always_inline)) void hue_body(uint8_t *r, uint8_t *g, uint8_t *b, int64_t n, int shift)
{
    uint8_t tail[3][LANES] = {{0}};
    int64_t i              = 0;
    for (; i + LANES <= n; i += LANES) hue_of_eight(r + i, g + i, b + i, shift);
    if (i == n) return;
    size_t left = (size_t)(n - i);
    memcpy(tail[0], r + i, left), memcpy(tail[1], g + i, left), memcpy(tail[2], b + i, left);
    hue_of_eight(tail[0], tail[1], tail[2], shift);
    memcpy(r + i, tail[0], left), memcpy(g + i, tail[1], left), memcpy(b + i, tail[2], left);
}

/* ---- Blur: along rows, then along columns, with a ring of the last TAPS rows ---- */

int64_t dinov_colour_blur_scratch(int64_t width) { return width + 2 * REACH + TAPS * width; }

static int64_t mirrored(int64_t i, int64_t n) { return i < 0 ? -i : i >= n ? 2 * (n - 1) - i : i; }

static inline __attribute__((always_inline)) void blur_row(float *restrict out, const uint8_t *restrict in, int64_t width,
                                                           const float *restrict weight, float *restrict padded)
{
    for (int64_t x = 0; x < width; x++) padded[REACH + x] = (float)in[x];
    for (int64_t x = 1; x <= REACH; x++) {
        padded[REACH - x]             = (float)in[mirrored(-x, width)];
        padded[REACH + width - 1 + x] = (float)in[mirrored(width - 1 + x, width)];
    }
    for (int64_t x = 0; x < width; x++) {
        float sum = 0;
        for (int k = 0; k < TAPS; k++) sum += weight[k] * padded[x + k];
        out[x] = sum;
    }
}

static inline __attribute__((always_inline)) void blur_column(uint8_t *restrict out, const float *const rows[TAPS], int64_t width,
                                                              const float *restrict weight)
{
    const float nearest = 0x1.8p23f; /* adding and taking it away rounds, halves to even */
    for (int64_t x = 0; x < width; x++) {
        float sum = 0;
        for (int k = 0; k < TAPS; k++) sum += weight[k] * rows[k][x];
        sum    = sum + nearest - nearest;
        out[x] = (uint8_t)(int)(sum > 255.0f ? 255.0f : sum);
    }
}

static inline __attribute__((always_inline)) void blur_body(uint8_t *plane, int64_t width, int64_t height, const float *weight,
                                                            float *scratch)
{
    float  *padded = scratch, *ring = scratch + width + 2 * REACH;
    int64_t done = 0; /* rows blurred along; row y lies in ring place y % TAPS */
    for (int64_t y = 0; y < height; y++) {
        const float *rows[TAPS];
        for (; done < height && done <= y + REACH; done++)
            blur_row(ring + done % TAPS * width, plane + done * width, width, weight, padded);
        for (int k = 0; k < TAPS; k++) rows[k] = ring + mirrored(y + k - REACH, height) % TAPS * width;
        blur_column(plane + y * width, rows, width, weight);
    }
}

/* ---- The same code for wider vectors: same operations, same order, same bits ---- */

static void hue_plain(uint8_t *r, uint8_t *g, uint8_t *b, int64_t n, int by) { hue_body(r, g, b, n, by); }
static void blur_plain(uint8_t *plane, int64_t width, int64_t height, const float *weight, float *scratch)
{
    blur_body(plane, width, height, weight, scratch);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void hue_avx2(uint8_t *r, uint8_t *g, uint8_t *b, int64_t n, int by)
{
    hue_body(r, g, b, n, by);
}
__attribute__((target("avx2"))) static void blur_avx2(uint8_t *plane, int64_t width, int64_t height, const float *weight,
                                                      float *scratch)
{
    blur_body(plane, width, height, weight, scratch);
}
static int has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#else
#define hue_avx2 hue_plain
#define blur_avx2 blur_plain
static int has_avx2(void) { return 0; }
#endif

void dinov_colour_hue(uint8_t *rgb, int64_t n, double shift)
{
    (has_avx2() ? hue_avx2 : hue_plain)(rgb, rgb + n, rgb + 2 * n, n, (int)(shift * 255));
}

void dinov_colour_blur(uint8_t *rgb, int64_t width, int64_t height, double sigma, float *scratch)
{
    float weight[TAPS], sum = 0;
    for (int k = 0; k < TAPS; k++) {
        float x   = (float)(k - REACH) / (float)sigma;
        weight[k] = expf(-0.5f * (x * x));
        sum += weight[k];
    }
    for (int k = 0; k < TAPS; k++) weight[k] /= sum;
    for (int c = 0; c < 3; c++) (has_avx2() ? blur_avx2 : blur_plain)(rgb + c * width * height, width, height, weight, scratch);
}
