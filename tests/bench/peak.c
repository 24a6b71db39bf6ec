/* SPDX-License-Identifier: Apache-2.0
 *
 * What the machine can do at most: fused multiply-adds on twelve independent registers, on all cores this
 * process may use at once. Other figures are judged as a fraction of this one, taken in the same minute.
 */
#include "base/pool.h"

#include <stdio.h>
#include <time.h>

#if defined(__x86_64__)
#include "tests/bench/burst.h"

static long loops = 20000000;

static void report(const char *name, dinov_pool *pool, dinov_block_fn burst, int lanes)
{
    struct timespec s, e;
    double          best   = 0;
    int             blocks = dinov_pool_threads(pool);
    for (int i = 0; i < 5; i++) {
        clock_gettime(CLOCK_MONOTONIC, &s);
        dinov_pool_run(pool, blocks, burst, &loops);
        clock_gettime(CLOCK_MONOTONIC, &e);
        double seconds = (double)(e.tv_sec - s.tv_sec) + 1e-9 * (double)(e.tv_nsec - s.tv_nsec);
        double rate    = 2e-9 * (double)blocks * (double)loops * CHAINS * lanes / seconds;
        if (rate > best) best = rate;
    }
    printf("%-7s %d threads %8.1f GFLOP/s\n", name, blocks, best);
}

int main(void)
{
    dinov_pool *pool;
    if (dinov_pool_new(&pool, 0, NULL) != DINOV_OK) return 3;
    if (__builtin_cpu_supports("fma")) report("avx2", pool, burst_avx2, 8);
    if (__builtin_cpu_supports("avx512f")) report("avx512", pool, burst_avx512, 16);
    dinov_pool_free(&pool);
    return 0;
}
#else
int main(void)
{
    printf("no figure for this CPU\n");
    return 0;
}
#endif
