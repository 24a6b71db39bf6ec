/* SPDX-License-Identifier: Apache-2.0 */
#include "train/comm.h"

static dinov_status all_reduce(const dinov_comm *comm, void *data, int64_t count, size_t real_size, dinov_error *err)
{
    (void)comm, (void)data, (void)count, (void)real_size, (void)err;
    return DINOV_OK; /* the sum over one */
}

const dinov_comm dinov_comm_self = {.rank = 0, .size = 1, .all_reduce = all_reduce};
