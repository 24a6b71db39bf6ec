/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoded pictures to inputs: PIL's two-pass resize by coefficients that image/resize.c plans, then a table.
 */
#include "kernels/ref/ref.h"

struct picture_job {
    float               *pixels;
    const uint8_t       *block;
    uint8_t             *scratch;
    const dinov_picture *pictures;
    int64_t              width, height;
    const float         *table;
};

/* One sample of a pass: `in` is the first sample of the line, `step` bytes to the next. */
static uint8_t resized(const uint8_t *in, int64_t step, const int32_t *taps, int64_t most, int64_t n, int64_t i)
{
    const int32_t *first = taps, *count = taps + n, *weight = taps + 2 * n + i * most;
    int32_t        sum = 1 << 21;
    for (int32_t j = 0; j < count[i]; j++) sum += in[(first[i] + j) * step] * weight[j];
    sum >>= 22;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void one_picture(void *arg, int64_t index, int worker)
{
    const struct picture_job *job = arg;
    const dinov_picture      *p   = &job->pictures[index];
    const uint8_t            *rgb = job->block + p->rgb;
    uint8_t                  *middle = job->scratch + p->middle;
    const int32_t            *across = (const int32_t *)(const void *)(job->block + p->across),
                  *down = (const int32_t *)(const void *)(job->block + p->down);
    int64_t W = job->width, H = job->height, wide = p->down_first ? p->columns : W, high = p->down_first ? H : p->rows;

    (void)worker;
    for (int64_t y = 0; y < high; y++)
        for (int64_t x = 0; x < wide; x++)
            for (int c = 0; c < 3; c++)
                middle[3 * (y * wide + x) + c] =
                    p->down_first ? resized(rgb + 3 * x + c, 3 * p->columns, down, p->down_most, H, y)
                                  : resized(rgb + 3 * y * p->columns + c, 3, across, p->across_most, W, x);
    for (int c = 0; c < 3; c++)
        for (int64_t y = 0; y < H; y++)
            for (int64_t x = 0; x < W; x++) {
                uint8_t v = p->down_first ? resized(middle + 3 * y * wide + c, 3, across, p->across_most, W, x)
                                          : resized(middle + 3 * x + c, 3 * wide, down, p->down_most, H, y);
                job->pixels[((index * 3 + c) * H + y) * W + x] = job->table[c * 256 + v];
            }
}

void REF(pictures)(dinov_stream *s, float *pixels, const void *block, const dinov_picture *pictures, int64_t count, int64_t width,
                   int64_t height, int64_t widest, int64_t highest, const float *table)
{
    struct picture_job job = {pixels, block, s->scratch, pictures, width, height, table};
    (void)widest, (void)highest;
    dinov_pool_run(s->pool, count, one_picture, &job);
}
