/* SPDX-License-Identifier: Apache-2.0
 *
 * LayerNorm over rows, and rows of unit length.
 */
#include "kernels/ref/ref.h"

struct norm_job {
    dinov_mat       *y;
    const dinov_mat *x;
    const real      *weight, *bias;
    double           eps;
};

/* Of a row: 1 / sqrt(variance + eps), and its mean. */
static real statistics(const real *x, int64_t n, double eps, real *mean)
{
    real variance = 0;
    *mean         = total(x, n) / (real)n;
    for (int64_t i = 0; i < n; i++) variance += (x[i] - *mean) * (x[i] - *mean);
    return 1 / (real)sqrt(variance / (real)n + (real)eps);
}

static void norm_row(void *arg, int64_t row, int worker)
{
    const struct norm_job *job = arg;
    const real            *x   = (const real *)job->x->data + row * job->x->ld;
    real                  *y   = (real *)job->y->data + row * job->y->ld;
    int64_t                n   = job->x->cols;
    real                   mean, scale = statistics(x, n, job->eps, &mean);

    (void)worker;
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * job->weight[i] + job->bias[i];
}

void REF(layernorm)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps)
{
    struct norm_job job = {y, x, weight, bias, eps};
    DINOV_ASSERT(x->rows == y->rows && x->cols == y->cols);
    dinov_pool_run(s->pool, x->rows, norm_row, &job);
}

struct features_job {
    float           *out;
    const dinov_mat *x;
    const real      *weight, *bias;
    double           eps;
    int64_t          tokens, first, count;
    bool             mean;
};

/* One row, or with `mean` one column of one picture, for which each row's statistics are found again. */
static void features_block(void *arg, int64_t block, int worker)
{
    const struct features_job *job = arg;
    int64_t                    C = job->x->cols, of = job->mean ? C : job->count, image = block / of, at = block % of;
    double                     sum = 0;

    (void)worker;
    for (int64_t r = job->mean ? 0 : at; r < (job->mean ? job->count : at + 1); r++) {
        const real *x    = row_of(job->x, image * job->tokens + job->first + r);
        real        mean, scale = statistics(x, C, job->eps, &mean);
        for (int64_t i = job->mean ? at : 0; i < (job->mean ? at + 1 : C); i++) {
            float v = (float)(job->weight ? (x[i] - mean) * scale * job->weight[i] + job->bias[i] : x[i]);
            if (job->mean) sum += (double)v;
            else job->out[(image * job->count + at) * C + i] = v;
        }
    }
    if (job->mean) job->out[image * C + at] = (float)(sum / (double)job->count);
}

void REF(features)(dinov_stream *s, float *out, const dinov_mat *x, int64_t images, int64_t first, int64_t count, bool mean,
                   const void *weight, const void *bias, double eps)
{
    struct features_job job = {out, x, weight, bias, eps, x->rows / images, first, count, mean};
    DINOV_ASSERT(x->rows % images == 0 && first + count <= job.tokens);
    dinov_pool_run(s->pool, images * (mean ? x->cols : count), features_block, &job);
}

struct norm_backward_job {
    dinov_mat       *dx;
    const dinov_mat *dy, *x;
    const real      *weight;
    real            *parts; /* [blocks][2][cols]: sums over the rows of a block for dweight and dbias */
    double           eps;
};

static void norm_backward_row(const struct norm_backward_job *job, int64_t row, real *dweight, real *dbias)
{
    const real *x = row_of(job->x, row), *dy = row_of(job->dy, row), *weight = job->weight;
    real       *dx   = row_of(job->dx, row);
    int64_t     n    = job->x->cols;
    real        mean = total(x, n) / (real)n, variance = 0, sum = 0, product = 0;

    for (int64_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean);
    real scale = 1 / (real)sqrt(variance / (real)n + (real)job->eps);
    for (int64_t begin = 0; begin < n; begin += PART) {
        real part[2] = {0};
        for (int64_t i = begin; i < n && i < begin + PART; i++) {
            real normal = (x[i] - mean) * scale;
            dweight[i] += dy[i] * normal;
            dbias[i] += dy[i];
            part[0] += dy[i] * weight[i];
            part[1] += dy[i] * weight[i] * normal;
        }
        sum += part[0], product += part[1];
    }
    for (int64_t i = 0; i < n; i++)
        dx[i] = scale * (dy[i] * weight[i] - sum / (real)n - (x[i] - mean) * scale * (product / (real)n));
}

