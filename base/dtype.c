/* SPDX-License-Identifier: Apache-2.0
 *
 * One table of element types: value, safetensors name, bytes.
 */
#include "base/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    size_t      size;
} table[] = {
    [DINOV_F32] = {"F32", 4}, [DINOV_F16] = {"F16", 2}, [DINOV_BF16] = {"BF16", 2}, [DINOV_F64] = {"F64", 8},
    [DINOV_I64] = {"I64", 8}, [DINOV_I32] = {"I32", 4}, [DINOV_I16] = {"I16", 2},   [DINOV_I8] = {"I8", 1},
    [DINOV_U8] = {"U8", 1},   [DINOV_BOOL] = {"BOOL", 1},
};

enum { COUNT = sizeof table / sizeof table[0] };

static int known(dinov_dtype dtype) { return (int)dtype > 0 && (int)dtype < COUNT; }

size_t dinov_dtype_size(dinov_dtype dtype) { return known(dtype) ? table[dtype].size : 0; }

const char *dinov_dtype_name(dinov_dtype dtype) { return known(dtype) ? table[dtype].name : "?"; }

dinov_dtype dinov_dtype_from_name(const char *name)
{
    for (int i = 1; i < COUNT; i++)
        if (strcmp(table[i].name, name) == 0) return (dinov_dtype)i;
    return (dinov_dtype)0;
}

bool dinov_tensor_bytes(const dinov_tensor *tensor, uint64_t *bytes)
{
    uint64_t total = dinov_dtype_size(tensor->dtype);
    bool     empty = false;
    if (total == 0 || tensor->rank < 0 || tensor->rank > DINOV_MAX_RANK) return false;
    for (int i = 0; i < tensor->rank; i++) {
        if (tensor->dim[i] < 0) return false;
        if (tensor->dim[i] == 0) empty = true;
        else if (!dinov_ck_mul(total, (uint64_t)tensor->dim[i], &total)) return false;
    }
    *bytes = empty ? 0 : total;
    return true;
}
