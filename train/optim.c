/* SPDX-License-Identifier: Apache-2.0 */
#include "train/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double EPS = 1e-8; /* AdamW's default, which upstream keeps */

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static bool contains(const char *name, const char *part) { return strstr(name, part) != NULL; }

/* 0 for what comes before the blocks, i + 1 for block i, depth + 1 for what comes after them. */
static int64_t layer_of(const char *name, int64_t depth)
{
    static const char *const before[] = {"pos_embed", "patch_embed", "mask_token", "cls_token", "register_tokens"};
    for (size_t i = 0; i < sizeof before / sizeof before[0]; i++)
        if (contains(name, before[i])) return 0;
    const char *block = strstr(name, "blocks.");
    return block ? strtoll(block + strlen("blocks."), NULL, 10) + 1 : depth + 1;
}

dinov_group dinov_group_of(const dinov_paramset *set, const dinov_paramset_entry *entry, int64_t depth, const dinov_config *config)
{
    dinov_group group = {.lr_multiplier = 1, .wd_multiplier = 1, .is_last_layer = contains(entry->name, "last_layer")};
    if (strcmp(set->modules[entry->module], "backbone") == 0)
        group.lr_multiplier = pow(config->optim.layerwise_decay, (double)(depth + 1 - layer_of(entry->name, depth)));
    if (contains(entry->name, "patch_embed")) group.lr_multiplier *= config->optim.patch_embed_lr_mult;
    if (ends_with(entry->name, ".bias") || contains(entry->name, "norm") || contains(entry->name, "gamma")) group.wd_multiplier = 0;
    return group;
}

static void *at(const void *block, const dinov_paramset_entry *e, const dinov_ops *ops)
{
    return (char *)(uintptr_t)block + (size_t)e->offset * ops->real_size;
}

void dinov_gradient_norms(double *norms, const dinov_paramset *set, const void *grads, const dinov_ops *ops, dinov_stream *s)
{
    for (int i = 0; i < set->module_count; i++) norms[i] = 0;
    for (int64_t i = 0; i < set->count; i++) {
        double squares;
        ops->sum_squares(s, &squares, at(grads, &set->entries[i], ops), set->entries[i].count);
        norms[set->entries[i].module] += squares;
    }
    for (int i = 0; i < set->module_count; i++) norms[i] = sqrt(norms[i]);
}

/* torch.nn.utils.clip_grad_norm_ */
static double clip_factor(double norm, double limit)
{
    double factor = limit / (norm + 1e-6);
    return limit > 0 && factor < 1 ? factor : 1;
}

void dinov_adamw_step(const dinov_paramset *set, void *params, const void *grads, void *m, void *v, const double *norms,
                      int64_t depth, const dinov_config *config, const dinov_rates *rates, int64_t step, const dinov_ops *ops,
                      dinov_stream *s)
{
    for (int64_t i = 0; i < set->count; i++) {
        const dinov_paramset_entry *e     = &set->entries[i];
        dinov_group                 group = dinov_group_of(set, e, depth, config);
        double                      lr    = (group.is_last_layer ? rates->last_layer_lr : rates->lr) * group.lr_multiplier;
        ops->adamw(s, at(params, e, ops), at(grads, e, ops), at(m, e, ops), at(v, e, ops), e->count,
                   clip_factor(norms[e->module], config->optim.clip_grad), lr, rates->weight_decay * group.wd_multiplier,
                   config->optim.adamw_beta1, config->optim.adamw_beta2, EPS, step);
    }
}
