/* SPDX-License-Identifier: Apache-2.0
 *
 * What the machine can do at most: fused multiply-adds on twelve independent registers, on all cores this
 * process may use at once. Other figures are judged as a fraction of this one, taken in the same minute.
 */
#include "base/pool.h"

#include <stdio.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>

enum { LOOPS = 20000000, CHAINS = 12 };

__attribute__((target("avx512f"))) static void burst_avx512(void *arg, int64_t block, int worker)
{
    __m512 a[CHAINS], x = _mm512_set1_ps(1e-30f);
    (void)arg, (void)block, (void)worker;
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) a[i] = x;
    for (long n = 0; n < LOOPS; n++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm512_fmadd_ps(x, x, a[i]);
            __asm__ volatile("" : "+v"(a[i]));
        }
}

__attribute__((target("avx2,fma"))) static void burst_avx2(void *arg, int64_t block, int worker)
{
    __m256 a[CHAINS], x = _mm256_set1_ps(1e-30f);
    (void)arg, (void)block, (void)worker;
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) a[i] = x;
    for (long n = 0; n < LOOPS; n++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm256_fmadd_ps(x, x, a[i]);
            __asm__ volatile("" : "+x"(a[i]));
        }
}

static void report(const char *name, dinov_pool *pool, dinov_block_fn burst, int lanes)
{
    struct timespec s, e;
    double          best   = 0;
    int             blocks = dinov_pool_threads(pool);
    for (int i = 0; i < 5; i++) {
        clock_gettime(CLOCK_MONOTONIC, &s);
        dinov_pool_run(pool, blocks, burst, NULL);
        clock_gettime(CLOCK_MONOTONIC, &e);
        double seconds = (double)(e.tv_sec - s.tv_sec) + 1e-9 * (double)(e.tv_nsec - s.tv_nsec);
        double rate    = 2e-9 * (double)blocks * LOOPS * CHAINS * lanes / seconds;
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
