/* SPDX-License-Identifier: Apache-2.0
 *
 * What changes over a run: learning rate, weight decay, momentum of the average, teacher temperature
 * (dinov2/utils/utils.py CosineScheduler; dinov2/train/train.py build_schedulers). Every value is a function
 * of the iteration, so nothing is stored.
 */
#ifndef DINOV_TRAIN_SCHEDULE_H
#define DINOV_TRAIN_SCHEDULE_H

#include "train/config.h"

/* 0 for `freeze` iterations, from `start` to `base` in `warmup` more, both ends included, then by a half cosine to `final` at
 * `total`, and `final` from there on. freeze + warmup <= total. */
typedef struct dinov_cosine {
    double  base, final, start;
    int64_t total, warmup, freeze;
} dinov_cosine;

double dinov_cosine_at(const dinov_cosine *schedule, int64_t iteration);

/* One step's values. */
typedef struct dinov_rates {
    double lr, last_layer_lr, weight_decay, momentum, teacher_temp;
} dinov_rates;

/* optim.epochs * train.OFFICIAL_EPOCH_LENGTH */
int64_t dinov_schedule_iterations(const dinov_config *config);
/* The learning rate after upstream's rule: base_lr * sqrt(images of a step over all ranks / 1024). */
double dinov_schedule_lr(const dinov_config *config, int ranks);
/* Of one iteration, counted from 0. `ranks` as in dinov_schedule_lr. */
dinov_rates dinov_schedule_rates(const dinov_config *config, int ranks, int64_t iteration);

#endif
