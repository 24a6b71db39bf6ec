/* SPDX-License-Identifier: Apache-2.0
 *
 * PIL's resize for 8-bit RGB with the bicubic filter (a = -0.5), bit for bit. Shrinking widens the
 * filter by the scale (antialias). Coefficients are computed and normalised in double and rounded to
 * 22 fractional bits; one direction is filtered and rounded to 8 bits, then the other.
 *
 * Both passes are one loop: a weighted sum of equally long byte strips. Along columns the strips are
 * pieces of picture rows. Along rows they are made by turning ROWS rows on their side.
 */
#include "image/resize.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>

enum { FRACTION = DINOV_TAP_BITS, STRIP = 48, ROWS = STRIP / 3 };

static double bicubic(double x)
{
    const double a = -0.5;
    x              = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static void taps_clear(dinov_taps *t)
{
    dinov_free(t->first);
    dinov_free(t->count);
    dinov_free(t->weight);
    *t = (dinov_taps){0};
}

/* Outputs [from, from + count) of a resize from `in` to `out` samples. */
static dinov_status taps_init(dinov_taps *t, int64_t in, int64_t out, int64_t from, int64_t count, dinov_error *err)
{
    double  scale   = (double)in / (double)out;
    double  stretch = scale < 1.0 ? 1.0 : scale;
    double  support = 2.0 * stretch;
    double *exact;

    *t        = (dinov_taps){.most = (int64_t)ceil(support) * 2 + 1};
    exact     = dinov_alloc((size_t)t->most, sizeof *exact);
    t->first  = dinov_alloc((size_t)count, sizeof *t->first);
    t->count  = dinov_alloc((size_t)count, sizeof *t->count);
    t->weight = dinov_calloc((size_t)count, (size_t)t->most * sizeof *t->weight);
    if (!exact || !t->first || !t->count || !t->weight) {
        dinov_free(exact);
        taps_clear(t);
        return dinov_fail_nomem(err, "image", "the coefficients of its resize");
    }
    for (int64_t i = 0; i < count; i++) {
        double  centre = ((double)(from + i) + 0.5) * scale;
        double  sum    = 0.0;
        int64_t begin  = (int64_t)(centre - support + 0.5);
        int64_t end    = (int64_t)(centre + support + 0.5);
        if (begin < 0) begin = 0;
        if (end > in) end = in;
        for (int64_t j = begin; j < end; j++) {
            exact[j - begin] = bicubic(((double)j - centre + 0.5) * (1.0 / stretch));
            sum += exact[j - begin];
        }
        t->first[i] = (int32_t)begin;
        t->count[i] = (int32_t)(end - begin);
        for (int64_t j = 0; j < end - begin; j++) {
            double w                   = (sum != 0.0 ? exact[j] / sum : exact[j]) * (1 << FRACTION);
            t->weight[i * t->most + j] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
        }
    }
    dinov_free(exact);
    return DINOV_OK;
}

typedef int32_t words __attribute__((vector_size(32)));
typedef uint8_t bytes8 __attribute__((vector_size(8)));

/* out[0..48) = clamp(round(sum over j of weight[j] * in[j * stride + 0..48))) */
static inline __attribute__((always_inline)) void blend(uint8_t *out, const uint8_t *in, int64_t stride, const int32_t *weight,
                                                        int32_t count)
{
    enum { LANES = 8, GROUPS = STRIP / LANES };
    words sum[GROUPS];
    for (int g = 0; g < GROUPS; g++) sum[g] = (words){0} + (1 << (FRACTION - 1));
    for (int32_t j = 0; j < count; j++, in += stride)
        for (int g = 0; g < GROUPS; g++) {
            bytes8 b;
            memcpy(&b, in + LANES * g, sizeof b);
            sum[g] += __builtin_convertvector(b, words) * weight[j];
        }
    for (int g = 0; g < GROUPS; g++) {
        words v  = sum[g] >> FRACTION;
        v        = v & ~(v >> 31);        /* below 0: 0 */
        v        = v | ((255 - v) >> 31); /* above 255: all ones, cut to 255 below */
        bytes8 b = __builtin_convertvector(v, bytes8);
        memcpy(out + LANES * g, &b, sizeof b);
    }
}

/* One direction. `in` is the first input sample any output needs. */
struct pass {
    uint8_t          *out;
    const uint8_t    *in;
    int64_t           in_stride;   /* bytes from one input row to the next */
    int64_t           width, rows; /* of the output */
    const dinov_taps *taps;
    uint8_t          *strips;  /* rows pass: [columns, STRIP] */
    int64_t           columns; /* rows pass: input columns needed */
};

/* Columns: every output row from some input rows. */
static inline __attribute__((always_inline)) void columns_body(const struct pass *p)
{
    int64_t bytes = 3 * p->width;
    for (int64_t y = 0; y < p->rows; y++) {
        const uint8_t *in     = p->in + p->taps->first[y] * p->in_stride;
        const int32_t *weight = p->taps->weight + y * p->taps->most;
        uint8_t       *out    = p->out + y * bytes;
        int64_t        x      = 0;
        for (; x + STRIP <= bytes; x += STRIP) blend(out + x, in + x, p->in_stride, weight, p->taps->count[y]);
        for (; x < bytes; x++) {
            int32_t sum = 1 << (FRACTION - 1);
            for (int32_t j = 0; j < p->taps->count[y]; j++) sum += in[j * p->in_stride + x] * weight[j];
            sum >>= FRACTION;
            out[x] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
        }
    }
}

/* Rows: ROWS of them at a time, turned so that a strip is one input column of all of them. */
static inline __attribute__((always_inline)) void rows_body(const struct pass *p)
{
    for (int64_t y = 0; y < p->rows; y += ROWS) {
        int64_t rows = p->rows - y < ROWS ? p->rows - y : ROWS;
        for (int64_t r = 0; r < rows; r++) {
            const uint8_t *in = p->in + (y + r) * p->in_stride;
            for (int64_t x = 0; x < p->columns; x++)
                for (int c = 0; c < 3; c++) p->strips[x * STRIP + c * ROWS + r] = in[3 * x + c];
        }
        for (int64_t x = 0; x < p->width; x++) {
            uint8_t        column[STRIP];
            const uint8_t *in = p->strips + p->taps->first[x] * STRIP;
            blend(column, in, STRIP, p->taps->weight + x * p->taps->most, p->taps->count[x]);
            for (int64_t r = 0; r < rows; r++)
                for (int c = 0; c < 3; c++) p->out[3 * ((y + r) * p->width + x) + c] = column[c * ROWS + r];
        }
    }
}

static void columns_plain(const struct pass *p) { columns_body(p); }
static void rows_plain(const struct pass *p) { rows_body(p); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void columns_avx2(const struct pass *p) { columns_body(p); }
__attribute__((target("avx2"))) static void rows_avx2(const struct pass *p) { rows_body(p); }
static int                                  has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#else
#define columns_avx2 columns_plain
#define rows_avx2 rows_plain
static int has_avx2(void) { return 0; }
#endif

/* The inputs any of `count` outputs needs: [*first, *first + *inputs). From now on taps count from *first. */
static void reach(dinov_taps *t, int64_t count, int64_t *first, int64_t *inputs)
{
    int64_t begin = INT64_MAX, end = 0;
    for (int64_t i = 0; i < count; i++) {
        if (t->first[i] < begin) begin = t->first[i];
        if (t->first[i] + t->count[i] > end) end = t->first[i] + t->count[i];
    }
    for (int64_t i = 0; i < count; i++) t->first[i] -= (int32_t)begin;
    *first  = begin;
    *inputs = end - begin;
}

/* The 8-bit rounding between the passes makes their order visible. Pillow filters rows first; since
 * 13.0 columns first when the height shrinks by more than twice what the width does. */
static bool columns_first(int64_t in_width, int64_t in_height, int64_t out_width, int64_t out_height)
{
    return out_height < in_height && in_height - out_height > 2 * (in_width - out_width);
}

void dinov_resize_plan_clear(dinov_resize_plan *plan)
{
    taps_clear(&plan->across);
    taps_clear(&plan->down);
}

dinov_status dinov_resize_plan_init(dinov_resize_plan *plan, dinov_window window, int64_t out_width, int64_t out_height,
                                    int64_t in_width, int64_t in_height, dinov_error *err)
{
    DINOV_ASSERT(window.x >= 0 && window.y >= 0 && window.width > 0 && window.height > 0 && window.x + window.width <= out_width &&
                 window.y + window.height <= out_height);
    *plan = (dinov_resize_plan){.width      = window.width,
                                .height     = window.height,
                                .x          = window.x,
                                .y          = window.y,
                                .columns    = window.width,
                                .rows       = window.height,
                                .down_first = columns_first(in_width, in_height, out_width, out_height)};
    if (in_width != out_width) {
        DINOV_TRY(taps_init(&plan->across, in_width, out_width, window.x, window.width, err));
        reach(&plan->across, window.width, &plan->x, &plan->columns);
    }
    if (in_height != out_height) {
        DINOV_TRY(taps_init(&plan->down, in_height, out_height, window.y, window.height, err));
        reach(&plan->down, window.height, &plan->y, &plan->rows);
    }
    return DINOV_OK;
}

dinov_status dinov_resize_run(uint8_t *out, const dinov_resize_plan *plan, const uint8_t *in, int64_t in_width, dinov_error *err)
{
    bool         widths = plan->across.most, heights = plan->down.most, swap = plan->down_first;
    uint8_t     *middle = NULL, *strips = NULL;
    dinov_status status    = DINOV_OK;
    struct pass  by_row    = {.out     = out,
                              .width   = plan->width,
                              .rows    = swap ? plan->height : plan->rows,
                              .taps    = &plan->across,
                              .columns = plan->columns};
    struct pass  by_column = {.out = out, .width = swap ? plan->columns : plan->width, .rows = plan->height, .taps = &plan->down};
    struct pass *first     = heights && (swap || !widths) ? &by_column : &by_row;

    first->in        = in + 3 * (plan->y * in_width + plan->x);
    first->in_stride = 3 * in_width;
    if (widths) strips = dinov_calloc((size_t)plan->columns, STRIP);
    if (widths && heights) middle = dinov_alloc((size_t)(first->width * first->rows), 3);
    if ((widths && !strips) || (widths && heights && !middle)) {
        status = dinov_fail_nomem(err, "image", "its resize");
        goto fail;
    }
    by_row.strips = strips;
    if (widths && heights) {
        struct pass *second = swap ? &by_row : &by_column;
        first->out          = middle;
        second->in          = middle;
        second->in_stride   = 3 * first->width;
    }
    if (heights && swap) (has_avx2() ? columns_avx2 : columns_plain)(&by_column);
    if (widths) (has_avx2() ? rows_avx2 : rows_plain)(&by_row);
    if (heights && !swap) (has_avx2() ? columns_avx2 : columns_plain)(&by_column);
    for (int64_t y = 0; !widths && !heights && y < plan->rows; y++)
        memcpy(out + 3 * plan->columns * y, first->in + y * first->in_stride, 3 * (size_t)plan->columns);
fail:
    dinov_free(middle);
    dinov_free(strips);
    return status;
}

dinov_status dinov_resize_bicubic(uint8_t *out, dinov_window window, int64_t out_width, int64_t out_height, const uint8_t *in,
                                  int64_t in_width, int64_t in_height, dinov_error *err)
{
    dinov_resize_plan plan;
    dinov_status      status = dinov_resize_plan_init(&plan, window, out_width, out_height, in_width, in_height, err);
    if (status == DINOV_OK) status = dinov_resize_run(out, &plan, in, in_width, err);
    dinov_resize_plan_clear(&plan);
    return status;
}
