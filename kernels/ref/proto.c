/* SPDX-License-Identifier: Apache-2.0
 *
 * The losses: softmax over prototypes a chunk of columns at a time, Sinkhorn-Knopp's sums, cross-entropy,
 * weight normalisation of the last layer, and KoLeo.
 */
#include "kernels/ref/ref.h"

struct weight_norm_job {
    real       *w, *dv, *dg;
    const real *dw, *v, *g;
    int64_t     k;
};

static void weight_norm_row(void *arg, int64_t row, int worker)
{
    const struct weight_norm_job *job    = arg;
    const real                   *v      = job->v + row * job->k;
    real                          factor = job->g[row] / (real)sqrt(dot(v, v, 1, job->k));

    (void)worker;
    for (int64_t i = 0; i < job->k; i++) job->w[row * job->k + i] = factor * v[i];
}

void REF(weight_norm)(dinov_stream *s, void *w, const void *v, const void *g, int64_t n, int64_t k)
{
    struct weight_norm_job job = {.w = w, .v = v, .g = g, .k = k};
    dinov_pool_run(s->pool, n, weight_norm_row, &job);
}

static void weight_norm_backward_row(void *arg, int64_t row, int worker)
{
    const struct weight_norm_job *job = arg;
    const real                   *v = job->v + row * job->k, *dw = job->dw + row * job->k;
    real                         *dv     = job->dv + row * job->k;
    real                          length = (real)sqrt(dot(v, v, 1, job->k)), along = dot(v, dw, 1, job->k) / length;

    (void)worker;
    job->dg[row] += along;
    for (int64_t i = 0; i < job->k; i++) dv[i] += job->g[row] / length * (dw[i] - v[i] * (along / length));
}

void REF(weight_norm_backward)(dinov_stream *s, void *dv, void *dg, const void *dw, const void *v, const void *g, int64_t n,
                               int64_t k)
{
    struct weight_norm_job job = {.dv = dv, .dg = dg, .dw = dw, .v = v, .g = g, .k = k};
    dinov_pool_run(s->pool, n, weight_norm_backward_row, &job);
}

struct softmax_job {
    const dinov_mat *z, *p;
    const real      *bias, *lse, *weight;
    const int32_t   *targets;
    real            *max, *sum; /* sum: also entropy, loss, or the sums of columns */
    real             temperature;
};

static real logit(const struct softmax_job *job, const real *z, int64_t j)
{
    return job->bias ? z[j] / job->temperature + job->bias[j] : z[j] / job->temperature;
}

static void stats_row(void *arg, int64_t m, int worker)
{
    const struct softmax_job *job = arg;
    const real               *z   = row_of(job->z, m);
    real                      max = job->max[m], sum;

    (void)worker;
    for (int64_t j = 0; j < job->z->cols; j++)
        if (logit(job, z, j) > max) max = logit(job, z, j);
    sum = job->sum[m] * (real)exp(job->max[m] - max);
    for (int64_t begin = 0; begin < job->z->cols; begin += PART) {
        real part = 0;
        for (int64_t j = begin; j < job->z->cols && j < begin + PART; j++) part += (real)exp(logit(job, z, j) - max);
        sum += part;
    }
    job->max[m] = max, job->sum[m] = sum;
}

void REF(softmax_stats)(dinov_stream *s, void *max, void *sum, const dinov_mat *z, const void *bias, double temperature)
{
    struct softmax_job job = {.z = z, .bias = bias, .max = max, .sum = sum, .temperature = (real)temperature};
    dinov_pool_run(s->pool, z->rows, stats_row, &job);
}

static void apply_row(void *arg, int64_t m, int worker)
{
    const struct softmax_job *job     = arg;
    real                     *z       = row_of(job->z, m);
    real                      entropy = 0;

    (void)worker;
    for (int64_t begin = 0; begin < job->z->cols; begin += PART) {
        real part = 0;
        for (int64_t j = begin; j < job->z->cols && j < begin + PART; j++) {
            real log_p = logit(job, z, j) - job->lse[m], p = (real)exp(log_p);
            part += p * log_p;
            z[j] = p;
        }
        entropy += part;
    }
    if (job->sum) job->sum[m] -= entropy;
}

void REF(softmax_apply)(dinov_stream *s, dinov_mat *z, void *entropy, const void *bias, const void *lse, double temperature)
{
    struct softmax_job job = {.z = z, .bias = bias, .lse = lse, .sum = entropy, .temperature = (real)temperature};
    dinov_pool_run(s->pool, z->rows, apply_row, &job);
}

static void exp_sums_strip(void *arg, int64_t strip, int worker)
{
    const struct softmax_job *job    = arg;
    int64_t                   column = strip * STRIP, columns = least(job->z->cols - column, STRIP);
    real                      sum[STRIP] = {0};

    (void)worker;
    for (int64_t begin = 0; begin < job->z->rows; begin += PART) {
        real part[STRIP] = {0};
        for (int64_t m = begin; m < job->z->rows && m < begin + PART; m++)
            for (int64_t c = 0; c < columns; c++)
                part[c] += (real)exp(row_of(job->z, m)[column + c] / job->temperature - job->lse[m]);
        for (int64_t c = 0; c < columns; c++) sum[c] += part[c];
    }
    for (int64_t c = 0; c < columns; c++) job->sum[column + c] = sum[c];
}

