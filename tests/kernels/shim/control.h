/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests set on the shim. Also for C.
 */
#ifndef DINOV_TESTS_KERNELS_CONTROL_H
#define DINOV_TESTS_KERNELS_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which order threads of a block run, lanes of a warp and blocks of a grid. Random changes at every wait, and a warp may
 * rest after it. The same order and seed give the same run. At start: the environment's SHIM_ORDER, plain, reversed
 * or random, or plain. */
enum shim_order { SHIM_PLAIN, SHIM_REVERSED, SHIM_RANDOM };
void shim_set_order(enum shim_order order, uint64_t seed);

/* The most shared memory a block may have; at start 163 KiB, that of sm_80. sm_90 has 227 KiB. */
extern int64_t shim_shared_limit;

/* Work is done when its queue is synced, at the latest; with false: at once. At start true, so that what is read too early is
 * wrong. */
extern bool shim_late;

/* Whether device 1 is of another kind than device 0. At start false. */
extern bool shim_unlike;

/* Whether linear layers come from a library that knows no activations, which the shim stands in for. At start false. */
extern bool shim_products;

/* The n-th launch from now (1: the next one) fails with error 719 instead of running; 0: none. The n-th allocation of
 * device memory likewise gives NULL. */
void shim_fail_launch(int n);
void shim_fail_alloc(int n);

/* Launches that ran, and threads that were switched to: to see that tests ran something. */
extern int64_t shim_launches, shim_switches;

#ifdef __cplusplus
}
#endif

#endif
