/* SPDX-License-Identifier: Apache-2.0
 *
 * GELU and SwiGLU by themselves, and their gradients: one pass over memory.
 */

struct activation_job {
    dinov_mat       *dx, *y;
    const dinov_mat *dy, *x;
    dinov_activation act;
    int64_t          rows; /* of a block */
};

static void activation_row(const struct activation_job *job, int64_t row)
{
    const float *x = (const float *)job->x->data + row * job->x->ld;
    float       *y = (float *)job->y->data + row * job->y->ld;
    int64_t      n = job->y->cols;

    if (job->act == DINOV_ACT_GELU)
        for (int64_t j = 0; j < n; j += VL) v_put(y + j, v_gelu(v_take(x + j, n - j)), n - j);
    else
        for (int64_t j = 0; j < n; j += VL) v_put(y + j, v_mul(v_silu(v_take(x + j, n - j)), v_take(x + n + j, n - j)), n - j);
}

static void activation_backward_row(const struct activation_job *job, int64_t row)
{
    const float *x = (const float *)job->x->data + row * job->x->ld, *dy = (const float *)job->dy->data + row * job->dy->ld;
    float       *dx = (float *)job->dx->data + row * job->dx->ld, *y = (float *)job->y->data + row * job->y->ld;
    int64_t      n   = job->y->cols;
    vf           one = v_set1(1.0f);

    if (job->act == DINOV_ACT_GELU) {
        for (int64_t j = 0; j < n; j += VL) {
            vf value, g = v_take(dy + j, n - j);
            g = v_mul(g, v_gelu_derivative(v_take(x + j, n - j), &value));
            v_put(y + j, value, n - j);
            v_put(dx + j, g, n - j);
        }
        return;
    }
    /* silu' = gate (1 + v (1 - gate)), and 1 - gate = e gate with e = exp(-v) */
    for (int64_t j = 0; j < n; j += VL) {
        vf v = v_take(x + j, n - j), other = v_take(x + n + j, n - j), g = v_take(dy + j, n - j);
        vf e = v_exp(v_sub(v_zero(), v)), gate = v_div(one, v_add(one, e)), silu = v_mul(v, gate);
        v_put(y + j, v_mul(silu, other), n - j);
        v_put(dx + n + j, v_mul(g, silu), n - j);
        v_put(dx + j, v_mul(v_mul(g, other), v_mul(gate, v_fma(v, v_mul(e, gate), one))), n - j);
    }
}

static void activation_block(void *arg, int64_t block, int worker)
{
    const struct activation_job *job = arg;
    int64_t                      end = (block + 1) * job->rows;
    (void)worker;
    if (end > job->x->rows) end = job->x->rows;
    for (int64_t row = block * job->rows; row < end; row++)
        if (job->dx)
            activation_backward_row(job, row);
        else
            activation_row(job, row);
}

static void activation(dinov_stream *s, dinov_mat *y, const dinov_mat *x, dinov_activation act)
{
    struct activation_job job = {NULL, y, NULL, x, act, rows_of(ELEMENTS, x->cols)};
    DINOV_ASSERT(act != DINOV_ACT_NONE && x->rows == y->rows && x->cols == (act == DINOV_ACT_SWIGLU ? 2 * y->cols : y->cols));
    dinov_pool_run(s->pool, (x->rows + job.rows - 1) / job.rows, activation_block, &job);
}

static void activation_backward(dinov_stream *s, dinov_mat *dx, dinov_mat *y, const dinov_mat *dy, const dinov_mat *x,
                                dinov_activation act)
{
    struct activation_job job = {dx, y, dy, x, act, rows_of(ELEMENTS, x->cols)};
    DINOV_ASSERT(act != DINOV_ACT_NONE && x->rows == y->rows && x->cols == (act == DINOV_ACT_SWIGLU ? 2 * y->cols : y->cols));
    DINOV_ASSERT(dx->rows == x->rows && dx->cols == x->cols && dy->rows == y->rows && dy->cols == y->cols);
    dinov_pool_run(s->pool, (x->rows + job.rows - 1) / job.rows, activation_block, &job);
}