static void norm_backward_block(void *arg, int64_t block, int worker)
{
    const struct norm_backward_job *job = arg;
    int64_t                         n = job->x->cols, end = least((block + 1) * PART, job->x->rows);
    real                           *dweight = job->parts + block * 2 * n, *dbias = dweight + n;

    (void)worker;
    for (int64_t i = 0; i < 2 * n; i++) dweight[i] = 0;
    for (int64_t row = block * PART; row < end; row++) norm_backward_row(job, row, dweight, dbias);
}

size_t REF(layernorm_backward_scratch)(int64_t rows, int64_t cols)
{
    return (size_t)(blocks_of(rows, PART) * 2 * cols) * sizeof(real);
}

void REF(layernorm_backward)(dinov_stream *s, dinov_mat *dx, void *dweight, void *dbias, const dinov_mat *dy, const dinov_mat *x,
                             const void *weight, double eps)
{
    struct norm_backward_job job    = {dx, dy, x, weight, s->scratch, eps};
    int64_t                  blocks = blocks_of(x->rows, PART), n = x->cols;
    DINOV_ASSERT(dy->rows == x->rows && dy->cols == n && dx->rows == x->rows && dx->cols == n);
    dinov_pool_run(s->pool, blocks, norm_backward_block, &job);
    REF(column_sums)(s, dweight, &(dinov_mat){job.parts, blocks, n, 2 * n});
    REF(column_sums)(s, dbias, &(dinov_mat){job.parts + n, blocks, n, 2 * n});
}

struct unit_job {
    dinov_mat       *y;
    const dinov_mat *dy, *x;
    double           eps;
};

static void unit_row(void *arg, int64_t row, int worker)
{
    const struct unit_job *job    = arg;
    const real            *x      = row_of(job->x, row);
    real                  *y      = row_of(job->y, row);
    real                   length = (real)sqrt(dot(x, x, 1, job->x->cols)), eps = (real)job->eps;

    (void)worker;
    if (length < eps) length = eps;
    for (int64_t i = 0; i < job->x->cols; i++) y[i] = x[i] / length;
}

void REF(normalize)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, double eps)
{
    struct unit_job job = {y, NULL, x, eps};
    DINOV_ASSERT(x->rows == y->rows && x->cols == y->cols);
    dinov_pool_run(s->pool, x->rows, unit_row, &job);
}

/* Shorter than eps, the length is a constant and has no gradient. */
static void unit_backward_row(void *arg, int64_t row, int worker)
{
    const struct unit_job *job = arg;
    const real            *x = row_of(job->x, row), *dy = row_of(job->dy, row);
    real                  *dx     = row_of(job->y, row);
    int64_t                n      = job->x->cols;
    real                   length = (real)sqrt(dot(x, x, 1, n)), along = dot(x, dy, 1, n) / (length * length), eps = (real)job->eps;

    (void)worker;
    if (length < eps) length = eps, along = 0;
    for (int64_t i = 0; i < n; i++) dx[i] = (dy[i] - x[i] * along) / length;
}

void REF(normalize_backward)(dinov_stream *s, dinov_mat *dx, const dinov_mat *dy, const dinov_mat *x, double eps)
{
    struct unit_job job = {dx, dy, x, eps};
    DINOV_ASSERT(x->rows == dy->rows && x->cols == dy->cols && dx->rows == x->rows && dx->cols == x->cols);
    dinov_pool_run(s->pool, x->rows, unit_backward_row, &job);
}
