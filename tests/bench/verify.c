/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast a checkpoint is verified, beside reading every byte of the same mapping with as many
 * threads and doing nothing with it, warm cache, interleaved, medians of 9. And opening, and the content id on one core.
 *
 *     bench_verify [FILE [THREADS]]      without a file: a ViT-B of 346 MB is made and removed
 */
#include "base/alloc.h"
#include "base/file.h"
#include "base/pool.h"
#include "format/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 9, PIECE = 16 << 20 };

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, ROUNDS, sizeof *values, ascending);
    return values[ROUNDS / 2];
}

static _Noreturn void die(const dinov_error *e)
{
    fprintf(stderr, "%s: %s\n", e->code, e->msg);
    exit(1);
}

struct touch {
    dinov_map map;
    uint64_t  sums[1024];
};

/* Four independent sums, so that memory and not the adder is what is measured. */
static void touch_piece(void *arg, int64_t i, int worker)
{
    struct touch   *t     = arg;
    size_t          begin = (size_t)i * PIECE, left = t->map.size - begin, size = left < PIECE ? left : PIECE;
    const uint64_t *p     = (const uint64_t *)(const void *)(t->map.data + begin);
    uint64_t        sum[4] = {0};
    for (size_t j = 0; j + 4 <= size / 8; j += 4)
        for (int k = 0; k < 4; k++) sum[k] += p[j + (size_t)k];
    t->sums[worker] += sum[0] + sum[1] + sum[2] + sum[3];
}

/* Maps the file anew: page faults belong to both sides. */
static double touch(const char *path, int threads)
{
    static struct touch t;
    dinov_error         e;
    dinov_pool         *pool;
    double              start = seconds_of(CLOCK_MONOTONIC);
    if (dinov_map_open(&t.map, path, &e) != DINOV_OK || dinov_pool_new(&pool, threads, &e) != DINOV_OK) die(&e);
    dinov_pool_run(pool, (int64_t)((t.map.size + PIECE - 1) / PIECE), touch_piece, &t);
    dinov_pool_free(&pool);
    double seconds = seconds_of(CLOCK_MONOTONIC) - start;
    dinov_map_close(&t.map);
    return seconds;
}

static double verify(const char *path, int threads)
{
    dinov_error       e;
    dinov_checkpoint *c;
    double            start = seconds_of(CLOCK_MONOTONIC);
    if (dinov_checkpoint_open(&c, path, &e) != DINOV_OK || dinov_checkpoint_verify(c, threads, &e) != DINOV_OK) die(&e);
    double seconds = seconds_of(CLOCK_MONOTONIC) - start;
    dinov_checkpoint_close(&c);
    return seconds;
}

/* Processor time of one thread: what a core does, whatever else runs on the machine. */
static double hash(const char *path)
{
    dinov_error       e;
    dinov_checkpoint *c;
    double            start = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    if (dinov_checkpoint_open(&c, path, &e) != DINOV_OK || dinov_checkpoint_verify_id(c, 1, &e) != DINOV_OK) die(&e);
    double seconds = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - start;
    dinov_checkpoint_close(&c);
    return seconds;
}

static double open_only(const char *path)
{
    dinov_error       e;
    dinov_checkpoint *c;
    double            start = seconds_of(CLOCK_MONOTONIC);
    if (dinov_checkpoint_open(&c, path, &e) != DINOV_OK) die(&e);
    double seconds = seconds_of(CLOCK_MONOTONIC) - start;
    dinov_checkpoint_close(&c);
    return seconds;
}

static void make(const char *path)
{
    const dinov_model model = {.patch = 14, .dim = 768, .depth = 12, .heads = 12, .ffn = DINOV_FFN_MLP, .hidden = 3072,
                               .channels = 3, .grid_h = 37, .grid_w = 37, .layerscale = 1, .qkv_bias = 1, .ln_eps = 1e-6,
                               .interp = {0.1, 0}};
    size_t              count   = dinov_param_count(&model);
    dinov_param        *params  = dinov_calloc(count, sizeof *params);
    dinov_named_tensor *tensors = dinov_calloc(count, sizeof *tensors);
    uint32_t           *bytes   = malloc((size_t)3072 * 768 * 4), seed = 1;
    for (size_t i = 0; i < (size_t)3072 * 768; i++) bytes[i] = seed = seed * 1664525u + 1013904223u;
    for (size_t i = 0; i < count; i++) {
        dinov_param_at(&model, i, &params[i]);
        tensors[i] = (dinov_named_tensor){params[i].name, {.data = bytes, .dtype = DINOV_F32, .rank = params[i].rank}};
        memcpy(tensors[i].tensor.dim, params[i].dim, sizeof params[i].dim);
    }
    dinov_weights weights = {.model = model, .preprocess = {"eval:224", {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}},
                             .tensors = tensors, .count = count};
    dinov_error   e;
    if (dinov_checkpoint_write(path, &weights, NULL, NULL, &(dinov_write_options){.overwrite = 1}, &e) != DINOV_OK) die(&e);
    free(bytes);
    dinov_free(tensors);
    dinov_free(params);
}

int main(int argc, char **argv)
{
    const char *path    = argc > 1 ? argv[1] : "bench-verify.safetensors";
    int         threads = argc > 2 ? atoi(argv[2]) : 0;
    double      touched[ROUNDS], verified[ROUNDS], ratio[ROUNDS], hashed[ROUNDS], opened[ROUNDS];
    dinov_map   map;
    dinov_error e;

    if (argc < 2) make(path);
    if (dinov_map_open(&map, path, &e) != DINOV_OK) die(&e);
    double gb = (double)map.size / 1e9;
    dinov_map_close(&map);
    touch(path, threads); /* into the cache */
    for (int i = 0; i < ROUNDS; i++) {
        touched[i]  = touch(path, threads);
        verified[i] = verify(path, threads);
        ratio[i]    = touched[i] / verified[i];
    }
    for (int i = 0; i < ROUNDS; i++) hashed[i] = hash(path), opened[i] = open_only(path);
    printf("%.3f GB\n", gb);
    printf("open    %6.2f ms\n", median(opened) * 1e3);
    printf("touch   %6.2f GB/s\n", gb / median(touched));
    printf("verify  %6.2f GB/s   %.2f x touch (goal 0.80)\n", gb / median(verified), median(ratio));
    printf("--id    %6.2f GB/s a core (goal 1.00 where the CPU has SHA instructions)\n", gb / median(hashed));
    if (argc < 2) unlink(path);
    return 0;
}
