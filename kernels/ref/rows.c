/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows chosen by a list, and sums over rows.
 */
#include "kernels/ref/ref.h"

struct rows_job {
    dinov_mat       *y;
    const dinov_mat *x;
    const int32_t   *rows;
    const real      *scale;
    real            *sums;
    real             factor;
};

static void gather_row(void *arg, int64_t i, int worker)
{
    const struct rows_job *job = arg;
    const real            *x   = row_of(job->x, job->rows ? job->rows[i] : i);
    real                  *y   = row_of(job->y, i);

    (void)worker;
    for (int64_t c = 0; c < job->y->cols; c++) y[c] = job->factor * x[c];
}

void REF(gather)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const int32_t *rows, double factor)
{
    struct rows_job job = {y, x, rows, NULL, NULL, (real)factor};
    DINOV_ASSERT(x->cols == y->cols && (rows || x->rows >= y->rows));
    dinov_pool_run(s->pool, y->rows, gather_row, &job);
}

static void scatter_row(void *arg, int64_t i, int worker)
{
    const struct rows_job *job = arg;
    const real            *x   = row_of(job->x, i);
    real                  *y   = row_of(job->y, job->rows ? job->rows[i] : i);

    (void)worker;
    for (int64_t c = 0; c < job->x->cols; c++) y[c] += job->scale ? job->factor * job->scale[c] * x[c] : job->factor * x[c];
}

void REF(scatter_add)(dinov_stream *s, dinov_mat *y, const int32_t *rows, const dinov_mat *x, const void *scale, double factor)
{
    struct rows_job job = {y, x, rows, scale, NULL, (real)factor};
    DINOV_ASSERT(x->cols == y->cols && (rows || y->rows >= x->rows));
    dinov_pool_run(s->pool, x->rows, scatter_row, &job);
}

static void sum_strip(void *arg, int64_t strip, int worker)
{
    const struct rows_job *job    = arg;
    int64_t                column = strip * STRIP;
    const real             one    = 1;

    (void)worker;
    add_rows(job->sums + column, &one, 0, (const real *)job->x->data + column, job->x->ld, job->x->rows,
             least(job->x->cols - column, STRIP));
}

void REF(column_sums)(dinov_stream *s, void *sums, const dinov_mat *x)
{
    struct rows_job job = {.x = x, .sums = sums};
    dinov_pool_run(s->pool, blocks_of(x->cols, STRIP), sum_strip, &job);
}
