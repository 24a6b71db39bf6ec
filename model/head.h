/* SPDX-License-Identifier: Apache-2.0
 *
 * The projection head without its last layer: Linear, GELU, ..., Linear to the bottleneck, rows to
 * unit length (facebookresearch/dinov2, dinov2/layers/dino_head.py). The prototypes themselves are
 * train/prototypes.c, which never needs all their logits at once.
 */
#ifndef DINOV_MODEL_HEAD_H
#define DINOV_MODEL_HEAD_H

#include "model/mat.h"
#include "model/paramset.h"

enum { DINOV_HEAD_LAYERS = 8 };

/* Places in a block of parameters, or of their gradients. */
typedef struct dinov_head {
    dinov_head_dims dims;
    void *weight[DINOV_HEAD_LAYERS], *bias[DINOV_HEAD_LAYERS];
    void *g, *v; /* last_layer.weight_g [K], weight_v [K, bottleneck] */
} dinov_head;

void dinov_head_bind(dinov_head *out, const dinov_paramset *set, const char *module, const dinov_head_dims *dims, void *block,
                     size_t real_size);

/* Memory for passes through heads, one at a time. */
typedef struct dinov_head_pass dinov_head_pass;

/* A head that a pass is to serve, with at most `rows` rows. */
typedef struct dinov_head_use {
    dinov_head_dims dims;
    int64_t         rows;
} dinov_head_use;

/* `ops` and `pool` are kept. */
dinov_status dinov_head_pass_new(dinov_head_pass **out, const dinov_head_use *uses, int count, const dinov_ops *ops,
                                 dinov_pool *pool, dinov_error *err);
void         dinov_head_pass_free(dinov_head_pass **pass);
size_t       dinov_head_pass_memory(const dinov_head_use *uses, int count, const dinov_ops *ops);

/* z [rows, bottleneck] = unit rows of the MLP of x [rows, in]. x and what the pass holds are in use until the backward pass. */
void dinov_head_forward(dinov_head_pass *pass, const dinov_head *params, dinov_mat *z, const dinov_mat *x);
/* dz is overwritten. */
void dinov_head_backward(dinov_head_pass *pass, const dinov_head *params, const dinov_head *grads, dinov_mat *dx, dinov_mat *dz);

#endif
