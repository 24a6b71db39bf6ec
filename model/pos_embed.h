/* SPDX-License-Identifier: Apache-2.0
 *
 * The two rules by which position embeddings reach another grid, as weights of a separable resampling.
 */
#ifndef DINOV_MODEL_POS_EMBED_H
#define DINOV_MODEL_POS_EMBED_H

#include "dinov/format.h"

#include <stdbool.h>

/* Whether a grid of h x w patches takes the stored embeddings as they are. */
bool dinov_pos_is_trained_grid(const dinov_model *model, int64_t h, int64_t w);

/* weights: [out, grid], row o: what each stored row (or column) of the grid gives to output o. exact: coordinates in
 * double instead of float. */
void dinov_pos_weights(double *weights, int64_t out, int64_t grid, const dinov_interp *rule, bool exact);

#endif
