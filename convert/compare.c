/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/compare.h"

#include "base/bytes.h"
#include "base/dtype.h"

#include <math.h>

static double value_at(const dinov_tensor *t, uint64_t i)
{
    const uint8_t *p = (const uint8_t *)t->data + i * dinov_dtype_size(t->dtype);
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

dinov_difference dinov_tensor_compare(const dinov_tensor *a, const dinov_tensor *b)
{
    dinov_difference d     = {.same_shape = a->rank == b->rank, .equal = a->dtype == b->dtype, .cosine = 1};
    uint64_t         bytes = 0, other = 0;

    for (int i = 0; d.same_shape && i < a->rank; i++) d.same_shape = a->dim[i] == b->dim[i];
    if (!d.same_shape || !dinov_tensor_bytes(a, &bytes) || !dinov_tensor_bytes(b, &other)) {
        d.same_shape = d.equal = false;
        return d;
    }
    d.equal = d.equal && (bytes == 0 || memcmp(a->data, b->data, bytes) == 0);
    if (d.equal) return d;

    double   aa = 0, bb = 0, ab = 0, dd = 0;
    uint64_t count   = bytes / dinov_dtype_size(a->dtype);
    bool     strange = false;
    for (uint64_t i = 0; i < count; i++) {
        double x = value_at(a, i), y = value_at(b, i), delta = fabs(x - y);
        if (x == y || (isnan(x) && isnan(y))) delta = 0; /* also for two equal infinities */
        if (isnan(delta))
            strange = true;
        else if (delta > d.max_abs)
            d.max_abs = delta;
        dd += delta * delta;
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    if (strange) d.max_abs = (double)NAN;
    d.relative = dd == 0 ? 0 : sqrt(dd) / sqrt(aa);
    d.cosine   = dd == 0 ? 1 : ab / sqrt(aa * bb);
    return d;
}
