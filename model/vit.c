/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights out of a file into the layout one ops table wants. The same walk runs twice: first it adds
 * up sizes, then it hands out places in one block of memory and fills them.
 */
#include "model/vit.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "base/file.h"
#include "format/params.h"
#include "model/real.h"

#include <stdio.h>
#include <string.h>

struct placer {
    const dinov_weights *weights;
    const dinov_ops     *ops;
    dinov_stream         stream;
    dinov_device        *device;
    char                *memory; /* NULL in the first walk */
    size_t               used;
    void                *wide; /* a whole tensor as the table's wide, when the file's bytes cannot be used in place */
    size_t               wide_size;
};

static void *place(struct placer *p, size_t elements, size_t size)
{
    void *at = p->memory ? p->memory + p->used : NULL;
    p->used += (elements * size + 255) / 256 * 256;
    return at;
}

static const dinov_tensor *find(const struct placer *p, const char *prefix, const char *name)
{
    char full[DINOV_PARAM_NAME];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return dinov_weights_find(p->weights, full);
}

static uint64_t elements_of(const dinov_tensor *t)
{
    uint64_t bytes = 0;
    DINOV_ASSERT(dinov_tensor_bytes(t, &bytes));
    return bytes / dinov_dtype_size(t->dtype);
}

/* The tensor as the table's wide: its own bytes when they already are, else converted into p->wide. */
static const void *as_wide(struct placer *p, const dinov_tensor *t)
{
    if (t->dtype == DINOV_F32 && p->ops->wide_size == sizeof(float) && (uintptr_t)t->data % sizeof(float) == 0) return t->data;
    dinov_to_real(p->wide, p->ops->wide_size, t->data, t->dtype, elements_of(t));
    return p->wide;
}

/* The same with row i times gamma i, for a table that takes no scale. Such tables' wide is float. */
static const void *as_scaled(struct placer *p, const dinov_tensor *t, const dinov_tensor *gamma)
{
    if (!gamma) return as_wide(p, t);
    int64_t n = t->dim[0], k = (int64_t)elements_of(t) / n;
    float  *out = p->wide;
    dinov_to_real(out, sizeof(float), t->data, t->dtype, elements_of(t));
    for (int64_t i = 0; i < n; i++) {
        float factor = (float)dinov_value_at(gamma, i);
        for (int64_t j = 0; j < k; j++) out[i * k + j] *= factor;
    }
    return out;
}

static void forget(struct placer *p, const dinov_tensor *t)
{
    dinov_map_forget(p->weights->map, p->weights->map_size, t->data, elements_of(t) * dinov_dtype_size(t->dtype));
}

/* NULL when the model has no such tensor. */
static const void *vector(struct placer *p, const char *prefix, const char *name)
{
    const dinov_tensor *t = find(p, prefix, name);
    if (!t) return NULL;
    void  *at   = place(p, elements_of(t), p->ops->wide_size);
    size_t size = elements_of(t) * p->ops->wide_size;
    if (size > p->wide_size) p->wide_size = size;
    if (at && p->device)
        dinov_queue_send(p->stream.queue, at, as_wide(p, t), size);
    else if (at)
        dinov_to_real(at, p->ops->wide_size, t->data, t->dtype, elements_of(t));
    if (at) forget(p, t);
    return at;
}

/* `gamma`: the name of the LayerScale that follows it, or NULL. */
static dinov_linear linear(struct placer *p, const char *prefix, const char *name, dinov_activation act, const char *gamma)
{
    char                full[DINOV_PARAM_NAME];
    const dinov_tensor *scale = gamma && p->ops->folds_scale ? find(p, prefix, gamma) : NULL;
    snprintf(full, sizeof full, "%s.weight", name);
    const dinov_tensor *weight = find(p, prefix, full);
    snprintf(full, sizeof full, "%s.bias", name);
    const dinov_tensor *bias = find(p, prefix, full);

    int64_t      n = weight->dim[0], k = (int64_t)elements_of(weight) / n;
    void        *packed      = place(p, p->ops->linear_size(n, k), p->ops->real_size);
    void        *packed_bias = place(p, p->ops->linear_bias_size(n), p->ops->wide_size);
    dinov_linear l           = {.n = n, .k = k, .act = act, .packed = packed, .bias = packed_bias};
    size_t       size        = elements_of(weight) * p->ops->wide_size;
    if (size > p->wide_size) p->wide_size = size;
    if (packed) {
        p->ops->linear_pack(&p->stream, packed, as_scaled(p, weight, scale), n, k, act);
        forget(p, weight);
        p->ops->linear_pack_bias(&p->stream, packed_bias, bias ? as_scaled(p, bias, scale) : NULL, n, act);
    }
    return l;
}

