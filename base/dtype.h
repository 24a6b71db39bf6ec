/* SPDX-License-Identifier: Apache-2.0
 *
 * Element types by name, and the checked size of a tensor.
 */
#ifndef DINOV_BASE_DTYPE_H
#define DINOV_BASE_DTYPE_H

#include "base/bytes.h"
#include "dinov/base.h"

/* 0 when the name is not one of ours. */
dinov_dtype dinov_dtype_from_name(const char *name);

/* shape x element size; false when a dimension is negative, the rank too large, or it overflows. */
bool dinov_tensor_bytes(const dinov_tensor *tensor, uint64_t *bytes);

#endif
