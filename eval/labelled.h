/* SPDX-License-Identifier: Apache-2.0
 *
 * What evaluation works on: frozen features of a set of pictures, in memory, and their classes.
 */
#ifndef DINOV_EVAL_LABELLED_H
#define DINOV_EVAL_LABELLED_H

#include "base/pool.h"
#include "kernels/ops.h"

enum { DINOV_LABELLED_BLOCKS = 4, DINOV_MAX_CLASSES = 1 << 24 };

/* A view; whoever made it owns the arrays. Rows are pictures. */
typedef struct dinov_labelled {
    const float   *cls[DINOV_LABELLED_BLOCKS]; /* [count, dim]: [0] of the last block, [1] of the one before it, and so on; [1] to
                                                  [3] are all there or all NULL */
    const float   *mean;                       /* [count, dim]: mean patch token of the last block, or NULL */
    const int32_t *labels;                     /* [count], from 0 */
    int64_t        count, dim;
    const char    *name; /* for messages: "training set" */
} dinov_labelled;

/* Checks that both sets are there, that every feature is a finite number, that labels are classes, and
 * those of `test` classes up to the highest of `train`; *classes is one more than that.
 * ERR_SHAPE (EVAL-EMPTY, EVAL-DIM, EVAL-LABEL), ERR_LIMIT (EVAL-LARGE: 2^31 rows), ERR_CORRUPT (EVAL-FINITE). */
dinov_status dinov_labelled_check(const dinov_labelled *train, const dinov_labelled *test, int64_t *classes, const dinov_ops *ops,
                                  dinov_pool *pool, dinov_error *err);

#endif
