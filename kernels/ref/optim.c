/* SPDX-License-Identifier: Apache-2.0
 *
 * The optimiser's passes over flat arrays.
 */
#include "kernels/ref/ref.h"

struct adamw_job {
    real       *p, *m, *v;
    const real *g;
    int64_t     count;
    real        grad_scale, keep, rest1, beta2, rest2, eps, step_size, root; /* rest: 1 - beta, rounded once */
};

static void adamw_chunk(void *arg, int64_t chunk, int worker)
{
    const struct adamw_job *job = arg;
    int64_t                 end = least((chunk + 1) * CHUNK, job->count);

    (void)worker;
    for (int64_t i = chunk * CHUNK; i < end; i++) {
        real g = job->g[i] * job->grad_scale;
        real m = job->m[i] + job->rest1 * (g - job->m[i]);
        real v = job->beta2 * job->v[i] + job->rest2 * g * g;

        job->m[i] = m, job->v[i] = v;
        job->p[i] = job->keep * job->p[i] - job->step_size * (m / ((real)sqrt(v) / job->root + job->eps));
    }
}

void REF(adamw)(dinov_stream *s, void *p, const void *g, void *m, void *v, int64_t count, double grad_scale, double lr, double wd,
                double beta1, double beta2, double eps, int64_t step)
{
    struct adamw_job job = {.p          = p,
                            .m          = m,
                            .v          = v,
                            .g          = g,
                            .count      = count,
                            .grad_scale = (real)grad_scale,
                            .keep       = (real)(1 - lr * wd),
                            .rest1      = (real)(1 - beta1),
                            .beta2      = (real)beta2,
                            .rest2      = (real)(1 - beta2),
                            .eps        = (real)eps,
                            .step_size  = (real)(lr / (1 - pow(beta1, (double)step))),
                            .root       = (real)sqrt(1 - pow(beta2, (double)step))};
    dinov_pool_run(s->pool, blocks_of(count, CHUNK), adamw_chunk, &job);
}

struct ema_job {
    real       *average;
    const real *value;
    int64_t     count;
    real        momentum, rest;
};

static void ema_chunk(void *arg, int64_t chunk, int worker)
{
    const struct ema_job *job = arg;
    int64_t               end = least((chunk + 1) * CHUNK, job->count);

    (void)worker;
    for (int64_t i = chunk * CHUNK; i < end; i++) job->average[i] = job->momentum * job->average[i] + job->rest * job->value[i];
}

void REF(ema)(dinov_stream *s, void *average, const void *value, int64_t count, double momentum)
{
    struct ema_job job = {average, value, count, (real)momentum, (real)(1 - momentum)};
    dinov_pool_run(s->pool, blocks_of(count, CHUNK), ema_chunk, &job);
}

enum { SLICES = 256 };

struct squares_job {
    const real *x;
    int64_t     count, slice;
    double      sums[SLICES];
};

static void squares_slice(void *arg, int64_t slice, int worker)
{
    struct squares_job *job = arg;
    int64_t             end = least((slice + 1) * job->slice, job->count);
    double              sum = 0;

    (void)worker;
    for (int64_t i = slice * job->slice; i < end; i++) sum += (double)job->x[i] * (double)job->x[i];
    job->sums[slice] = sum;
}

void REF(sum_squares)(dinov_stream *s, double *out, const void *x, int64_t count)
{
    struct squares_job job = {.x = x, .count = count, .slice = (count + SLICES - 1) / SLICES};
    double             sum = 0;
    dinov_pool_run(s->pool, SLICES, squares_slice, &job);
    for (int i = 0; i < SLICES; i++) sum += job.sums[i];
    *out = sum;
}
