/* SPDX-License-Identifier: Apache-2.0
 *
 * Schedules against values that the official code gives: its build_schedulers on its own configuration files, and its
 * CosineScheduler by itself.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "train/schedule.h"

#include "tests/unit/schedule_values.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* Equal but for the last bit of a cosine, which moves a value by half an ulp of its schedule's span. */
static void near(const char *what, int64_t iteration, double have, double want, double span)
{
    if (!(fabs(have - want) <= 1.2e-16 * span))
        fail_msg("%s, iteration %lld: %.17g, expected %.17g", what, (long long)iteration, have, want);
}

static dinov_config config_of(const struct recipe *recipe)
{
    dinov_config c;
    dinov_error  err;
    dinov_config_default(&c);
    for (size_t k = 0; k < COUNT(recipe->keys); k++)
        if (dinov_config_set(&c, recipe->keys[k], NULL, NULL, &err) != DINOV_OK) fail_msg("%s", err.msg);
    return c;
}

static void recipes_have_upstreams_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct recipe *recipe = &recipes[rows[i].recipe];
        dinov_config         c      = config_of(recipe);
        dinov_rates          want = rows[i].want, r = dinov_schedule_rates(&c, recipe->ranks, rows[i].iteration);
        double               lr = dinov_schedule_lr(&c, recipe->ranks);
        near(recipe->name, rows[i].iteration, r.lr, want.lr, lr);
        near(recipe->name, rows[i].iteration, r.last_layer_lr, want.last_layer_lr, lr);
        near(recipe->name, rows[i].iteration, r.weight_decay, want.weight_decay,
             fmax(c.optim.weight_decay, c.optim.weight_decay_end));
        near(recipe->name, rows[i].iteration, r.momentum, want.momentum, 1);
        near(recipe->name, rows[i].iteration, r.teacher_temp, want.teacher_temp, c.teacher.teacher_temp);
    }
}

static void the_scheduler_is_upstreams(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(points); i++)
        near("CosineScheduler", points[i].iteration, dinov_cosine_at(&points[i].schedule, points[i].iteration), points[i].want,
             fmax(points[i].schedule.base, points[i].schedule.final));
}

/* What the method's description says of the short recipe, in its digits. */
static void the_short_recipe_in_print(void **state)
{
    (void)state;
    static const struct {
        int64_t iteration;
        double  lr;
    } said[]       = {{0, 0}, {1, 4.525846e-7}, {12499, 5.656854e-3}, {12500, 5.656854e-3}, {62500, 3.319992e-3}, {125000, 1e-6}};
    dinov_config c = config_of(&recipes[0]);
    assert_int_equal(dinov_schedule_iterations(&c), 125000);
    for (size_t i = 0; i < COUNT(said); i++)
        assert_true(fabs(dinov_schedule_rates(&c, 32, said[i].iteration).lr - said[i].lr) <= 5e-7 * said[i].lr);
    assert_true(fabs(dinov_schedule_lr(&c, 32) - 5.65685e-3) < 5e-9);
    c = config_of(&recipes[1]);
    assert_true(fabs(dinov_schedule_lr(&c, 256) - 3.46410e-4) < 5e-10);
    assert_int_equal(dinov_schedule_iterations(&c), 625000);
}

/* Micro-batches count as ranks do. */
static void the_rate_follows_the_images_of_a_step(void **state)
{
    (void)state;
    dinov_config a = config_of(&recipes[0]), b = a;
    b.train.accumulation = 32;
    assert_true(dinov_schedule_lr(&a, 32) == dinov_schedule_lr(&b, 1));
    b.train.batch_size_per_gpu = 1 << 20, b.train.accumulation = 1 << 16;
    assert_true(dinov_schedule_lr(&b, 2147483647) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipes_have_upstreams_values),
        cmocka_unit_test(the_scheduler_is_upstreams),
        cmocka_unit_test(the_short_recipe_in_print),
        cmocka_unit_test(the_rate_follows_the_images_of_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
