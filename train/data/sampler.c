/* SPDX-License-Identifier: Apache-2.0
 *
 * A pass is a Feistel network over the smallest even number of bits that holds n, each round function
 * a random function from the counter-based generator, keyed by (seed, pass). Places that come out at n
 * or above are sent through again, until one does not (cycle walking): less than 4 times on average.
 */
#include "train/data/sampler.h"

#include "base/fail.h"
#include "base/rng.h"

enum { ROUNDS = 8 };

static uint64_t shuffled(uint64_t seed, uint64_t pass, uint64_t x, int half)
{
    uint64_t mask = ((uint64_t)1 << half) - 1, left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        /* 24 bits of `right`, 3 of the round; a pass past 2^32, of a tiny dataset, takes the rest. */
        dinov_rng rng  = dinov_rng_make(seed, DINOV_RNG_ORDER, (uint32_t)pass, (pass >> 32 & 0xfff) << 36 | round << 32 | right);
        uint64_t  next = left ^ (dinov_rng_u32(&rng) & mask);
        left           = right;
        right          = next;
    }
    return left << half | right;
}

int64_t dinov_sampler_item(uint64_t seed, int64_t n, int64_t drawn)
{
    int half = 0;
    DINOV_ASSERT(n > 0 && n <= DINOV_SAMPLER_MAX && drawn >= 0);
    while (((uint64_t)n - 1) >> (2 * half)) half++;
    uint64_t x = (uint64_t)(drawn % n);
    do x = shuffled(seed, (uint64_t)(drawn / n), x, half);
    while (x >= (uint64_t)n);
    return (int64_t)x;
}
