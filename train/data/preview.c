/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalisation is undone, which gives back the very bytes that were normalised.
 */
#include "train/data/preview.h"

#include "base/alloc.h"
#include "image/encode.h"

#include <math.h>
#include <string.h>

enum { GAP = 4, PAPER = 255, DARK = 4 /* masked patches keep this part of their light: a quarter */ };

struct sheet {
    uint8_t *rgb;
    int64_t  width, height;
};

/* One crop [3, size, size] at (left, top); `mask` is its grid x grid patches, or NULL. */
static void place(struct sheet *s, int64_t left, int64_t top, const float *crop, int64_t size, const uint8_t *mask, int64_t grid)
{
    for (int64_t y = 0; y < size; y++)
        for (int64_t x = 0; x < size; x++) {
            uint8_t *to     = s->rgb + 3 * ((top + y) * s->width + left + x);
            int      masked = mask && mask[y * grid / size * grid + x * grid / size];
            for (int c = 0; c < 3; c++) {
                float v = crop[(c * size + y) * size + x] * dinov_augment_std[c] + dinov_augment_mean[c];
                to[c]   = (uint8_t)((int)lrintf(fminf(fmaxf(v, 0), 1) * 255.0f) / (masked ? DARK : 1));
            }
        }
}

dinov_status dinov_preview_write(const char *path, const dinov_batch *batch, int64_t rows, int overwrite, dinov_error *err)
{
    const dinov_batch *b   = batch;
    int64_t            big = b->global_crops_size, small = b->local_crops_size, grid = (int64_t)lrint(sqrt((double)b->patches));
    int64_t            stack = big > small ? (big + GAP) / (small + GAP) : 1; /* local crops below each other */
    int64_t            row   = GAP + (big > small ? big : small);
    struct sheet       s     = {.width = GAP + 2 * (big + GAP) + b->local_crops_number * (small + GAP)};

    if (rows > b->images) rows = b->images;
    s.height = GAP + rows * row;
    s.rgb    = dinov_alloc((size_t)(s.width * s.height), 3);
    if (!s.rgb) return dinov_fail_nomem(err, "preview", "its picture");
    memset(s.rgb, PAPER, 3 * (size_t)(s.width * s.height));
    for (int64_t i = 0; i < rows; i++) {
        int64_t left = GAP, top = GAP + i * row;
        for (int64_t k = 0; k < 2; k++, left += big + GAP) {
            int64_t crop = k * b->images + i;
            place(&s, left, top, b->global_crops + crop * 3 * big * big, big, b->masks + crop * b->patches, grid);
        }
        for (int64_t k = 0; k < b->local_crops_number; k++)
            place(&s, left + k / stack * (small + GAP), top + k % stack * (small + GAP),
                  b->local_crops + (k * b->images + i) * 3 * small * small, small, NULL, 0);
    }
    dinov_status status = dinov_png_write(path, s.rgb, s.width, s.height, overwrite, err);
    dinov_free(s.rgb);
    return status;
}
