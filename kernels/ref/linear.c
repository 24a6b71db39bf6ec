/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers with their epilogues and gradients, as plainly as they can be written.
 */
#include "kernels/ref/ref.h"

#include <string.h>

size_t REF(linear_size)(int64_t n, int64_t k) { return (size_t)(n * k); }

size_t REF(linear_bias_size)(int64_t n) { return (size_t)n; }

void REF(linear_pack)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, dinov_activation act)
{
    (void)s, (void)act;
    memcpy(packed, weight, (size_t)(n * k) * sizeof(real));
}

size_t REF(linear_scratch)(int64_t m, int64_t n, dinov_activation act)
{
    (void)m, (void)n, (void)act;
    return 0;
}

/* Rows whose stride is an odd number of cache lines do not fall on one another in the cache. */
int64_t REF(stride)(int64_t cols) { return (cols + 15) / 32 * 32 + 16; }

void REF(linear_pack_bias)(dinov_stream *s, void *packed, const void *bias, int64_t n, dinov_activation act)
{
    (void)s, (void)act;
    if (bias) memcpy(packed, bias, (size_t)n * sizeof(real));
    else memset(packed, 0, (size_t)n * sizeof(real));
}

struct linear_job {
    dinov_mat          *y;
    const dinov_mat    *x, *residual;
    const dinov_linear *w;
    const real         *scale;
};

static void linear_row(void *arg, int64_t row, int worker)
{
    const struct linear_job *job      = arg;
    const dinov_linear      *w        = job->w;
    const real              *weight   = w->packed, *bias = w->bias;
    const real              *x        = (const real *)job->x->data + row * job->x->ld;
    const real              *residual = job->residual ? (const real *)job->residual->data + row * job->residual->ld : NULL;
    real                    *y        = (real *)job->y->data + row * job->y->ld;

    (void)worker;
    for (int64_t j = 0; j < job->y->cols; j++) {
        real v = dot(x, weight + j * w->k, 1, w->k) + bias[j];
        if (w->act == DINOV_ACT_GELU) v = gelu(v);
        if (w->act == DINOV_ACT_SWIGLU) v = silu(v) * (dot(x, weight + (j + w->n / 2) * w->k, 1, w->k) + bias[j + w->n / 2]);
        if (residual) v = residual[j] + (job->scale ? job->scale[j] * v : v);
        y[j] = v;
    }
}

void REF(linear)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                 const void *scale)
{
    struct linear_job job = {y, x, residual, w, scale};
    DINOV_ASSERT(x->cols == w->k && x->rows == y->rows && y->cols == (w->act == DINOV_ACT_SWIGLU ? w->n / 2 : w->n));
    dinov_pool_run(s->pool, y->rows, linear_row, &job);
}

void REF(linear_pack_transposed)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, const void *scale)
{
    real       *out = packed;
    const real *w = weight, *factor = scale;
    (void)s;
    for (int64_t j = 0; j < k; j++)
        for (int64_t i = 0; i < n; i++) out[j * n + i] = factor ? factor[i] * w[i * k + j] : w[i * k + j];
}

struct backward_job {
    real            *dweight;
    const dinov_mat *dy, *x;
};

/* Some columns of one row of dweight. */
static void backward_strip(void *arg, int64_t block, int worker)
{
    const struct backward_job *job = arg;
    int64_t                    k = job->x->cols, strips = blocks_of(k, STRIP);
    int64_t                    row = block / strips, column = block % strips * STRIP;
    const real                *weight = (const real *)job->dy->data + row;

    (void)worker;
    add_rows(job->dweight + row * k + column, weight, job->dy->ld, (const real *)job->x->data + column, job->x->ld, job->x->rows,
             least(k - column, STRIP));
}

void REF(linear_backward)(dinov_stream *s, void *dweight, void *dbias, const dinov_mat *dy, const dinov_mat *x)
{
    struct backward_job job = {dweight, dy, x};
    DINOV_ASSERT(dy->rows == x->rows);
    dinov_pool_run(s->pool, dy->cols * blocks_of(x->cols, STRIP), backward_strip, &job);
    if (dbias) REF(column_sums)(s, dbias, dy);
}

struct layerscale_job {
    real       *dgamma, *dweight, *dbias;
    const real *dw, *db, *gamma, *weight, *bias;
    int64_t     k;
};

static void layerscale_row(void *arg, int64_t i, int worker)
{
    const struct layerscale_job *job = arg;
    const real                  *dw  = job->dw + i * job->k;

    (void)worker;
    job->dgamma[i] += dot(dw, job->weight + i * job->k, 1, job->k) + job->db[i] * job->bias[i];
    job->dbias[i] += job->gamma[i] * job->db[i];
    for (int64_t j = 0; j < job->k; j++) job->dweight[i * job->k + j] += job->gamma[i] * dw[j];
}

void REF(layerscale_backward)(dinov_stream *s, void *dgamma, void *dweight, void *dbias, const void *dw, const void *db,
                              const void *gamma, const void *weight, const void *bias, int64_t n, int64_t k)
{
    struct layerscale_job job = {dgamma, dweight, dbias, dw, db, gamma, weight, bias, k};
    dinov_pool_run(s->pool, n, layerscale_row, &job);
}
