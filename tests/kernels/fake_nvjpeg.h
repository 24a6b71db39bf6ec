/* SPDX-License-Identifier: Apache-2.0
 *
 * What a test may ask of the fake nvJPEG.
 */
#ifndef DINOV_TESTS_KERNELS_FAKE_NVJPEG_H
#define DINOV_TESTS_KERNELS_FAKE_NVJPEG_H

#include <stdatomic.h>

struct fake_nvjpeg {
    atomic_int alive;         /* objects made and not yet destroyed */
    atomic_int calls;         /* of functions that return a status, but those that destroy */
    int        fail_at, with; /* the call of that number returns that status; 0: none does */
};

#endif
