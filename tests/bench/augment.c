/* SPDX-License-Identifier: Apache-2.0
 *
 * Processor time of one thread to make the ten crops of a picture, without decoding it; beside it, the
 * peer in tests/bench/augment.py. Median and spread of 9 runs.
 */
#define _GNU_SOURCE
#include "base/alloc.h"
#include "train/data/augment.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { RUNS = 9, IMAGES = 64 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(int64_t width, int64_t height, int64_t global, int64_t local)
{
    dinov_augment_config config;
    dinov_crop_scratch   scratch = {0};
    dinov_image          image   = {.width = width, .height = height, .orientation = 1};
    double               ms[RUNS];
    float               *out = dinov_alloc((size_t)(3 * global * global), sizeof *out);

    image.pixels = dinov_alloc((size_t)(width * height), 3);
    if (!out || !image.pixels) exit(3);
    for (int64_t i = 0; i < 3 * width * height; i++) image.pixels[i] = (uint8_t)(i / 3 % width * 2 + i / width + i * i % 23);
    dinov_augment_defaults(&config, false);
    config.global_crops_size = global, config.local_crops_size = local;
    for (uint64_t run = 0; run < RUNS; run++) {
        double begin = now();
        for (uint64_t i = 0; i < IMAGES; i++) {
            dinov_rng rng = dinov_rng_make(run, DINOV_RNG_AUGMENT, 0, i);
            for (int k = 0; k < 10; k++) {
                dinov_crop crop;
                dinov_crop_draw(&crop, &rng, &config, k < 2 ? (dinov_crop_kind)k : DINOV_CROP_LOCAL, width, height);
                if (dinov_crop_apply(out, &crop, &image, &scratch, NULL) != DINOV_OK) exit(3);
            }
        }
        ms[run] = (now() - begin) / IMAGES;
    }
    qsort(ms, RUNS, sizeof *ms, ascending);
    printf("%lld x %lld into 2 x %lld and 8 x %lld: %.3f ms an image (%.3f to %.3f)\n", (long long)width, (long long)height,
           (long long)global, (long long)local, ms[RUNS / 2], ms[0], ms[RUNS - 1]);
    dinov_crop_scratch_clear(&scratch);
    dinov_image_clear(&image);
    dinov_free(out);
}

int main(void)
{
    measure(32, 32, 64, 32);
    measure(144, 144, 98, 42);
    measure(500, 375, 224, 98);
    return 0;
}
