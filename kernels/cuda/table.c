/* SPDX-License-Identifier: Apache-2.0
 *
 * The device's ops table. Most entries are the launchers of the .cu files themselves; here stand sizes, the way of
 * weights to the device, and who computes linear layers and attention: a library, or our own kernel.
 */
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/products.h"

static size_t linear_size(int64_t n, int64_t k) { return (size_t)(n * dinov_cuda_stride(k)); }
static size_t linear_bias_size(int64_t n) { return dinov_products_bias_size(n); }

/* As many rows at a time as the stage holds: sent as they are, converted and laid out by the device. */
static void linear_pack(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, dinov_activation act)
{
    int64_t most  = DINOV_STAGE / (k * (int64_t)sizeof(float));
    float  *stage = dinov_queue_stage(s->queue);
    DINOV_ASSERT(most > 0);
    for (int64_t row = 0; stage && row < n; row += most) {
        int64_t count = n - row < most ? n - row : most;
        dinov_queue_send(s->queue, stage, (const float *)weight + row * k, (size_t)(count * k) * sizeof(float));
        dinov_cuda_pack(s, packed, stage, n, k, act, row, count);
    }
    if (dinov_queue_products(s->queue)) dinov_products_prepare(dinov_queue_products(s->queue), n, k, act);
}

static void linear_pack_bias(dinov_stream *s, void *packed, const void *bias, int64_t n, dinov_activation act)
{
    float piece[1024];
    for (int64_t from = 0; from < n; from += 1024) {
        int64_t count = n - from < 1024 ? n - from : 1024;
        for (int64_t i = 0; i < count; i++) {
            int64_t to = from + i, source = act == DINOV_ACT_SWIGLU ? to % 2 * (n / 2) + to / 2 : to;
            piece[i] = bias ? ((const float *)bias)[source] : 0.0f;
        }
        dinov_queue_send(s->queue, (float *)packed + from, piece, (size_t)count * sizeof *piece);
    }
    if (dinov_queue_products(s->queue)) dinov_products_bias_copy(s, packed, n);
}

/* A library leaves SwiGLU's gates and values in the scratch. */
static size_t linear_scratch_16(int64_t m, int64_t n, dinov_activation act)
{
    return act == DINOV_ACT_SWIGLU ? (size_t)(m * dinov_cuda_stride(n)) * 2 : 0;
}
static size_t linear_scratch_32(int64_t m, int64_t n, dinov_activation act) { return 2 * linear_scratch_16(m, n, act); }

static void linear(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                   const void *scale)
{
    struct dinov_products *products = dinov_queue_products(s->queue);
    dinov_mat              both     = {s->scratch, y->rows, w->n, dinov_cuda_stride(w->n)};
    bool                   swiglu   = w->act == DINOV_ACT_SWIGLU;

    DINOV_ASSERT(x->cols == w->k && x->rows == y->rows && y->cols == (swiglu ? w->n / 2 : w->n));
    /* A library adds the residual before the activation would come. */
    bool ours = !products || scale || (residual && w->act != DINOV_ACT_NONE);
    if (ours || !dinov_products_run(products, s, swiglu ? &both : y, x, w, residual))
        dinov_cuda_linear(s, y, x, w, residual, scale);
    else if (w->act != DINOV_ACT_NONE)
        dinov_cuda_activate(s, y, swiglu ? &both : y, w->act);
}

static size_t attention_scratch(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads)
{
    (void)images, (void)tokens, (void)heads, (void)head_dim, (void)threads;
    return DINOV_CUDNN_SCRATCH;
}

static void attention(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads)
{
    struct dinov_cudnn *cudnn = dinov_queue_cudnn(s->queue);
    DINOV_ASSERT(qkv->cols == 3 * out->cols && qkv->rows == out->rows && out->rows % images == 0 && out->cols % heads == 0);
    if (!cudnn || !dinov_cudnn_attention(cudnn, s, out, qkv, images, heads)) dinov_cuda_attention(s, out, qkv, images, heads);
}

void dinov_cuda_table(dinov_ops *ops, dinov_dtype real, const char *name)
{
    *ops = (dinov_ops){
        .name              = name,
        .real_size         = real == DINOV_F32 ? sizeof(float) : 2,
        .wide_size         = sizeof(float),
        .folds_scale       = real != DINOV_F16, /* whose range is too small for weights times a LayerScale of 1e-5 */
        .stride            = dinov_cuda_stride,
        .linear_size       = linear_size,
        .linear_bias_size  = linear_bias_size,
        .linear_pack       = linear_pack,
        .linear_pack_bias  = linear_pack_bias,
        .linear            = linear,
        .linear_scratch    = real == DINOV_F32 ? linear_scratch_32 : linear_scratch_16,
        .layernorm         = dinov_cuda_layernorm,
        .attention         = attention,
        .attention_scratch = attention_scratch,
        .patchify          = dinov_cuda_patchify,
        .embed             = dinov_cuda_embed,
        .resample          = dinov_cuda_resample,
        .features          = dinov_cuda_features,
        .pictures          = dinov_cuda_pictures,
    };
}
