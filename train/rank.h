/* SPDX-License-Identifier: Apache-2.0
 *
 * The effective rank of features: how many directions they use (Garrido et al., "RankMe", 2023). Near 1
 * when all pictures look the same to the model.
 */
#ifndef DINOV_TRAIN_RANK_H
#define DINOV_TRAIN_RANK_H

#include <stdint.h>

/* exp of the entropy of the singular values of n vectors, which sum to 1. gram: their inner products [n, n], overwritten. */
double dinov_effective_rank(double *gram, int64_t n);

#endif
