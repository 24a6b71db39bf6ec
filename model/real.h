/* SPDX-License-Identifier: Apache-2.0
 *
 * Stored numbers (F32, F16, BF16) to the numbers a table computes in (float or double).
 */
#ifndef DINOV_MODEL_REAL_H
#define DINOV_MODEL_REAL_H

#include "dinov/base.h"

/* `in` may have any alignment; `real_size` is 4 or 8. */
void dinov_to_real(void *out, size_t real_size, const void *in, dinov_dtype dtype, uint64_t count);

/* Element i of an array of `real`. */
static inline double dinov_real_get(const void *array, size_t real_size, int64_t i)
{
    return real_size == sizeof(float) ? (double)((const float *)array)[i] : ((const double *)array)[i];
}
static inline void dinov_real_set(void *array, size_t real_size, int64_t i, double value)
{
    if (real_size == sizeof(float))
        ((float *)array)[i] = (float)value;
    else
        ((double *)array)[i] = value;
}

#endif
