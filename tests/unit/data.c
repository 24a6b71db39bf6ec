/* SPDX-License-Identifier: Apache-2.0
 *
 * The data of training: configurations, draws at the edges, masks. Agreement with torchvision and
 * upstream is tested in tests/train.
 */
#include "base/alloc.h"
#include "train/data/augment.h"
#include "train/data/mask.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- Augmentation ---- */

static void refused(const dinov_augment_config *c, const char *part)
{
    dinov_error err = {0};
    assert_int_equal(dinov_augment_check(c, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "DATA-CONFIG");
    if (!strstr(err.msg, part)) fail_msg("%s", err.msg);
}

static void configurations_out_of_range(void **state)
{
    (void)state;
    dinov_augment_config d, c;
    dinov_augment_defaults(&d, true);
    assert_true(d.blur_p[0] == 1.0 && d.blur_p[1] == 0.1 && d.blur_p[2] == 0.5);
    dinov_augment_defaults(&d, false);
    assert_true(d.blur_p[0] == 0.0 && d.blur_p[1] == 0.9 && d.blur_p[2] == 0.5);
    assert_int_equal(dinov_augment_check(&d, NULL), DINOV_OK);
    c = d, c.global_crops_scale[0] = 0, refused(&c, "crops.global_crops_scale");
    c = d, c.local_crops_scale[1] = 0.01, refused(&c, "crops.local_crops_scale");
    c = d, c.local_crops_scale[1] = NAN, refused(&c, "crops.local_crops_scale");
    c = d, c.local_crops_number = -1, refused(&c, "crops.local_crops_number");
    c = d, c.local_crops_size = 4, refused(&c, "crops.local_crops_size");
    c = d, c.global_crops_size = 5000, refused(&c, "crops.global_crops_size");
    c = d, c.hue = 0.6, refused(&c, "hue");
    c = d, c.blur_p[2] = 1.5, refused(&c, "blur");

    dinov_mask_config m;
    dinov_error       err = {0};
    dinov_mask_defaults(&m, 518, 14);
    assert_true(m.max_num_patches == 666 && m.height == 37 && m.width == 37);
    assert_int_equal(dinov_mask_check(&m, 2, NULL), DINOV_OK);
    assert_int_equal(dinov_mask_check(&m, (int64_t)1 << 40, &err), DINOV_ERR_CONFIG);
    m.mask_ratio_min_max[1] = 0.05;
    assert_int_equal(dinov_mask_check(&m, 2, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "DATA-CONFIG");
}

/* Whatever the shape of the picture, the box lies in it and its result is a crop. */
static void boxes_lie_inside(void **state)
{
    (void)state;
    static const int64_t sides[][2] = {{1, 1}, {1, 4000}, {4000, 1}, {2, 3}, {5, 5}, {300, 100}, {33, 1000}};
    dinov_augment_config config;
    dinov_crop_scratch   scratch = {0};
    dinov_augment_defaults(&config, false);
    config.global_crops_size = 16, config.local_crops_size = 5;
    float *out = dinov_alloc(3 * 16 * 16, sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++) {
        dinov_image image = {.width = sides[i][0], .height = sides[i][1], .orientation = 1};
        image.pixels      = dinov_calloc((size_t)(image.width * image.height), 3);
        assert_non_null(image.pixels);
        memset(image.pixels, 77, 3 * (size_t)(image.width * image.height));
        for (uint64_t k = 0; k < 60; k++) {
            dinov_crop crop;
            dinov_rng  rng = dinov_rng_make(1, DINOV_RNG_AUGMENT, k, i);
            dinov_crop_draw(&crop, &rng, &config, (dinov_crop_kind)(k % 3), image.width, image.height);
            assert_true(crop.x >= 0 && crop.y >= 0 && crop.width >= 1 && crop.height >= 1);
            assert_true(crop.x + crop.width <= image.width && crop.y + crop.height <= image.height);
            assert_int_equal(dinov_crop_apply(out, &crop, &image, &scratch, NULL), DINOV_OK);
            for (int64_t p = 1; p < crop.size * crop.size; p++) assert_true(out[p] == out[0]); /* one colour stays one colour */
            if (crop.jitter || crop.solarize) continue;
            assert_true(fabsf(out[0] - (77 / 255.0f - 0.485f) / 0.229f) < 1e-6f);
        }
        dinov_image_clear(&image);
    }
    dinov_free(out);
    dinov_crop_scratch_clear(&scratch);
}

static void memory_runs_out_in_a_crop(void **state)
{
    (void)state;
    uint8_t     pixels[3 * 20 * 10];
    dinov_image image = {.pixels = pixels, .width = 20, .height = 10, .orientation = 1};
    dinov_crop  crop  = {.size = 7, .x = 1, .y = 1, .width = 19, .height = 9, .sigma = 1};
    uint8_t     out[3 * 7 * 7];
    memset(pixels, 9, sizeof pixels);
    for (long n = 1;; n++) {
        dinov_crop_scratch scratch = {0};
        dinov_alloc_fail_at(n, 0);
        dinov_status status = dinov_crop_apply_bytes(out, &crop, &image, &scratch, NULL);
        dinov_alloc_fail_at(0, 0);
        dinov_crop_scratch_clear(&scratch);
        if (status == DINOV_OK) break;
        assert_int_equal(status, DINOV_ERR_NOMEM);
        assert_true(n < 100);
    }
}

/* ---- Masks ---- */

static void masks_at_the_edges(void **state)
{
    (void)state;
    uint8_t           mask[37 * 37];
    dinov_mask_config c;
    for (int64_t grid = 1; grid <= 37; grid++) {
        dinov_mask_defaults(&c, 14 * grid, 14);
        for (int64_t target = 0; target <= grid * grid; target += 1 + grid / 2) {
            dinov_rng rng   = dinov_rng_make(3, DINOV_RNG_MASK, (uint64_t)grid, (uint64_t)target);
            int64_t   count = dinov_mask_draw(mask, &rng, &c, target), ones = 0;
            for (int64_t i = 0; i < grid * grid; i++) ones += mask[i];
            assert_int_equal(count, ones);
            assert_true(count <= target);
        }
    }
}

static void schedule_of_a_batch(void **state)
{
    (void)state;
    enum { CROPS = 6, PATCHES = 64 };
    uint8_t           masks[CROPS * PATCHES];
    int32_t           indices[CROPS * PATCHES], order[CROPS];
    float             weights[CROPS * PATCHES];
    dinov_masks       m = {.masks = masks, .mask_indices = indices, .masks_weight = weights};
    dinov_mask_config c;
    dinov_mask_defaults(&c, 64, 8);
    for (uint64_t step = 0; step < 100; step++) {
        dinov_rng rng = dinov_rng_make(5, DINOV_RNG_MASK, step, 0);
        dinov_masks_draw(&m, &rng, &c, CROPS, order);
        double crops = 0;
        assert_true(m.n_masked > 0 && m.n_masked <= m.upperbound);
        assert_int_equal(m.upperbound, dinov_masks_upperbound(&c, CROPS));
        for (int64_t i = 0; i < m.n_masked; i++) {
            assert_int_equal(masks[indices[i]], 1);
            assert_true(i == 0 || indices[i] > indices[i - 1]);
            crops += (double)weights[i];
        }
        assert_true(fabs(crops - 3) < 1e-5); /* each masked crop weighs one */
    }
    c.mask_sample_probability = 0;
    dinov_rng rng             = dinov_rng_make(5, DINOV_RNG_MASK, 0, 0);
    dinov_masks_draw(&m, &rng, &c, CROPS, order);
    assert_int_equal(m.n_masked, 0);
    assert_int_equal(m.upperbound, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configurations_out_of_range), cmocka_unit_test(boxes_lie_inside),
        cmocka_unit_test(memory_runs_out_in_a_crop),   cmocka_unit_test(masks_at_the_edges),
        cmocka_unit_test(schedule_of_a_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
