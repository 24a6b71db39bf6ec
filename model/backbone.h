/* SPDX-License-Identifier: Apache-2.0
 *
 * The vision transformer as it is trained: parameters in one block (model/paramset.h), several groups
 * of crops at once, masked patches, stochastic depth by batch subset, and the gradient of everything.
 * Upstream: dinov2/models/vision_transformer.py, layers/block.py (NestedTensorBlock).
 *
 * Crops of all groups stand one after another as the rows of one matrix: linear layers and norms see
 * [M, C], attention sees each group as images of equal length. With stochastic depth each branch
 * works on the rows of the images it keeps.
 */
#ifndef DINOV_MODEL_BACKBONE_H
#define DINOV_MODEL_BACKBONE_H

#include "model/mat.h"
#include "model/paramset.h"

enum { DINOV_MAX_GROUPS = 2 };

typedef struct dinov_backbone_block {
    void *norm1_weight, *norm1_bias, *qkv_weight, *qkv_bias, *proj_weight, *proj_bias, *ls1;
    void *norm2_weight, *norm2_bias, *up_weight, *up_bias, *down_weight, *down_bias, *ls2;
} dinov_backbone_block;

/* Places in a block of parameters, or of their gradients. NULL where the model has none. */
typedef struct dinov_backbone {
    void                 *cls, *pos, *registers, *mask_token, *patch_weight, *patch_bias, *norm_weight, *norm_bias;
    dinov_backbone_block *blocks; /* [depth] */
} dinov_backbone;

dinov_status dinov_backbone_bind(dinov_backbone *out, const dinov_paramset *set, const char *module, const dinov_model *model,
                                 void *block, size_t real_size, dinov_error *err);
void         dinov_backbone_clear(dinov_backbone *backbone);

/* One group: images of h x w patches. */
typedef struct dinov_crops {
    const float   *pixels; /* [images, channels, h*p, w*p], normalised */
    const uint8_t *mask;   /* [images, h*w], 1 where the mask token stands; NULL for none */
    int64_t        images, h, w;
} dinov_crops;

/* Which images each residual branch keeps; NULL instead of a plan keeps all. The branch's result is
 * scaled by images / kept. */
typedef struct dinov_drop_plan {
    int32_t *keep[DINOV_MAX_GROUPS]; /* [depth, 2 (attention, FFN), images]; the first `kept` of each row count */
    int32_t *kept[DINOV_MAX_GROUPS]; /* [depth] */
} dinov_drop_plan;

/* Memory for passes over groups of at most these sizes. */
typedef struct dinov_pass dinov_pass;

typedef enum dinov_pass_kind {
    DINOV_PASS_FORWARD   = 0, /* nothing is kept: the teacher */
    DINOV_PASS_KEEP      = 1, /* activations are kept for the backward pass */
    DINOV_PASS_RECOMPUTE = 2, /* only each block's input is kept; the rest is computed again */
} dinov_pass_kind;

/* What a pass is made for. */
typedef struct dinov_pass_plan {
    dinov_pass_kind kind;
    int             groups;
    struct {
        int64_t images, h, w; /* of each call */
        int64_t kept;         /* the most images a branch keeps: `images` without stochastic depth */
    } group[DINOV_MAX_GROUPS];
} dinov_pass_plan;

/* `model`, `ops` and `pool` are kept. */
dinov_status dinov_pass_new(dinov_pass **out, const dinov_model *model, const dinov_ops *ops, dinov_pool *pool,
                            const dinov_pass_plan *plan, dinov_error *err);
void         dinov_pass_free(dinov_pass **pass);
/* Bytes that a pass of that plan takes. */
size_t dinov_pass_memory(const dinov_model *model, const dinov_ops *ops, const dinov_pass_plan *plan, int threads);

/* The stream after the last block, before the final norm: [M, C], rows (group, image, token), tokens cls, registers, patches.
 * It stays valid until the next call; what crops and drop point to stays in use until the backward pass.
 * needed [M]: 1 for each row that will be looked at, and has a gradient: the last block's FFN is spared for the others, whose
 * rows then lack it; NULL for all rows. */
const dinov_mat *dinov_pass_forward(dinov_pass *pass, const dinov_backbone *params, const dinov_crops *crops, const uint8_t *needed,
                                    const dinov_drop_plan *drop);

/* The gradient of that stream, [M, C], cleared: the caller fills it in after a forward pass. */
dinov_mat *dinov_pass_gradient(dinov_pass *pass);
/* From that gradient, which it overwrites, to the parameters' gradients, which accumulate into `grads`. */
void dinov_pass_backward(dinov_pass *pass, const dinov_backbone *params, const dinov_backbone *grads);

/* Row of the stream where token `token` of `image` of `group` stands; and M. */
int64_t dinov_pass_row(const dinov_pass *pass, int group, int64_t image, int64_t token);
int64_t dinov_pass_rows(const dinov_pass *pass);

#endif
