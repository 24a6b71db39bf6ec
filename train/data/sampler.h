/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of samples: an infinite stream of dataset indices in which every pass over the data is a
 * permutation of its own. Any place of the stream is computed directly, so the whole state of a run's
 * data order is one number, the samples drawn so far, and any number of ranks and workers can share it.
 */
#ifndef DINOV_TRAIN_DATA_SAMPLER_H
#define DINOV_TRAIN_DATA_SAMPLER_H

#include <stdint.h>

#define DINOV_SAMPLER_MAX ((int64_t)1 << 48) /* most items of a dataset */

/* The item, 0..n-1, that is sample number `drawn` (from 0) of the run with that seed. */
int64_t dinov_sampler_item(uint64_t seed, int64_t n, int64_t drawn);

#endif
