/* SPDX-License-Identifier: Apache-2.0
 *
 * How far two tensors are apart, in the terms people ask in.
 */
#ifndef DINOV_CONVERT_COMPARE_H
#define DINOV_CONVERT_COMPARE_H

#include "dinov/base.h"

#include <stdbool.h>

typedef struct dinov_difference {
    bool   same_shape; /* nothing below holds when false */
    bool   equal;      /* dtype and every bit */
    double max_abs;    /* largest |a - b|; NaN when a NaN faces a number */
    double relative;   /* ||a - b|| / ||a||, in double; infinite for a = 0 and b not */
    double cosine;     /* of the two as vectors; 1 for two zeros, 0 for one */
} dinov_difference;

/* Any dtypes: values are compared as double. */
dinov_difference dinov_tensor_compare(const dinov_tensor *a, const dinov_tensor *b);

#endif
