/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs training steps on inputs from a folder and writes what they did: tests/train/parity.py says what
 * is in the folder and compares.   train_step FOLDER f64|f32 [ISA]
 */
#include "base/alloc.h"
#include "infer/npy.h"
#include "train/trainer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;

static void must(dinov_status status, const dinov_error *err)
{
    if (status == DINOV_OK) return;
    fprintf(stderr, "train_step: %s [%s]\n", err->msg, err->code);
    exit(1);
}

/* The bytes of FOLDER/in/NAME.npy, which live as long as the program; NULL when there is no such file. */
static const void *input(dinov_npy *npy, const char *format, ...)
{
    char         name[256], path[1024];
    void        *bytes;
    size_t       size;
    dinov_error  err;
    va_list      args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    snprintf(path, sizeof path, "%s/in/%s.npy", folder, name);
    FILE *there = fopen(path, "rb");
    if (!there) return NULL;
    fclose(there);
    must(dinov_file_read(&bytes, &size, path, (size_t)1 << 30, &err), &err);
    must(dinov_npy_parse(npy, bytes, size, path, &err), &err);
    return npy->data;
}

static void output(const char *name, const void *data, size_t real, int rank, const int64_t *dim)
{
    char          path[1024];
    dinov_error   err;
    dinov_npy_out out  = {0};
    int64_t       size = 1;
    for (int i = 0; i < rank; i++) size *= dim[i];
    double *wide = dinov_alloc((size_t)size, sizeof *wide);
    for (int64_t i = 0; i < size; i++) wide[i] = real == sizeof(float) ? (double)((const float *)data)[i] : ((const double *)data)[i];
    snprintf(path, sizeof path, "%s/out/%s.npy", folder, name);
    must(dinov_npy_create(&out, path, "'<f8'", rank, dim, 1, &err), &err);
    must(dinov_npy_append(&out, wide, (size_t)size * sizeof *wide, dim[0], &err), &err);
    must(dinov_npy_commit(&out, &err), &err);
    dinov_free(wide);
}

static void output_set(const char *prefix, const dinov_train_state *state, const void *block)
{
    for (int64_t i = 0; i < state->set->count; i++) {
        const dinov_paramset_entry *e = &state->set->entries[i];
        char                        name[160];
        snprintf(name, sizeof name, "%s.%s", prefix, e->name);
        output(name, (const char *)block + (size_t)e->offset * state->real_size, state->real_size, e->rank, e->dim);
    }
}

static void input_set(const char *prefix, const dinov_train_state *state, void *block)
{
    for (int64_t i = 0; i < state->set->count; i++) {
        const dinov_paramset_entry *e = &state->set->entries[i];
        dinov_npy                   npy;
        const double               *in = input(&npy, "%s.%s", prefix, e->name);
        DINOV_ASSERT(in && npy.size == (uint64_t)e->count * sizeof *in);
        for (int64_t j = 0; j < e->count; j++) {
            double value;
            memcpy(&value, in + j, sizeof value);
            if (state->real_size == sizeof(float)) ((float *)block)[e->offset + j] = (float)value;
            else ((double *)block)[e->offset + j] = value;
        }
    }
}

static double  number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }
static int64_t integer(const json_t *object, const char *key) { return json_integer_value(json_object_get(object, key)); }
static bool    is(const json_t *object, const char *key, const char *text)
{
    return strcmp(json_string_value(json_object_get(object, key)), text) == 0;
}

static dinov_head_config head_of(const json_t *j)
{
    return (dinov_head_config){.loss_weight = number(j, "loss_weight"), .head_n_prototypes = integer(j, "n_prototypes"),
                               .head_bottleneck_dim = integer(j, "bottleneck"), .head_nlayers = integer(j, "nlayers"),
                               .head_hidden_dim = integer(j, "hidden")};
}

static void read_case(const json_t *j, dinov_config *c, dinov_model *m)
{
    const json_t *jm = json_object_get(j, "model"), *dino = json_object_get(j, "dino"), *ibot = json_object_get(j, "ibot");
    *m = (dinov_model){.patch = integer(jm, "patch"), .dim = integer(jm, "dim"), .depth = integer(jm, "depth"), .heads = integer(jm, "heads"),
                       .ffn = is(jm, "ffn", "swiglu") ? DINOV_FFN_SWIGLU : DINOV_FFN_MLP, .hidden = integer(jm, "hidden"),
                       .registers = integer(jm, "registers"), .channels = 3, .grid_h = integer(jm, "grid_h"), .grid_w = integer(jm, "grid_w"),
                       .layerscale = json_is_true(json_object_get(jm, "layerscale")), .qkv_bias = json_is_true(json_object_get(jm, "qkv_bias")),
                       .ln_eps = number(jm, "ln_eps"), .interp = {number(jm, "interp_offset"), json_is_true(json_object_get(jm, "interp_antialias"))}};
    *c = (dinov_config){0};
    c->dino.head                     = head_of(dino);
    c->dino.koleo_loss_weight        = number(dino, "koleo_loss_weight");
    c->ibot.head                     = head_of(ibot);
    c->ibot.separate_head            = json_is_true(json_object_get(ibot, "separate_head"));
    c->ibot.mask_sample_probability  = 1;
    c->ibot.mask_ratio_min_max[0]    = c->ibot.mask_ratio_min_max[1] = 1;
    c->train.centering               = is(j, "centering", "centering") ? DINOV_CENTERING : DINOV_SINKHORN_KNOPP;
    c->train.batch_size_per_gpu      = integer(j, "batch");
    c->train.accumulation            = 1;
    c->student.drop_path_rate        = number(j, "drop_path");
    c->student.drop_path_uniform     = true;
    c->optim.clip_grad               = number(j, "clip_grad");
    c->optim.layerwise_decay         = number(j, "layerwise_decay");
    c->optim.patch_embed_lr_mult     = number(j, "patch_embed_lr_mult");
    c->optim.adamw_beta1             = number(j, "beta1");
    c->optim.adamw_beta2             = number(j, "beta2");
    c->crops.local_crops_number      = integer(j, "local_crops");
    c->crops.global_crops_size       = integer(j, "global_size");
    c->crops.local_crops_size        = integer(j, "local_size");
}

