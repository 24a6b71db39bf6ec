/* SPDX-License-Identifier: Apache-2.0 */
#include "train/schedule.h"

#include <math.h>

#define PI 3.14159265358979323846

/* Operations in upstream's order, so that values are upstream's to the last bit of the cosine. */
double dinov_cosine_at(const dinov_cosine *s, int64_t iteration)
{
    if (iteration >= s->total) return s->final;
    if (iteration < s->freeze) return 0;
    int64_t i = iteration - s->freeze;
    if (i >= s->warmup) {
        double angle = PI * (double)(i - s->warmup) / (double)(s->total - s->warmup - s->freeze);
        return s->final + 0.5 * (s->base - s->final) * (1 + cos(angle));
    }
    /* numpy.linspace: the last value is the end itself, and a single one is the start. */
    if (s->warmup == 1) return s->start;
    if (i == s->warmup - 1) return s->base;
    return (double)i * ((s->base - s->start) / (double)(s->warmup - 1)) + s->start;
}

int64_t dinov_schedule_iterations(const dinov_config *c) { return c->optim.epochs * c->train.OFFICIAL_EPOCH_LENGTH; }

double dinov_schedule_lr(const dinov_config *c, int ranks)
{
    double images = (double)c->train.batch_size_per_gpu * (double)c->train.accumulation * ranks;
    return c->optim.base_lr * sqrt(images / 1024);
}

dinov_rates dinov_schedule_rates(const dinov_config *c, int ranks, int64_t iteration)
{
    int64_t      epoch = c->train.OFFICIAL_EPOCH_LENGTH, total = dinov_schedule_iterations(c);
    int64_t      warm = c->teacher.warmup_teacher_temp_epochs * epoch;
    dinov_cosine lr   = {
          .base = dinov_schedule_lr(c, ranks), .final = c->optim.min_lr, .total = total, .warmup = c->optim.warmup_epochs * epoch};
    dinov_cosine decay       = {.base = c->optim.weight_decay, .final = c->optim.weight_decay_end, .total = total};
    dinov_cosine momentum    = {.base = c->teacher.momentum_teacher, .final = c->teacher.final_momentum_teacher, .total = total};
    dinov_cosine temperature = {.base   = c->teacher.teacher_temp,
                                .final  = c->teacher.teacher_temp,
                                .start  = c->teacher.warmup_teacher_temp,
                                .total  = warm,
                                .warmup = warm};
    dinov_rates  rates       = {
               .lr           = dinov_cosine_at(&lr, iteration),
               .weight_decay = dinov_cosine_at(&decay, iteration),
               .momentum     = dinov_cosine_at(&momentum, iteration),
               .teacher_temp = dinov_cosine_at(&temperature, iteration),
    };
    /* Upstream writes zeros over the beginning of this one; a freeze before it would delay the rest. */
    bool frozen         = iteration < total && iteration < c->optim.freeze_last_layer_epochs * epoch;
    rates.last_layer_lr = frozen ? 0 : rates.lr;
    return rates;
}
