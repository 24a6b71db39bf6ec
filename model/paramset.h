/* SPDX-License-Identifier: Apache-2.0
 *
 * The parameters a trainer moves: backbone and heads by name, laid out in one block of `real`. The
 * same layout serves values, gradients, moments and averages, so optimiser, average and checkpoint
 * are loops over one list. Names are upstream's: "backbone.blocks.0.ls1.gamma",
 * "dino_head.last_layer.weight_g".
 */
#ifndef DINOV_MODEL_PARAMSET_H
#define DINOV_MODEL_PARAMSET_H

#include "dinov/format.h"

enum { DINOV_PARAMSET_NAME = 96, DINOV_MAX_MODULES = 3 };

typedef struct dinov_paramset_entry {
    char    name[DINOV_PARAMSET_NAME];
    int     module; /* index into paramset.modules */
    int     rank;
    int64_t dim[4];
    int64_t count, offset; /* elements */
} dinov_paramset_entry;

typedef struct dinov_paramset {
    dinov_paramset_entry *entries;
    int64_t               count, capacity;
    int64_t               total; /* elements of a block, padding between tensors included */
    const char           *modules[DINOV_MAX_MODULES];
    int                   module_count;
} dinov_paramset; /* starts as {0} */

/* A projection head (facebookresearch/dinov2, layers/dino_head.py). */
typedef struct dinov_head_dims {
    int64_t in, hidden, bottleneck, prototypes, layers; /* layers of the MLP, 1..8 */
} dinov_head_dims;

/* Add a module's tensors; `module` ("backbone", "dino_head") is a literal and becomes the prefix. ERR_NOMEM. */
dinov_status dinov_paramset_add_backbone(dinov_paramset *set, const char *module, const dinov_model *model, dinov_error *err);
dinov_status dinov_paramset_add_head(dinov_paramset *set, const char *module, const dinov_head_dims *head, dinov_error *err);
void         dinov_paramset_clear(dinov_paramset *set);

/* The entry called "module.name"; NULL when there is none. */
const dinov_paramset_entry *dinov_paramset_find(const dinov_paramset *set, const char *module, const char *name);
/* The place of module.name in `block`; NULL when the model has no such tensor. */
void *dinov_paramset_at(const dinov_paramset *set, const char *module, const char *name, void *block, size_t real_size);

/* Upstream's initial values (layerscale: the initial gamma), drawn from (seed, the tensor's name). */
void dinov_paramset_init(const dinov_paramset *set, void *block, size_t real_size, uint64_t seed, double layerscale);

#endif