static dinov_views read_views(const dinov_config *c, int64_t step, int64_t patches)
{
    dinov_npy   npy;
    dinov_views v       = {.images = c->train.batch_size_per_gpu};
    int32_t    *indices = dinov_alloc((size_t)(2 * v.images * patches), sizeof *indices);
    v.global            = input(&npy, "step%lld.global", (long long)step);
    v.local             = input(&npy, "step%lld.local", (long long)step);
    v.masks             = input(&npy, "step%lld.masks", (long long)step);
    for (int64_t i = 0; i < 2 * v.images * patches; i++)
        if (v.masks[i]) indices[v.masked++] = (int32_t)i;
    v.mask_indices = indices;
    return v;
}

/* The stored subsets of a step; NULL at rate 0. */
static dinov_drop_plan *read_drop(dinov_drop_plan *plan, const dinov_config *c, const dinov_model *m, int64_t step)
{
    static const char *const branches[] = {"attn", "ffn"}, *const groups[] = {"global", "local"};
    if (c->student.drop_path_rate == 0) return NULL;
    for (int g = 0; g < 2; g++) {
        int64_t images = (g == 0 ? 2 : c->crops.local_crops_number) * c->train.batch_size_per_gpu;
        plan->keep[g]  = dinov_calloc((size_t)(2 * m->depth * images), sizeof(int32_t));
        plan->kept[g]  = dinov_calloc((size_t)m->depth, sizeof(int32_t));
        for (int64_t block = 0; block < m->depth && images; block++)
            for (int branch = 0; branch < 2; branch++) {
                dinov_npy   npy;
                const void *keep = input(&npy, "step%lld.keep.%lld.%s.%s", (long long)step, (long long)block, branches[branch], groups[g]);
                DINOV_ASSERT(keep);
                memcpy(plan->keep[g] + (2 * block + branch) * images, keep, npy.size);
                plan->kept[g][block] = (int32_t)npy.dim[0];
            }
    }
    return plan;
}

int main(int argc, char **argv)
{
    char           path[1024];
    dinov_error    err;
    dinov_config   config;
    dinov_model    model;
    dinov_trainer *trainer;
    dinov_pool    *pool;

    if (argc < 3) return 64;
    folder                      = argv[1];
    bool             wide       = strcmp(argv[2], "f64") == 0;
    const dinov_ops *ops        = &dinov_ops_ref_f64;
    if (!wide) must(dinov_ops_cpu(&ops, argc > 3 ? argv[3] : NULL, &err), &err);
    snprintf(path, sizeof path, "%s/in/case.json", folder);
    json_t *j = json_load_file(path, 0, NULL);
    DINOV_ASSERT(j);
    read_case(j, &config, &model);
    must(dinov_pool_new(&pool, 2, &err), &err);
    dinov_trainer_options options = {.config = &config, .model = &model, .ops = ops, .pool = pool};
    must(dinov_trainer_new(&trainer, &options, &err), &err);
    dinov_train_state *state = dinov_trainer_state(trainer);
    input_set("student", state, state->student);
    input_set("teacher", state, state->average);

    json_t *steps = json_object_get(j, "steps");
    int64_t count = (int64_t)json_array_size(steps), side = config.crops.global_crops_size / model.patch, modules = state->set->module_count;
    double *losses = dinov_alloc((size_t)(4 * count), sizeof *losses), *norms = dinov_alloc((size_t)(modules * count), sizeof *norms);
    for (int64_t i = 0; i < count; i++) {
        const json_t     *s     = json_array_get(steps, (size_t)i);
        dinov_rates       rates = {number(s, "lr"), number(s, "last_layer_lr"), number(s, "wd"), number(s, "momentum"), number(s, "teacher_temp")};
        dinov_views       views = read_views(&config, i, side * side);
        dinov_drop_plan   plan;
        dinov_step_result r;
        must(dinov_trainer_step(trainer, i, &views, &rates, read_drop(&plan, &config, &model, i), &r, &err), &err);
        DINOV_ASSERT(r.finite);
        double row[] = {r.dino_local_crops_loss, r.dino_global_crops_loss, r.koleo_loss, r.ibot_loss};
        memcpy(losses + 4 * i, row, sizeof row);
        memcpy(norms + modules * i, r.grad_norm, (size_t)modules * sizeof *norms);
        if (i == 0) output_set("grad", state, state->grads);
    }
    output("loss", losses, sizeof *losses, 2, (const int64_t[]){count, 4});
    output("gradnorm", norms, sizeof *norms, 2, (const int64_t[]){count, modules});
    output_set("student", state, state->student);
    output_set("teacher", state, state->average);
    for (int i = 0; i < DINOV_TERMS; i++)
        if (state->center[i]) output(i == DINOV_TERM_DINO ? "center.dino" : "center.ibot", state->center[i], state->real_size, 1, &state->prototypes[i]);
    dinov_trainer_free(&trainer);
    dinov_pool_free(&pool);
    return 0;
}
