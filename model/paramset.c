/* SPDX-License-Identifier: Apache-2.0 */
#include "model/paramset.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "format/params.h"
#include "model/real.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static dinov_status add(dinov_paramset *set, const char *name, int rank, const int64_t *dim, dinov_error *err)
{
    if (set->count == set->capacity) {
        int64_t               capacity = set->capacity ? 2 * set->capacity : 64;
        dinov_paramset_entry *entries  = dinov_realloc(set->entries, (size_t)capacity, sizeof *entries);
        if (!entries) return dinov_fail_nomem(err, "parameters", "their list");
        set->entries  = entries;
        set->capacity = capacity;
    }
    dinov_paramset_entry *e = &set->entries[set->count++];
    *e = (dinov_paramset_entry){.module = set->module_count - 1, .rank = rank, .count = 1, .offset = set->total};
    snprintf(e->name, sizeof e->name, "%s.%s", set->modules[e->module], name);
    for (int i = 0; i < rank; i++) {
        e->dim[i] = dim[i];
        e->count *= dim[i];
    }
    set->total += (e->count + 15) / 16 * 16;
    return DINOV_OK;
}

static void begin_module(dinov_paramset *set, const char *module)
{
    DINOV_ASSERT(set->module_count < DINOV_MAX_MODULES);
    set->modules[set->module_count++] = module;
}

dinov_status dinov_paramset_add_backbone(dinov_paramset *set, const char *module, const dinov_model *model, dinov_error *err)
{
    begin_module(set, module);
    for (size_t i = 0; i < dinov_param_count(model); i++) {
        dinov_param p;
        dinov_param_at(model, i, &p);
        DINOV_TRY(add(set, p.name, p.rank, p.dim, err));
    }
    return DINOV_OK;
}

dinov_status dinov_paramset_add_head(dinov_paramset *set, const char *module, const dinov_head_dims *head, dinov_error *err)
{
    begin_module(set, module);
    for (int64_t i = 0; i < head->layers; i++) {
        int64_t n = i + 1 == head->layers ? head->bottleneck : head->hidden, k = i == 0 ? head->in : head->hidden;
        char    weight[32], bias[32];
        /* Upstream's Sequential counts its activations; a single layer is no Sequential. */
        if (head->layers == 1)
            snprintf(weight, sizeof weight, "mlp.weight"), snprintf(bias, sizeof bias, "mlp.bias");
        else {
            snprintf(weight, sizeof weight, "mlp.%lld.weight", (long long)(2 * i));
            snprintf(bias, sizeof bias, "mlp.%lld.bias", (long long)(2 * i));
        }
        DINOV_TRY(add(set, weight, 2, (const int64_t[]){n, k}, err));
        DINOV_TRY(add(set, bias, 1, &n, err));
    }
    DINOV_TRY(add(set, "last_layer.weight_g", 2, (const int64_t[]){head->prototypes, 1}, err));
    return add(set, "last_layer.weight_v", 2, (const int64_t[]){head->prototypes, head->bottleneck}, err);
}

void dinov_paramset_clear(dinov_paramset *set)
{
    dinov_free(set->entries);
    *set = (dinov_paramset){0};
}

const dinov_paramset_entry *dinov_paramset_find(const dinov_paramset *set, const char *module, const char *name)
{
    char full[DINOV_PARAMSET_NAME];
    snprintf(full, sizeof full, "%s.%s", module, name);
    for (int64_t i = 0; i < set->count; i++)
        if (strcmp(set->entries[i].name, full) == 0) return &set->entries[i];
    return NULL;
}

void *dinov_paramset_at(const dinov_paramset *set, const char *module, const char *name, void *block, size_t real_size)
{
    const dinov_paramset_entry *e = dinov_paramset_find(set, module, name);
    return e ? (char *)block + (size_t)e->offset * real_size : NULL;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* How a tensor begins: a constant, a normal of that deviation, or a uniform of that half width. */
struct start {
    double constant, deviation, width;
};

/* dinov2/models/vision_transformer.py (init_weights_vit_timm), layers/dino_head.py. The patch convolution and weight_v keep
 * torch's defaults. Upstream cuts its normals of deviation 0.02 at 2, which changes nothing. */
static struct start start_of(const dinov_paramset_entry *e, double layerscale)
{
    if (ends_with(e->name, ".gamma")) return (struct start){.constant = layerscale};
    if (ends_with(e->name, "last_layer.weight_g")) return (struct start){.constant = 1};
    if (ends_with(e->name, "last_layer.weight_v")) return (struct start){.width = 1 / sqrt((double)e->dim[1])};
    if (ends_with(e->name, "patch_embed.proj.weight"))
        return (struct start){.width = 1 / sqrt((double)(e->dim[1] * e->dim[2] * e->dim[3]))};
    /* The bias shares the fan-in of the weight, which stands just before it. */
    if (ends_with(e->name, "patch_embed.proj.bias")) return start_of(e - 1, layerscale);
    if (strstr(e->name, "norm")) return (struct start){.constant = ends_with(e->name, ".weight")};
    if (ends_with(e->name, ".bias") || ends_with(e->name, "mask_token")) return (struct start){0};
    if (ends_with(e->name, "cls_token") || ends_with(e->name, "register_tokens")) return (struct start){.deviation = 1e-6};
    return (struct start){.deviation = 0.02};
}

static uint64_t hash48(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h >> 16;
}

void dinov_paramset_init(const dinov_paramset *set, void *block, size_t real_size, uint64_t seed, double layerscale)
{
    for (int64_t i = 0; i < set->count; i++) {
        const dinov_paramset_entry *e     = &set->entries[i];
        struct start                start = start_of(e, layerscale);
        dinov_rng                   rng   = dinov_rng_make(seed, DINOV_RNG_INIT, 0, hash48(e->name));
        for (int64_t j = 0; j < e->count; j++) {
            double value = start.constant;
            if (start.deviation > 0) value = start.deviation * dinov_rng_normal(&rng);
            if (start.width > 0) value = dinov_rng_range(&rng, -start.width, start.width);
            dinov_real_set((char *)block + (size_t)e->offset * real_size, real_size, j, value);
        }
    }
}
