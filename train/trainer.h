/* SPDX-License-Identifier: Apache-2.0
 *
 * A training state and the step that moves it: the method of DINOv2 (dinov2/train/ssl_meta_arch.py,
 * and train.py's loop body). A step is a transaction: losses and gradients are computed first, and
 * only when all of them are finite do weights, moments, centres and averages change.
 *
 * Pretraining: the teacher is the average of the student. Distillation: the teacher is another model,
 * frozen with its heads; the student sees no mask and no stochastic depth; the average is the result.
 *
 * One trainer is used by one thread at a time; the work inside runs on the pool.
 */
#ifndef DINOV_TRAIN_TRAINER_H
#define DINOV_TRAIN_TRAINER_H

#include "model/backbone.h"
#include "train/comm.h"
#include "train/optim.h"

/* One micro-batch of crops, in upstream's order: all first global crops, then all second ones. */
typedef struct dinov_views {
    int64_t        images;       /* B */
    const float   *global;       /* [2B, 3, S, S], normalised */
    const float   *local;        /* [local_crops_number * B, 3, s, s] */
    const uint8_t *masks;        /* [2B, N] */
    const int32_t *mask_indices; /* [masked], indices into [2B * N], ascending */
    int64_t        masked;
} dinov_views;

/* What two losses work on. */
typedef enum dinov_term_kind { DINOV_TERM_DINO = 0, DINOV_TERM_IBOT = 1, DINOV_TERMS = 2 } dinov_term_kind;

/* What a step did, as upstream logs it. */
typedef struct dinov_step_result {
    double  dino_local_crops_loss, dino_global_crops_loss, koleo_loss, ibot_loss, total_loss;
    double  grad_norm[DINOV_MAX_MODULES]; /* by module of the parameter set, before clipping */
    double  teacher_entropy[DINOV_TERMS]; /* nats, mean over targets */
    double  kl[DINOV_TERMS];              /* cross-entropy less entropy, mean over (student, target) pairs */
    double  cls_norm, patch_norm;         /* mean length of the student's tokens before the final norm */
    int64_t duplicates;                   /* images of a view whose nearest neighbour is a copy */
    bool    finite;                       /* false: nothing has changed */
    char    why[64];                      /* what was not finite */
} dinov_step_result;

/* A teacher that is not the student's average. Heads as in its own training. */
typedef struct dinov_teacher {
    dinov_model     model;
    dinov_head_dims head[DINOV_TERMS];
    bool            separate_head;
} dinov_teacher;

/* The dims of a head for tokens of width `in`. */
dinov_head_dims dinov_config_head(const dinov_head_config *config, int64_t in);

typedef struct dinov_trainer dinov_trainer;

typedef struct dinov_trainer_options {
    const dinov_config  *config;
    const dinov_model   *model;   /* the student: of dinov_config_model, or of the weights that training starts from */
    const dinov_teacher *teacher; /* NULL: pretraining */
    const dinov_ops     *ops;
    dinov_pool          *pool;
    const dinov_comm    *comm;          /* NULL: a group of one */
    size_t               logits_budget; /* bytes of prototype logits kept at a time (0: 16 MiB); changes roundings, not results */
} dinov_trainer_options;

/* Everything is allocated here, parameters start as upstream's (seed of the configuration), the average equals the student.
 * `options` is copied, what it points to (but the configuration) is kept. ERR_CONFIG, ERR_NOMEM. */
dinov_status dinov_trainer_new(dinov_trainer **out, const dinov_trainer_options *options, dinov_error *err);
void         dinov_trainer_free(dinov_trainer **trainer);
/* Bytes that such a trainer takes, and numbers in the student with its heads. */
dinov_status dinov_trainer_memory(size_t *bytes, int64_t *parameters, const dinov_trainer_options *options, dinov_error *err);

/* One step over config.train.accumulation micro-batches. drop: stochastic depth of a single micro-batch, for comparison with
 * other implementations; NULL draws it from (seed, iteration). A step that is not finite is OK and says so in the result. */
dinov_status dinov_trainer_step(dinov_trainer *trainer, int64_t iteration, const dinov_views *micro, const dinov_rates *rates,
                                const dinov_drop_plan *drop, dinov_step_result *result, dinov_error *err);

/* ---- The state, for checkpoints and tests ---- */

/* Blocks of `real` under one parameter set; all of them and the centres are what a step reads and writes. */
typedef struct dinov_train_state {
    const dinov_paramset *set;
    size_t                real_size;
    void                 *student, *average, *m, *v, *grads; /* grads: of the last step, before clipping */
    void                 *center[DINOV_TERMS];               /* [K], or NULL where the run has none */
    int64_t               prototypes[DINOV_TERMS];
    const dinov_paramset *teacher_set; /* distillation: the frozen teacher */
    void                 *teacher;
    int64_t               adam_step; /* optimiser steps taken */
} dinov_train_state;

dinov_train_state *dinov_trainer_state(dinov_trainer *trainer);
const dinov_model *dinov_trainer_model(const dinov_trainer *trainer);
/* Effective rank of the student's cls tokens of global crops in the last step, of at most 64 of them; 0 without a DINO loss. */
double dinov_trainer_feature_rank(const dinov_trainer *trainer);
/* After parameters were loaded: the average (in pretraining, the teacher) becomes the student. */
void dinov_trainer_reset_average(dinov_trainer *trainer);

#endif
