/* SPDX-License-Identifier: Apache-2.0
 *
 * The forward pass: patch embedding, tokens, then `depth` times
 *   x = x + ls1 * proj(attention(qkv(norm1(x))))
 *   x = x + ls2 * down(act(up(norm2(x))))
 * over all images of a batch at once. Dims as in kernels/ops.h; F is the FFN's hidden width.
 */
#include "model/vit.h"

struct acts {
    dinov_mat x;        /* [B*T, C], wide: the residual stream */
    dinov_mat normed;   /* [B*T, C] a norm's output; then attention's */
    dinov_mat embedded; /* [B*N, C] patches before they are tokens, in the same place */
    dinov_mat qkv;      /* [B*T, 3C] */
    dinov_mat hidden;   /* [B*T, F], in the place of qkv, which attention has consumed */
    dinov_mat patches;  /* [B*N, channels*p*p], in the same place */
    void     *scratch;
    size_t    size;
};

static int64_t widest(int64_t a, int64_t b) { return a > b ? a : b; }
static size_t  whole_lines(size_t bytes) { return (bytes + 255) / 256 * 256; }

static struct acts lay_out(const dinov_vit *vit, void *memory, int64_t images, int64_t h, int64_t w, int threads)
{
    const dinov_model *m   = &vit->config;
    const dinov_ops   *ops = vit->ops;
    int64_t            T = 1 + m->registers + h * w, M = images * T, N = images * h * w, C = m->dim, F = m->hidden;
    int64_t            in = m->channels * m->patch * m->patch, up = m->ffn == DINOV_FFN_SWIGLU ? 2 * F : F;
    size_t             real = ops->real_size, attention = ops->attention_scratch(images, T, m->heads, C / m->heads, threads),
           product = ops->linear_scratch(M, up, m->ffn == DINOV_FFN_SWIGLU ? DINOV_ACT_SWIGLU : DINOV_ACT_GELU);
    size_t x       = whole_lines((size_t)(M * ops->stride(C)) * ops->wide_size),
           normed  = whole_lines((size_t)(M * ops->stride(C)) * real),
           most    = whole_lines((size_t)widest(M * widest(ops->stride(3 * C), ops->stride(F)), N * ops->stride(in)) * real);
    char       *at = memory;
    struct acts a  = {
         .x        = {at, M, C, ops->stride(C)},
         .normed   = {at + x, M, C, ops->stride(C)},
         .embedded = {at + x, N, C, ops->stride(C)},
         .qkv      = {at + x + normed, M, 3 * C, ops->stride(3 * C)},
         .hidden   = {at + x + normed, M, F, ops->stride(F)},
         .patches  = {at + x + normed, N, in, ops->stride(in)},
         .scratch  = at + x + normed + most,
    };
    a.size = x + normed + most + (attention > product ? attention : product);
    return a;
}

size_t dinov_vit_memory(const dinov_vit *vit, int64_t images, int64_t h, int64_t w, int threads)
{
    static char nowhere[1]; /* offsets only */
    return lay_out(vit, nowhere, images, h, w, threads).size;
}

static void block_forward(const dinov_vit *vit, const dinov_vit_block *b, dinov_stream *s, struct acts *a, int64_t images)
{
    const dinov_ops *ops = vit->ops;
    double           eps = vit->config.ln_eps;

    ops->layernorm(s, &a->normed, &a->x, b->norm1_weight, b->norm1_bias, eps);
    ops->linear(s, &a->qkv, &a->normed, &b->qkv, NULL, NULL);
    ops->attention(s, &a->normed, &a->qkv, images, vit->config.heads);
    ops->linear(s, &a->x, &a->normed, &b->proj, &a->x, b->ls1);

    ops->layernorm(s, &a->normed, &a->x, b->norm2_weight, b->norm2_bias, eps);
    ops->linear(s, &a->hidden, &a->normed, &b->up, NULL, NULL);
    ops->linear(s, &a->x, &a->hidden, &b->down, &a->x, b->ls2);
}

void dinov_vit_forward(const dinov_vit *vit, const dinov_stream *stream, void *memory, const float *pixels, const void *pos,
                       int64_t images, int64_t h, int64_t w, int64_t last, dinov_vit_tap tap, void *arg)
{
    const dinov_model *m   = &vit->config;
    const dinov_ops   *ops = vit->ops;
    struct acts        a   = lay_out(vit, memory, images, h, w, dinov_pool_threads(stream->pool));
    dinov_stream       s   = *stream;

    s.scratch = a.scratch;
    ops->patchify(&s, &a.patches, pixels, images, m->channels, h * m->patch, w * m->patch, m->patch);
    ops->linear(&s, &a.embedded, &a.patches, &vit->patch, NULL, NULL);
    ops->embed(&s, &a.x, &a.embedded, vit->cls, vit->registers, NULL, pos, NULL, images, m->registers);
    for (int64_t i = 0; i <= last; i++) {
        block_forward(vit, &vit->blocks[i], &s, &a, images);
        tap(arg, i, &s, &a.x, &a.normed);
    }
}
