/* SPDX-License-Identifier: Apache-2.0
 *
 * Stored numbers (F32, F16, BF16) to the numbers a table computes in (float or double).
 */
#ifndef DINOV_MODEL_REAL_H
#define DINOV_MODEL_REAL_H

#include "dinov/base.h"

/* `in` may have any alignment; `real_size` is 4 or 8. */
void dinov_to_real(void *out, size_t real_size, const void *in, dinov_dtype dtype, uint64_t count);

#endif
