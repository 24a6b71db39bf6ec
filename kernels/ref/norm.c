/* SPDX-License-Identifier: Apache-2.0
 *
 * LayerNorm over rows.
 */
#include "kernels/ref/ref.h"

#include <math.h>

struct norm_job {
    dinov_mat       *y;
    const dinov_mat *x;
    const real      *weight, *bias;
    double           eps;
};

static void norm_row(void *arg, int64_t row, int worker)
{
    const struct norm_job *job = arg;
    const real            *x   = (const real *)job->x->data + row * job->x->ld;
    real                  *y   = (real *)job->y->data + row * job->y->ld;
    int64_t                n   = job->x->cols;
    real                   mean = total(x, n) / (real)n, variance = 0;

    (void)worker;
    for (int64_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean);
    variance /= (real)n;
    real scale = 1 / (real)sqrt(variance + (real)job->eps);
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * job->weight[i] + job->bias[i];
}

void REF(layernorm)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps)
{
    struct norm_job job = {y, x, weight, bias, eps};
    DINOV_ASSERT(x->rows == y->rows && x->cols == y->cols);
    dinov_pool_run(s->pool, x->rows, norm_row, &job);
}
