/* SPDX-License-Identifier: Apache-2.0 */
#include "model/head.h"

#include "base/alloc.h"

#include <stdio.h>

static const double EPS = 1e-12; /* of upstream's normalize, outside half precision */

void dinov_head_bind(dinov_head *out, const dinov_paramset *set, const char *module, const dinov_head_dims *dims, void *block,
                     size_t real_size)
{
    *out = (dinov_head){
        .g = dinov_paramset_at(set, module, "last_layer.weight_g", block, real_size),
        .v = dinov_paramset_at(set, module, "last_layer.weight_v", block, real_size),
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
    dinov_head_dims  dims;
    const dinov_ops *ops;
    dinov_stream     stream;
    dinov_arena      arena;
    bool             backward;

    const dinov_mat *x;
    dinov_mat        hidden[DINOV_HEAD_LAYERS]; /* [rows, hidden] before each activation; all one when nothing is kept */
    dinov_mat        unnormed;                  /* [rows, bottleneck] */
    dinov_mat        active;                    /* [rows, hidden] */
    void            *packed, *packed_bias;
};

static int64_t width_in(const dinov_head_dims *d, int64_t layer) { return layer == 0 ? d->in : d->hidden; }
static int64_t width_out(const dinov_head_dims *d, int64_t layer) { return layer + 1 == d->layers ? d->bottleneck : d->hidden; }

static void lay_out(dinov_head_pass *p, int64_t rows)
{
    const dinov_head_dims *d    = &p->dims;
    dinov_arena           *a    = &p->arena;
    size_t                 real = p->ops->real_size, packed = 0, bias = 0;

    for (int64_t i = 0; i < d->layers; i++) {
        int64_t n = width_out(d, i), k = width_in(d, i);
        size_t  size = p->ops->linear_size(n, k), back = p->ops->linear_size(k, n);
        if (size > packed) packed = size;
        if (back > packed) packed = back;
        if (p->ops->linear_bias_size(n) > bias) bias = p->ops->linear_bias_size(n);
        if (p->ops->linear_bias_size(k) > bias) bias = p->ops->linear_bias_size(k);
        if (i + 1 < d->layers) p->hidden[i] = i == 0 || p->backward ? dinov_mat_take(a, rows, n, real) : p->hidden[0];
    }
    p->unnormed    = dinov_mat_take(a, rows, d->bottleneck, real);
    p->active      = dinov_mat_take(a, rows, d->hidden, real);
    p->packed      = dinov_arena_take(a, (int64_t)packed, real);
    p->packed_bias = dinov_arena_take(a, (int64_t)bias, real);
}

dinov_status dinov_head_pass_new(dinov_head_pass **out, const dinov_head_dims *dims, const dinov_ops *ops, dinov_pool *pool,
                                 int64_t rows, bool backward, dinov_error *err)
{
    *out               = NULL;
    dinov_head_pass *p = dinov_calloc(1, sizeof *p);
    if (!p) return dinov_fail_nomem(err, "head", "a pass");
    *p = (dinov_head_pass){.dims = *dims, .ops = ops, .stream = {.pool = pool}, .backward = backward};
    lay_out(p, rows);
    dinov_status status = dinov_arena_allocate(&p->arena, "head activations", err);
    if (status != DINOV_OK) {
        dinov_head_pass_free(&p);
        return status;
    }
    lay_out(p, rows);
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

size_t dinov_head_pass_memory(const dinov_head_dims *dims, const dinov_ops *ops, int64_t rows, bool backward)
{
    dinov_head_pass p = {.dims = *dims, .ops = ops, .backward = backward};
    lay_out(&p, rows);
    return p.arena.used;
}

void dinov_head_forward(dinov_head_pass *p, const dinov_head *params, dinov_mat *z, const dinov_mat *x)
{
    const dinov_ops *ops = p->ops;
    dinov_mat        in  = *x;

    p->x = x;
    for (int64_t i = 0; i < p->dims.layers; i++) {
        bool       last = i + 1 == p->dims.layers;
        int64_t    n = width_out(&p->dims, i), k = width_in(&p->dims, i);
        dinov_mat *out = last ? &p->unnormed : &p->hidden[i];
        out->rows      = x->rows;
        ops->linear_pack(&p->stream, p->packed, params->weight[i], n, k, DINOV_ACT_NONE);
        ops->linear_pack_bias(p->packed_bias, params->bias[i], n, DINOV_ACT_NONE);
        ops->linear(&p->stream, out, &in, &(dinov_linear){.n = n, .k = k, .packed = p->packed, .bias = p->packed_bias}, NULL, NULL);
        if (last) break;
        p->active.rows = x->rows;
        ops->activation(&p->stream, &p->active, out, DINOV_ACT_GELU);
        in = p->active;
    }
    ops->normalize(&p->stream, z, &p->unnormed, EPS);
}

/* A weight's transpose laid out in p->packed: linear(dx, dy, it) is dx = dy W. */
static dinov_linear transposed(dinov_head_pass *p, const dinov_head *params, int64_t layer)
{
    int64_t n = width_out(&p->dims, layer), k = width_in(&p->dims, layer);
    p->ops->linear_pack_transposed(&p->stream, p->packed, params->weight[layer], n, k, NULL);
    p->ops->linear_pack_bias(p->packed_bias, NULL, k, DINOV_ACT_NONE);
    return (dinov_linear){.n = k, .k = n, .packed = p->packed, .bias = p->packed_bias};
}

void dinov_head_backward(dinov_head_pass *p, const dinov_head *params, const dinov_head *grads, dinov_mat *dx, dinov_mat *dz)
{
    const dinov_ops *ops  = p->ops;
    dinov_stream    *s    = &p->stream;
    dinov_mat        dout = *dz;
    dinov_linear     w;

    DINOV_ASSERT(p->backward && dz->rows == p->x->rows);
    ops->normalize_backward(s, &dout, dz, &p->unnormed, EPS);
    for (int64_t i = p->dims.layers - 1; i > 0; i--) {
        dinov_mat *hidden = &p->hidden[i - 1];
        w                 = transposed(p, params, i);
        ops->linear(s, &p->active, &dout, &w, NULL, NULL);
        ops->activation_backward(s, hidden, &p->active, &p->active, hidden, DINOV_ACT_GELU);
        ops->linear_backward(s, grads->weight[i], grads->bias[i], &dout, &p->active);
        dout = *hidden;
    }
    ops->linear_backward(s, grads->weight[0], grads->bias[0], &dout, p->x);
    w = transposed(p, params, 0);
    ops->linear(s, dx, &dout, &w, NULL, NULL);
}