static void walk(struct placer *p, dinov_vit *vit)
{
    bool swiglu      = vit->config.ffn == DINOV_FFN_SWIGLU;
    vit->cls         = vector(p, "", "cls_token");
    vit->pos         = vector(p, "", "pos_embed");
    vit->registers   = vector(p, "", "register_tokens");
    vit->patch       = linear(p, "", "patch_embed.proj", DINOV_ACT_NONE, NULL);
    vit->norm_weight = vector(p, "", "norm.weight");
    vit->norm_bias   = vector(p, "", "norm.bias");
    for (int64_t i = 0; i < vit->config.depth; i++) {
        dinov_vit_block *b = &vit->blocks[i];
        char             prefix[32];
        snprintf(prefix, sizeof prefix, "blocks.%lld.", (long long)i);
        b->norm1_weight = vector(p, prefix, "norm1.weight");
        b->norm1_bias   = vector(p, prefix, "norm1.bias");
        b->qkv          = linear(p, prefix, "attn.qkv", DINOV_ACT_NONE, NULL);
        b->proj         = linear(p, prefix, "attn.proj", DINOV_ACT_NONE, "ls1.gamma");
        b->ls1          = p->ops->folds_scale ? NULL : vector(p, prefix, "ls1.gamma");
        b->norm2_weight = vector(p, prefix, "norm2.weight");
        b->norm2_bias   = vector(p, prefix, "norm2.bias");
        b->up           = linear(p, prefix, swiglu ? "mlp.w12" : "mlp.fc1", swiglu ? DINOV_ACT_SWIGLU : DINOV_ACT_GELU, NULL);
        b->down         = linear(p, prefix, swiglu ? "mlp.w3" : "mlp.fc2", DINOV_ACT_NONE, "ls2.gamma");
        b->ls2          = p->ops->folds_scale ? NULL : vector(p, prefix, "ls2.gamma");
    }
}

static bool needs_wide(const struct placer *p)
{
    if (p->ops->wide_size != sizeof(float) || (p->ops->folds_scale && p->weights->model.layerscale)) return true;
    for (size_t i = 0; i < p->weights->count; i++)
        if (p->weights->tensors[i].tensor.dtype != DINOV_F32 || (uintptr_t)p->weights->tensors[i].tensor.data % sizeof(float))
            return true;
    return false;
}

dinov_status dinov_vit_init(dinov_vit *vit, const dinov_weights *weights, const dinov_ops *ops, dinov_pool *pool,
                            dinov_device *device, dinov_queue *queue, dinov_error *err)
{
    *vit = (dinov_vit){.config = weights->model, .ops = ops, .device = device};
    DINOV_TRY(dinov_weights_check(weights, "model", err));

    struct placer p = {.weights = weights, .ops = ops, .stream = {.pool = pool, .queue = queue}, .device = device};
    vit->blocks     = dinov_calloc((size_t)weights->model.depth, sizeof *vit->blocks);
    if (!vit->blocks) return dinov_fail_nomem(err, "model", "its blocks");
    walk(&p, vit);
    vit->memory = device ? dinov_device_alloc(device, p.used) : dinov_alloc_aligned(p.used, 1);
    p.memory    = vit->memory;
    if (needs_wide(&p)) p.wide = dinov_alloc_aligned(p.wide_size, 1);
    if (!p.memory || (needs_wide(&p) && !p.wide)) {
        dinov_free(p.wide);
        dinov_vit_clear(vit);
        return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "%s: out of memory for %zu MiB of weights",
                          device ? dinov_device_name(device) : "model", p.used >> 20);
    }
    p.used = 0;
    walk(&p, vit);
    dinov_free(p.wide);
    dinov_status status = device ? dinov_queue_sync(queue, err) : DINOV_OK;
    if (status != DINOV_OK) dinov_vit_clear(vit);
    return status;
}

void dinov_vit_clear(dinov_vit *vit)
{
    dinov_free(vit->blocks);
    if (vit->device)
        dinov_device_free(vit->device, vit->memory);
    else
        dinov_free(vit->memory);
    *vit = (dinov_vit){0};
}
