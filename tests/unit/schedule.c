/* SPDX-License-Identifier: Apache-2.0
 *
 * Schedules against values that upstream's CosineScheduler gives (dinov2/utils/utils.py at b8931f7, build_schedulers with
 * ssl_default_config.yaml and train/vitl16_short.yaml's 32 x 64 images).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "train/schedule.h"

static void near(double have, double want) { assert_true(fabs(have - want) <= 1e-15 + 4e-16 * fabs(want)); }

static void the_short_recipe_has_upstreams_values(void **state)
{
    (void)state;
    dinov_config c             = {0};
    c.train.batch_size_per_gpu = 64, c.train.accumulation = 1, c.train.OFFICIAL_EPOCH_LENGTH = 1250;
    c.optim.epochs = 100, c.optim.warmup_epochs = 10, c.optim.freeze_last_layer_epochs = 1;
    c.optim.base_lr = 0.004, c.optim.min_lr = 1e-6, c.optim.weight_decay = 0.04, c.optim.weight_decay_end = 0.4;
    c.teacher.momentum_teacher = 0.992, c.teacher.final_momentum_teacher = 1;
    c.teacher.warmup_teacher_temp = 0.04, c.teacher.teacher_temp = 0.07, c.teacher.warmup_teacher_temp_epochs = 30;
    assert_int_equal(dinov_schedule_iterations(&c), 125000);
    static const struct {
        int64_t     iteration;
        dinov_rates want;
    } rows[] = {
#include "tests/unit/schedule_values.h"
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        dinov_rates r = dinov_schedule_rates(&c, 32, rows[i].iteration);
        near(r.lr, rows[i].want.lr), near(r.last_layer_lr, rows[i].want.last_layer_lr);
        near(r.weight_decay, rows[i].want.weight_decay), near(r.momentum, rows[i].want.momentum);
        near(r.teacher_temp, rows[i].want.teacher_temp);
    }
}

static void ends_and_single_steps(void **state)
{
    (void)state;
    dinov_cosine one = {.base = 2, .final = 1, .start = 0.5, .total = 3, .warmup = 1}, none = {.base = 2, .final = 1, .total = 0};
    assert_true(dinov_cosine_at(&one, 0) == 0.5 && dinov_cosine_at(&one, 1) == 2 && dinov_cosine_at(&one, 3) == 1);
    assert_true(dinov_cosine_at(&none, 0) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_short_recipe_has_upstreams_values),
                                       cmocka_unit_test(ends_and_single_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
