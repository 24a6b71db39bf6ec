/* SPDX-License-Identifier: Apache-2.0
 *
 * Multi-head self-attention, one query row at a time.
 */
#include "kernels/ref/ref.h"

struct attention_job {
    dinov_mat       *out;
    const dinov_mat *qkv;
    real            *scores; /* [threads, T] */
    int64_t          tokens, heads;
};

/* One query row of one head: block = (image, head, token). */
static void attention_row(void *arg, int64_t block, int worker)
{
    const struct attention_job *job  = arg;
    int64_t                     T    = job->tokens, ld = job->qkv->ld, C = job->out->cols, D = C / job->heads;
    int64_t                     t    = block % T, head = block / T % job->heads, image = block / T / job->heads;
    const real                 *base = (const real *)job->qkv->data + image * T * ld + head * D;
    const real                 *q    = base + t * ld;
    real                       *out  = (real *)job->out->data + (image * T + t) * job->out->ld + head * D;
    real                       *p    = job->scores + worker * T;
    real                        max  = -(real)INFINITY, scale = 1 / (real)sqrt((real)D);

    for (int64_t j = 0; j < T; j++) {
        p[j] = dot(q, base + j * ld + C, 1, D) * scale;
        if (p[j] > max) max = p[j];
    }
    for (int64_t j = 0; j < T; j++) p[j] = (real)exp(p[j] - max);
    real sum = total(p, T);
    for (int64_t i = 0; i < D; i++) out[i] = dot(p, base + 2 * C + i, ld, T) / sum;
}

size_t REF(attention_scratch)(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads)
{
    (void)images, (void)heads, (void)head_dim;
    return (size_t)(threads * tokens) * sizeof(real);
}

void REF(attention)(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads)
{
    struct attention_job job = {out, qkv, s->scratch, out->rows / images, heads};
    DINOV_ASSERT(qkv->cols == 3 * out->cols && qkv->rows == out->rows && out->rows % images == 0 && out->cols % heads == 0);
    dinov_pool_run(s->pool, images * heads * job.tokens, attention_row, &job);
}

struct attention_backward_job {
    dinov_mat       *dqkv;
    const dinov_mat *dout, *qkv;
    real            *scratch;
    int64_t          tokens, heads;
};

/* Reals of one thread's scratch: a row of probabilities, a row of their gradients, and dK and dV over PART queries. */
static int64_t backward_size(int64_t tokens, int64_t dim) { return 2 * tokens + 2 * tokens * dim; }

/* One query: its dq, and its share of dK and dV [T, D]. */
static void attention_backward_row(const struct attention_backward_job *job, const real *q, const real *keys, const real *values,
                                   const real *dout, real *dq, real *p, real *ds, real *dk, real *dv)
{
    int64_t T = job->tokens, D = job->dout->cols / job->heads, ld = job->qkv->ld;
    real    max = -(real)INFINITY, scale = 1 / (real)sqrt((real)D);

    for (int64_t j = 0; j < T; j++) {
        p[j]  = dot(q, keys + j * ld, 1, D) * scale;
        ds[j] = dot(dout, values + j * ld, 1, D);
        if (p[j] > max) max = p[j];
    }
    for (int64_t j = 0; j < T; j++) p[j] = (real)exp(p[j] - max);
    real sum = total(p, T);
    for (int64_t j = 0; j < T; j++) p[j] /= sum;
    real mean = dot(p, ds, 1, T);
    for (int64_t j = 0; j < T; j++) ds[j] = p[j] * (ds[j] - mean) * scale;
    for (int64_t i = 0; i < D; i++) dq[i] = dot(ds, keys + i, ld, T);
    for (int64_t j = 0; j < T; j++)
        for (int64_t i = 0; i < D; i++) dk[j * D + i] += ds[j] * q[i], dv[j * D + i] += p[j] * dout[i];
}

/* block = (image, head) */
static void attention_backward_head(void *arg, int64_t block, int worker)
{
    const struct attention_backward_job *job = arg;
    int64_t                              T = job->tokens, C = job->dout->cols, D = C / job->heads;
    int64_t                              row = block / job->heads * T, column = block % job->heads * D;
    real *p = job->scratch + worker * backward_size(T, D), *ds = p + T, *dk = ds + T, *dv = dk + T * D;

    for (int64_t t = 0; t < T; t++)
        for (int64_t i = C; i < C + D; i++) row_of(job->dqkv, row + t)[column + i] = row_of(job->dqkv, row + t)[column + i + C] = 0;
    for (int64_t begin = 0; begin < T; begin += PART) {
        for (int64_t i = 0; i < T * D; i++) dk[i] = dv[i] = 0;
        for (int64_t t = begin; t < T && t < begin + PART; t++)
            attention_backward_row(job, row_of(job->qkv, row + t) + column, row_of(job->qkv, row) + column + C,
                                   row_of(job->qkv, row) + column + 2 * C, row_of(job->dout, row + t) + column,
                                   row_of(job->dqkv, row + t) + column, p, ds, dk, dv);
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = 0; i < D; i++) {
                row_of(job->dqkv, row + t)[column + C + i] += dk[t * D + i];
                row_of(job->dqkv, row + t)[column + 2 * C + i] += dv[t * D + i];
            }
    }
}

size_t REF(attention_backward_scratch)(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads)
{
    (void)images, (void)heads;
    return (size_t)(threads * backward_size(tokens, head_dim)) * sizeof(real);
}

void REF(attention_backward)(dinov_stream *s, dinov_mat *dqkv, const dinov_mat *dout, const dinov_mat *qkv, int64_t images,
                             int64_t heads)
{
    struct attention_backward_job job = {dqkv, dout, qkv, s->scratch, dout->rows / images, heads};
    DINOV_ASSERT(qkv->cols == 3 * dout->cols && qkv->rows == dout->rows && dqkv->cols == qkv->cols && dqkv->rows == qkv->rows);
    DINOV_ASSERT(dout->rows % images == 0 && dout->cols % heads == 0);
    dinov_pool_run(s->pool, images * heads, attention_backward_head, &job);
}
