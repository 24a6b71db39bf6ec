/* SPDX-License-Identifier: Apache-2.0
 *
 * The system calls that a confined process has left: memory of its own, threads, writing to the one pipe, and ending.
 * Anything else fails with EPERM. The filter is a program for the kernel's seccomp, and cannot be taken off again.
 */
#ifndef DINOV_CONVERT_FENCE_FILTER_H
#define DINOV_CONVERT_FENCE_FILTER_H

#include <stdbool.h>

/* Confines the calling process, which has one thread: it may write to `pipe`, and give bytes to the file `scratch` (-1: none).
 * False where the system has no such filter. */
bool dinov_fence_filter(int pipe, int scratch);

#endif
