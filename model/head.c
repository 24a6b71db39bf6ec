/* SPDX-License-Identifier: Apache-2.0 */
#include "model/head.h"

#include "base/alloc.h"

#include <stdbool.h>
#include <stdio.h>

static const double EPS = 1e-12; /* of upstream's normalize, outside half precision */

void dinov_head_bind(dinov_head *out, const dinov_paramset *set, const char *module, const dinov_head_dims *dims, void *block,
                     size_t real_size)
{
    *out = (dinov_head){
        .dims = *dims,
        .g    = dinov_paramset_at(set, module, "last_layer.weight_g", block, real_size),
        .v    = dinov_paramset_at(set, module, "last_layer.weight_v", block, real_size),
    };
    for (int64_t i = 0; i < dims->layers; i++) {
        char weight[32] = "mlp.weight", bias[32] = "mlp.bias";
        if (dims->layers > 1) {
            snprintf(weight, sizeof weight, "mlp.%lld.weight", (long long)(2 * i));
            snprintf(bias, sizeof bias, "mlp.%lld.bias", (long long)(2 * i));
        }
        out->weight[i] = dinov_paramset_at(set, module, weight, block, real_size);
        out->bias[i]   = dinov_paramset_at(set, module, bias, block, real_size);
    }
}

struct dinov_head_pass {
    const dinov_ops *ops;
    dinov_stream     stream;
    dinov_arena      arena;

    const dinov_mat *x;
    void            *hidden[DINOV_HEAD_LAYERS]; /* [rows, hidden] before each activation */
    void            *unnormed;                  /* [rows, bottleneck] */
    void            *active;                    /* [rows, hidden] */
    void            *packed, *packed_bias;
};

static int64_t width_in(const dinov_head_dims *d, int64_t layer) { return layer == 0 ? d->in : d->hidden; }
static int64_t width_out(const dinov_head_dims *d, int64_t layer) { return layer + 1 == d->layers ? d->bottleneck : d->hidden; }

static void grow(int64_t *size, int64_t needed)
{
    if (needed > *size) *size = needed;
}

static void lay_out(dinov_head_pass *p, const dinov_head_use *uses, int count)
{
    int64_t hidden[DINOV_HEAD_LAYERS] = {0}, unnormed = 0, active = 0, packed = 0, bias = 0;
    size_t  real = p->ops->real_size;

    for (int u = 0; u < count; u++) {
        const dinov_head_dims *d    = &uses[u].dims;
        int64_t                rows = uses[u].rows;
        for (int64_t i = 0; i < d->layers; i++) {
            int64_t n = width_out(d, i), k = width_in(d, i);
            grow(&packed, (int64_t)p->ops->linear_size(n, k));
            grow(&packed, (int64_t)p->ops->linear_size(k, n));
            grow(&bias, (int64_t)p->ops->linear_bias_size(n > k ? n : k));
            if (i + 1 < d->layers) grow(&hidden[i], rows * dinov_row_stride(n));
        }
        grow(&unnormed, rows * dinov_row_stride(d->bottleneck));
        grow(&active, rows * dinov_row_stride(d->hidden));
    }
    for (int i = 0; i < DINOV_HEAD_LAYERS; i++) p->hidden[i] = dinov_arena_take(&p->arena, hidden[i], real);
    p->unnormed    = dinov_arena_take(&p->arena, unnormed, real);
    p->active      = dinov_arena_take(&p->arena, active, real);
    p->packed      = dinov_arena_take(&p->arena, packed, real);
    p->packed_bias = dinov_arena_take(&p->arena, bias, real);
}

dinov_status dinov_head_pass_new(dinov_head_pass **out, const dinov_head_use *uses, int count, const dinov_ops *ops,
                                 dinov_pool *pool, dinov_error *err)
{
    *out               = NULL;
    dinov_head_pass *p = dinov_calloc(1, sizeof *p);
    if (!p) return dinov_fail_nomem(err, "head", "a pass");
    *p = (dinov_head_pass){.ops = ops, .stream = {.pool = pool}};
    lay_out(p, uses, count);
    dinov_status status = dinov_arena_allocate(&p->arena, "head activations", err);
    if (status != DINOV_OK) {
        dinov_head_pass_free(&p);
        return status;
    }
    lay_out(p, uses, count);
    *out = p;
    return DINOV_OK;
}

