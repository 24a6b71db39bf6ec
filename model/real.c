/* SPDX-License-Identifier: Apache-2.0 */
#include "model/real.h"

#include "base/bytes.h"
#include "base/fail.h"

static float load(const uint8_t *in, dinov_dtype dtype)
{
    return dtype == DINOV_F32 ? dinov_le_f32(in) : dtype == DINOV_F16 ? dinov_le_f16(in) : dinov_le_bf16(in);
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
        if (real_size == sizeof(float))
            ((float *)out)[i] = value;
        else
            ((double *)out)[i] = value;
    }
}
