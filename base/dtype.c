/* SPDX-License-Identifier: Apache-2.0
 *
 * One table of element types: value, safetensors name, bytes; and single values of each.
 */
#include "base/dtype.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t      size;
} table[] = {
    [DINOV_F32] = {"F32", 4}, [DINOV_F16] = {"F16", 2},   [DINOV_BF16] = {"BF16", 2}, [DINOV_F64] = {"F64", 8},
    [DINOV_I64] = {"I64", 8}, [DINOV_I32] = {"I32", 4},   [DINOV_I16] = {"I16", 2},   [DINOV_I8] = {"I8", 1},
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
        if (tensor->dim[i] == 0)
            empty = true;
        else if (!dinov_ck_mul(total, (uint64_t)tensor->dim[i], &total))
            return false;
    }
    *bytes = empty ? 0 : total;
    return true;
}

double dinov_value_at(const dinov_tensor *t, int64_t i)
{
    const uint8_t *p = (const uint8_t *)t->data + (size_t)i * dinov_dtype_size(t->dtype);
    double         d;
    switch (t->dtype) {
    case DINOV_F32:
        return (double)dinov_le_f32(p);
    case DINOV_F16:
        return (double)dinov_le_f16(p);
    case DINOV_BF16:
        return (double)dinov_le_bf16(p);
    case DINOV_F64:
        memcpy(&d, p, sizeof d);
        return d;
    case DINOV_I64:
        return (double)(int64_t)dinov_le64(p);
    case DINOV_I32:
        return (double)(int32_t)dinov_le32(p);
    case DINOV_I16:
        return (double)(int16_t)dinov_le16(p);
    case DINOV_I8:
        return (double)(int8_t)*p;
    case DINOV_U8:
    case DINOV_BOOL:
        return (double)*p;
    }
    return (double)NAN;
}

uint16_t dinov_f16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;  /* not a number */
    if (bits >= 0x477ff000) return sign | 0x7c00; /* rounds to 65536 or more */
    if (bits < 0x38800000) {                      /* subnormal half: the sum aligns and rounds it */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        memcpy(&bits, &magnitude, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    return (uint16_t)(sign | ((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13));
}

uint16_t dinov_bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void dinov_put_real(uint8_t *p, dinov_dtype dtype, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (dtype == DINOV_F16)
        dinov_put_le16(p, dinov_f16_of(value));
    else if (dtype == DINOV_BF16)
        dinov_put_le16(p, dinov_bf16_of(value));
    else
        dinov_put_le32(p, bits);
}