void dinov_head_pass_free(dinov_head_pass **pass)
{
    if (!pass || !*pass) return;
    dinov_arena_clear(&(*pass)->arena);
    dinov_free(*pass);
    *pass = NULL;
}

size_t dinov_head_pass_memory(const dinov_head_use *uses, int count, const dinov_ops *ops)
{
    dinov_head_pass p = {.ops = ops};
    lay_out(&p, uses, count);
    return p.arena.used;
}

void dinov_head_forward(dinov_head_pass *p, const dinov_head *params, dinov_mat *z, const dinov_mat *x)
{
    const dinov_ops       *ops = p->ops;
    const dinov_head_dims *d   = &params->dims;
    dinov_mat              in = *x, unnormed = dinov_mat_reshape(p->unnormed, x->rows, d->bottleneck);

    p->x = x;
    for (int64_t i = 0; i < d->layers; i++) {
        bool      last = i + 1 == d->layers;
        int64_t   n = width_out(d, i), k = width_in(d, i);
        dinov_mat out = last ? unnormed : dinov_mat_reshape(p->hidden[i], x->rows, n);
        ops->linear_pack(&p->stream, p->packed, params->weight[i], n, k, DINOV_ACT_NONE);
        ops->linear_pack_bias(&p->stream, p->packed_bias, params->bias[i], n, DINOV_ACT_NONE);
        ops->linear(&p->stream, &out, &in, &(dinov_linear){.n = n, .k = k, .packed = p->packed, .bias = p->packed_bias}, NULL,
                    NULL);
        if (last) break;
        in = dinov_mat_reshape(p->active, x->rows, n);
        ops->activation(&p->stream, &in, &out, DINOV_ACT_GELU);
    }
    ops->normalize(&p->stream, z, &unnormed, EPS);
}

/* A weight's transpose laid out in p->packed: linear(dx, dy, it) is dx = dy W. */
static dinov_linear transposed(dinov_head_pass *p, const dinov_head *params, int64_t layer)
{
    int64_t n = width_out(&params->dims, layer), k = width_in(&params->dims, layer);
    p->ops->linear_pack_transposed(&p->stream, p->packed, params->weight[layer], n, k, NULL);
    p->ops->linear_pack_bias(&p->stream, p->packed_bias, NULL, k, DINOV_ACT_NONE);
    return (dinov_linear){.n = k, .k = n, .packed = p->packed, .bias = p->packed_bias};
}

void dinov_head_backward(dinov_head_pass *p, const dinov_head *params, const dinov_head *grads, dinov_mat *dx, dinov_mat *dz)
{
    const dinov_ops *ops      = p->ops;
    dinov_stream    *s        = &p->stream;
    int64_t          rows     = p->x->rows;
    dinov_mat        unnormed = dinov_mat_reshape(p->unnormed, rows, params->dims.bottleneck), dout = *dz;
    dinov_linear     w;

    DINOV_ASSERT(dz->rows == rows);
    ops->normalize_backward(s, &dout, dz, &unnormed, EPS);
    for (int64_t i = params->dims.layers - 1; i > 0; i--) {
        dinov_mat hidden = dinov_mat_reshape(p->hidden[i - 1], rows, params->dims.hidden),
                  active = dinov_mat_reshape(p->active, rows, params->dims.hidden);
        w                = transposed(p, params, i);
        ops->linear(s, &active, &dout, &w, NULL, NULL);
        ops->activation_backward(s, &hidden, &active, &active, &hidden, DINOV_ACT_GELU);
        ops->linear_backward(s, grads->weight[i], grads->bias[i], &dout, &active);
        dout = hidden;
    }
    ops->linear_backward(s, grads->weight[0], grads->bias[0], &dout, p->x);
    w = transposed(p, params, 0);
    ops->linear(s, dx, &dout, &w, NULL, NULL);
}
