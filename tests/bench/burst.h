/* SPDX-License-Identifier: Apache-2.0
 *
 * Fused multiply-adds on twelve independent registers: the most a core can do. Blocks of a pool's loop;
 * arg points to the rounds to make.
 */
#ifndef DINOV_TESTS_BENCH_BURST_H
#define DINOV_TESTS_BENCH_BURST_H

#include "base/pool.h"

#include <immintrin.h>

enum { CHAINS = 12 };

__attribute__((target("avx512f"))) static inline void burst_avx512(void *arg, int64_t block, int worker)
{
    __m512 a[CHAINS], x = _mm512_set1_ps(1e-30f);
    (void)block, (void)worker;
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) a[i] = x;
    for (long n = 0; n < *(const long *)arg; n++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm512_fmadd_ps(x, x, a[i]);
            __asm__ volatile("" : "+v"(a[i]));
        }
}

__attribute__((target("avx2,fma"))) static inline void burst_avx2(void *arg, int64_t block, int worker)
{
    __m256 a[CHAINS], x = _mm256_set1_ps(1e-30f);
    (void)block, (void)worker;
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) a[i] = x;
    for (long n = 0; n < *(const long *)arg; n++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm256_fmadd_ps(x, x, a[i]);
            __asm__ volatile("" : "+x"(a[i]));
        }
}

#endif
