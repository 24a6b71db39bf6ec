/* SPDX-License-Identifier: Apache-2.0
 *
 * Libraries that are used where they are found: nothing of a vendor's is linked.
 */
#ifndef DINOV_KERNELS_CUDA_LIBRARY_H
#define DINOV_KERNELS_CUDA_LIBRARY_H

#include <stddef.h>

/* Opens the first of `names` (NULL-terminated) that loads and has all of `symbols` [count]; functions [count] are then their
 * addresses. NULL: there is none. */
void *dinov_library_open(const char *const *names, const char *const *symbols, void **functions, size_t count);
void  dinov_library_close(void *library); /* NULL allowed */

#endif
