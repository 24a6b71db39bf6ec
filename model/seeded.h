/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights from a seed and one formula, for tests and demonstrations where no trained file is at
 * hand. tests/parity/seeded.py has the same formula; both give the same bits.
 *
 * Element i of the tensor called `name`: u = top 24 bits of splitmix64(fnv1a64(name) xor
 * seed * 0xD1342543DE82EF95, i) / 2^23 - 1, value = centre + spread * u in float. Every token, gamma,
 * bias and position differs from 0 and 1 enough to matter.
 */
#ifndef DINOV_MODEL_SEEDED_H
#define DINOV_MODEL_SEEDED_H

#include "dinov/format.h"

/* *out owns its tensors; release with dinov_seeded_free. `model` is checked. */
dinov_status dinov_seeded_new(dinov_weights **out, const dinov_model *model, uint64_t seed, dinov_error *err);
void         dinov_seeded_free(dinov_weights **weights);

#endif
