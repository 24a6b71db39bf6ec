/* SPDX-License-Identifier: Apache-2.0
 *
 * The forward pass: patch embedding, tokens, then `depth` times
 *   x = x + ls1 * proj(attention(qkv(norm1(x))))
 *   x = x + ls2 * down(act(up(norm2(x))))
 * over all images of a batch at once. Dims as in kernels/ops.h; F is the FFN's hidden width.
 */
#include "model/vit.h"

#include <string.h>

/* Rows whose stride is an odd number of cache lines do not fall on one another in the cache. */
static int64_t row_stride(int64_t cols) { return (cols + 15) / 32 * 32 + 16; }

struct acts {
    dinov_mat x;       /* [B*T, C] the residual stream */
    dinov_mat normed;  /* [B*T, C] a norm's output; then attention's */
    dinov_mat qkv;     /* [B*T, 3C] */
    dinov_mat hidden;  /* [B*T, F], in the place of qkv, which attention has consumed */
    dinov_mat patches; /* [N, channels*p*p] of one image, in the same place */
    void     *scratch;
    size_t    size;
};

static int64_t widest(int64_t a, int64_t b) { return a > b ? a : b; }

static struct acts lay_out(const dinov_vit *vit, void *memory, int64_t images, int64_t h, int64_t w, int threads)
{
    const dinov_model *m = &vit->config;
    int64_t            T = 1 + m->registers + h * w, M = images * T, C = m->dim;
    int64_t            in   = m->channels * m->patch * m->patch;
    size_t             real = vit->ops->real_size;
    char              *at   = memory;

    size_t      wide  = (size_t)widest(M * widest(row_stride(3 * C), row_stride(m->hidden)), h * w * row_stride(in)) * real;
    size_t      plain = (size_t)(M * row_stride(C)) * real;
    struct acts a     = {
            .x       = {at, M, C, row_stride(C)},
            .normed  = {at + plain, M, C, row_stride(C)},
            .qkv     = {at + 2 * plain, M, 3 * C, row_stride(3 * C)},
            .hidden  = {at + 2 * plain, M, m->hidden, row_stride(m->hidden)},
            .patches = {at + 2 * plain, h * w, in, row_stride(in)},
            .scratch = at + 2 * plain + wide,
    };
    a.size = 2 * plain + wide + vit->ops->attention_scratch(images, T, m->heads, C / m->heads, threads);
    return a;
}

size_t dinov_vit_memory(const dinov_vit *vit, int64_t images, int64_t h, int64_t w, int threads)
{
    static char nowhere[1]; /* offsets only */
    return lay_out(vit, nowhere, images, h, w, threads).size;
}

static dinov_mat rows_of(const dinov_mat *m, size_t real, int64_t first, int64_t rows)
{
    return (dinov_mat){(char *)m->data + (size_t)(first * m->ld) * real, rows, m->cols, m->ld};
}

/* Tokens of one image: cls + its position, registers (no position), patches + theirs. */
static void embed(const dinov_vit *vit, dinov_stream *s, struct acts *a, int64_t image, const float *pixels, const void *pos,
                  int64_t h, int64_t w)
{
    const dinov_model *m    = &vit->config;
    size_t             real = vit->ops->real_size;
    int64_t            C = m->dim, R = m->registers, T = 1 + R + h * w;
    dinov_mat          head = rows_of(&a->x, real, image * T, 1 + R), tokens = rows_of(&a->x, real, image * T + 1 + R, h * w);
    dinov_mat          pos_patches = {(char *)(uintptr_t)pos + (size_t)C * real, h * w, C, C};

    for (int64_t c = 0; c < C; c++) {
        if (real == sizeof(float))
            ((float *)head.data)[c] = ((const float *)vit->cls)[c] + ((const float *)pos)[c];
        else
            ((double *)head.data)[c] = ((const double *)vit->cls)[c] + ((const double *)pos)[c];
    }
    for (int64_t r = 0; r < R; r++)
        memcpy((char *)head.data + (size_t)((1 + r) * head.ld) * real, (const char *)vit->registers + (size_t)(r * C) * real,
               (size_t)C * real);
    vit->ops->patchify(s, &a->patches, pixels, m->channels, h * m->patch, w * m->patch, m->patch);
    vit->ops->linear(s, &tokens, &a->patches, &vit->patch, &pos_patches, NULL);
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

void dinov_vit_forward(const dinov_vit *vit, dinov_pool *pool, void *memory, const float *pixels, const void *pos, int64_t images,
                       int64_t h, int64_t w, int64_t last, dinov_vit_tap tap, void *arg)
{
    struct acts        a     = lay_out(vit, memory, images, h, w, dinov_pool_threads(pool));
    dinov_stream       s     = {pool, a.scratch};
    const dinov_model *m     = &vit->config;
    int64_t            image = m->channels * h * m->patch * w * m->patch;

    for (int64_t i = 0; i < images; i++) embed(vit, &s, &a, i, pixels + i * image, pos, h, w);
    for (int64_t i = 0; i <= last; i++) {
        block_forward(vit, &vit->blocks[i], &s, &a, images);
        tap(arg, i, &s, &a.x, &a.normed);
    }
}
