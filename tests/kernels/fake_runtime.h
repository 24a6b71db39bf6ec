/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests set on the fake CUDA runtime, and see of it.
 */
#ifndef DINOV_TESTS_KERNELS_FAKE_RUNTIME_H
#define DINOV_TESTS_KERNELS_FAKE_RUNTIME_H

extern struct fake_runtime {
    int  devices; /* 0: no driver. Device 1 is older than Ampere */
    int  current;
    long calls, fail_at; /* the call with that number (0: none) */
    int  error;          /* fails with this */
    long alive;          /* streams, events, graphs and pieces of memory */
} fake_runtime;

#endif
