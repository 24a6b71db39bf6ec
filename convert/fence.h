/* SPDX-License-Identifier: Apache-2.0
 *
 * Work on bytes that nobody vouches for, in a process of its own. What runs there sees the memory of its parent as
 * it was, and can compute, allocate within a limit, and answer with bytes, nothing else: no file, no network, no
 * program (fence_filter.h). Whatever happens to it, its parent has an answer, which it must check, or a status.
 */
#ifndef DINOV_CONVERT_FENCE_H
#define DINOV_CONVERT_FENCE_H

#include "base/fail.h"
#include "base/text.h"

#include <stdbool.h>

typedef enum dinov_fence {
    DINOV_FENCE_NONE    = 0, /* read in this process */
    DINOV_FENCE_PROCESS = 1, /* in one of its own, which this system, or a sanitizer's build, leaves without a filter */
    DINOV_FENCE_FULL    = 2,
} dinov_fence;

typedef void (*dinov_fence_fn)(void *arg, dinov_text *answer);

typedef struct dinov_fence_job {
    dinov_fence_fn run;
    void          *arg;
    uint64_t       memory;  /* bytes it may allocate */
    int            scratch; /* a file it may give bytes to, or -1 */
    const char    *where;   /* for messages */
} dinov_fence_job;

enum { DINOV_FENCE_ANSWER = 64 << 20 }; /* bytes of the longest answer */

/* Runs the job and waits for it; *fence says how it was confined. The answer is the caller's to clear.
 * ERR_IO: FENCE-START, FENCE-CHANGED (a mapped file was cut short meanwhile); ERR_NOMEM: FENCE-KILLED;
 * ERR_INTERNAL: FENCE-DIED, FENCE-ANSWER. */
dinov_status dinov_fence_run(dinov_text *answer, dinov_fence *fence, const dinov_fence_job *job, dinov_error *err);

#endif
