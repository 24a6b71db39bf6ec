/* SPDX-License-Identifier: Apache-2.0
 *
 * A training state whose every number follows from the step, so that a checkpoint can be told right from
 * wrong by itself: for the tests of runs.
 */
#ifndef DINOV_TESTS_MADE_STATE_H
#define DINOV_TESTS_MADE_STATE_H

#include "base/alloc.h"
#include "format/params.h"
#include "train/run.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct made_state {
    dinov_model       model;
    dinov_preprocess  preprocess;
    dinov_paramset    set;
    dinov_train_state state;
    char              config[64];
    dinov_manifest    info;
} made_state;

static inline void *made_block(int64_t count, size_t real_size)
{
    void *block = dinov_alloc_aligned((size_t)count, real_size);
    if (!block) abort();
    memset(block, 0, (size_t)count * real_size);
    return block;
}

/* Width `dim`: the state has about 24 dim^2 + 450 dim numbers in each of four blocks. */
static inline void made_new(made_state *m, int64_t dim, size_t real_size)
{
    dinov_head_dims dino = {.in = dim, .hidden = 12, .bottleneck = 6, .prototypes = 40, .layers = 2}, ibot = dino;
    ibot.prototypes = 24;
    memset(m, 0, sizeof *m);
    m->model = (dinov_model){.patch      = 4,
                             .dim        = dim,
                             .depth      = 2,
                             .heads      = 2,
                             .ffn        = DINOV_FFN_MLP,
                             .hidden     = 4 * dim,
                             .registers  = 1,
                             .channels   = 3,
                             .grid_h     = 3,
                             .grid_w     = 3,
                             .layerscale = 1,
                             .qkv_bias   = 1,
                             .ln_eps     = 1e-6};
    dinov_preprocess_default(&m->preprocess, &m->model);
    snprintf(m->preprocess.preset, sizeof m->preprocess.preset, "square:12");
    if (dinov_paramset_add_backbone(&m->set, "backbone", &m->model, NULL) != DINOV_OK ||
        dinov_paramset_add_head(&m->set, "dino_head", &dino, NULL) != DINOV_OK ||
        dinov_paramset_add_head(&m->set, "ibot_head", &ibot, NULL) != DINOV_OK)
        abort();
    m->state = (dinov_train_state){.set        = &m->set,
                                   .real_size  = real_size,
                                   .student    = made_block(m->set.total, real_size),
                                   .average    = made_block(m->set.total, real_size),
                                   .m          = made_block(m->set.total, real_size),
                                   .v          = made_block(m->set.total, real_size),
                                   .center     = {made_block(40, real_size), made_block(24, real_size)},
                                   .prototypes = {40, 24}};
    m->info  = (dinov_manifest){.isa = "ref", .teacher = "", .teacher_id = "", .config = m->config};
}

static inline void made_free(made_state *m)
{
    void *blocks[] = {m->state.student, m->state.average, m->state.m, m->state.v, m->state.center[0], m->state.center[1]};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) dinov_free(blocks[i]);
    dinov_paramset_clear(&m->set);
}

static inline double made_value(int64_t iteration, int block, int64_t i)
{
    uint64_t x =
        (uint64_t)iteration * 0x9e3779b97f4a7c15u + (uint64_t)block * 0xbf58476d1ce4e5b9u + (uint64_t)i * 0x94d049bb133111ebu;
    x ^= x >> 31, x *= 0xd6e8feb86659fd93u, x ^= x >> 29;
    return (double)(int64_t)(x >> 12) * 0x1p-55; /* 53 bits: a float cannot hold them */
}

/* Walks the numbers a state consists of (not the padding between tensors): sets them, or counts those that differ. */
static inline long made_walk(made_state *m, int64_t iteration, bool set)
{
    dinov_train_state *s         = &m->state;
    void              *blocks[]  = {s->student, s->average, s->m, s->v};
    long               different = 0;
    for (int b = 0; b < 6; b++) {
        int64_t tensors = b < 4 ? s->set->count : 1;
        void   *block   = b < 4 ? blocks[b] : s->center[b - 4];
        for (int64_t t = 0; t < tensors; t++) {
            int64_t from = b < 4 ? s->set->entries[t].offset : 0, count = b < 4 ? s->set->entries[t].count : s->prototypes[b - 4];
            for (int64_t i = from; i < from + count; i++) {
                double value = made_value(iteration, b, i);
                if (s->real_size == sizeof(float)) {
                    float *at = (float *)block + i, single = (float)value;
                    different += memcmp(at, &single, sizeof single) != 0;
                    if (set) *at = single;
                } else {
                    double *at = (double *)block + i;
                    different += memcmp(at, &value, sizeof value) != 0;
                    if (set) *at = value;
                }
            }
        }
    }
    return different;
}

/* The state after `iteration` steps, and what the manifest says of it. */
static inline void made_fill(made_state *m, int64_t iteration)
{
    made_walk(m, iteration, true);
    m->state.adam_step = iteration + 7;
    snprintf(m->config, sizeof m->config, "train:\n  seed: 1\n");
    m->info.iteration = iteration;
    m->info.adam_step = m->state.adam_step;
    m->info.samples   = 64 * iteration;
    m->info.bad_steps = iteration % 3;
}

static inline dinov_run_saving made_saving(const made_state *m)
{
    return (dinov_run_saving){
        .model = &m->model, .preprocess = &m->preprocess, .info = &m->info, .keep_last = 3, .parts = 2, .threads = 1};
}

/* Loads a checkpoint and says whether it is exactly the state of the step it names. */
static inline bool made_is(made_state *m, const dinov_training *t, dinov_error *err)
{
    const dinov_manifest *manifest = dinov_training_manifest(t);
    made_walk(m, -1, true);
    m->state.adam_step = -1;
    return dinov_run_load(t, &m->state, err) == DINOV_OK && made_walk(m, manifest->iteration, false) == 0 &&
           m->state.adam_step == manifest->iteration + 7 && manifest->adam_step == manifest->iteration + 7 &&
           manifest->samples == 64 * manifest->iteration && manifest->bad_steps == manifest->iteration % 3;
}

#endif
