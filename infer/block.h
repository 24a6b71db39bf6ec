/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoded pictures of one batch as the block of bytes in which they travel to a device, for ops.pictures: a dinov_picture each, then
 * for each its coefficients and the pixels that its plan needs.
 */
#ifndef DINOV_INFER_BLOCK_H
#define DINOV_INFER_BLOCK_H

#include "infer/engine.h"

typedef struct dinov_block {
    size_t  size;            /* bytes of the block, */
    size_t  middle;          /* and of the scratch that ops.pictures needs beside it */
    int64_t widest, highest; /* for ops.pictures */
} dinov_block;

dinov_block dinov_block_measure(const dinov_decoded *pictures, int64_t count);
/* `to`: of that size, aligned to 16 bytes. */
void dinov_block_fill(char *to, const dinov_decoded *pictures, int64_t count);

#endif
