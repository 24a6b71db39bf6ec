/* SPDX-License-Identifier: Apache-2.0
 *
 * Pixels to patch rows, and resampling of the position grid. Not hot: other CPU tables share these.
 */
#include "kernels/ref/ref.h"

struct patch_job {
    dinov_mat   *rows;
    const float *pixels;
    int64_t      channels, height, width, patch;
};

static void patch_row(void *arg, int64_t block, int worker)
{
    const struct patch_job *job = arg;
    int64_t                 p = job->patch, columns = job->width / p, top = block / columns * p, left = block % columns * p;
    real                   *out = (real *)job->rows->data + block * job->rows->ld;

    (void)worker;
    for (int64_t c = 0; c < job->channels; c++)
        for (int64_t y = 0; y < p; y++) {
            const float *in = job->pixels + (c * job->height + top + y) * job->width + left;
            for (int64_t x = 0; x < p; x++) *out++ = in[x];
        }
}

void REF(patchify)(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t channels, int64_t height, int64_t width,
                   int64_t patch)
{
    struct patch_job job = {rows, pixels, channels, height, width, patch};
    DINOV_ASSERT(rows->rows == (height / patch) * (width / patch) && rows->cols == channels * patch * patch);
    dinov_pool_run(s->pool, rows->rows, patch_row, &job);
}

void REF(resample)(dinov_mat *y, const dinov_mat *x, const double *rows, const double *cols, int64_t h, int64_t w, int64_t gh,
                   int64_t gw)
{
    DINOV_ASSERT(y->rows == h * w && x->rows == gh * gw && y->cols == x->cols);
    for (int64_t i = 0; i < h; i++)
        for (int64_t j = 0; j < w; j++) {
            real *out = (real *)y->data + (i * w + j) * y->ld;
            for (int64_t c = 0; c < y->cols; c++) out[c] = 0;
            for (int64_t a = 0; a < gh; a++)
                for (int64_t b = 0; b < gw; b++) {
                    const real *in     = (const real *)x->data + (a * gw + b) * x->ld;
                    real        weight = (real)(rows[i * gh + a] * cols[j * gw + b]);
                    if (weight == 0) continue; /* all but a few taps */
                    for (int64_t c = 0; c < y->cols; c++) out[c] += weight * in[c];
                }
        }
}
