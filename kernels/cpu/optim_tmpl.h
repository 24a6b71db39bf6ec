/* SPDX-License-Identifier: Apache-2.0
 *
 * The optimiser's passes over flat arrays, as fast as memory.
 */

struct adamw_job {
    float       *p, *m, *v;
    const float *g;
    int64_t      count;
    float        grad_scale, keep, rest1, beta2, rest2, eps, step_size, root; /* rest: 1 - beta, rounded once */
};

static void adamw_block(void *arg, int64_t block, int worker)
{
    const struct adamw_job *job = arg;
    int64_t                 end = (block + 1) * ELEMENTS;
    vf grad_scale = v_set1(job->grad_scale), keep = v_set1(job->keep), rest1 = v_set1(job->rest1), beta2 = v_set1(job->beta2);
    vf rest2 = v_set1(job->rest2), eps = v_set1(job->eps), step_size = v_set1(job->step_size), root = v_set1(1 / job->root);

    (void)worker;
    if (end > job->count) end = job->count;
    for (int64_t i = block * ELEMENTS; i < end; i += VL) {
        int64_t n = end - i;
        vf      g = v_mul(v_take(job->g + i, n), grad_scale), m = v_take(job->m + i, n), v = v_take(job->v + i, n);
        m       = v_fma(rest1, v_sub(g, m), m);
        v       = v_fma(v_mul(rest2, g), g, v_mul(beta2, v));
        vf step = v_div(m, v_fma(v_sqrt(v), root, eps));
        v_put(job->m + i, m, n);
        v_put(job->v + i, v, n);
        v_put(job->p + i, v_sub(v_mul(keep, v_take(job->p + i, n)), v_mul(step_size, step)), n);
    }
}

static void adamw(dinov_stream *s, void *p, const void *g, void *m, void *v, int64_t count, double grad_scale, double lr, double wd,
                  double beta1, double beta2, double eps, int64_t step)
{
    struct adamw_job job = {.p          = p,
                            .m          = m,
                            .v          = v,
                            .g          = g,
                            .count      = count,
                            .grad_scale = (float)grad_scale,
                            .keep       = (float)(1 - lr * wd),
                            .rest1      = (float)(1 - beta1),
                            .beta2      = (float)beta2,
                            .rest2      = (float)(1 - beta2),
                            .eps        = (float)eps,
                            .step_size  = (float)(lr / (1 - __builtin_pow(beta1, (double)step))),
                            .root       = (float)__builtin_sqrt(1 - __builtin_pow(beta2, (double)step))};
    dinov_pool_run(s->pool, (count + ELEMENTS - 1) / ELEMENTS, adamw_block, &job);
}

struct ema_job {
    float       *average;
    const float *value;
    int64_t      count;
    float        momentum, rest;
};

static void ema_block(void *arg, int64_t block, int worker)
{
    const struct ema_job *job      = arg;
    int64_t               end      = (block + 1) * ELEMENTS;
    vf                    momentum = v_set1(job->momentum), rest = v_set1(job->rest);

    (void)worker;
    if (end > job->count) end = job->count;
    for (int64_t i = block * ELEMENTS; i < end; i += VL)
        v_put(job->average + i, v_fma(rest, v_take(job->value + i, end - i), v_mul(momentum, v_take(job->average + i, end - i))),
              end - i);
}

static void ema(dinov_stream *s, void *average, const void *value, int64_t count, double momentum)
{
    struct ema_job job = {average, value, count, (float)momentum, (float)(1 - momentum)};
    dinov_pool_run(s->pool, (count + ELEMENTS - 1) / ELEMENTS, ema_block, &job);
}

enum { SLICES = 256, LANES = 16 };

struct squares_job {
    const float *x;
    int64_t      count, slice;
    double       sums[SLICES];
};

/* Sixteen chains, so that compilers make vectors of them. */
static void squares_slice(void *arg, int64_t slice, int worker)
{
    struct squares_job *job = arg;
    int64_t             i = slice * job->slice, end = i + job->slice < job->count ? i + job->slice : job->count;
    double              sum[LANES] = {0}, total = 0;

    (void)worker;
    for (; i + LANES <= end; i += LANES)
        for (int j = 0; j < LANES; j++) sum[j] += (double)job->x[i + j] * (double)job->x[i + j];
    for (; i < end; i++) total += (double)job->x[i] * (double)job->x[i];
    for (int j = 0; j < LANES; j++) total += sum[j];
    job->sums[slice] = total;
}

static void sum_squares(dinov_stream *s, double *out, const void *x, int64_t count)
{
    struct squares_job job = {.x = x, .count = count, .slice = (count + SLICES - 1) / SLICES};
    double             sum = 0;
    dinov_pool_run(s->pool, SLICES, squares_slice, &job);
    for (int i = 0; i < SLICES; i++) sum += job.sums[i];
    *out = sum;
}
