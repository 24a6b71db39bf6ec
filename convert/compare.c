/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/compare.h"

#include "base/dtype.h"

#include <math.h>
#include <string.h>

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
        double x = dinov_value_at(a, (int64_t)i), y = dinov_value_at(b, (int64_t)i), delta = fabs(x - y);
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
    d.cosine   = dd == 0 ? 1 : aa == 0 || bb == 0 ? 0 : ab / sqrt(aa * bb);
    return d;
}
