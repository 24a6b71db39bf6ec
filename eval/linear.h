/* SPDX-License-Identifier: Apache-2.0
 *
 * The linear probe of the official code (dinov2/eval/linear.py) on features computed once: a classifier
 * for the last block or the last four, with and without the mean patch token, at every learning rate,
 * all trained together by SGD with momentum 0.9 and a cosine to 0. Upstream draws a new random crop of
 * each training picture every time and so needs the model in the loop; here a picture has one feature.
 *
 * Results are the same bits for any number of threads. A table of CPU operations is expected.
 */
#ifndef DINOV_EVAL_LINEAR_H
#define DINOV_EVAL_LINEAR_H

#include "eval/labelled.h"

enum { DINOV_PROBE_RATES = 64, DINOV_PROBE_NAME = 80 };

typedef struct dinov_probe dinov_probe;

/* All zero means what the official code does by default. */
typedef struct dinov_probe_options {
    double   rates[DINOV_PROBE_RATES]; /* each is used times batch / 256; default 1e-5 2e-5 5e-5 ... 5e-2 0.1 */
    int      rate_count;
    int64_t  batch, iterations; /* default 128, 12500 */
    uint64_t seed;              /* of initial weights and of the order of samples: (seed, DINOV_RNG_PROBE) */
} dinov_probe_options;

/* One classifier. As the set has it: 1 block; with cls[1] to [3] also 4; with `mean` each also with it. */
typedef struct dinov_probe_classifier {
    char   name[DINOV_PROBE_NAME]; /* "classifier_1_blocks_avgpool_False_lr_0_00005", as upstream names it; a rate that would get
                                      the name of a larger one (upstream then drops it) has more decimals */
    int    blocks, avgpool;
    double rate; /* as used */
} dinov_probe_classifier;

/* Parts of 1; a tie goes to the lower class, and a class that is not a number is wrong. */
typedef struct dinov_probe_score {
    double top1, top5;
} dinov_probe_score;

/* Takes the kinds of features from `train`, which is used until free and has passed dinov_labelled_check.
 * Weights are drawn from N(0, 0.01), biases 0. ERR_CONFIG (EVAL-RATE), ERR_NOMEM. */
dinov_status dinov_probe_new(dinov_probe **out, const dinov_labelled *train, int64_t classes, const dinov_probe_options *options,
                             const dinov_ops *ops, dinov_pool *pool, dinov_error *err);
void         dinov_probe_free(dinov_probe **probe);

/* In upstream's order: blocks, then avgpool, then the rate. */
int                           dinov_probe_count(const dinov_probe *probe);
const dinov_probe_classifier *dinov_probe_get(const dinov_probe *probe, int classifier);

/* weight [classes, inputs] and bias [classes] of one classifier, which may be changed; returns inputs: CLS vectors from
 * shallow to deep, then the mean. */
int64_t dinov_probe_weights(dinov_probe *probe, int classifier, float **weight, float **bias);

/* Iterations done so far, of how many. */
int64_t dinov_probe_done(const dinov_probe *probe);
int64_t dinov_probe_total(const dinov_probe *probe);

/* The next iteration, on these rows [batch] of the training set. */
void dinov_probe_step(dinov_probe *probe, const int32_t *rows);

/* The next `iterations` (fewer at the end), on rows in a new random order for each pass over the set. */
void dinov_probe_train(dinov_probe *probe, int64_t iterations);

/* scores [dinov_probe_count] on a set with the same kinds of features. */
dinov_status dinov_probe_evaluate(dinov_probe *probe, const dinov_labelled *test, dinov_probe_score *scores, dinov_error *err);

/* The first classifier of the highest top1. */
int dinov_probe_best(const dinov_probe *probe, const dinov_probe_score *scores);

#endif
