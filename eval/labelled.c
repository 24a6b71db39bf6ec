/* SPDX-License-Identifier: Apache-2.0 */
#include "eval/labelled.h"

#include <math.h>

static dinov_status check_finite(const dinov_labelled *set, const float *values, const char *what, const dinov_ops *ops,
                                 dinov_pool *pool, dinov_error *err)
{
    dinov_stream s = {.pool = pool};
    double       sum;

    if (!values) return DINOV_OK;
    ops->sum_squares(&s, &sum, values, set->count * set->dim);
    if (isfinite(sum)) return DINOV_OK;
    for (int64_t i = 0; i < set->count * set->dim; i++)
        if (!isfinite(values[i]))
            return dinov_fail(err, DINOV_ERR_CORRUPT, "EVAL-FINITE",
                              "%s: %s: row %lld, value %lld is not a finite number; extract these features again", set->name, what,
                              (long long)(i / set->dim), (long long)(i % set->dim));
    DINOV_ASSERT(isfinite(sum)); /* squares of finite floats have a finite sum in double */
    return DINOV_OK;
}

static dinov_status check_set(const dinov_labelled *set, int64_t classes, const dinov_ops *ops, dinov_pool *pool, dinov_error *err)
{
    if (set->count < 1 || set->dim < 1)
        return dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-EMPTY", "%s: expected at least one row of features, found %lld of %lld values",
                          set->name, (long long)set->count, (long long)set->dim);
    if (set->count > INT32_MAX)
        return dinov_fail(err, DINOV_ERR_LIMIT, "EVAL-LARGE", "%s: expected at most %d rows, found %lld", set->name, INT32_MAX,
                          (long long)set->count);
    for (int64_t i = 0; i < set->count; i++)
        if (set->labels[i] < 0 || set->labels[i] >= classes)
            return dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-LABEL", "%s: row %lld has label %d; expected 0 to %lld%s", set->name,
                              (long long)i, set->labels[i], (long long)classes - 1,
                              classes == DINOV_MAX_CLASSES ? "" : ", the classes of the training set");
    for (int b = 0; b < DINOV_LABELLED_BLOCKS; b++) DINOV_TRY(check_finite(set, set->cls[b], "CLS vectors", ops, pool, err));
    return check_finite(set, set->mean, "mean patch tokens", ops, pool, err);
}

dinov_status dinov_labelled_check(const dinov_labelled *train, const dinov_labelled *test, int64_t *classes, const dinov_ops *ops,
                                  dinov_pool *pool, dinov_error *err)
{
    if (train->dim != test->dim)
        return dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-DIM", "features of %lld values in the %s, of %lld in the %s: not of one model",
                          (long long)train->dim, train->name, (long long)test->dim, test->name);
    DINOV_TRY(check_set(train, DINOV_MAX_CLASSES, ops, pool, err));
    *classes = 0;
    for (int64_t i = 0; i < train->count; i++)
        if (train->labels[i] >= *classes) *classes = (int64_t)train->labels[i] + 1;
    return check_set(test, *classes, ops, pool, err);
}
