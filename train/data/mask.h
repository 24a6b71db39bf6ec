/* SPDX-License-Identifier: Apache-2.0
 *
 * Which patches of the global crops the student does not see: block masking and its schedule over a
 * batch, as DINOv2 draws them (facebookresearch/dinov2, dinov2/data/masking.py and collate.py).
 *
 * Threads: no shared state.
 */
#ifndef DINOV_TRAIN_DATA_MASK_H
#define DINOV_TRAIN_DATA_MASK_H

#include "base/fail.h"
#include "base/rng.h"

/* Upstream's names. */
typedef struct dinov_mask_config {
    int64_t height, width;                    /* of the grid of patches */
    double  min_num_patches, max_num_patches; /* of one block: the least is wished for, the most kept */
    double  min_aspect, max_aspect;           /* of one block, height / width */
    double  mask_ratio_min_max[2];            /* ibot: share of patches masked in a masked crop */
    double  mask_sample_probability;          /* ibot: share of crops that are masked */
} dinov_mask_config;

/* Upstream's defaults for crops of size x size pixels: blocks of 4 patches up to half the crop, aspect
 * 0.3 to 1 / 0.3, ratios 0.1 to 0.5, half of the crops. */
void dinov_mask_defaults(dinov_mask_config *out, int64_t size, int64_t patch);

/* ERR_CONFIG (DATA-CONFIG) names what is out of range, for batches of `crops`. */
dinov_status dinov_mask_check(const dinov_mask_config *config, int64_t crops, dinov_error *err);

/* One mask [height, width] of 0 and 1 with `target` patches, or a few less when no further block fits. Returns how many. */
int64_t dinov_mask_draw(uint8_t *mask, dinov_rng *rng, const dinov_mask_config *config, int64_t target);

/* The masks of a batch; N = height * width. All memory is the caller's. */
typedef struct dinov_masks {
    uint8_t *masks;                /* [crops, N] of 0 and 1 */
    int32_t *mask_indices;         /* [n_masked], room for crops * N: places of the ones in `masks`, ascending */
    float   *masks_weight;         /* [n_masked], the same room: 1 / (patches masked in the same crop) */
    int64_t  n_masked, upperbound; /* n_masked <= upperbound, which is the same for every batch of this size */
} dinov_masks;

/* Fills out's arrays and numbers: a share of the crops, chosen at random, gets masks whose ratios are
 * spread evenly over mask_ratio_min_max. `order` is scratch [crops]. */
void dinov_masks_draw(dinov_masks *out, dinov_rng *rng, const dinov_mask_config *config, int64_t crops, int32_t *order);

/* The most patches that a batch of `crops` can have masked. */
int64_t dinov_masks_upperbound(const dinov_mask_config *config, int64_t crops);

#endif
