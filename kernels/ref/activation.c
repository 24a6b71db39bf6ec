/* SPDX-License-Identifier: Apache-2.0
 *
 * GELU and SwiGLU by themselves, for when backward needs what entered them.
 */
#include "kernels/ref/ref.h"

struct activation_job {
    dinov_mat       *dx, *y;
    const dinov_mat *dy, *x;
    dinov_activation act;
};

static void activation_row(void *arg, int64_t row, int worker)
{
    const struct activation_job *job = arg;
    const real                  *x   = row_of(job->x, row);
    real                        *y   = row_of(job->y, row);
    int64_t                      n   = job->y->cols;

    (void)worker;
    for (int64_t j = 0; j < n; j++) y[j] = job->act == DINOV_ACT_GELU ? gelu(x[j]) : silu(x[j]) * x[j + n];
}

/* v (1 + erf(v / sqrt 2)) / 2 = v F(v) has the derivative F(v) + v f(v), f the normal density. */
static void activation_backward_row(void *arg, int64_t row, int worker)
{
    const struct activation_job *job = arg;
    const real                  *x = row_of(job->x, row), *dy = row_of(job->dy, row);
    real                        *dx = row_of(job->dx, row), *y = row_of(job->y, row);
    int64_t                      n = job->y->cols;

    (void)worker;
    for (int64_t j = 0; j < n; j++) {
        real v = x[j], g = dy[j];
        if (job->act == DINOV_ACT_GELU) {
            real below   = (real)0.5 * (1 + (real)erf(v * 0.70710678118654752440));
            real density = (real)(0.39894228040143267794 * exp(-0.5 * (double)v * (double)v));
            y[j]         = v * below;
            dx[j]        = g * (below + v * density);
        } else {
            real other = x[j + n], gate = sigmoid(v), rest = sigmoid(-v);
            y[j]      = v * gate * other;
            dx[j]     = g * other * gate * (1 + v * rest);
            dx[j + n] = g * v * gate;
        }
    }
}

void REF(activation)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, dinov_activation act)
{
    struct activation_job job = {NULL, y, NULL, x, act};
    DINOV_ASSERT(act != DINOV_ACT_NONE && x->rows == y->rows && x->cols == (act == DINOV_ACT_SWIGLU ? 2 * y->cols : y->cols));
    dinov_pool_run(s->pool, x->rows, activation_row, &job);
}

void REF(activation_backward)(dinov_stream *s, dinov_mat *dx, dinov_mat *y, const dinov_mat *dy, const dinov_mat *x,
                              dinov_activation act)
{
    struct activation_job job = {dx, y, dy, x, act};
    DINOV_ASSERT(act != DINOV_ACT_NONE && x->rows == y->rows && x->cols == (act == DINOV_ACT_SWIGLU ? 2 * y->cols : y->cols));
    DINOV_ASSERT(dx->rows == x->rows && dx->cols == x->cols && dy->rows == y->rows && dy->cols == y->cols);
    dinov_pool_run(s->pool, x->rows, activation_backward_row, &job);
}
