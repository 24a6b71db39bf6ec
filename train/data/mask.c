/* SPDX-License-Identifier: Apache-2.0
 *
 * Where upstream computes with float32 tensors (the ratios), so does this: what is cut to an integer
 * afterwards would otherwise be one less now and then.
 */
#include "train/data/mask.h"

#include "train/data/check.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

void dinov_mask_defaults(dinov_mask_config *out, int64_t size, int64_t patch)
{
    int64_t grid = size / patch;
    *out         = (dinov_mask_config){
                .height          = grid,
                .width           = grid,
                .min_num_patches = 4,
                .max_num_patches = (double)(size / (2 * patch) * size / patch), /* upstream's 0.5 * S // p * S // p, from left to right */
                .min_aspect      = 0.3,
                .max_aspect      = 1 / 0.3,
                .mask_ratio_min_max      = {0.1, 0.5},
                .mask_sample_probability = 0.5,
    };
}

dinov_status dinov_mask_check(const dinov_mask_config *c, int64_t crops, dinov_error *err)
{
    enum { MAX_GRID = 4096 };
    DINOV_TRY(dinov_data_within("patches of a crop's side", (double)c->height, 1, MAX_GRID, err));
    DINOV_TRY(dinov_data_within("patches of a crop's side", (double)c->width, 1, MAX_GRID, err));
    DINOV_TRY(dinov_data_within("patches of a batch", (double)crops * (double)c->height * (double)c->width, 1, INT32_MAX, err));
    DINOV_TRY(dinov_data_within("fewest patches of a block", c->min_num_patches, 0, 1e9, err));
    DINOV_TRY(dinov_data_within("most patches of a block", c->max_num_patches, 0, 1e9, err));
    DINOV_TRY(dinov_data_within("smallest aspect of a block", c->min_aspect, 1e-3, 1e3, err));
    DINOV_TRY(dinov_data_within("largest aspect of a block", c->max_aspect, c->min_aspect, 1e3, err));
    DINOV_TRY(dinov_data_within("ibot.mask_ratio_min_max", c->mask_ratio_min_max[0], 0, 1, err));
    DINOV_TRY(dinov_data_within("ibot.mask_ratio_min_max", c->mask_ratio_min_max[1], c->mask_ratio_min_max[0], 1, err));
    return dinov_data_within("ibot.mask_sample_probability", c->mask_sample_probability, 0, 1, err);
}

/* One more block of at most `most` new patches. Returns how many it added; 0 after ten tries in vain. */
static int64_t add_block(uint8_t *mask, dinov_rng *rng, const dinov_mask_config *c, double most)
{
    enum { TRIES = 10 };
    double low = log(c->min_aspect), high = log(c->max_aspect);
    for (int i = 0; i < TRIES; i++) {
        double  area   = dinov_rng_range(rng, c->min_num_patches, most); /* from high to low when little is missing */
        double  aspect = exp(dinov_rng_range(rng, low, high));
        int64_t h = (int64_t)rint(sqrt(area * aspect)), w = (int64_t)rint(sqrt(area / aspect)); /* halves to even */
        if (w >= c->width || h >= c->height) continue;
        int64_t top = dinov_rng_below(rng, c->height - h + 1), left = dinov_rng_below(rng, c->width - w + 1);
        int64_t fresh = 0;
        for (int64_t y = top; y < top + h; y++)
            for (int64_t x = left; x < left + w; x++) fresh += !mask[y * c->width + x];
        if (fresh == 0 || (double)fresh > most) continue;
        for (int64_t y = top; y < top + h; y++) memset(mask + y * c->width + left, 1, (size_t)w);
        return fresh;
    }
    return 0;
}

int64_t dinov_mask_draw(uint8_t *mask, dinov_rng *rng, const dinov_mask_config *config, int64_t target)
{
    int64_t count = 0;
    memset(mask, 0, (size_t)(config->height * config->width));
    while (count < target) {
        int64_t more = add_block(mask, rng, config, fmin((double)(target - count), config->max_num_patches));
        if (more == 0) break;
        count += more;
    }
    return count;
}

/* ---- Over a batch ---- */

static int64_t masked_crops(const dinov_mask_config *c, int64_t crops)
{
    return (int64_t)((double)crops * c->mask_sample_probability);
}

/* Place i of n + 1 spread evenly over the ratios: torch.linspace, which counts from the nearer end. */
static float spread(const dinov_mask_config *c, int64_t i, int64_t n)
{
    float start = (float)c->mask_ratio_min_max[0], end = (float)c->mask_ratio_min_max[1], step = (end - start) / (float)n;
    return i < (n + 1) / 2 ? start + step * (float)i : end - step * (float)(n - i);
}

int64_t dinov_masks_upperbound(const dinov_mask_config *config, int64_t crops)
{
    int64_t n = masked_crops(config, crops), sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (int64_t)((float)(config->height * config->width) * spread(config, i + 1, n));
    return sum;
}

void dinov_masks_draw(dinov_masks *out, dinov_rng *rng, const dinov_mask_config *config, int64_t crops, int32_t *order)
{
    int64_t patches = config->height * config->width, n = masked_crops(config, crops);
    dinov_rng_permutation(rng, order, crops);
    memset(out->masks, 0, (size_t)(crops * patches));
    for (int64_t i = 0; i < n; i++) {
        float from = spread(config, i, n), to = spread(config, i + 1, n);
        float ratio = fminf(from + (to - from) * (float)dinov_rng_uniform(rng), to);
        dinov_mask_draw(out->masks + order[i] * patches, rng, config, (int64_t)((float)patches * ratio));
    }
    out->n_masked   = 0;
    out->upperbound = dinov_masks_upperbound(config, crops);
    for (int64_t crop = 0; crop < crops; crop++) {
        int64_t first = out->n_masked;
        for (int64_t i = crop * patches; i < (crop + 1) * patches; i++)
            if (out->masks[i]) out->mask_indices[out->n_masked++] = (int32_t)i;
        for (int64_t k = first; k < out->n_masked; k++) out->masks_weight[k] = 1.0f / (float)(out->n_masked - first);
    }
}