void REF(exp_sums)(dinov_stream *s, void *sums, const dinov_mat *z, const void *offset, double temperature)
{
    struct softmax_job job = {.z = z, .lse = offset, .sum = sums, .temperature = (real)temperature};
    dinov_pool_run(s->pool, blocks_of(z->cols, STRIP), exp_sums_strip, &job);
}

static void cross_entropy_row(void *arg, int64_t m, int worker)
{
    const struct softmax_job *job    = arg;
    real                     *z      = row_of(job->z, m);
    const real               *first  = job->targets[2 * m] < 0 ? NULL : row_of(job->p, job->targets[2 * m]);
    const real               *second = job->targets[2 * m + 1] < 0 ? NULL : row_of(job->p, job->targets[2 * m + 1]);
    real                      count = (real)((first ? 1 : 0) + (second ? 1 : 0)), product = 0;

    (void)worker;
    for (int64_t begin = 0; begin < job->z->cols; begin += PART) {
        real part = 0;
        for (int64_t j = begin; j < job->z->cols && j < begin + PART; j++) {
            real t = z[j] / job->temperature, p = (first ? first[j] : 0) + (second ? second[j] : 0);
            part += p * t;
            z[j] = job->weight[m] * (count * (real)exp(t - job->lse[m]) - p) / job->temperature;
        }
        product += part;
    }
    job->sum[m] -= job->weight[m] * product;
}

void REF(cross_entropy)(dinov_stream *s, dinov_mat *z, void *loss, const void *lse, const dinov_mat *p, const int32_t *targets,
                        const void *weight, double temperature)
{
    struct softmax_job job = {
        .z = z, .p = p, .lse = lse, .weight = weight, .targets = targets, .sum = loss, .temperature = (real)temperature};
    DINOV_ASSERT(p->cols == z->cols);
    dinov_pool_run(s->pool, z->rows, cross_entropy_row, &job);
}

struct koleo_job {
    dinov_mat       *dx;
    const dinov_mat *x;
    real            *distance, *unit, *pull, *length; /* unit, pull: [B, C]; pull is the gradient of the difference */
    int64_t         *nearest;
    real             weight;
};

static void koleo_unit(void *arg, int64_t i, int worker)
{
    const struct koleo_job *job = arg;
    const real             *x   = row_of(job->x, i);
    int64_t                 C   = job->x->cols;

    (void)worker;
    job->length[i] = (real)sqrt(dot(x, x, 1, C));
    if (job->length[i] < (real)1e-8) job->length[i] = (real)1e-8;
    for (int64_t c = 0; c < C; c++) job->unit[i * C + c] = x[c] / job->length[i];
}

static void koleo_pair(void *arg, int64_t i, int worker)
{
    const struct koleo_job *job = arg;
    int64_t                 C = job->x->cols, nearest = i == 0;
    const real             *unit    = job->unit + i * C;
    real                   *pull    = job->pull + i * C;
    real                    largest = dot(unit, job->unit + nearest * C, 1, C);

    (void)worker;
    for (int64_t j = nearest + 1; j < job->x->rows; j++) {
        if (j == i) continue;
        real product = dot(unit, job->unit + j * C, 1, C);
        if (product > largest) largest = product, nearest = j;
    }
    for (int64_t c = 0; c < C; c++) pull[c] = unit[c] - job->unit[nearest * C + c] + (real)1e-8;
    real distance    = (real)sqrt(dot(pull, pull, 1, C));
    real factor      = -job->weight / ((real)job->x->rows * (distance + (real)1e-8));
    job->nearest[i]  = nearest;
    job->distance[i] = distance;
    for (int64_t c = 0; c < C; c++) pull[c] = distance > 0 ? factor * (pull[c] / distance) : 0;
}

/* A row is moved by its own difference, and by those of all rows it is nearest to. */
static void koleo_gradient(void *arg, int64_t i, int worker)
{
    const struct koleo_job *job  = arg;
    int64_t                 C    = job->x->cols;
    real                   *pull = job->pull + i * C, *dx = row_of(job->dx, i), along = 0;
    const real             *unit = job->unit + i * C;

    (void)worker;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t c = 0; c < C; c++) {
            real g = pull[c];
            for (int64_t j = 0; j < job->x->rows; j++)
                if (job->nearest[j] == i) g -= job->pull[j * C + c];
            if (pass == 0)
                along += g * unit[c];
            else
                dx[c] += (g - (job->length[i] > (real)1e-8 ? along : 0) * unit[c]) / job->length[i];
        }
}

size_t REF(koleo_scratch)(int64_t rows, int64_t cols)
{
    return (size_t)(2 * rows * cols + rows) * sizeof(real) + (size_t)rows * sizeof(int64_t) + sizeof(int64_t);
}

void REF(koleo)(dinov_stream *s, void *distance, dinov_mat *dx, const dinov_mat *x, double weight)
{
    int64_t          B = x->rows, C = x->cols;
    struct koleo_job job = {.dx = dx, .x = x, .distance = distance, .weight = (real)weight, .nearest = s->scratch};
    DINOV_ASSERT(B >= 2 && dx->rows == B && dx->cols == C);
    job.unit   = (real *)(void *)(job.nearest + B);
    job.pull   = job.unit + B * C;
    job.length = job.pull + B * C;
    dinov_pool_run(s->pool, B, koleo_unit, &job);
    dinov_pool_run(s->pool, B, koleo_pair, &job);
    dinov_pool_run(s->pool, B, koleo_gradient, &job);
}
