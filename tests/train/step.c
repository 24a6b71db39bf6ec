/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs training steps on inputs from a folder and writes what they did: tests/train/parity.py says what
 * is in the folder and compares.   train_step FOLDER f64|f32 [ISA]
 */
#include "base/alloc.h"
#include "tests/train/case.h"

#include <stdio.h>
#include <string.h>

static const char *folder;

static void output(const char *name, const void *data, size_t real, int rank, const int64_t *dim)
{
    char          path[1024];
    dinov_error   err;
    dinov_npy_out out  = {0};
    int64_t       size = 1;
    for (int i = 0; i < rank; i++) size *= dim[i];
    double *wide = dinov_alloc((size_t)size, sizeof *wide);
    for (int64_t i = 0; i < size; i++)
        wide[i] = real == sizeof(float) ? (double)((const float *)data)[i] : ((const double *)data)[i];
    snprintf(path, sizeof path, "%s/out/%s.npy", folder, name);
    case_must(dinov_npy_create(&out, path, "'<f8'", rank, dim, 1, &err), &err);
    case_must(dinov_npy_append(&out, wide, (size_t)size * sizeof *wide, dim[0], &err), &err);
    case_must(dinov_npy_commit(&out, &err), &err);
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
        const double               *in = case_input(folder, &npy, "%s.%s", prefix, e->name);
        DINOV_ASSERT(in && npy.size == (uint64_t)e->count * sizeof *in);
        for (int64_t j = 0; j < e->count; j++) {
            double value;
            memcpy(&value, in + j, sizeof value);
            if (state->real_size == sizeof(float))
                ((float *)block)[e->offset + j] = (float)value;
            else
                ((double *)block)[e->offset + j] = value;
        }
    }
}

int main(int argc, char **argv)
{
    dinov_error    err;
    dinov_config   config;
    dinov_model    model;
    dinov_trainer *trainer;
    dinov_pool    *pool;

    if (argc < 3) return 64;
    folder                = argv[1];
    bool             wide = strcmp(argv[2], "f64") == 0;
    const dinov_ops *ops  = &dinov_ops_ref_f64;
    if (!wide) case_must(dinov_ops_cpu(&ops, argc > 3 ? argv[3] : NULL, &err), &err);
    json_t *j = case_read(folder, &config, &model);
    case_must(dinov_pool_new(&pool, 2, &err), &err);
    dinov_trainer_options options = {.config = &config, .model = &model, .ops = ops, .pool = pool};
    case_must(dinov_trainer_new(&trainer, &options, &err), &err);
    dinov_train_state *state = dinov_trainer_state(trainer);
    input_set("student", state, state->student);
    input_set("teacher", state, state->average);

    int64_t count = case_steps(j), side = config.crops.global_crops_size / model.patch, modules = state->set->module_count;
    double *losses = dinov_alloc((size_t)(4 * count), sizeof *losses),
           *norms  = dinov_alloc((size_t)(modules * count), sizeof *norms);
    for (int64_t i = 0; i < count; i++) {
        dinov_rates       rates = case_rates(j, i);
        dinov_views       views = case_views(folder, &config, i, side * side);
        dinov_drop_plan   plan;
        dinov_step_result r;
        case_must(dinov_trainer_step(trainer, i, &views, &rates, case_drop(folder, &plan, &config, &model, i), &r, &err), &err);
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
        if (state->center[i])
            output(i == DINOV_TERM_DINO ? "center.dino" : "center.ibot", state->center[i], state->real_size, 1,
                   &state->prototypes[i]);
    json_decref(j);
    dinov_free(losses);
    dinov_free(norms);
    dinov_trainer_free(&trainer);
    dinov_pool_free(&pool);
    return 0;
}
