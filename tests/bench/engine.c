/* SPDX-License-Identifier: Apache-2.0
 *
 * One engine to be timed from outside: opens MODEL, runs one picture of SIDE x SIDE once, prints
 * "open_s first_s peak_kib", writes the outputs to OUT, and then prints the seconds of one more run
 * for each line it reads. Batch 1: CLS and all patch tokens.
 *   bench_engine MODEL SIDE INPUT.f32 OUT.f32 THREADS
 */
#include "dinov/infer.h"

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

/* The largest resident set this process had, KiB. */
static long peak(void)
{
    char  line[256];
    long  kib = -1;
    FILE *f   = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %ld", &kib) == 1) break;
    if (f) fclose(f);
    return kib;
}

int main(int argc, char **argv)
{
    dinov_error err;
    if (argc != 6) return fprintf(stderr, "usage: bench_engine MODEL SIDE INPUT OUT THREADS\n"), 64;
    int64_t side   = atoll(argv[2]);
    size_t  count  = (size_t)(3 * side * side);
    float  *pixels = malloc(count * sizeof *pixels);
    FILE   *f      = fopen(argv[3], "rb");
    if (!f || fread(pixels, sizeof *pixels, count, f) != count) return perror(argv[3]), 3;
    fclose(f);

    dinov_engine        *engine;
    dinov_engine_options options = {.threads = atoi(argv[5])};
    double               start   = now();
    if (dinov_engine_open(&engine, argv[1], &options, &err) != DINOV_OK) return fprintf(stderr, "%s\n", err.msg), 2;
    const dinov_model *m     = dinov_engine_model(engine);
    size_t             patch = (size_t)(side / m->patch * (side / m->patch) * m->dim);
    float             *out   = malloc(((size_t)m->dim + patch) * sizeof *out);
    dinov_features     want  = {.layer = -1, .cls = out, .patch = out + m->dim};
    double             opened = now();
    if (dinov_engine_run(engine, pixels, 1, side, side, &want, 1, &err) != DINOV_OK) return fprintf(stderr, "%s\n", err.msg), 2;
    double first = now();
    printf("%.6f %.6f %ld %s\n", opened - start, first - opened, peak(), dinov_engine_isa(engine));
    fflush(stdout);
    f = fopen(argv[4], "wb");
    if (!f || fwrite(out, sizeof *out, (size_t)m->dim + patch, f) != (size_t)m->dim + patch || fclose(f)) return perror(argv[4]), 3;

    for (char line[16]; fgets(line, sizeof line, stdin);) {
        start = now();
        if (dinov_engine_run(engine, pixels, 1, side, side, &want, 1, &err) != DINOV_OK) return 2;
        printf("%.6f\n", now() - start);
        fflush(stdout);
    }
    dinov_engine_close(&engine);
    free(pixels), free(out);
    return 0;
}
