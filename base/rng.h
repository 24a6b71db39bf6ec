/* SPDX-License-Identifier: Apache-2.0
 *
 * Random numbers by counter: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", 2011), keyed by (seed, purpose) and counted by (step, item). A stream is a value with no
 * history: whoever knows the four numbers has the draws, in any thread, order or run.
 */
#ifndef DINOV_BASE_RNG_H
#define DINOV_BASE_RNG_H

#include <stdint.h>

/* What a stream is for. Values are stable: they decide the draws of every run. */
typedef enum dinov_rng_purpose {
    DINOV_RNG_INIT    = 1, /* item: hash of the tensor's name */
    DINOV_RNG_DROP    = 2, /* stochastic depth; step: iteration, item: block, branch and crop group */
    DINOV_RNG_ORDER   = 3, /* order of samples; step: pass over the data */
    DINOV_RNG_AUGMENT = 4, /* step: iteration, item: sample in the batch */
    DINOV_RNG_MASK    = 5, /* step: iteration, item: batch or crop */
    DINOV_RNG_PROBE   = 6, /* evaluation: subsets, linear probes */
} dinov_rng_purpose;

typedef struct dinov_rng {
    uint32_t key[2], counter[4], block[4];
    int      left; /* words of `block` not yet given out */
} dinov_rng;

/* step below 2^32, item below 2^48. */
dinov_rng dinov_rng_make(uint64_t seed, dinov_rng_purpose purpose, uint64_t step, uint64_t item);

uint32_t dinov_rng_u32(dinov_rng *rng);
/* [0, 1), 53 bits. */
double dinov_rng_uniform(dinov_rng *rng);
/* a + (b - a) * uniform; a may exceed b. */
double dinov_rng_range(dinov_rng *rng, double a, double b);
/* 0..n-1, each equally likely; n from 1 to 2^32. */
int64_t dinov_rng_below(dinov_rng *rng, int64_t n);
/* Standard normal. */
double dinov_rng_normal(dinov_rng *rng);
/* A random order of 0..n-1. */
void dinov_rng_permutation(dinov_rng *rng, int32_t *out, int64_t n);

/* The ten rounds themselves, for known answers. */
void dinov_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

#endif
