/* SPDX-License-Identifier: Apache-2.0
 *
 * Times training steps on the inputs that pretrain_peer.py wrote, and prints one line of JSON as it does, with the
 * fraction of the FMA peak by the count below (a burst of multiply-adds before each step is the peak).
 *     bench_pretrain FOLDER [THREADS] [STEPS] [ISA]
 *
 * FLOP counted, 2 a multiply-add, of products alone: what the method needs, so neither recomputed scores nor padding.
 *   a token of a block, forward   2 (3C C + C C) + 4 T C + 2 ((F or 2F) C + C F)   (tokens that stochastic depth keeps; in the
 *                                 last block the FFN counts only where a loss looks)
 *   a patch, forward              2 (channels p p) C
 *   a head row, forward           2 (C h + h h (layers - 2) + h b + b K)
 * backward is twice the forward, but the patch embedding has no gradient of its input.
 */
#include "base/alloc.h"
#include "tests/bench/burst.h"
#include "tests/train/case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of the vectors that the kernels use. */
static double peak_rate(dinov_pool *pool, const dinov_ops *ops)
{
    static long loops = 2000000;
    bool        wide  = strcmp(ops->name, "avx512") == 0;
    double      start = now();
    dinov_pool_run(pool, dinov_pool_threads(pool), wide ? burst_avx512 : burst_avx2, &loops);
    return 2 * (double)dinov_pool_threads(pool) * (double)loops * CHAINS * (wide ? 16 : 8) / (now() - start);
}

/* needed: tokens of the group that a loss looks at. */
static double backbone(const dinov_model *m, double images, double side, double keep, double needed, double times)
{
    double C = (double)m->dim, T = 1 + (double)m->registers + side * side, F = (double)m->hidden, depth = (double)m->depth;
    double attention = 8 * C * C + 4 * T * C, ffn = 2 * ((m->ffn == DINOV_FFN_SWIGLU ? 2 * F : F) * C + C * F), tokens = images * T;
    double patch = 2 * (double)(m->channels * m->patch * m->patch) * C * side * side;
    return times * keep * (depth * tokens * attention + ((depth - 1) * tokens + needed) * ffn) +
           images * patch * (times > 1 ? 2 : 1);
}

static double head(const dinov_head_config *h, double C, double rows, double times)
{
    double hidden = (double)h->head_hidden_dim, b = (double)h->head_bottleneck_dim;
    return times * rows * 2 *
           (C * hidden + hidden * hidden * (double)(h->head_nlayers - 2) + hidden * b + b * (double)h->head_n_prototypes);
}

static double flops(const dinov_config *c, const dinov_model *m, const dinov_views *v)
{
    double B = (double)v->images, n = (double)c->crops.local_crops_number, C = (double)m->dim;
    double global = (double)(c->crops.global_crops_size / m->patch), local = (double)(c->crops.local_crops_size / m->patch);
    double keep_global = floor(2 * B * (1 - c->student.drop_path_rate)) / (2 * B),
           keep_local  = floor(n * B * (1 - c->student.drop_path_rate)) / (n * B);
    double needed      = 2 * B + (double)v->masked;
    return backbone(m, 2 * B, global, 1, needed, 1) + backbone(m, 2 * B, global, keep_global, needed, 3) +
           backbone(m, n * B, local, keep_local, n * B, 3) + head(&c->dino.head, C, 2 * B, 1) +
           head(&c->dino.head, C, (n + 2) * B, 3) + head(&c->ibot.head, C, (double)v->masked, 4);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double peak_mib(void)
{
    char  line[256];
    long  kib = 0;
    FILE *f   = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "VmHWM: %ld", &kib);
    if (f) fclose(f);
    return (double)kib / 1024;
}

int main(int argc, char **argv)
{
    enum { WARM = 2, MAX = 100 };
    dinov_error      err;
    dinov_config     config;
    dinov_model      model;
    dinov_pool      *pool;
    dinov_trainer   *trainer;
    const dinov_ops *ops;
    double           times[MAX], fraction[MAX];
    dinov_views      views[16];

    if (argc < 2) return 64;
    int     threads = argc > 2 ? atoi(argv[2]) : 2, steps = argc > 3 ? atoi(argv[3]) : 7;
    json_t *j                           = case_read(argv[1], &config, &model);
    config.ibot.mask_sample_probability = 0.5, config.ibot.mask_ratio_min_max[0] = 0.1, config.ibot.mask_ratio_min_max[1] = 0.5;
    config.student.layerscale = 1e-5;
    case_must(dinov_ops_cpu(&ops, argc > 4 ? argv[4] : NULL, &err), &err);
    case_must(dinov_pool_new(&pool, threads, &err), &err);
    dinov_trainer_options options = {.config = &config, .model = &model, .ops = ops, .pool = pool};
    case_must(dinov_trainer_new(&trainer, &options, &err), &err);
    int64_t side = config.crops.global_crops_size / model.patch, count = case_steps(j);
    if (count > 16) count = 16;
    for (int64_t i = 0; i < count; i++) views[i] = case_views(argv[1], &config, i, side * side);

    for (int i = 0; i < WARM + steps && i < MAX; i++) {
        dinov_step_result r;
        dinov_rates       rates = case_rates(j, i % count);
        double            peak = peak_rate(pool, ops), start = now();
        case_must(dinov_trainer_step(trainer, i, &views[i % count], &rates, NULL, &r, &err), &err);
        if (!r.finite) return 1;
        if (i == 0)
            printf("{\"case\": \"%s\", \"isa\": \"%s\", \"threads\": %d, \"first_losses\": {\"dino_local_crops_loss\": %.6f, "
                   "\"dino_global_crops_loss\": %.6f, \"koleo_loss\": %.6f, \"ibot_loss\": %.6f}, ",
                   json_string_value(json_object_get(j, "name")), ops->name, threads, r.dino_local_crops_loss,
                   r.dino_global_crops_loss, r.koleo_loss, r.ibot_loss);
        if (i < WARM) continue;
        times[i - WARM]    = now() - start;
        fraction[i - WARM] = flops(&config, &model, &views[i % count]) / times[i - WARM] / peak;
    }
    qsort(times, (size_t)steps, sizeof *times, ascending);
    qsort(fraction, (size_t)steps, sizeof *fraction, ascending);
    printf(
        "\"batch\": %lld, \"steps\": %d, \"median_s\": %.4f, \"min_s\": %.4f, \"max_s\": %.4f, \"gflop\": %.1f, \"of_peak\": %.3f, "
        "\"peak_mib\": %.0f}\n",
        (long long)config.train.batch_size_per_gpu, steps, times[steps / 2], times[0], times[steps - 1],
        flops(&config, &model, &views[0]) * 1e-9, fraction[steps / 2], peak_mib());
    json_decref(j);
    dinov_trainer_free(&trainer);
    dinov_pool_free(&pool);
    return 0;
}
