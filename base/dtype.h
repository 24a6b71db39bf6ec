/* SPDX-License-Identifier: Apache-2.0
 *
 * Element types by name, the checked size of a tensor, and single values of each type.
 */
#ifndef DINOV_BASE_DTYPE_H
#define DINOV_BASE_DTYPE_H

#include "base/bytes.h"
#include "dinov/base.h"

/* 0 when the name is not one of ours. */
dinov_dtype dinov_dtype_from_name(const char *name);

/* shape x element size; false when a dimension is negative, the rank too large, or it overflows. */
bool dinov_tensor_bytes(const dinov_tensor *tensor, uint64_t *bytes);

/* Element i, whatever its type. */
double dinov_value_at(const dinov_tensor *tensor, int64_t i);

/* The nearest half or bfloat16, ties to even; infinity past the largest. */
uint16_t dinov_f16_of(float value);
uint16_t dinov_bf16_of(float value);
/* Stores `value` as F32, F16 or BF16; p has any alignment. */
void dinov_put_real(uint8_t *p, dinov_dtype dtype, float value);

#endif
