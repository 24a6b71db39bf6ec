/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrices as model/ and train/ lay them out in memory.
 */
#ifndef DINOV_MODEL_MAT_H
#define DINOV_MODEL_MAT_H

#include "base/arena.h"
#include "kernels/ops.h"

/* Rows whose stride is an odd number of cache lines do not fall on one another in the cache. */
static inline int64_t dinov_row_stride(int64_t cols) { return (cols + 15) / 32 * 32 + 16; }

static inline dinov_mat dinov_mat_take(dinov_arena *arena, int64_t rows, int64_t cols, size_t real)
{
    int64_t ld = dinov_row_stride(cols);
    return (dinov_mat){dinov_arena_take(arena, rows * ld, real), rows, cols, ld};
}

/* `rows` rows from `first` on. */
static inline dinov_mat dinov_mat_rows(const dinov_mat *m, size_t real, int64_t first, int64_t rows)
{
    return (dinov_mat){(char *)m->data + (size_t)(first * m->ld) * real, rows, m->cols, m->ld};
}

/* The same memory as rows of another width, for scratch that serves several shapes. */
static inline dinov_mat dinov_mat_reshape(void *data, int64_t rows, int64_t cols)
{
    return (dinov_mat){data, rows, cols, dinov_row_stride(cols)};
}

#endif
