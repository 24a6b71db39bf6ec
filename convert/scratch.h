/* SPDX-License-Identifier: Apache-2.0
 *
 * Room for tensors that must be copied, in a file without a name rather than in memory: the confined reader
 * (fence.h) fills it, the process that started the reader maps the same bytes, and the system may write them to the
 * disk when memory is short. It grows in steps that are allocated before they are touched, so that a full disk is a
 * status and never a signal.
 */
#ifndef DINOV_CONVERT_SCRATCH_H
#define DINOV_CONVERT_SCRATCH_H

#include "base/fail.h"

typedef struct dinov_scratch {
    int      fd;     /* -1: none */
    uint8_t *memory; /* the same address in both processes */
    uint64_t span;   /* bytes mapped */
    uint64_t room;   /* bytes the file has */
    uint64_t used;
} dinov_scratch;

/* In /var/tmp, /tmp, or memory where neither takes it; for at most `span` bytes. ERR_IO: FENCE-START. */
dinov_status dinov_scratch_open(dinov_scratch *scratch, uint64_t span, const char *where, dinov_error *err);

/* `bytes` on a 64-byte boundary. ERR_IO: FENCE-SPACE; ERR_LIMIT: FENCE-LARGE. */
dinov_status dinov_scratch_take(dinov_scratch *scratch, void **out, uint64_t bytes, const char *where, dinov_error *err);

/* After the other process has filled it: the bytes the file has, from now on only to be read. */
uint64_t dinov_scratch_seal(dinov_scratch *scratch);

void dinov_scratch_close(dinov_scratch *scratch);

#endif
