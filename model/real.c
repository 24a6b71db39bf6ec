/* SPDX-License-Identifier: Apache-2.0 */
#include "model/real.h"

#include "base/fail.h"

#include <string.h>

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f; /* zero or subnormal: exact in float */
    return sign ? -tiny : tiny;
}

static float load(const uint8_t *in, dinov_dtype dtype)
{
    uint32_t wide;
    uint16_t narrow;
    if (dtype == DINOV_F32) {
        memcpy(&wide, in, sizeof wide);
        return from_bits(wide);
    }
    memcpy(&narrow, in, sizeof narrow);
    return dtype == DINOV_F16 ? from_f16(narrow) : from_bits((uint32_t)narrow << 16);
}

void dinov_to_real(void *out, size_t real_size, const void *in, dinov_dtype dtype, uint64_t count)
{
    const uint8_t *p    = in;
    size_t         step = dinov_dtype_size(dtype);

    DINOV_ASSERT(dtype == DINOV_F32 || dtype == DINOV_F16 || dtype == DINOV_BF16);
    if (dtype == DINOV_F32 && real_size == sizeof(float)) {
        memcpy(out, in, count * sizeof(float));
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        float value = load(p + i * step, dtype);
        if (real_size == sizeof(float)) ((float *)out)[i] = value;
        else ((double *)out)[i] = value;
    }
}
