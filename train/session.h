/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run has around the method: its data, its folder, what it tells people. pretrain.c and
 * distill.c are loops over these calls; dinov_trainer_step is the method.
 */
#ifndef DINOV_TRAIN_SESSION_H
#define DINOV_TRAIN_SESSION_H

#include "train/data/loader.h"
#include "train/run.h"

#include <stdatomic.h>

/* Where a run stands, told after every step. */
typedef struct dinov_train_progress {
    int64_t                  iteration, total; /* steps done, of the whole run */
    const dinov_step_result *result;
    double                   seconds, images_per_s; /* since this process began; over the last steps */
    double                   left_s;                /* to the end of the run at that rate */
    double                   waited;                /* share of the time spent waiting for data */
    int64_t                  bad_pictures;
    double                   knn; /* the last 20-NN accuracy, a part of 1; negative: none yet */
} dinov_train_progress;

typedef struct dinov_train_options {
    const dinov_config  *config;
    const char          *output; /* the run's folder */
    const char *const   *data;   /* folders, lists (by @FILE), pictures, tar shards */
    int64_t              data_count;
    const dinov_weights *init;       /* a backbone to start from; NULL: fresh */
    const char          *fork;       /* "RUN@STEP" to start a new run from; NULL */
    const char          *teacher;    /* distillation: RUN, RUN@STEP or a step's folder; NULL */
    int                  threads;    /* 0: all cores */
    const char          *isa;        /* NULL: the best */
    const atomic_int    *stop;       /* set by a signal handler: finish the step, commit, end */
    int64_t              stop_after; /* end after this iteration as by a signal; 0: not */

    /* Called on the calling thread; NULL allowed. */
    void (*progress)(void *arg, const dinov_train_progress *progress);
    void (*note)(void *arg, const char *sentence); /* what a person should know */
    void *arg;
} dinov_train_options;

typedef struct dinov_session dinov_session;

/* Opens everything; an unfinished run in `output` goes on where it stood. ERR_CONFIG: CFG-CHANGED (with the difference), CFG-DATA;
 * ERR_UNSUPPORTED RUN-ISA; otherwise as the layers below. */
dinov_status dinov_session_open(dinov_session **out, const dinov_train_options *options, dinov_error *err);
/* Commits what is under way, and frees. */
dinov_status dinov_session_close(dinov_session **session, dinov_error *err);

/* Whether another step is to be done. */
bool           dinov_session_goes_on(const dinov_session *session);
int64_t        dinov_session_iteration(const dinov_session *session);
dinov_trainer *dinov_session_trainer(dinov_session *session);
dinov_rates    dinov_session_rates(const dinov_session *session);
/* The crops of this step, [config.train.accumulation], valid until dinov_session_done. */
dinov_status dinov_session_crops(dinov_session *session, const dinov_views **micro, dinov_error *err);
/* Ends the step: records it, and saves when it is time. ERR_LIMIT (TRAIN-BAD) when too many steps in a row were not finite. */
dinov_status dinov_session_done(dinov_session *session, const dinov_step_result *result, dinov_error *err);

/* True when the run ended because of `stop` or `stop_after`. */
bool dinov_session_stopped(const dinov_session *session);

/* What a run would be, without beginning it. */
typedef struct dinov_train_plan {
    dinov_model model;
    int64_t     pictures, steps, images_per_step, parameters; /* of data; of the run; of a step; of the student with its heads */
    double      lr;                                           /* after warm-up */
    size_t      bytes;                                        /* of memory for state and activations, without cached pictures */
} dinov_train_plan;

/* Also writes the first batch's crops and masks to the PNG file `preview` (replaced if there). */
dinov_status dinov_session_plan(dinov_train_plan *out, const dinov_train_options *options, const char *preview, dinov_error *err);

/* ---- The two programs, each on one page ---- */

/* *stopped: the run is not finished, everything done is committed. */
dinov_status dinov_pretrain(const dinov_train_options *options, bool *stopped, dinov_error *err);
dinov_status dinov_distill(const dinov_train_options *options, bool *stopped, dinov_error *err);

#endif
