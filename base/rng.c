/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include "base/fail.h"

#include <math.h>
#include <string.h>

void dinov_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c[4], k0 = key[0], k1 = key[1];
    memcpy(c, counter, sizeof c);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a};
        memcpy(c, next, sizeof c);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

/* The fourth counter word counts the blocks of a stream. */
dinov_rng dinov_rng_make(uint64_t seed, dinov_rng_purpose purpose, uint64_t step, uint64_t item)
{
    DINOV_ASSERT(step >> 32 == 0 && item >> 48 == 0);
    dinov_rng rng = {.key     = {(uint32_t)seed, (uint32_t)(seed >> 32) ^ (uint32_t)purpose * 0x85EBCA6Bu},
                     .counter = {(uint32_t)step, (uint32_t)item, (uint32_t)(item >> 32) << 16, 0}};
    return rng;
}

uint32_t dinov_rng_u32(dinov_rng *rng)
{
    if (rng->left == 0) {
        dinov_philox(rng->block, rng->counter, rng->key);
        rng->counter[3]++;
        rng->left = 4;
    }
    return rng->block[4 - rng->left--];
}

double dinov_rng_uniform(dinov_rng *rng)
{
    uint64_t high = dinov_rng_u32(rng), low = dinov_rng_u32(rng);
    return (double)((high << 32 | low) >> 11) * 0x1p-53;
}

double dinov_rng_range(dinov_rng *rng, double a, double b) { return a + (b - a) * dinov_rng_uniform(rng); }

int64_t dinov_rng_below(dinov_rng *rng, int64_t n)
{
    DINOV_ASSERT(n >= 1 && n <= (int64_t)1 << 32);
    /* Lemire's multiply, rejecting the few values that would favour some results. */
    uint32_t limit = (uint32_t)(((uint64_t)1 << 32) % (uint64_t)n);
    for (;;) {
        uint64_t product = (uint64_t)dinov_rng_u32(rng) * (uint64_t)n;
        if ((uint32_t)product >= limit) return (int64_t)(product >> 32);
    }
}

double dinov_rng_normal(dinov_rng *rng)
{
    double u = 1 - dinov_rng_uniform(rng), angle = 6.283185307179586476925 * dinov_rng_uniform(rng);
    return sqrt(-2 * log(u)) * cos(angle);
}

void dinov_rng_permutation(dinov_rng *rng, int32_t *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t j = dinov_rng_below(rng, i + 1);
        if (j != i) out[i] = out[j];
        out[j] = (int32_t)i;
    }
}
