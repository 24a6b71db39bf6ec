/* SPDX-License-Identifier: Apache-2.0
 *
 * Multi-head self-attention, one query row at a time.
 */
#include "kernels/ref/ref.h"

#include <math.h>

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
