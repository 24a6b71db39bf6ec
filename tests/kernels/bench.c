/* SPDX-License-Identifier: Apache-2.0
 *
 * Timing against the machine's own limit, taken in the same moment: shared machines change speed within seconds.
 */
#include "tests/kernels/pairs.h"

#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include "tests/bench/burst.h"
#endif

const char *bench_only = "";

enum { REPEATS = 9, COPIED = 32 << 20 };

/* With one thread its own time, which what else runs on the core does not count in. */
static clockid_t watch = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(watch, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static char *from, *to; /* [threads][COPIED] */

static void copy(void *arg, int64_t block, int worker)
{
    (void)arg, (void)worker;
    memcpy(to + block * COPIED, from + block * COPIED, COPIED);
}

/* Operations or bytes a second, all threads together. */
static double limit(dinov_pool *pool, int flops)
{
    int    threads = dinov_pool_threads(pool);
    double start   = now();
    if (!flops) {
        dinov_pool_run(pool, threads, copy, NULL);
        return 2.0 * threads * COPIED / (now() - start);
    }
#if defined(__x86_64__)
    long loops = 3000000;
    int  wide  = strcmp(table, "avx512") == 0;
    dinov_pool_run(pool, threads, wide ? burst_avx512 : burst_avx2, &loops);
    return 2.0 * threads * (double)loops * CHAINS * (wide ? 16 : 8) / (now() - start);
#else
    return (double)NAN;
#endif
}

static int compare(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

void bench(dinov_pool *pool, const char *what, double flops, double bytes, void (*run)(void *), void *arg)
{
    double rates[REPEATS], ratios[REPEATS], work = flops > 0 ? flops : bytes;
    size_t threads = (size_t)dinov_pool_threads(pool);

    if (strncmp(what, bench_only, strlen(bench_only)) != 0) return;
    if (threads == 1) watch = CLOCK_THREAD_CPUTIME_ID;
    if (!from) {
        from = must(dinov_alloc_aligned(threads, COPIED)), to = must(dinov_alloc_aligned(threads, COPIED));
        memset(from, 1, threads * COPIED), memset(to, 1, threads * COPIED);
    }
    run(arg);
    for (int i = 0; i < REPEATS; i++) {
        double before = limit(pool, flops > 0), start = now();
        int    runs = 0;
        do run(arg), runs++;
        while (now() - start < 0.04);
        rates[i]  = runs * work / (now() - start);
        ratios[i] = rates[i] / (0.5 * (before + limit(pool, flops > 0)));
    }
    qsort(rates, REPEATS, sizeof *rates, compare), qsort(ratios, REPEATS, sizeof *ratios, compare);
    printf("%-7s %-44s %7.1f %s  %3.0f %% [%3.0f %3.0f] of %s\n", table, what, 1e-9 * rates[REPEATS / 2],
           flops > 0 ? "GFLOP/s" : "GB/s   ", 100 * ratios[REPEATS / 2], 100 * ratios[0], 100 * ratios[REPEATS - 1],
           flops > 0 ? "FMA peak" : "copying");
    fflush(stdout);
}
