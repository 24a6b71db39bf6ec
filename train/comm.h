/* SPDX-License-Identifier: Apache-2.0
 *
 * The process group: what ranks do together. One rank is a value passed in, never a global; every
 * rank makes the same calls in the same order.
 */
#ifndef DINOV_TRAIN_COMM_H
#define DINOV_TRAIN_COMM_H

#include "base/fail.h"

typedef struct dinov_comm dinov_comm;
struct dinov_comm {
    int rank, size;
    /* data [count] of `real` (float or double by real_size) becomes its sum over all ranks, the same bits on each. */
    dinov_status (*all_reduce)(const dinov_comm *comm, void *data, int64_t count, size_t real_size, dinov_error *err);
};

/* The group of one. */
extern const dinov_comm dinov_comm_self;

#endif
