/* SPDX-License-Identifier: Apache-2.0 */
#include "train/schedule.h"

#include <math.h>

double dinov_cosine_at(const dinov_cosine *s, int64_t iteration)
{
    if (iteration >= s->total) return s->final;
    if (iteration >= s->warmup) {
        double part = (double)(iteration - s->warmup) / (double)(s->total - s->warmup);
        return s->final + 0.5 * (s->base - s->final) * (1 + cos(3.14159265358979323846 * part));
    }
    /* numpy.linspace: the last value is the end itself, and a single one is the start. */
    if (s->warmup == 1) return s->start;
    if (iteration == s->warmup - 1) return s->base;
    return s->start + (double)iteration * ((s->base - s->start) / (double)(s->warmup - 1));
}

int64_t dinov_schedule_iterations(const dinov_config *c) { return c->optim.epochs * c->train.OFFICIAL_EPOCH_LENGTH; }

double dinov_schedule_lr(const dinov_config *c, int ranks)
{
    return c->optim.base_lr * sqrt((double)(c->train.batch_size_per_gpu * c->train.accumulation * ranks) / 1024);
}

dinov_rates dinov_schedule_rates(const dinov_config *c, int ranks, int64_t iteration)
{
    int64_t      epoch = c->train.OFFICIAL_EPOCH_LENGTH, total = dinov_schedule_iterations(c);
    int64_t      warm        = c->teacher.warmup_teacher_temp_epochs * epoch;
    dinov_cosine lr          = {dinov_schedule_lr(c, ranks), c->optim.min_lr, 0, total, c->optim.warmup_epochs * epoch};
    dinov_cosine decay       = {c->optim.weight_decay, c->optim.weight_decay_end, 0, total, 0};
    dinov_cosine momentum    = {c->teacher.momentum_teacher, c->teacher.final_momentum_teacher, 0, total, 0};
    dinov_cosine temperature = {c->teacher.teacher_temp, c->teacher.teacher_temp, c->teacher.warmup_teacher_temp, warm, warm};
    dinov_rates  rates       = {
               .lr           = dinov_cosine_at(&lr, iteration),
               .weight_decay = dinov_cosine_at(&decay, iteration),
               .momentum     = dinov_cosine_at(&momentum, iteration),
               .teacher_temp = dinov_cosine_at(&temperature, iteration),
    };
    rates.last_layer_lr = iteration < c->optim.freeze_last_layer_epochs * epoch ? 0 : rates.lr;
    return rates;
}
