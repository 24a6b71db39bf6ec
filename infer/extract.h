/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-infer's work: pictures in, feature files out. Pictures are decoded and prepared by all
 * threads a window at a time, run through the engine in batches of equal size, and their features
 * written in input order as each window finishes, so that memory does not grow with their number.
 * What an engine on GPUs can do itself, resizing and normalising, is left to it: to the same bits.
 */
#ifndef DINOV_INFER_EXTRACT_H
#define DINOV_INFER_EXTRACT_H

#include "dinov/image.h"
#include "dinov/infer.h"
#include "image/source.h"
#include "infer/index.h"

#include <stdatomic.h>

enum { DINOV_MAX_LAYERS = 64 };

typedef struct dinov_extract_progress {
    int64_t done, total, bad;
    double  seconds, decode, model, write; /* since the start; of it: all threads prepared, the model (or all GPUs) worked, one wrote */
} dinov_extract_progress;

typedef struct dinov_extract_options {
    const char       *out;        /* the output folder */
    const char       *model_id;   /* content id of the weights */
    const char       *model_file; /* as the user gave it, for run.json */
    bool              cls, mean, patch, reg;
    int               layer_count;              /* at least 1 */
    int               layers[DINOV_MAX_LAYERS]; /* as dinov_features: -1 is the last */
    bool              no_norm, f16, dump_input, overwrite;
    bool              nvjpeg; /* JPEGs by the device, whose pixels differ a little; what it cannot decode by the CPU */
    dinov_preset      preset; /* not used for .npy input */
    int64_t           batch;      /* 0: what suits the engine */
    int64_t           max_tokens; /* at least 1: an input of more patch tokens is too large */
    int               threads;    /* 0: all cores */
    double            max_bad;    /* this many bad inputs are allowed, */
    bool              percent;    /* or this part of a hundred */
    const atomic_int *stop;       /* set by a signal handler: end soon, leave nothing */

    /* Called on the calling thread; NULL allowed. */
    void (*progress)(void *arg, const dinov_extract_progress *progress);
    void (*bad)(void *arg, const char *key, dinov_input_status status, const dinov_error *why);
    void *arg;
} dinov_extract_options;

typedef struct dinov_extract_report {
    int64_t count[DINOV_INPUT_STATUSES];
    int64_t total, by_device; /* of them decoded by nvJPEG */
    bool    already;          /* the folder held this very run, finished */
} dinov_extract_report;

/*
 * Pictures of `source`, or the rows of `array`, the path of an .npy file of float32 [N, channels, H, W], already normalised; the
 * other is NULL. Damage in a source's shards counts as a bad input a place. ERR_LIMIT RUN-MAX-BAD: too many bad inputs, all else
 * done and kept; RUN-ALL-BAD: the first 1,000 all bad, nothing kept; RUN-STOPPED: nothing kept; RUN-TOKENS: every input would have
 * too many tokens, nothing begun. ERR_CONFIG for options that do not fit the model. Otherwise as the layers below.
 */
dinov_status dinov_extract(dinov_engine *engine, const dinov_source *source, const char *array,
                           const dinov_extract_options *options, dinov_extract_report *report, dinov_error *err);

#endif
