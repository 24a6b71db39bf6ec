/* SPDX-License-Identifier: Apache-2.0
 *
 * AdamW with upstream's parameter groups (dinov2/utils/param_groups.py): layerwise decay, the patch
 * embedding's multiplier, no weight decay for biases, norms and LayerScale, a learning rate of its own
 * for the heads' last layers; and clipping by module.
 */
#ifndef DINOV_TRAIN_OPTIM_H
#define DINOV_TRAIN_OPTIM_H

#include "model/paramset.h"
#include "train/schedule.h"
#include "kernels/ops.h"

typedef struct dinov_group {
    double lr_multiplier, wd_multiplier;
    bool   is_last_layer;
} dinov_group;

/* What upstream would put a tensor under; depth: blocks of the backbone. */
dinov_group dinov_group_of(const dinov_paramset *set, const dinov_paramset_entry *entry, int64_t depth, const dinov_config *config);

/* L2 norm of each module's gradient, before clipping; not finite when any element is not. */
void dinov_gradient_norms(double *norms, const dinov_paramset *set, const void *grads, const dinov_ops *ops, dinov_stream *s);

/* One AdamW step on every tensor; norms: of dinov_gradient_norms; step counts from 1. */
void dinov_adamw_step(const dinov_paramset *set, void *params, const void *grads, void *m, void *v, const double *norms,
                      int64_t depth, const dinov_config *config, const dinov_rates *rates, int64_t step, const dinov_ops *ops,
                      dinov_stream *s);

#endif
