/* SPDX-License-Identifier: Apache-2.0
 *
 * The one sentence for a number of a configuration that is out of range.
 */
#ifndef DINOV_TRAIN_DATA_CHECK_H
#define DINOV_TRAIN_DATA_CHECK_H

#include "base/fail.h"

/* ERR_CONFIG (DATA-CONFIG) unless least <= value <= most; also for a NaN. */
static inline dinov_status dinov_data_within(const char *key, double value, double least, double most, dinov_error *err)
{
    if (value >= least && value <= most) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CONFIG, "DATA-CONFIG", "%s: expected %g to %g, found %g", key, least, most, value);
}

#endif
