/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers with their epilogues, as plainly as they can be written.
 */
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

size_t REF(linear_size)(int64_t n, int64_t k) { return (size_t)(n * k); }

size_t REF(linear_bias_size)(int64_t n) { return (size_t)n; }

void REF(linear_pack)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, dinov_activation act)
{
    (void)s, (void)act;
    memcpy(packed, weight, (size_t)(n * k) * sizeof(real));
}

void REF(linear_pack_bias)(void *packed, const void *bias, int64_t n, dinov_activation act)
{
    (void)act;
    if (bias) memcpy(packed, bias, (size_t)n * sizeof(real));
    else memset(packed, 0, (size_t)n * sizeof(real));
}

static real gelu(real v) { return (real)0.5 * v * (1 + (real)erf(v * 0.70710678118654752440)); }

static real silu(real v) { return v / (1 + (real)exp(-v)); }

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
