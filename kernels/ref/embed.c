/* SPDX-License-Identifier: Apache-2.0
 *
 * Pixels to patch rows, patch rows to tokens, and resampling of the position grid. Not hot: other CPU
 * tables share these.
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
    int64_t                 p = job->patch, columns = job->width / p, count = job->height / p * columns;
    int64_t                 image = block / count, top = block % count / columns * p, left = block % columns * p;
    real                   *out = (real *)job->rows->data + block * job->rows->ld;

    (void)worker;
    for (int64_t c = 0; c < job->channels; c++)
        for (int64_t y = 0; y < p; y++) {
            const float *in = job->pixels + ((image * job->channels + c) * job->height + top + y) * job->width + left;
            for (int64_t x = 0; x < p; x++) *out++ = in[x];
        }
}

void REF(patchify)(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t images, int64_t channels, int64_t height,
                   int64_t width, int64_t patch)
{
    struct patch_job job = {rows, pixels, channels, height, width, patch};
    DINOV_ASSERT(rows->rows == images * (height / patch) * (width / patch) && rows->cols == channels * patch * patch);
    dinov_pool_run(s->pool, rows->rows, patch_row, &job);
}

void REF(resample)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const double *rows, const double *cols, int64_t h, int64_t w,
                   int64_t gh, int64_t gw)
{
    (void)s;
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

struct embed_job {
    dinov_mat       *x;
    const dinov_mat *patches;
    const real      *cls, *registers, *mask_token, *pos;
    const uint8_t   *mask;
    int64_t          registers_count, patch_count;
};

/* One token of one picture. */
static void embed_row(void *arg, int64_t row, int worker)
{
    const struct embed_job *job = arg;
    int64_t                 C = job->x->cols, N = job->patch_count, first = 1 + job->registers_count;
    int64_t                 t = row % (first + N), patch = row / (first + N) * N + t - first;
    const real             *from = job->cls, *pos = job->pos;
    real                   *to = row_of(job->x, row);

    (void)worker;
    if (t >= first) {
        from = job->mask && job->mask[patch] ? job->mask_token : row_of(job->patches, patch);
        pos += (1 + t - first) * C;
    } else if (t > 0) {
        from = job->registers + (t - 1) * C;
        pos  = NULL;
    }
    for (int64_t c = 0; c < C; c++) to[c] = pos ? from[c] + pos[c] : from[c];
}

void REF(embed)(dinov_stream *s, dinov_mat *x, const dinov_mat *patches, const void *cls, const void *registers,
                const void *mask_token, const void *pos, const uint8_t *mask, int64_t images, int64_t registers_count)
{
    struct embed_job job = {x, patches, cls, registers, mask_token, pos, mask, registers_count, patches->rows / images};
    DINOV_ASSERT(patches->rows % images == 0 && x->rows == images * (1 + registers_count + job.patch_count));
    DINOV_ASSERT(x->cols == patches->cols);
    dinov_pool_run(s->pool, x->rows, embed_row, &job);
}

struct embed_backward_job {
    dinov_mat       *dpatches;
    real            *dcls, *dregisters, *dmask_token, *dpos;
    const dinov_mat *dx;
    const uint8_t   *mask;
    int64_t          images, registers_count, patch_count;
};

/* Some columns of all gradients. Each parameter's is a sum over pictures, the mask token's over patches too. */
static void embed_backward_strip(void *arg, int64_t strip, int worker)
{
    const struct embed_backward_job *job = arg;
    int64_t                          C = job->dx->cols, N = job->patch_count, R = job->registers_count, T = 1 + R + N;
    int64_t                          column = strip * STRIP, columns = least(C - column, STRIP), ld = job->dx->ld;
    const real                      *dx = (const real *)job->dx->data + column, one = 1;

    (void)worker;
    add_rows(job->dcls + column, &one, 0, dx, T * ld, job->images, columns);
    add_rows(job->dpos + column, &one, 0, dx, T * ld, job->images, columns);
    for (int64_t r = 0; r < R; r++)
        add_rows(job->dregisters + r * C + column, &one, 0, dx + (1 + r) * ld, T * ld, job->images, columns);
    for (int64_t n = 0; n < N; n++)
        add_rows(job->dpos + (1 + n) * C + column, &one, 0, dx + (1 + R + n) * ld, T * ld, job->images, columns);
    for (int64_t b = 0; b < job->images; b++) {
        real part[STRIP] = {0};
        for (int64_t n = 0; n < N; n++) {
            const real *from   = dx + (b * T + 1 + R + n) * ld;
            real       *to     = row_of(job->dpatches, b * N + n) + column;
            int         hidden = job->mask && job->mask[b * N + n];
            for (int64_t c = 0; c < columns; c++) to[c] = hidden ? 0 : from[c];
            for (int64_t c = 0; c < columns && hidden; c++) part[c] += from[c];
        }
        for (int64_t c = 0; c < columns && job->mask; c++) job->dmask_token[column + c] += part[c];
    }
}

void REF(embed_backward)(dinov_stream *s, dinov_mat *dpatches, void *dcls, void *dregisters, void *dmask_token, void *dpos,
                         const dinov_mat *dx, const uint8_t *mask, int64_t images, int64_t registers_count)
{
    struct embed_backward_job job = {dpatches, dcls, dregisters, dmask_token,     dpos,
                                     dx,       mask, images,     registers_count, dpatches->rows / images};
    DINOV_ASSERT(dpatches->rows % images == 0 && dx->rows == images * (1 + registers_count + job.patch_count));
    DINOV_ASSERT(dx->cols == dpatches->cols);
    dinov_pool_run(s->pool, blocks_of(dx->cols, STRIP), embed_backward_strip, &job);
}
