/* SPDX-License-Identifier: Apache-2.0
 *
 * A labelled set of features out of what people have: the output folder of dinov-infer, an .npy of
 * anybody's features, or pictures and a model.
 */
#ifndef DINOV_EVAL_SET_H
#define DINOV_EVAL_SET_H

#include "base/file.h"
#include "dinov/infer.h"
#include "eval/classes.h"
#include "eval/labelled.h"
#include "image/source.h"

#include <stdbool.h>

typedef struct dinov_set {
    dinov_labelled view; /* labels once dinov_set_match has seen it */
    dinov_classes  classes;
    char          *made;                                  /* how a run's features were made, as text; NULL: unknown */
    void          *memory[DINOV_LABELLED_BLOCKS + 1];     /* arrays of our own, */
    dinov_map      map[DINOV_LABELLED_BLOCKS + 1];        /* and files in use */
} dinov_set; /* starts as {0} */

/* NULL labels: the last folder of each picture's path. `all`: also the CLS vectors of three more blocks and the mean
 * patch tokens, as far as the run has them; otherwise those of the last block alone. `name` is kept.
 * ERR_FORMAT (EVAL-FEATURES) and what dinov_index_open, .npy files and classes.h refuse. */
dinov_status dinov_set_open_run(dinov_set *out, const char *name, const char *folder, const char *labels, bool all, dinov_error *err);

/* float16, float32 or float64 [N, D]; taken as the CLS vectors of the last block. */
dinov_status dinov_set_open_array(dinov_set *out, const char *name, const char *path, const char *labels, dinov_error *err);

typedef struct dinov_set_options {
    dinov_preset preset;
    int64_t      batch, max_tokens;
    int          threads;
    bool         all;     /* as in dinov_set_open_run */
    double       max_bad; /* this many bad pictures are allowed, */
    bool         percent; /* or this part of a hundred */
    /* On the calling thread; NULL allowed. */
    void (*progress)(void *arg, int64_t done, int64_t total, double seconds);
    void (*bad)(void *arg, const dinov_error *why);
    void *arg;
} dinov_set_options;

/* Features of the labelled pictures of `source`, which was opened with label_folders. A bad picture has no row.
 * ERR_SHAPE (EVAL-UNLABELLED, EVAL-CLASS, RUN-CHANNELS), ERR_LIMIT (EVAL-MAX-BAD), and those of the layers below. */
dinov_status dinov_set_extract(dinov_set *out, const char *name, dinov_engine *engine, const dinov_source *source,
                               const dinov_set_options *options, dinov_error *err);

/* Gives `test` the numbers of `train`'s classes, and both views their labels. ERR_SHAPE EVAL-CLASS; ERR_CONFIG EVAL-RUNS:
 * runs that were made with different models or settings. */
dinov_status dinov_set_match(dinov_set *test, dinov_set *train, dinov_error *err);

void dinov_set_close(dinov_set *set);

#endif
