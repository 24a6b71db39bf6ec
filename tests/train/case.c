/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/train/case.h"

#include "base/alloc.h"
#include "infer/npy.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is read lives as long as the program, and is known to the end. */
static void *kept[1 << 14];
static int   kept_count;

static void *keep(void *p)
{
    DINOV_ASSERT(p && kept_count < (int)(sizeof kept / sizeof kept[0]));
    return kept[kept_count++] = p;
}

void case_must(dinov_status status, const dinov_error *err)
{
    if (status == DINOV_OK) return;
    fprintf(stderr, "%s [%s]\n", err->msg, err->code);
    exit(1);
}

/* The bytes of FOLDER/in/NAME.npy, which live as long as the program; NULL when there is no such file. */
const void *case_input(const char *folder, dinov_npy *npy, const char *format, ...)
{
    char        name[256], path[1024];
    void       *bytes;
    size_t      size;
    dinov_error err;
    va_list     args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    snprintf(path, sizeof path, "%s/in/%s.npy", folder, name);
    FILE *there = fopen(path, "rb");
    if (!there) return NULL;
    fclose(there);
    case_must(dinov_file_read(&bytes, &size, path, (size_t)1 << 30, &err), &err);
    keep(bytes);
    case_must(dinov_npy_parse(npy, bytes, size, path, &err), &err);
    return npy->data;
}

static double  number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }
static int64_t integer(const json_t *object, const char *key) { return json_integer_value(json_object_get(object, key)); }
static bool    is(const json_t *object, const char *key, const char *text)
{
    return strcmp(json_string_value(json_object_get(object, key)), text) == 0;
}

static dinov_head_config head_of(const json_t *j)
{
    return (dinov_head_config){.loss_weight         = number(j, "loss_weight"),
                               .head_n_prototypes   = integer(j, "n_prototypes"),
                               .head_bottleneck_dim = integer(j, "bottleneck"),
                               .head_nlayers        = integer(j, "nlayers"),
                               .head_hidden_dim     = integer(j, "hidden")};
}

json_t *case_read(const char *folder, dinov_config *c, dinov_model *m)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/in/case.json", folder);
    json_t *j = json_load_file(path, 0, NULL);
    DINOV_ASSERT(j);
    const json_t *jm = json_object_get(j, "model"), *dino = json_object_get(j, "dino"), *ibot = json_object_get(j, "ibot");
    *m                              = (dinov_model){.patch      = integer(jm, "patch"),
                                                    .dim        = integer(jm, "dim"),
                                                    .depth      = integer(jm, "depth"),
                                                    .heads      = integer(jm, "heads"),
                                                    .ffn        = is(jm, "ffn", "swiglu") ? DINOV_FFN_SWIGLU : DINOV_FFN_MLP,
                                                    .hidden     = integer(jm, "hidden"),
                                                    .registers  = integer(jm, "registers"),
                                                    .channels   = 3,
                                                    .grid_h     = integer(jm, "grid_h"),
                                                    .grid_w     = integer(jm, "grid_w"),
                                                    .layerscale = json_is_true(json_object_get(jm, "layerscale")),
                                                    .qkv_bias   = json_is_true(json_object_get(jm, "qkv_bias")),
                                                    .ln_eps     = number(jm, "ln_eps"),
                                                    .interp     = {number(jm, "interp_offset"), json_is_true(json_object_get(jm, "interp_antialias"))}};
    *c                              = (dinov_config){0};
    c->dino.head                    = head_of(dino);
    c->dino.koleo_loss_weight       = number(dino, "koleo_loss_weight");
    c->ibot.head                    = head_of(ibot);
    c->ibot.separate_head           = json_is_true(json_object_get(ibot, "separate_head"));
    c->ibot.mask_sample_probability = 1;
    c->ibot.mask_ratio_min_max[0] = c->ibot.mask_ratio_min_max[1] = 1;
    c->train.centering           = is(j, "centering", "centering") ? DINOV_CENTERING : DINOV_SINKHORN_KNOPP;
    c->train.batch_size_per_gpu  = integer(j, "batch");
    c->train.accumulation        = 1;
    c->student.drop_path_rate    = number(j, "drop_path");
    c->student.drop_path_uniform = true;
    c->optim.clip_grad           = number(j, "clip_grad");
    c->optim.layerwise_decay     = number(j, "layerwise_decay");
    c->optim.patch_embed_lr_mult = number(j, "patch_embed_lr_mult");
    c->optim.adamw_beta1         = number(j, "beta1");
    c->optim.adamw_beta2         = number(j, "beta2");
    c->crops.local_crops_number  = integer(j, "local_crops");
    c->crops.global_crops_size   = integer(j, "global_size");
    c->crops.local_crops_size    = integer(j, "local_size");
    return j;
}

dinov_rates case_rates(const json_t *case_, int64_t step)
{
    const json_t *s = json_array_get(json_object_get(case_, "steps"), (size_t)step);
    return (dinov_rates){number(s, "lr"), number(s, "last_layer_lr"), number(s, "wd"), number(s, "momentum"),
                         number(s, "teacher_temp")};
}

int64_t case_steps(const json_t *case_) { return (int64_t)json_array_size(json_object_get(case_, "steps")); }

dinov_views case_views(const char *folder, const dinov_config *c, int64_t step, int64_t patches)
{
    dinov_npy   npy;
    dinov_views v       = {.images = c->train.batch_size_per_gpu};
    int32_t    *indices = keep(dinov_alloc((size_t)(2 * v.images * patches), sizeof *indices));
    v.global            = case_input(folder, &npy, "step%lld.global", (long long)step);
    v.local             = case_input(folder, &npy, "step%lld.local", (long long)step);
    v.masks             = case_input(folder, &npy, "step%lld.masks", (long long)step);
    for (int64_t i = 0; i < 2 * v.images * patches; i++)
        if (v.masks[i]) indices[v.masked++] = (int32_t)i;
    v.mask_indices = indices;
    return v;
}

/* The stored subsets of a step; NULL at rate 0. */
dinov_drop_plan *case_drop(const char *folder, dinov_drop_plan *plan, const dinov_config *c, const dinov_model *m, int64_t step)
{
    static const char *const branches[] = {"attn", "ffn"}, *const groups[] = {"global", "local"};
    if (c->student.drop_path_rate == 0) return NULL;
    for (int g = 0; g < 2; g++) {
        int64_t images = (g == 0 ? 2 : c->crops.local_crops_number) * c->train.batch_size_per_gpu;
        plan->keep[g]  = keep(dinov_calloc((size_t)(2 * m->depth * images), sizeof(int32_t)));
        plan->kept[g]  = keep(dinov_calloc((size_t)m->depth, sizeof(int32_t)));
        for (int64_t block = 0; block < m->depth && images; block++)
            for (int branch = 0; branch < 2; branch++) {
                dinov_npy   npy;
                const void *keep = case_input(folder, &npy, "step%lld.keep.%lld.%s.%s", (long long)step, (long long)block,
                                              branches[branch], groups[g]);
                DINOV_ASSERT(keep);
                memcpy(plan->keep[g] + (2 * block + branch) * images, keep, npy.size);
                plan->kept[g][block] = (int32_t)npy.dim[0];
            }
    }
    return plan;
}
